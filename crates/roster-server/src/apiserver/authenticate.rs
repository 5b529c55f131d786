//! Authenticates requests by the front proxy's certificate and headers, or by a bearer token.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use moka::future::Cache;
use roster_runtime::informers::Informers;
use roster_runtime::logins::token_authenticator::{CredentialState, TokenAuthenticator, TokenError, TokenVerdict};
use roster_runtime::tls::connections::{Connection, Standing, Trust};
use roster_runtime::tls::network_permits::{NetworkPermitLimits, NetworkPermits, RequestNetwork};
use roster_runtime::tls::peer::Peer;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tracing::warn;

use super::delegation::{ANSWER_TIMEOUT, ANSWER_TTL, MAX_CACHED_ANSWERS};
use super::front_proxy::FrontProxy;
use super::identity::Caller;
use super::status::ApiError;

/// TokenReviews in flight. Anyone who reaches the port may send tokens, and each costs a request to kube-apiserver.
const REVIEW_LIMITS: NetworkPermitLimits = NetworkPermitLimits { total: 24, direct: 18, of_network: 9, of_site: 13 };

/// The same for tokens that were valid recently, so that made-up tokens do not lock out known applications.
const REPEATED_REVIEW_LIMITS: NetworkPermitLimits =
    NetworkPermitLimits { total: 8, direct: 6, of_network: 4, of_site: 5 };

/// How long a token that was valid uses the permits of [`REPEATED_REVIEW_LIMITS`]. ServiceAccount tokens last an hour.
const RECENTLY_VALID_TTL: Duration = Duration::from_hours(1);

/// Maximum length of a token, in bytes. JWTs have a few KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Authenticates requests.
pub struct Authenticator {
    front_proxy: Arc<FrontProxy>,
    reviews: Api<TokenReview>,
    review_permits: NetworkPermits,
    repeated_review_permits: NetworkPermits,
    /// Digests of tokens that were valid recently. They only decide which permits a review takes.
    recently_valid: Cache<[u8; 32], ()>,
    /// Results of reviews, by digest of the token; never the token itself.
    known: Cache<[u8; 32], Option<Caller>>,
    own_tokens: Arc<TokenAuthenticator>,
    informers: Arc<Informers>,
}

impl Authenticator {
    /// Creates an authenticator that sends TokenReviews to kube-apiserver through `client`.
    pub fn new(
        client: Client,
        front_proxy: Arc<FrontProxy>,
        token_authenticator: Arc<TokenAuthenticator>,
        informers: Arc<Informers>,
    ) -> Self {
        let known = Cache::builder().max_capacity(MAX_CACHED_ANSWERS).time_to_live(ANSWER_TTL).build();
        let recently_valid = Cache::builder().max_capacity(MAX_CACHED_ANSWERS).time_to_live(RECENTLY_VALID_TTL).build();
        Self {
            front_proxy,
            reviews: Api::all(client),
            review_permits: NetworkPermits::new(REVIEW_LIMITS),
            repeated_review_permits: NetworkPermits::new(REPEATED_REVIEW_LIMITS),
            recently_valid,
            known,
            own_tokens: token_authenticator,
            informers,
        }
    }

    /// Returns what a request presents.
    fn presented(&self, peer: &Peer, source: RequestNetwork, headers: &HeaderMap) -> Result<Presented, ApiError> {
        if let Some(caller) = self.front_proxy.authenticate(&peer.certificates, headers) {
            // The certificate is the proof, even before the connection is marked.
            let source = RequestNetwork { standing: Standing::ApiServer, ..source };
            return Ok(Presented::Identity { caller, source });
        }
        let token = bearer(headers).ok_or_else(|| self.missing_token(peer))?;
        Ok(Presented::Token { token, source })
    }

    /// Judges what a request presents, by the current state of Users and credentials.
    ///
    /// # Errors
    /// 401, or 429 or 503 if that can't be judged at the moment.
    async fn judge(&self, presented: &Presented) -> Result<Judgement, ApiError> {
        let judgement = match presented {
            Presented::Identity { caller, .. } => Judgement { caller: caller.clone(), expires: None },
            // Boxed because it is large, and requests through the aggregator do not need it.
            Presented::Token { token, source } => Box::pin(self.identify_bearer(*source, token)).await?,
        };
        let Judgement { caller, expires } = judgement;
        if !caller.is_authenticated() {
            return Err(ApiError::unauthorized());
        }
        let identity = caller.presented(&self.informers);
        if self.informers.is_inactive(identity) {
            return Err(self.inactive());
        }
        let Presented::Identity { source, .. } = presented else { return Ok(Judgement { caller, expires }) };
        let state = Box::pin(self.own_tokens.judge_by_id(identity, &caller.extra, *source)).await;
        let expires = match state.map_err(|error| undecided(&error))? {
            CredentialState::Ended => return Err(ApiError::unauthorized()),
            CredentialState::Valid { expires } => Some(expires),
            CredentialState::Unknown => None,
        };
        Ok(Judgement { caller, expires })
    }

    async fn identify_bearer(&self, source: RequestNetwork, token: &SecretString) -> Result<Judgement, ApiError> {
        // Roster's own tokens need no kube-apiserver, and are checked against the current state.
        match self.own_tokens.authenticate(token, source).await.map_err(|error| undecided(&error))? {
            TokenVerdict::Known(known) if known.is_for_the_cluster => {
                return Ok(Judgement { caller: known.user.into(), expires: Some(known.expires) });
            }
            TokenVerdict::Known(_) | TokenVerdict::Refused => return Err(ApiError::unauthorized()),
            TokenVerdict::Foreign => {}
        }
        let digest = Sha256::digest(token.expose_secret()).into();
        let known = self.known.try_get_with(digest, self.review(source, digest, token)).await;
        let caller = known.map_err(|error| (*error).clone())?.ok_or_else(ApiError::unauthorized)?;
        Ok(Judgement { caller, expires: None })
    }

    /// Error for a request without a token.
    fn missing_token(&self, peer: &Peer) -> ApiError {
        if peer.certificates.is_empty() || self.front_proxy.is_known() {
            return ApiError::unauthorized();
        }
        ApiError::unavailable("the front proxy's authorities have not been read yet")
    }

    /// Error for a caller that is inactive. A User that the directory does not contain counts as deleted, but may only
    /// be unknown yet.
    fn inactive(&self) -> ApiError {
        if self.informers.is_synced() && !self.informers.is_user_watch_failing() {
            return ApiError::unauthorized();
        }
        ApiError::unavailable("the directory may be out of date")
    }

    async fn review(
        &self,
        source: RequestNetwork,
        digest: [u8; 32],
        token: &SecretString,
    ) -> Result<Option<Caller>, ApiError> {
        let mut permit = self.review_permits.take(source, Duration::ZERO).await;
        if permit.is_none() && self.recently_valid.contains_key(&digest) {
            permit = self.repeated_review_permits.take(source, Duration::ZERO).await;
        }
        let _permit = permit.ok_or_else(ApiError::too_many_requests)?;
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.expose_secret().to_owned()), ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.reviews.create(&params, &review)).await;
        let Ok(Ok(answer)) = answer else {
            // The error is not logged: it may contain the token.
            warn!("token review by the API server failed");
            return Err(ApiError::unavailable("the token could not be reviewed"));
        };
        let status = answer.status.unwrap_or_default();
        let caller = status.user.filter(|_| status.authenticated == Some(true)).map(Caller::from);
        if caller.is_some() {
            self.recently_valid.insert(digest, ()).await;
        } else {
            self.recently_valid.invalidate(&digest).await;
        }
        Ok(caller)
    }
}

/// What a request presents.
enum Presented {
    /// An identity that kube-apiserver has authenticated.
    Identity { caller: Caller, source: RequestNetwork },
    /// A bearer token.
    Token { token: SecretString, source: RequestNetwork },
}

impl Presented {
    /// What it proves about its connection, once it is judged.
    const fn trust(&self) -> Trust {
        match self {
            Self::Identity { .. } => Trust::ApiServer,
            Self::Token { .. } => Trust::Authenticated,
        }
    }
}

/// A caller whose credential is valid.
#[derive(Clone, Debug)]
pub(super) struct Judgement {
    /// The caller.
    pub(super) caller: Caller,
    /// When the credential expires, if that is known.
    pub(super) expires: Option<Timestamp>,
}

/// The credential of a request, which can be judged again while the response lasts. Its `Debug` output contains nothing of
/// the credential.
#[derive(Clone)]
pub struct RequestCredential {
    authenticator: Arc<Authenticator>,
    presented: Arc<Presented>,
}

impl fmt::Debug for RequestCredential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RequestCredential").finish_non_exhaustive()
    }
}

impl RequestCredential {
    /// Returns the credential of a caller that kube-apiserver has authenticated.
    #[cfg(test)]
    pub(super) fn for_test(authenticator: Authenticator, caller: Caller) -> Self {
        let source = RequestNetwork::new([127, 0, 0, 1].into(), Standing::ApiServer);
        let presented = Presented::Identity { caller, source };
        Self { authenticator: Arc::new(authenticator), presented: Arc::new(presented) }
    }

    /// Judges the credential as that of a new request.
    ///
    /// # Errors
    /// 401, or 429 or 503 if that can't be judged at the moment.
    pub(super) async fn judge(&self) -> Result<Judgement, ApiError> {
        self.authenticator.judge(&self.presented).await
    }
}

/// Error for one of Roster's credentials that can't be judged.
fn undecided(error: &TokenError) -> ApiError {
    match error {
        TokenError::Saturated => ApiError::too_many_requests(),
        TokenError::Vault(_) => ApiError::unavailable("the credential is unavailable"),
    }
}

fn bearer(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    let is_bearer = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN_BYTES;
    is_bearer.then(|| token.into())
}

/// Middleware that rejects unauthenticated requests, and passes the caller on to the handlers.
pub async fn authenticate(
    State(authenticator): State<Arc<Authenticator>>,
    mut request: Request,
    next: Next,
) -> Response {
    let extensions = request.extensions();
    let (Some(peer), Some(source)) = (extensions.get::<Arc<Peer>>().cloned(), RequestNetwork::of(extensions)) else {
        return ApiError::internal("the connection is unknown").into_response();
    };
    let presented = match authenticator.presented(&peer, source, request.headers()) {
        Ok(presented) => Arc::new(presented),
        Err(error) => return error.into_response(),
    };
    let credential = RequestCredential { authenticator, presented };
    let caller = match credential.judge().await {
        Ok(judgement) => judgement.caller,
        Err(error) => return error.into_response(),
    };
    let trust = credential.presented.trust();
    if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
        connection.mark(trust);
    }
    let extensions = request.extensions_mut();
    extensions.insert(trust);
    extensions.insert(credential);
    extensions.insert(Arc::new(caller));
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use arc_swap::ArcSwap;
    use roster_credentials::signing::{SigningAlgorithm, SigningKeys};
    use roster_runtime::logins::audiences::Audiences;
    use roster_runtime::logins::issuer::Issuer;
    use roster_runtime::logins::last_use::LastUse;
    use roster_runtime::logins::vault::Vault;

    #[test]
    fn only_bearer_tokens_are_tokens() {
        let read = |value: &str| {
            let headers = [(header::AUTHORIZATION, value.parse().unwrap())].into_iter().collect();
            bearer(&headers).map(|token| token.expose_secret().to_owned())
        };
        assert_eq!(read("Bearer abc"), Some("abc".to_owned()));
        assert_eq!(read("bearer  abc "), Some("abc".to_owned()));
        for other in ["Basic abc", "Bearer", "Bearer  ", "abc"] {
            assert_eq!(read(other), None, "{other}");
        }
        assert_eq!(read(&format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1))), None);
    }

    fn token_authenticator(client: Client, informers: &Arc<Informers>) -> Arc<TokenAuthenticator> {
        let keys = Arc::new(ArcSwap::from_pointee(
            SigningKeys::create(jiff::Timestamp::now(), SigningAlgorithm::default()).unwrap(),
        ));
        let issuer = Issuer::new("https://localhost", Audiences::default(), ANSWER_TTL, keys);
        let vault = Arc::new(Vault::new(client.clone(), "default", Arc::default()));
        let last_use = LastUse::new(client, Arc::clone(informers), Arc::clone(&vault), Arc::default());
        Arc::new(TokenAuthenticator::new(Arc::clone(informers), Arc::new(issuer), vault, Arc::new(last_use)))
    }

    fn authenticator(client: Client, front_proxy: Arc<FrontProxy>) -> Authenticator {
        let informers = Arc::new(Informers::new(false, Arc::default()));
        Authenticator::new(client.clone(), front_proxy, token_authenticator(client, &informers), informers)
    }

    /// kube-apiserver may send requests to a new replica before the replica knows the front proxy's certificate.
    #[tokio::test]
    async fn requests_are_unavailable_until_the_front_proxy_is_known() {
        let silent = tower::service_fn(|_: axum::http::Request<kube::client::Body>| {
            std::future::pending::<Result<axum::http::Response<kube::client::Body>, std::io::Error>>()
        });
        let front_proxy = Arc::new(FrontProxy::default());
        let authenticator = authenticator(Client::new(silent, "default"), Arc::clone(&front_proxy));
        let certificate = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap().cert.der().clone();
        let remote = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let (shown, none) = (Peer { remote, certificates: vec![certificate] }, Peer { remote, certificates: vec![] });
        let headers = HeaderMap::new();
        let source = RequestNetwork::new(remote.ip(), Standing::Unknown);
        let answer =
            |peer: &Peer| authenticator.presented(peer, source, &headers).err().map(|error| error.code().as_u16());
        assert_eq!((answer(&shown), answer(&none)), (Some(503), Some(401)));
        front_proxy.set(&std::collections::BTreeMap::new());
        assert_eq!((answer(&shown), answer(&none)), (Some(401), Some(401)));
    }

    /// A busy or unresponsive kube-apiserver gets a bounded number of requests. One network leaves permits for others,
    /// and all of them together leave permits for the networks of kube-apiserver.
    #[tokio::test]
    async fn concurrent_token_reviews_are_limited() {
        let silent = tower::service_fn(|_: axum::http::Request<kube::client::Body>| {
            std::future::pending::<Result<axum::http::Response<kube::client::Body>, std::io::Error>>()
        });
        let authenticator = authenticator(Client::new(silent, "default"), Arc::default());
        let token = SecretString::from("token");
        let [one, two, three] = [1, 2, 3].map(|site| RequestNetwork::new([192, 0, site, 1].into(), Standing::Unknown));
        let api_server = RequestNetwork::new([192, 0, 9, 1].into(), Standing::ApiServer);
        let (new, recent) = ([0; 32], [1; 32]);
        authenticator.recently_valid.insert(recent, ()).await;
        let of =
            |source, count| (0..count).map(|_| Box::pin(authenticator.review(source, new, &token))).collect::<Vec<_>>();
        let mut reviews = of(one, REVIEW_LIMITS.of_network);
        for review in &mut reviews {
            assert!(futures::poll!(review).is_pending());
        }
        let refused = authenticator.review(one, new, &token).await.unwrap_err();
        assert_eq!(refused.code(), axum::http::StatusCode::TOO_MANY_REQUESTS);
        let mut others = of(two, REVIEW_LIMITS.direct - REVIEW_LIMITS.of_network);
        for review in &mut others {
            assert!(futures::poll!(review).is_pending());
        }
        let refused = authenticator.review(three, new, &token).await.unwrap_err();
        assert_eq!(refused.code(), axum::http::StatusCode::TOO_MANY_REQUESTS);
        let mut reserved = of(api_server, REVIEW_LIMITS.total - REVIEW_LIMITS.direct);
        for review in &mut reserved {
            assert!(futures::poll!(review).is_pending());
        }
        assert!(authenticator.review(api_server, new, &token).await.is_err());
        // All of them together leave permits for recently valid tokens.
        for source in [one, three, api_server] {
            assert!(futures::poll!(Box::pin(authenticator.review(source, recent, &token))).is_pending());
        }
    }

    /// Only kube-apiserver's answer decides which tokens are valid.
    #[tokio::test]
    async fn a_token_is_recently_valid_while_its_reviews_succeed() {
        let is_valid = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let valid = Arc::clone(&is_valid);
        let answers = tower::service_fn(move |_: axum::http::Request<kube::client::Body>| {
            let status = if valid.load(std::sync::atomic::Ordering::Relaxed) {
                serde_json::json!({"authenticated": true, "user": {"username": "bot"}})
            } else {
                serde_json::json!({"authenticated": false})
            };
            let review = serde_json::json!({"metadata": {}, "spec": {}, "status": status}).to_string();
            async { Ok::<_, std::io::Error>(axum::http::Response::new(kube::client::Body::from(review.into_bytes()))) }
        });
        let authenticator = authenticator(Client::new(answers, "default"), Arc::default());
        let (source, token) =
            (RequestNetwork::new([192, 0, 2, 1].into(), Standing::Unknown), SecretString::from("token"));
        for expected in [true, false] {
            is_valid.store(expected, std::sync::atomic::Ordering::Relaxed);
            let caller = authenticator.review(source, [0; 32], &token).await.unwrap();
            assert_eq!(caller.is_some(), expected);
            assert_eq!(authenticator.recently_valid.contains_key(&[0; 32]), expected);
        }
    }
}
