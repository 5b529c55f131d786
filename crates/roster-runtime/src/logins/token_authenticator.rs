//! Authenticates tokens and API keys against the current state of their Users, without hashing a password.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use roster_api::user::SecondFactor;
use roster_core::directory::callers::{CallerIdentity, PresentedIdentity};
use roster_credentials::api_key::{self, ApiKey};
use roster_credentials::token::Claims;
use roster_credentials::token_id::Session;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use super::issuer::Issuer;
use super::last_use::LastUse;
use super::login_user::LoginUser;
use super::vault::{Vault, VaultError};
use crate::informers::Informers;
use crate::informers::callers::{API_KEY_CREDENTIAL, TOKEN_CREDENTIAL, credential_ids};
use crate::tls::network_permits::{NetworkPermitLimits, NetworkPermits, RequestNetwork};

/// Authenticates tokens and API keys.
pub struct TokenAuthenticator {
    informers: Arc<Informers>,
    issuer: Arc<Issuer>,
    vault: Arc<Vault>,
    last_use: Arc<LastUse>,
    lookups: NetworkPermits,
}

/// Limits of concurrent key look-ups. Anyone can make up a key for a User whose UID they know, and each costs
/// kube-apiserver a request.
const LOOKUPS: NetworkPermitLimits = NetworkPermitLimits { total: 64, direct: 48, of_network: 24, of_site: 36 };

/// How long a request from an address of kube-apiserver waits for a look-up permit.
const LOOKUP_WAIT: Duration = Duration::from_secs(2);

/// An authenticated bearer.
#[derive(Clone, Debug)]
pub struct AuthenticatedToken {
    /// The bearer's identity.
    pub user: UserInfo,
    /// Audience of the token. API keys have none and are for the cluster.
    pub audience: Option<String>,
    /// Whether the credential is valid for kube-apiserver and its extensions.
    pub is_for_the_cluster: bool,
    /// When the credential expires.
    pub expires: Timestamp,
}

/// Result of authenticating a token or key.
#[derive(Clone, Debug)]
pub enum TokenVerdict {
    /// Not issued by Roster, or no longer valid.
    Foreign,
    /// Issued by Roster, but not accepted at the moment.
    Refused,
    /// Valid.
    Known(AuthenticatedToken),
}

/// State of a credential that is known by its ID only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CredentialState {
    /// Not Roster's, or a token from before IDs described the session. Never an API key.
    Unknown,
    /// Ended, or not accepted at the moment.
    Ended,
    /// Valid.
    Valid {
        /// When it expires.
        expires: Timestamp,
    },
}

/// Why a token or key could not be judged.
#[derive(Clone, Debug, Error)]
pub enum TokenError {
    /// The request's network, or all networks together, have too many look-ups in flight.
    #[error("too many concurrent look-ups of API keys")]
    Saturated,
    /// The credential can't be read.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl TokenAuthenticator {
    /// Creates an authenticator for the issuer's tokens and the vault's API keys. Users are those of the informers.
    pub fn new(informers: Arc<Informers>, issuer: Arc<Issuer>, vault: Arc<Vault>, last_use: Arc<LastUse>) -> Self {
        Self { informers, issuer, vault, last_use, lookups: NetworkPermits::new(LOOKUPS) }
    }

    /// Returns the bearer of the token or key. `source` is where the request comes from.
    ///
    /// # Errors
    /// If the credential can't be read, or too many look-ups are in flight.
    pub async fn authenticate(&self, token: &SecretString, source: RequestNetwork) -> Result<TokenVerdict, TokenError> {
        let token = token.expose_secret();
        let claims = self.issuer.read(token);
        if claims.is_none() && !token.starts_with(api_key::PREFIX) {
            return Ok(TokenVerdict::Foreign);
        }
        // The view of Users may be out of date, so the verdict could be wrong.
        if self.informers.is_user_watch_failing() {
            return Err(VaultError::Unavailable.into());
        }
        let known = match claims {
            Some(claims) => self.by_claims(claims),
            None => self.by_key(token, source).await?,
        };
        Ok(known.map_or(TokenVerdict::Refused, TokenVerdict::Known))
    }

    /// Judges a credential that kube-apiserver has authenticated, by the ID that kube-apiserver passes on in `extra`. The
    /// rules are those of [`Self::authenticate`].
    ///
    /// # Errors
    /// As [`Self::authenticate`], for API keys.
    pub async fn judge_by_id(
        &self,
        presented: PresentedIdentity<'_>,
        extra: &BTreeMap<String, Vec<String>>,
        source: RequestNetwork,
    ) -> Result<CredentialState, TokenError> {
        if let Some((uid, session)) = self.informers.session(extra) {
            let valid = CredentialState::Valid { expires: instant(session.expires) };
            return Ok(self.bearer_of_session(uid, session).map_or(CredentialState::Ended, |_| valid));
        }
        let Some(name) = credential_ids(extra, API_KEY_CREDENTIAL).next() else { return Ok(CredentialState::Unknown) };
        let Some(uid) = self.uid_of(presented) else {
            // The User may be new.
            let is_current = !self.informers.is_user_watch_failing();
            return if is_current { Ok(CredentialState::Ended) } else { Err(VaultError::Unavailable.into()) };
        };
        let found = self.find_key(&uid, |key| key.name == name, source).await?;
        Ok(found.map_or(CredentialState::Ended, |(_, key)| CredentialState::Valid { expires: key.expires }))
    }

    fn by_claims(&self, claims: Claims) -> Option<AuthenticatedToken> {
        let person = self.bearer_of_session(&claims.sub, claims.session())?;
        if claims.preferred_username != person.username {
            return None;
        }
        Some(AuthenticatedToken {
            user: person.user_info(Some(format!("{TOKEN_CREDENTIAL}{}", claims.jti))),
            is_for_the_cluster: self.issuer.audiences.is_of_cluster(Some(&claims.aud)),
            audience: Some(claims.aud),
            expires: instant(claims.exp),
        })
    }

    /// Returns the User with that UID if the session has not ended.
    fn bearer_of_session(&self, uid: &str, session: Session) -> Option<LoginUser> {
        let person = self.active(uid)?;
        let seconds = |time: &Option<Time>| time.as_ref().map_or(0, |time| time.0.as_second());
        let reported = seconds(&person.status.password_changed_time);
        let changed = reported.max(seconds(&person.status.sessions_not_before));
        // If the token's password is newer than the status, the status is out of date: the login that issued the token
        // has checked that no change is due.
        let must_change = person.must_change_password() && session.password_changed <= reported;
        let lacks_factor = person.spec.second_factor == SecondFactor::Required && !session.has_second_factor;
        let has_ended = changed > session.password_changed || must_change || lacks_factor;
        Some(person).filter(|_| !has_ended && !session.is_expired(Timestamp::now()))
    }

    async fn by_key(&self, text: &str, source: RequestNetwork) -> Result<Option<AuthenticatedToken>, TokenError> {
        let Some(uid) = api_key::uid_of(text) else { return Ok(None) };
        let Some((person, key)) = self.find_key(&uid, |key| key.digest.is_of(text), source).await? else {
            return Ok(None);
        };
        self.last_use.note_key(&person, &key.name, Timestamp::now());
        Ok(Some(AuthenticatedToken {
            user: person.user_info(Some(format!("{API_KEY_CREDENTIAL}{}", key.name))),
            audience: None,
            is_for_the_cluster: true,
            expires: key.expires,
        }))
    }

    /// Returns the valid API key that `is_it` selects, and its User, which has that UID.
    async fn find_key(
        &self,
        uid: &str,
        is_it: impl Fn(&ApiKey) -> bool,
        source: RequestNetwork,
    ) -> Result<Option<(LoginUser, ApiKey)>, TokenError> {
        let Some(person) = self.bearer(uid) else { return Ok(None) };
        let _permit = self.lookups.take(source, LOOKUP_WAIT).await.ok_or(TokenError::Saturated)?;
        // Read each time, so that revoking a key takes effect immediately on every replica.
        let Some(opened) = self.vault.open(&person.username, &person.uid).await? else { return Ok(None) };
        let now = Timestamp::now();
        let mut keys = opened.credential.api_keys.into_iter().filter(|key| !key.is_expired(now));
        let Some(key) = keys.find(is_it) else { return Ok(None) };
        // During the look-up, the User may have been disabled, renamed or moved to another group.
        if self.informers.is_user_watch_failing() {
            return Err(VaultError::Unavailable.into());
        }
        let now_known = self.bearer(&person.uid).filter(|known| known.username == person.username);
        Ok(now_known.map(|person| (person, key)))
    }

    fn uid_of(&self, presented: PresentedIdentity<'_>) -> Option<String> {
        let directory = self.informers.directory();
        let CallerIdentity::User(name) = directory.identify(presented) else { return None };
        directory.user(name).map(|person| person.uid.clone())
    }

    /// Returns the User with that UID if its API keys are currently valid.
    fn bearer(&self, uid: &str) -> Option<LoginUser> {
        self.active(uid).filter(|person| !person.must_change_password())
    }

    /// Returns the User with that UID if it is currently active.
    fn active(&self, uid: &str) -> Option<LoginUser> {
        LoginUser::of_uid(&self.informers, uid).filter(|person| person.is_active)
    }
}

/// Returns a time of a token's claims.
fn instant(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use kube::Client;
    use roster_api::user::DesiredState;
    use roster_credentials::claim::{Identifier, IdentifierKind};
    use roster_credentials::credential::Credential;
    use roster_credentials::record;
    use roster_credentials::signing::{SigningAlgorithm, SigningKeys};

    use super::*;
    use crate::logins::audiences::Audiences;
    use crate::tls::connections::Standing;

    fn token_authenticator(client: Client, informers: &Arc<Informers>) -> TokenAuthenticator {
        let keys = Arc::new(ArcSwap::from_pointee(
            SigningKeys::create(Timestamp::now(), SigningAlgorithm::default()).unwrap(),
        ));
        let issuer = Issuer::new("https://localhost", Audiences::default(), Duration::from_secs(60), keys);
        let vault = Arc::new(Vault::new(client.clone(), "default", Arc::default()));
        let last_use = LastUse::new(client, Arc::clone(informers), Arc::clone(&vault), Arc::default());
        TokenAuthenticator::new(Arc::clone(informers), Arc::new(issuer), vault, Arc::new(last_use))
    }

    /// Other tokens, such as those of ServiceAccounts, are left to kube-apiserver even if the watch of Users fails.
    #[tokio::test]
    async fn foreign_tokens_need_no_watch_of_users() {
        let refuse = tower::service_fn(async |_: axum::http::Request<kube::client::Body>| {
            Err::<axum::http::Response<kube::client::Body>, _>(std::io::Error::other("connection refused"))
        });
        let informers = Arc::new(Informers::new(false, Arc::default()));
        let token_authenticator = token_authenticator(Client::new(refuse, "default"), &informers);
        informers.fail_user_watch();
        assert!(informers.is_user_watch_failing());
        let verdict = token_authenticator.authenticate(&"a.b.c".into(), foreign_network(1)).await;
        assert!(matches!(verdict, Ok(TokenVerdict::Foreign)), "{verdict:?}");
        let key = format!("{}{}", api_key::PREFIX, "0".repeat(80));
        assert!(
            token_authenticator.authenticate(&key.into(), foreign_network(1)).await.is_err(),
            "Roster's own keys get no verdict while the watch fails"
        );
    }

    fn foreign_network(last: u8) -> RequestNetwork {
        RequestNetwork::new([192, 0, 2, last].into(), Standing::Unknown)
    }

    #[tokio::test]
    async fn a_key_of_a_user_disabled_during_the_look_up_is_refused() {
        let jane = crate::logins::active_user("jane");
        let uid = jane.metadata.uid.as_deref().unwrap_or_default();
        let (key, text) = api_key::ApiKey::create(uid, "ci", Timestamp::now(), Timestamp::MAX).unwrap();
        let identifier = Identifier { kind: IdentifierKind::Username, text: "jane".into() };
        let credential = Credential { api_keys: vec![key], ..Credential::default() };
        let mut secret = record::build(&jane, "default", &identifier, &credential);
        secret.metadata.uid = Some("s-1".into());
        secret.metadata.resource_version = Some("1".into());
        let answer = serde_json::to_vec(&secret).unwrap();
        for state in [DesiredState::Active, DesiredState::Disabled] {
            let informers = Arc::new(Informers::new(false, Arc::default()));
            informers.set_user(&jane);
            let (answer, informers_of_api_server) = (answer.clone(), Arc::clone(&informers));
            let mut after = jane.clone();
            after.spec.state = state;
            let api_server = tower::service_fn(move |_: axum::http::Request<kube::client::Body>| {
                informers_of_api_server.set_user(&after);
                let answer = axum::http::Response::new(kube::client::Body::from(answer.clone()));
                std::future::ready(Ok::<_, std::io::Error>(answer))
            });
            let token_authenticator = token_authenticator(Client::new(api_server, "default"), &informers);
            let verdict = token_authenticator.authenticate(&text, foreign_network(1)).await;
            let is_known = matches!(verdict, Ok(TokenVerdict::Known(_)));
            assert_eq!(is_known, state == DesiredState::Active, "{verdict:?}");
        }
    }

    /// The User may have been deleted, or kube-apiserver may have cached the review from before a rename.
    #[tokio::test]
    async fn a_key_of_an_unknown_user_has_ended() {
        let refuse = tower::service_fn(async |_: axum::http::Request<kube::client::Body>| {
            Err::<axum::http::Response<kube::client::Body>, _>(std::io::Error::other("connection refused"))
        });
        let informers = Arc::new(Informers::new(false, Arc::default()));
        let token_authenticator = token_authenticator(Client::new(refuse, "default"), &informers);
        let extra_of = |id: &str| [(crate::informers::callers::CREDENTIAL_ID.to_owned(), vec![id.to_owned()])].into();
        for (id, state) in [("APIKey=ci", CredentialState::Ended), ("X509SHA256=0", CredentialState::Unknown)] {
            let extra = extra_of(id);
            let presented = informers.presented("jane", "u-1", &extra);
            let judged = token_authenticator.judge_by_id(presented, &extra, foreign_network(1)).await;
            assert_eq!(judged.unwrap(), state, "{id}");
        }
        informers.fail_user_watch();
        let extra = extra_of("APIKey=ci");
        let presented = informers.presented("jane", "u-1", &extra);
        let judged = token_authenticator.judge_by_id(presented, &extra, foreign_network(1)).await;
        assert!(matches!(judged, Err(TokenError::Vault(VaultError::Unavailable))), "the User may be new: {judged:?}");
    }

    /// Made-up keys must not use up the look-ups that kube-apiserver's TokenReviews need.
    #[tokio::test]
    async fn look_ups_of_invalid_keys_are_limited_per_network() {
        let silent = tower::service_fn(|_: axum::http::Request<kube::client::Body>| {
            std::future::pending::<Result<axum::http::Response<kube::client::Body>, std::io::Error>>()
        });
        let informers = Arc::new(Informers::new(false, Arc::default()));
        let jane = crate::logins::active_user("jane");
        informers.set_user(&jane);
        let token_authenticator = token_authenticator(Client::new(silent, "default"), &informers);
        let uid = jane.metadata.uid.as_deref().unwrap_or_default();
        let (_, key) = api_key::ApiKey::create(uid, "made up", Timestamp::now(), Timestamp::MAX).unwrap();
        let mut looking = Vec::new();
        let mut look_up = async |source, count: usize| {
            let before = looking.len();
            for _ in 0..count {
                let mut verdict = Box::pin(token_authenticator.authenticate(&key, source));
                match futures::poll!(&mut verdict) {
                    std::task::Poll::Pending => looking.push(verdict),
                    std::task::Poll::Ready(Err(TokenError::Saturated)) => {}
                    std::task::Poll::Ready(other) => panic!("{other:?}"),
                }
            }
            looking.len() - before
        };
        assert_eq!(look_up(foreign_network(1), LOOKUPS.total).await, LOOKUPS.of_network);
        assert_eq!(look_up(foreign_network(2), LOOKUPS.total).await, LOOKUPS.of_site - LOOKUPS.of_network);
        assert_eq!(look_up(foreign_network(3), 1).await, 0);
        let elsewhere = RequestNetwork::new([198, 51, 100, 1].into(), Standing::Unknown);
        assert_eq!(look_up(elsewhere, LOOKUPS.total).await, LOOKUPS.direct - LOOKUPS.of_site);
        let api_server = RequestNetwork::new([192, 0, 2, 9].into(), Standing::ApiServer);
        assert_eq!(look_up(api_server, LOOKUPS.total - LOOKUPS.direct).await, LOOKUPS.total - LOOKUPS.direct);
    }
}
