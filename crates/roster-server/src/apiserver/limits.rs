//! Limits on requests: permits for requests in flight, a share of them for each caller, and memory for bodies.
//!
//! ```text
//!  request ─▶ its caller's share ─▶ body, within a budget and a deadline ─▶ shared permit ─▶ handler
//! ```
//!
//! The caller's share is held while the body is sent and until the response is written, so a caller that sends or reads
//! slowly uses up only its own share. A shared permit is taken when the body is complete. Some of them are reserved for
//! proven connections of kube-apiserver, and some for other connections of its addresses. It is held until the work ends,
//! even if the client disconnects earlier.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use roster_credentials::network::site_of;
use roster_runtime::operations::keyed_permits::{KeyedPermit, KeyedPermits};
use roster_runtime::tls::bodies::{BodyError, BodyLimits, BodyPermit, BodyReader};
use roster_runtime::tls::connections::{Standing, Trust};
use roster_runtime::tls::frames::hold;
use roster_runtime::tls::network_permits::{RequestNetwork, unproven};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::identity::Caller;
use super::permit_holder::PermitHolder;
use super::status::ApiError;

/// Maximum size of a body, in bytes. Reviews and patches are small.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Maximum length of a request URI including the query string, in bytes.
const MAX_URI_BYTES: usize = 20 * 1024;

/// Maximum time until a response begins, including reading the request's body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests for resources. With the limit on the size of each, this bounds memory and time.
const RESOURCES: PermitLimits = PermitLimits { total: 256, direct: 192, of_one: 32, of_program: 64 };

/// Requests for discovery. They have permits of their own because kube-apiserver treats the whole group as gone if
/// discovery fails.
const DISCOVERY: PermitLimits = PermitLimits { total: 64, direct: 48, of_one: 16, of_program: 32 };

/// Login attempts. Each waits for a hash, and a refusal is also delayed. The handler limits those of one source.
const LOGINS: PermitLimits = PermitLimits { total: 256, direct: 256, of_one: 256, of_program: 256 };

/// TokenReviews.
const TOKEN_REVIEWS: PermitLimits = PermitLimits { total: 256, direct: 192, of_one: 64, of_program: 144 };

/// Watches.
pub const WATCHES: PermitLimits = PermitLimits { total: 1024, direct: 768, of_one: 128, of_program: 256 };

/// Budget for bodies of one kind of request on proven connections of kube-apiserver, and others of the same size for
/// other connections of its addresses, and for all other requests. An anonymous network can take a quarter of the last
/// one, and its site three quarters.
const BODIES: BodyLimits = BodyLimits {
    max_bytes: MAX_BODY_BYTES,
    max_per_peer: 32,
    max_per_site: 96,
    budget: 8 * 1024 * 1024,
    free_bytes: 4 * 1024,
};

/// Origin of a request for the purpose of limits.
#[derive(Clone, Debug)]
pub struct RequestSource {
    share: PermitHolder,
    /// A second share that the request uses: a wider one of the network's site, or a narrower one of the credential.
    second: Option<PermitHolder>,
    standing: Standing,
}

impl RequestSource {
    /// Returns the source of an authenticated request. All requests through kube-apiserver have the same peer, so the
    /// share is the caller's.
    fn of_caller(request: &Request) -> Result<Self, ApiError> {
        let extensions = request.extensions();
        let caller = extensions.get::<Arc<Caller>>().ok_or_else(|| ApiError::internal("the caller is unknown"))?;
        let is_api_server = extensions.get::<Trust>() == Some(&Trust::ApiServer);
        let standing = if is_api_server { Standing::ApiServer } else { Standing::Unknown };
        Ok(Self { share: PermitHolder::of(caller), second: PermitHolder::of_credential(caller), standing })
    }

    /// Returns the source of an anonymous request. An address that currently holds proven connections of kube-apiserver
    /// has no limit per network, because TokenReview requests do not prove by themselves that they come from
    /// kube-apiserver.
    fn of_network(request: &Request) -> Result<Self, ApiError> {
        let source = RequestNetwork::of(request.extensions());
        let source = source.ok_or_else(|| ApiError::internal("the connection is unknown"))?;
        let (share, second) = match source.standing {
            Standing::Unknown => {
                (PermitHolder::Network(source.network), Some(PermitHolder::Site(site_of(source.network))))
            }
            Standing::AtApiServerAddress | Standing::ApiServer => (PermitHolder::Exempt, None),
        };
        Ok(Self { share, second, standing: source.standing })
    }

    /// Returns whose share the request uses.
    pub const fn share(&self) -> &PermitHolder {
        &self.share
    }

    /// Returns the source of a login. The handler limits logins by source address, which may be reported by a proxy.
    fn of_login(request: &Request) -> Result<Self, ApiError> {
        Self::of_network(request).map(|source| Self { share: PermitHolder::Exempt, second: None, ..source })
    }
}

/// How many requests of one kind may be in flight.
#[derive(Clone, Copy, Debug)]
pub struct PermitLimits {
    /// All requests.
    pub total: usize,
    /// All requests that do not come from kube-apiserver, and as many on unproven connections of its addresses. They
    /// overlap: see [`unproven`].
    pub direct: usize,
    /// Requests of one person or one network. One session of a person, and all of the person's API keys together, can
    /// use half of it.
    pub of_one: usize,
    /// Requests of one Kubernetes component, the ServiceAccounts of one namespace, or one site: they may act for many
    /// people.
    pub of_program: usize,
}

/// Permits for requests of one kind.
#[derive(Debug)]
pub struct Permits {
    limits: PermitLimits,
    /// What the permits are for, in the plural, for error messages.
    kind: &'static str,
    total: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
    at_api_server_address: Arc<Semaphore>,
    direct: Arc<Semaphore>,
    shares: Arc<KeyedPermits<PermitHolder>>,
}

/// A part of a caller's share. Returned when the last clone is dropped.
#[derive(Clone, Debug)]
struct SharePermit {
    source: RequestSource,
    _taken: Option<Arc<HolderPermits>>,
}

/// A part of the shares of a [`RequestSource`].
#[derive(Debug)]
struct HolderPermits {
    _share: KeyedPermit<PermitHolder>,
    _second: Option<KeyedPermit<PermitHolder>>,
}

/// A permit for a request in flight, returned when the last clone is dropped. An extension of each request, for
/// handlers whose work continues after the response begins.
#[derive(Clone, Debug)]
pub struct RequestPermit {
    share: SharePermit,
    _in_flight: Arc<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    _permits: Vec<OwnedSemaphorePermit>,
}

/// Response extension: the body holds permits of another kind instead of the request's share.
#[derive(Clone, Copy, Debug)]
pub struct HoldsOwnPermit;

impl RequestPermit {
    /// Returns a permit of that share.
    #[cfg(test)]
    pub fn for_test(share: PermitHolder) -> Self {
        let source = RequestSource { share, second: None, standing: Standing::ApiServer };
        Permits::new(RESOURCES, "requests").admit(source).expect("all permits are free")
    }

    /// Returns where the request comes from.
    pub const fn source(&self) -> &RequestSource {
        &self.share.source
    }

    /// Returns the caller's share alone, to hold for longer than the permit.
    fn share(&self) -> SharePermit {
        self.share.clone()
    }
}

impl Permits {
    /// Creates permits that are all free. `kind` says what they are for, in the plural.
    pub fn new(limits: PermitLimits, kind: &'static str) -> Self {
        let semaphore = |count| Arc::new(Semaphore::new(count));
        Self {
            limits,
            kind,
            total: semaphore(limits.total),
            unproven: semaphore(unproven(limits.total, limits.direct)),
            at_api_server_address: semaphore(limits.direct),
            direct: semaphore(limits.direct),
            shares: KeyedPermits::new(limits.of_one),
        }
    }

    /// Takes a part of the caller's share and a permit.
    ///
    /// # Errors
    /// 429 if either is used up.
    pub fn admit(&self, source: RequestSource) -> Result<RequestPermit, ApiError> {
        self.permit(self.share(source)?)
    }

    fn share(&self, source: RequestSource) -> Result<SharePermit, ApiError> {
        if source.share == PermitHolder::Exempt {
            return Ok(SharePermit { source, _taken: None });
        }
        let second = source.second.as_ref().map(|second| self.take(second)).transpose()?;
        let taken = HolderPermits { _share: self.take(&source.share)?, _second: second };
        Ok(SharePermit { source, _taken: Some(Arc::new(taken)) })
    }

    fn take(&self, share: &PermitHolder) -> Result<KeyedPermit<PermitHolder>, ApiError> {
        let max = match share {
            PermitHolder::Session(_) | PermitHolder::ApiKeys(_) => self.limits.of_one / 2,
            PermitHolder::User(_) | PermitHolder::Network(_) => self.limits.of_one,
            PermitHolder::ServiceAccounts(_)
            | PermitHolder::System(_)
            | PermitHolder::Site(_)
            | PermitHolder::Exempt => self.limits.of_program,
        };
        let permit = self.shares.take_up_to(share.clone(), max);
        permit.ok_or_else(|| ApiError::over_share(&format!("{share} {max} {}", self.kind)))
    }

    fn permit(&self, share: SharePermit) -> Result<RequestPermit, ApiError> {
        let limits: &[&Arc<Semaphore>] = match share.source.standing {
            Standing::ApiServer => &[&self.total],
            Standing::AtApiServerAddress => &[&self.at_api_server_address, &self.unproven, &self.total],
            Standing::Unknown => &[&self.direct, &self.unproven, &self.total],
        };
        let permits = limits.iter().map(|limit| Arc::clone(limit).try_acquire_owned()).collect::<Result<_, _>>();
        let permits = permits.map_err(|_| ApiError::too_many_requests())?;
        Ok(RequestPermit { share, _in_flight: Arc::new(InFlight { _permits: permits }) })
    }
}

/// Limits requests of one kind.
#[derive(Debug)]
pub struct RequestLimiter {
    permits: Permits,
    timeout: Duration,
    source_of: fn(&Request) -> Result<RequestSource, ApiError>,
    bodies_of_api_server: BodyReader,
    bodies_at_api_server_address: BodyReader,
    bodies_of_others: BodyReader,
}

impl RequestLimiter {
    /// Limits requests for resources, after authentication.
    pub fn for_resources() -> Self {
        Self::new(RESOURCES, "requests", RequestSource::of_caller)
    }

    /// Limits requests for discovery, after authentication.
    pub fn for_discovery() -> Self {
        Self::new(DISCOVERY, "requests for discovery", RequestSource::of_caller)
    }

    /// Limits logins.
    pub fn for_logins() -> Self {
        Self::new(LOGINS, "logins", RequestSource::of_login)
    }

    /// Limits TokenReviews.
    pub fn for_token_reviews() -> Self {
        Self::new(TOKEN_REVIEWS, "TokenReviews", RequestSource::of_network)
    }

    fn new(
        limits: PermitLimits,
        kind: &'static str,
        source_of: fn(&Request) -> Result<RequestSource, ApiError>,
    ) -> Self {
        let bodies = || BodyReader::new(BODIES);
        Self {
            permits: Permits::new(limits, kind),
            timeout: REQUEST_TIMEOUT,
            source_of,
            bodies_of_api_server: bodies(),
            bodies_at_api_server_address: bodies(),
            bodies_of_others: bodies(),
        }
    }

    /// Runs a request within the limits.
    ///
    /// # Errors
    /// 429 if there is no permit, 413 or 400 if the body or URI is not acceptable, 503 if the response takes too long.
    pub async fn run(&self, request: Request, next: Next) -> Result<Response, ApiError> {
        let deadline = Instant::now() + self.timeout;
        check_uri(&request)?;
        let share = self.permits.share((self.source_of)(&request)?)?;
        // These handlers read no body and change nothing, so they can be cancelled if the client disconnects.
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            let answer = respond(request, next, (self.permits.permit(share)?, None));
            return timeout_at(deadline, answer).await.map_err(|_| too_late());
        }
        let (request, budget) = self.read_body(request, &share.source).await?;
        let permit = self.permits.permit(share)?;
        // Runs to completion even if the client disconnects, so that failed attempts are counted.
        let answer = tokio::spawn(respond(request, next, (permit, Some(budget))));
        let answer = timeout_at(deadline, answer).await.map_err(|_| too_late())?;
        answer.map_err(|_| ApiError::internal("the request failed"))
    }

    async fn read_body(&self, request: Request, source: &RequestSource) -> Result<(Request, BodyPermit), ApiError> {
        let bodies = match source.standing {
            Standing::ApiServer => &self.bodies_of_api_server,
            Standing::AtApiServerAddress => &self.bodies_at_api_server_address,
            Standing::Unknown => &self.bodies_of_others,
        };
        let is_authenticated = request.extensions().get::<Arc<Caller>>().is_some();
        let read = if is_authenticated { bodies.read_within_budget(request).await } else { bodies.read(request).await };
        read.map_err(|error| match error {
            BodyError::TooManyOfPeer | BodyError::Saturated => ApiError::too_many_requests(),
            BodyError::TooLarge(max) => ApiError::too_large(max),
            BodyError::TooSlow | BodyError::Broken => ApiError::bad_request(error.to_string()),
            BodyError::UnknownPeer => ApiError::internal(error.to_string()),
        })
    }
}

/// Middleware that applies the limits.
pub async fn limited(State(limiter): State<Arc<RequestLimiter>>, request: Request, next: Next) -> Response {
    limiter.run(request, next).await.unwrap_or_else(IntoResponse::into_response)
}

/// Holds the permit and the part of the budget until the work ends, and the caller's share until the response is
/// written.
async fn respond(mut request: Request, next: Next, held: (RequestPermit, Option<BodyPermit>)) -> Response {
    let share = held.0.share();
    request.extensions_mut().insert(held.0.clone());
    let response = next.run(request).await;
    drop(held);
    if response.extensions().get::<HoldsOwnPermit>().is_some() {
        return response;
    }
    response.map(|body| hold(body, share))
}

fn too_late() -> ApiError {
    ApiError::unavailable("the request took too long")
}

fn check_uri(request: &Request) -> Result<(), ApiError> {
    let length = request.uri().path_and_query().map_or(0, |address| address.as_str().len());
    if length > MAX_URI_BYTES {
        return Err(ApiError::uri_too_long(MAX_URI_BYTES));
    }
    if percent_decode_str(request.uri().path()).decode_utf8().is_err() {
        return Err(ApiError::bad_request("the path is not UTF-8"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
