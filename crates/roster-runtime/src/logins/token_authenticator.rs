//! Recognizes the bearers of tokens and API keys by current state, without hashing a password.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use roster_api::user::SecondFactor;
use roster_credentials::api_key;
use roster_credentials::token::{Claims, ONE_TIME_PASSWORD};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use super::issuer::Issuer;
use super::last_use::LastUse;
use super::login_user::LoginUser;
use super::vault::{Vault, VaultError};
use crate::informers::Informers;
use crate::tls::network_permits::{NetworkPermitLimits, NetworkPermits, RequestNetwork};

/// Prefix of an API key in the credential-id extra.
pub const API_KEY_CREDENTIAL: &str = "APIKey=";

/// Recognizes bearers of tokens and API keys.
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

/// How long a request from a network of kube-apiserver waits for a look-up permit.
const LOOKUP_WAIT: Duration = Duration::from_secs(2);

/// A recognized bearer.
#[derive(Clone, Debug)]
pub struct AuthenticatedToken {
    /// The bearer's identity.
    pub user: UserInfo,
    /// Audience of the token. API keys have none and are for the cluster.
    pub audience: Option<String>,
    /// Whether the credential is valid for kube-apiserver and its extensions.
    pub is_for_the_cluster: bool,
}

/// Result of recognizing a token or key.
#[derive(Clone, Debug)]
pub enum TokenVerdict {
    /// Not issued by Roster, or no longer valid.
    Foreign,
    /// Issued by Roster, but not accepted at the moment.
    Refused,
    /// Valid.
    Known(AuthenticatedToken),
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
    /// Recognizes bearers by the informers' Users, the issuer's tokens and the vault's keys.
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
        // The view of users may be out of date: no answer is better than a wrong one.
        if self.informers.is_user_watch_failing() {
            return Err(VaultError::Unavailable.into());
        }
        let known = match claims {
            Some(claims) => self.by_claims(claims),
            None => self.by_key(token, source).await?,
        };
        Ok(known.map_or(TokenVerdict::Refused, TokenVerdict::Known))
    }

    fn by_claims(&self, claims: Claims) -> Option<AuthenticatedToken> {
        let person = self.active(&claims.sub)?;
        let seconds = |time: &Option<Time>| time.as_ref().map_or(0, |time| time.0.as_second());
        let reported = seconds(&person.status.password_changed_time);
        let changed = reported.max(seconds(&person.status.sessions_not_before));
        // If the token's password is newer than the status, its issuer has already seen that no change is due.
        let must_change = person.must_change_password() && claims.password_changed <= reported;
        let has_second_factor = claims.amr.iter().any(|method| method == ONE_TIME_PASSWORD);
        if changed > claims.password_changed
            || must_change
            || claims.preferred_username != person.username
            || person.spec.second_factor == SecondFactor::Required && !has_second_factor
        {
            return None;
        }
        Some(AuthenticatedToken {
            user: person.user_info(Some(format!("JTI={}", claims.jti))),
            is_for_the_cluster: self.issuer.audiences.is_of_cluster(Some(&claims.aud)),
            audience: Some(claims.aud),
        })
    }

    async fn by_key(&self, text: &str, source: RequestNetwork) -> Result<Option<AuthenticatedToken>, TokenError> {
        let Some(person) = api_key::uid_of(text).and_then(|uid| self.bearer(&uid)) else { return Ok(None) };
        let _permit = self.lookups.take(source, LOOKUP_WAIT).await.ok_or(TokenError::Saturated)?;
        // Read each time, so that revoking a key takes effect immediately on every replica.
        let Some(opened) = self.vault.open(&person.username, &person.uid).await? else { return Ok(None) };
        let now = Timestamp::now();
        let mut keys = opened.credential.api_keys.iter().filter(|key| !key.is_expired(now));
        let Some(key) = keys.find(|key| key.digest.is_of(text)) else { return Ok(None) };
        // During the look-up, the User may have been disabled, renamed or moved to another group.
        if self.informers.is_user_watch_failing() {
            return Err(VaultError::Unavailable.into());
        }
        let now_known = self.bearer(&person.uid).filter(|known| known.username == person.username);
        let Some(person) = now_known else { return Ok(None) };
        self.last_use.note_key(&person, &key.name, now);
        let credential = format!("{API_KEY_CREDENTIAL}{}", key.name);
        Ok(Some(AuthenticatedToken {
            user: person.user_info(Some(credential)),
            audience: None,
            is_for_the_cluster: true,
        }))
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

    fn token_authenticator(client: Client, informers: &Arc<Informers>) -> TokenAuthenticator {
        let keys = Arc::new(ArcSwap::from_pointee(
            SigningKeys::create(Timestamp::now(), SigningAlgorithm::default()).unwrap(),
        ));
        let issuer = Issuer::new("https://localhost", Audiences::default(), Duration::from_secs(60), keys);
        let vault = Arc::new(Vault::new(client.clone(), "default", Arc::default()));
        let last_use = LastUse::new(client, Arc::clone(informers), Arc::clone(&vault), Arc::default());
        TokenAuthenticator::new(Arc::clone(informers), Arc::new(issuer), vault, Arc::new(last_use))
    }

    /// kube-apiserver judges other tokens, such as those of ServiceAccounts, whatever Roster knows of users.
    #[tokio::test]
    async fn foreign_tokens_need_no_watch_of_users() {
        let refuse = tower::service_fn(async |_: axum::http::Request<kube::client::Body>| {
            Err::<axum::http::Response<kube::client::Body>, _>(std::io::Error::other("nobody is there"))
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
            "of Roster's own, nothing is said now"
        );
    }

    fn foreign_network(last: u8) -> RequestNetwork {
        RequestNetwork::new([192, 0, 2, last].into(), false)
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
        let elsewhere = RequestNetwork::new([198, 51, 100, 1].into(), false);
        assert_eq!(look_up(elsewhere, LOOKUPS.total).await, LOOKUPS.direct - LOOKUPS.of_site);
        let api_server = RequestNetwork::new([192, 0, 2, 9].into(), true);
        assert_eq!(look_up(api_server, LOOKUPS.total - LOOKUPS.direct).await, LOOKUPS.total - LOOKUPS.direct);
    }
}
