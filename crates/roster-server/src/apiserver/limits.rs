//! Limits on requests: permits for requests in flight, a share of them for each caller, and memory for bodies.
//!
//! ```text
//!  request ─▶ share of its caller ─▶ body, within a budget and a time ─▶ permit out of those for all ─▶ handler
//! ```
//!
//! The caller's share is held while the body is sent and until the answer is written, so a caller that sends or reads
//! slowly uses up its own share only. The permits for all are taken when the body is complete. A part of them is reserved
//! for requests from kube-apiserver. A permit is held until the work ends, also if the client disconnects before that.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use roster_credentials::network::site_of;
use roster_runtime::operations::seats::{Seat, Seats};
use roster_runtime::tls::bodies::{BodyError, BodyLimits, BodyReader};
use roster_runtime::tls::connections::Trust;
use roster_runtime::tls::frames::hold;
use roster_runtime::tls::network_permits::RequestNetwork;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::authorize::MASTERS;
use super::identity::Caller;
use super::status::ApiError;

/// Largest body: reviews and patches are small.
pub const MOST_BODY_BYTES: usize = 64 * 1024;

/// Longest address of a request, its query string included.
const MOST_URI_BYTES: usize = 20 * 1024;

/// Longest time until an answer begins, the body of the request included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests for resources. With the limit on the size of each, this bounds memory and time.
const RESOURCES: PermitLimits = PermitLimits { total: 256, direct: 192, of_one: 32, of_program: 64 };

/// Requests for discovery. They have permits of their own because kube-apiserver treats the whole group as gone if
/// discovery fails.
const DISCOVERY: PermitLimits = PermitLimits { total: 64, direct: 48, of_one: 16, of_program: 32 };

/// Login attempts: each waits for a hash, and a refusal for its tick. The handler limits those of one source.
const LOGINS: PermitLimits = PermitLimits { total: 256, direct: 256, of_one: 256, of_program: 256 };

/// TokenReviews.
const TOKEN_REVIEWS: PermitLimits = PermitLimits { total: 256, direct: 192, of_one: 64, of_program: 144 };

/// Watches.
pub const WATCHES: PermitLimits = PermitLimits { total: 1024, direct: 768, of_one: 128, of_program: 256 };

/// Bodies of one kind of requests that come from kube-apiserver, and as many again that do not. An anonymous network can
/// take a quarter of the budget, and its site three quarters.
const BODIES: BodyLimits = BodyLimits {
    most_bytes: MOST_BODY_BYTES,
    of_a_peer: 32,
    of_a_site: 96,
    budget: 8 * 1024 * 1024,
    free_bytes: 4 * 1024,
};

/// How usernames of ServiceAccounts begin.
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// How usernames of Kubernetes itself begin: no User has one.
const SYSTEM_PREFIX: &str = "system:";

/// Whose share of the permits a request takes.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Share {
    /// A person, by username.
    User(String),
    /// The ServiceAccounts of one namespace: anyone who may create ServiceAccounts could otherwise have any number of
    /// shares.
    ServiceAccounts(String),
    /// A component of Kubernetes, by username.
    System(String),
    /// Callers that are not authenticated, by their network. They take a part of their site's share, too.
    Network(IpNet),
    /// All networks of one site.
    Site(IpNet),
    /// No share: `system:masters`, as in kube-apiserver's own priority levels, and kube-apiserver itself.
    Exempt,
}

impl Share {
    /// The share of an authenticated caller.
    fn of(caller: &Caller) -> Self {
        if caller.groups.iter().any(|group| group == MASTERS) {
            return Self::Exempt;
        }
        let service_account = caller.username.strip_prefix(SERVICE_ACCOUNT_PREFIX);
        match service_account.and_then(|account| account.split_once(':')) {
            Some((namespace, _)) => Self::ServiceAccounts(namespace.to_owned()),
            None if caller.username.starts_with(SYSTEM_PREFIX) => Self::System(caller.username.clone()),
            None => Self::User(caller.username.clone()),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) | Self::System(name) => write!(formatter, "user {name} has"),
            Self::ServiceAccounts(namespace) => write!(formatter, "the ServiceAccounts of namespace {namespace} have"),
            Self::Network(network) => write!(formatter, "the network {network} has"),
            Self::Site(site) => write!(formatter, "the addresses in {site} have"),
            Self::Exempt => formatter.write_str("the caller has"),
        }
    }
}

/// Where a request comes from, as far as limits are concerned.
#[derive(Clone, Debug)]
pub struct RequestSource {
    share: Share,
    is_api_server: bool,
}

impl RequestSource {
    /// The source of an authenticated request. Requests of all people that come through kube-apiserver have the same
    /// peer, so the share goes by the caller.
    fn of_caller(request: &Request) -> Result<Self, ApiError> {
        let extensions = request.extensions();
        let caller = extensions.get::<Arc<Caller>>().ok_or_else(|| ApiError::internal("the caller is not known"))?;
        let is_api_server = extensions.get::<Trust>() == Some(&Trust::ApiServer);
        Ok(Self { share: Share::of(caller), is_api_server })
    }

    /// The source of an anonymous request. A network that holds proven connections of kube-apiserver at this moment has no
    /// limit: its TokenReviews prove nothing themselves.
    fn of_network(request: &Request) -> Result<Self, ApiError> {
        let source = RequestNetwork::of(request.extensions());
        let source = source.ok_or_else(|| ApiError::internal("the connection is not known"))?;
        let is_api_server = source.is_beside_api_server;
        let share = if is_api_server { Share::Exempt } else { Share::Network(source.network) };
        Ok(Self { share, is_api_server })
    }

    /// Whose share the request takes.
    pub const fn share(&self) -> &Share {
        &self.share
    }

    /// The source of a login. The handler limits logins by their source address, which proxies may have told.
    fn of_login(request: &Request) -> Result<Self, ApiError> {
        Self::of_network(request).map(|source| Self { share: Share::Exempt, ..source })
    }
}

/// How many requests of one kind may be in flight.
#[derive(Clone, Copy, Debug)]
pub struct PermitLimits {
    /// All together.
    pub total: usize,
    /// Those that do not come from kube-apiserver, all together. The rest of `total` is reserved for kube-apiserver's.
    pub direct: usize,
    /// Those of one person, or of one network.
    pub of_one: usize,
    /// Those of one component of Kubernetes, of the ServiceAccounts of one namespace, or of one site: they may work for
    /// many people.
    pub of_program: usize,
}

/// Permits for requests of one kind.
#[derive(Debug)]
pub struct Permits {
    limits: PermitLimits,
    /// What the permits are for, in the plural.
    kind: &'static str,
    total: Arc<Semaphore>,
    direct: Arc<Semaphore>,
    shares: Arc<Seats<Share>>,
}

/// A part of a caller's share, given back when the last clone is dropped.
#[derive(Clone, Debug)]
struct SharePermit {
    source: RequestSource,
    _seats: Option<Arc<TakenShare>>,
}

/// A part of a share, and for a network also of its site's.
#[derive(Debug)]
struct TakenShare {
    _own: Seat<Share>,
    _site: Option<Seat<Share>>,
}

/// A request in flight, given back when the last clone is dropped. An extension of each request, for handlers whose work
/// goes on when the answer begins.
#[derive(Clone, Debug)]
pub struct RequestPermit {
    share: SharePermit,
    _in_flight: Arc<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    _total: OwnedSemaphorePermit,
    _direct: Option<OwnedSemaphorePermit>,
}

/// Response extension of an answer whose body holds permits of another kind, and not the share of the request.
#[derive(Clone, Copy, Debug)]
pub struct HoldsOwnPermit;

impl RequestPermit {
    /// A permit of that share.
    #[cfg(test)]
    pub fn for_test(share: Share) -> Self {
        let source = RequestSource { share, is_api_server: true };
        Permits::new(RESOURCES, "requests").admit(source).expect("all permits are free")
    }

    /// Where the request comes from.
    pub const fn source(&self) -> &RequestSource {
        &self.share.source
    }

    /// The caller's share alone, to be held for longer than the permit.
    fn share(&self) -> SharePermit {
        self.share.clone()
    }
}

impl Permits {
    /// All permits are free. `kind` is what they are for, in the plural.
    pub fn new(limits: PermitLimits, kind: &'static str) -> Self {
        let semaphore = |count| Arc::new(Semaphore::new(count));
        let (total, direct) = (semaphore(limits.total), semaphore(limits.direct));
        Self { limits, kind, total, direct, shares: Seats::new(limits.of_one) }
    }

    /// Takes a part of the caller's share, and a permit.
    ///
    /// # Errors
    /// 429 if either is used up.
    pub fn admit(&self, source: RequestSource) -> Result<RequestPermit, ApiError> {
        self.permit(self.share(source)?)
    }

    fn share(&self, source: RequestSource) -> Result<SharePermit, ApiError> {
        let site = match &source.share {
            Share::Exempt => return Ok(SharePermit { source, _seats: None }),
            Share::Network(network) => Some(Share::Site(site_of(*network))),
            _ => None,
        };
        let seats =
            TakenShare { _own: self.seat(&source.share)?, _site: site.map(|site| self.seat(&site)).transpose()? };
        Ok(SharePermit { source, _seats: Some(Arc::new(seats)) })
    }

    fn seat(&self, share: &Share) -> Result<Seat<Share>, ApiError> {
        let most = match share {
            Share::User(_) | Share::Network(_) => self.limits.of_one,
            Share::ServiceAccounts(_) | Share::System(_) | Share::Site(_) | Share::Exempt => self.limits.of_program,
        };
        let seat = self.shares.take_up_to(share.clone(), most);
        seat.ok_or_else(|| ApiError::over_share(&format!("{share} {most} {}", self.kind)))
    }

    fn permit(&self, share: SharePermit) -> Result<RequestPermit, ApiError> {
        let take = |permits: &Arc<Semaphore>| {
            Arc::clone(permits).try_acquire_owned().map_err(|_| ApiError::too_many_requests())
        };
        let direct = if share.source.is_api_server { None } else { Some(take(&self.direct)?) };
        let in_flight = InFlight { _direct: direct, _total: take(&self.total)? };
        Ok(RequestPermit { share, _in_flight: Arc::new(in_flight) })
    }
}

/// Limits requests of one kind.
#[derive(Debug)]
pub struct RequestLimiter {
    permits: Permits,
    timeout: Duration,
    source_of: fn(&Request) -> Result<RequestSource, ApiError>,
    bodies_of_api_server: BodyReader,
    bodies_of_others: BodyReader,
}

impl RequestLimiter {
    /// For resources, after authentication.
    pub fn for_resources() -> Self {
        Self::new(RESOURCES, "requests", RequestSource::of_caller)
    }

    /// For discovery, after authentication.
    pub fn for_discovery() -> Self {
        Self::new(DISCOVERY, "requests for discovery", RequestSource::of_caller)
    }

    /// For logins.
    pub fn for_logins() -> Self {
        Self::new(LOGINS, "logins", RequestSource::of_login)
    }

    /// For TokenReviews.
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
            bodies_of_others: bodies(),
        }
    }

    /// Answers a request within the limits.
    ///
    /// # Errors
    /// 429 if there is no permit for it, 413 or 400 if its body or address is not acceptable, 503 if the answer takes too
    /// long.
    pub async fn run(&self, request: Request, next: Next) -> Result<Response, ApiError> {
        let deadline = Instant::now() + self.timeout;
        check_address(&request)?;
        let share = self.permits.share((self.source_of)(&request)?)?;
        // No handler of these reads a body or changes anything: what a client that disconnects has asked for can end.
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            let answer = respond(request, next, (self.permits.permit(share)?, None));
            return timeout_at(deadline, answer).await.map_err(|_| too_late());
        }
        let (request, budget) = self.read_body(request, &share.source).await?;
        let permit = self.permits.permit(share)?;
        // Runs to completion even if the client disconnects, so that failed attempts are counted.
        let answer = tokio::spawn(respond(request, next, (permit, Some(budget))));
        let answer = timeout_at(deadline, answer).await.map_err(|_| too_late())?;
        answer.map_err(|_| ApiError::internal("the request could not be answered"))
    }

    async fn read_body(
        &self,
        request: Request,
        source: &RequestSource,
    ) -> Result<(Request, OwnedSemaphorePermit), ApiError> {
        let bodies = if source.is_api_server { &self.bodies_of_api_server } else { &self.bodies_of_others };
        let is_authenticated = request.extensions().get::<Arc<Caller>>().is_some();
        let read = if is_authenticated { bodies.read_within_budget(request).await } else { bodies.read(request).await };
        read.map_err(|error| match error {
            BodyError::TooManyOfPeer | BodyError::Saturated => ApiError::too_many_requests(),
            BodyError::TooLarge(most) => ApiError::too_large(most),
            BodyError::TooSlow | BodyError::Broken => ApiError::bad_request(error.to_string()),
            BodyError::UnknownPeer => ApiError::internal(error.to_string()),
        })
    }
}

/// Middleware that lets requests of one kind in within their limits.
pub async fn limited(State(limiter): State<Arc<RequestLimiter>>, request: Request, next: Next) -> Response {
    limiter.run(request, next).await.unwrap_or_else(IntoResponse::into_response)
}

/// Holds the permit and the part of the budget for as long as the work takes, and the caller's share until the answer is
/// written.
async fn respond(mut request: Request, next: Next, held: (RequestPermit, Option<OwnedSemaphorePermit>)) -> Response {
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
    ApiError::unavailable("the answer takes too long")
}

fn check_address(request: &Request) -> Result<(), ApiError> {
    let length = request.uri().path_and_query().map_or(0, |address| address.as_str().len());
    if length > MOST_URI_BYTES {
        return Err(ApiError::uri_too_long(MOST_URI_BYTES));
    }
    if percent_decode_str(request.uri().path()).decode_utf8().is_err() {
        return Err(ApiError::bad_request("the path is not UTF-8"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
