//! The routes of the aggregated API, and what each request passes on its way.
//!
//! ```text
//!  request ─▶ authenticate ─▶ permit ─▶ parse ─▶ resolve the name ─▶ authorise ─▶ answer
//! ```

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{self, Extensions, HeaderMap, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use jiff::Timestamp;
use kube::Client;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};

use super::authenticate::{Authenticator, authenticate};
use super::authorize::Authorizer;
use super::front_proxy::FrontProxy;
use super::identity::Caller;
use super::limits::{MOST_BODY_BYTES, Permits, RequestLimiter, WATCHES, limited};
use super::pages::{Moments, Tokens};
use super::status::ApiError;
use super::{
    api_keys, assignments, bearers, discovery, groups, logins, openapi, passwords, profile, rename, reviews, totp,
    users,
};
use crate::admission::guard::Guard;
use crate::api::directory::{GROUP, VERSION};
use crate::informers::Informers;
use crate::logins::Logins;
use crate::logins::issuer::JWKS_PATH;
use crate::metrics::Metrics;
use crate::operations::health::Health;
use crate::operations::seats::Seats;
use crate::tls::authority::Authorities;

/// Login attempts from one source in flight: one source does not take the permits of all.
const MOST_LOGINS_OF_A_SOURCE: usize = 32;

/// Changes of the past that are undone at the same time.
const MOST_UNDOING: usize = 2;

/// Longest key of a user: an email address has at most 254 characters.
const MOST_KEY_BYTES: usize = 320;

/// From this size on, answers are compressed for whoever takes that; kube-apiserver draws the same line.
const COMPRESSED_FROM: u64 = 128 * 1024;

/// Marks an answer that is not to be compressed.
#[derive(Clone, Copy, Debug)]
pub struct Uncompressed;

/// What the handlers share.
pub struct DirectoryApi {
    /// What is known.
    pub informers: Arc<Informers>,
    /// How the API server is reached.
    pub client: Client,
    /// Whether callers may.
    pub authorizer: Authorizer,
    /// Where lists go on.
    pub tokens: Tokens,
    /// At which states lists are read.
    pub moments: Moments,
    /// Recognises the aggregator.
    pub front_proxy: Arc<FrontProxy>,
    /// How people log in.
    pub logins: Arc<Logins>,
    /// Who may control an identity.
    pub guard: Arc<Guard>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Ends the watches.
    pub shutdown: CancellationToken,
    /// Attempts to log in, by source.
    pub attempts: Arc<Seats<String>>,
    /// Permits for watches.
    pub watches: Permits,
    undoing: Arc<Semaphore>,
}

/// What somebody was let in for.
#[derive(Clone, Debug)]
pub struct Right {
    /// The verb.
    pub verb: &'static str,
    /// The resource.
    pub resource: &'static str,
    /// The name, where it is about a single object.
    pub name: String,
}

impl DirectoryApi {
    /// Lets the caller pass who is active at this moment and may do this. `asked` is the name as the caller wrote it.
    ///
    /// # Errors
    /// 401, 403, or 503 where the API server does not answer; 400 for a name that nobody can have.
    pub async fn admit(
        &self,
        caller: &Arc<Caller>,
        verb: &'static str,
        resource: &str,
        name: &str,
        asked: &str,
    ) -> Result<(), ApiError> {
        if asked.len() > MOST_KEY_BYTES {
            return Err(ApiError::bad_request(format!("a name has at most {MOST_KEY_BYTES} bytes")));
        }
        if self.is_inactive(caller) {
            return Err(ApiError::unauthorized());
        }
        self.authorizer.check(caller, verb, resource, name, asked).await
    }

    /// Whether the caller is a User that is not active now, or is no more.
    pub fn is_inactive(&self, caller: &Caller) -> bool {
        self.informers.is_inactive(&caller.username, &caller.uid)
    }

    /// Whether the User of that name is active now.
    pub fn is_active(&self, name: &str) -> bool {
        self.informers.directory().person(name).is_some_and(|person| person.is_active(Timestamp::now()))
    }

    /// A turn to undo changes of the past.
    pub async fn turn_to_undo(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.undoing).acquire_owned().await.ok()
    }

    /// Name of the User who asks. Bound to the UID where the authenticator knows one: who bears the name of a User that
    /// is gone is not the one who has it now.
    pub fn user_of(&self, caller: &Caller) -> Option<String> {
        let directory = self.informers.directory();
        let mut holders = directory.named(&caller.username);
        let is_caller = |name: &&str| {
            let person = directory.person(name);
            person.is_some_and(|person| person.holds_username() && (caller.uid.is_empty() || caller.uid == person.uid))
        };
        holders.find(is_caller).map(str::to_owned)
    }
}

/// What a handler gets of a request.
pub type Api = State<Arc<DirectoryApi>>;
/// Who asks.
pub type Who = Extension<Arc<Caller>>;

/// What the aggregated API is served with.
pub struct Parts {
    /// What is known.
    pub informers: Arc<Informers>,
    /// How the API server is reached.
    pub client: Client,
    /// Recognises the aggregator.
    pub front_proxy: Arc<FrontProxy>,
    /// Whose keys sign the tokens of lists.
    pub authorities: Arc<ArcSwap<Authorities>>,
    /// How people log in.
    pub logins: Arc<Logins>,
    /// Who may control an identity.
    pub guard: Arc<Guard>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether this replica answers.
    pub health: Arc<Health>,
    /// Ends the watches.
    pub shutdown: CancellationToken,
}

/// The routes of the aggregated API.
pub fn router(parts: Parts) -> Router {
    let Parts { informers, client, front_proxy, authorities, logins, guard, metrics, health, shutdown } = parts;
    let recognizer = Arc::clone(&logins.recognizer);
    let authenticator =
        Authenticator::new(client.clone(), Arc::clone(&front_proxy), recognizer, Arc::clone(&informers));
    let api = DirectoryApi {
        authorizer: Authorizer::new(client.clone()),
        tokens: Tokens::new(authorities),
        moments: Moments::default(),
        undoing: Arc::new(Semaphore::new(MOST_UNDOING)),
        watches: Permits::new(WATCHES, "watches"),
        attempts: Seats::new(MOST_LOGINS_OF_A_SOURCE),
        informers: Arc::clone(&informers),
        client,
        front_proxy,
        logins,
        guard,
        metrics: Arc::clone(&metrics),
        shutdown,
    };
    let limits = |limiter: RequestLimiter| middleware::from_fn_with_state(Arc::new(limiter), limited);
    let base = format!("/apis/{GROUP}/{VERSION}");
    // Not nested, and with as few layers as can be: each costs a request more than most answers take to be found.
    let at = |path: &str| format!("{base}{path}");
    let resources = Router::new()
        .route(&at("/users"), get(users::list))
        .route(&at("/users/{key}"), get(users::get).patch(profile::patch))
        .route(&at("/users/{key}/groups"), get(users::groups))
        .route(&at("/users/{key}/namespaces"), get(users::namespaces))
        .route(&at("/users/{key}/locks"), get(users::locks))
        .route(&at("/users/{key}/permissions"), get(users::permissions))
        .route(&at("/users/{key}/roleassignments"), get(assignments::of_user))
        .route(&at("/users/{key}/accessreviews"), post(reviews::create))
        .route(&at("/users/{key}/password"), post(passwords::change))
        .route(&at("/users/{key}/invitation"), post(passwords::invite))
        .route(&at("/users/{key}/quota"), get(users::quota))
        .route(&at("/users/{key}/rename"), post(rename::rename))
        .route(&at("/users/{key}/unlock"), post(passwords::unlock))
        .route(&at("/users/{key}/apikeys"), get(api_keys::list).post(api_keys::create))
        .route(&at("/users/{key}/apikeys/{name}"), get(api_keys::get).delete(api_keys::revoke))
        .route(&at("/users/{key}/totp"), get(totp::get).post(totp::enroll).delete(totp::remove))
        .route(&at("/passwordreviews"), post(logins::review))
        .route(&at("/groups"), get(groups::list))
        .route(&at("/groups/{name}"), get(groups::get))
        .route(&at("/groups/{name}/members"), get(groups::members))
        .route(&at("/groups/{name}/members/{user}"), get(groups::member))
        .route(&at("/roleassignments"), get(assignments::list))
        .layer(middleware::from_fn_with_state(Entrance::new(&informers), enter));
    // Everybody may: who they are is what this is about.
    let attempts = Router::new().route(&format!("{base}/logins"), post(logins::login));
    let token_reviews = Router::new().route(bearers::TOKEN_REVIEW_PATH, post(bearers::review));
    let open = attempts
        .layer(limits(RequestLimiter::for_logins()))
        .merge(token_reviews.layer(limits(RequestLimiter::for_token_reviews())))
        .layer(middleware::from_fn_with_state(informers, informed))
        .route("/.well-known/openid-configuration", get(bearers::configuration))
        .route(JWKS_PATH, get(bearers::jwks));
    let documents = Router::new()
        .route("/apis", get(discovery::groups))
        .route(&format!("/apis/{GROUP}"), get(discovery::group))
        .route(&base, get(discovery::resources))
        .route("/openapi/v2", get(openapi::v2))
        .route("/openapi/v3", get(openapi::v3_paths))
        .route(&format!("/openapi/v3/apis/{GROUP}/{VERSION}"), get(openapi::v3))
        .layer(limits(RequestLimiter::for_discovery()));
    let is_compressed =
        SizeAbove::new(COMPRESSED_FROM).and(|_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions| {
            extensions.get::<Uncompressed>().is_none()
        });
    Router::new()
        .merge(resources)
        .merge(documents)
        .fallback(async || ApiError::no_such_path())
        .method_not_allowed_fallback(async |request: Request| {
            ApiError::method_not_allowed(format!("{} is not supported on this resource", request.method()))
        })
        .layer(middleware::from_fn_with_state(Arc::new(authenticator), authenticate))
        .merge(open)
        .layer(
            ServiceBuilder::new()
                .map_response(move |response: http::Response<_>| {
                    count(&metrics, response.status());
                    response
                })
                .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(is_compressed))
                .layer(DefaultBodyLimit::max(MOST_BODY_BYTES)),
        )
        .with_state(Arc::new(api))
        .merge(probes(health))
}

/// Whether this replica answers. The TLS port is open to everybody, so unlike the probe port it gives no reasons.
fn probes(health: Arc<Health>) -> Router {
    const fn without_reasons(status: StatusCode) -> (StatusCode, &'static str) {
        (status, if status.as_u16() == 200 { "ok\n" } else { "not ok\n" })
    }
    Router::new()
        .route("/livez", get(async |State(health): State<Arc<Health>>| without_reasons(health.livez().0)))
        .route("/healthz", get(async |State(health): State<Arc<Health>>| without_reasons(health.livez().0)))
        .route("/readyz", get(async |State(health): State<Arc<Health>>| without_reasons(health.readyz().0)))
        .with_state(health)
}

/// Lets nobody in before everything is known: half a list is worse than none.
async fn informed(State(informers): State<Arc<Informers>>, request: Request, next: Next) -> Response {
    if informers.is_synced() {
        return next.run(request).await;
    }
    incomplete()
}

fn incomplete() -> Response {
    ApiError::unavailable("the directory is not complete yet").into_response()
}

/// What requests for resources pass, all in one: each layer costs as much as some answers.
struct Entrance {
    informers: Arc<Informers>,
    limiter: Arc<RequestLimiter>,
}

impl Entrance {
    fn new(informers: &Arc<Informers>) -> Arc<Self> {
        Arc::new(Self { informers: Arc::clone(informers), limiter: Arc::new(RequestLimiter::for_resources()) })
    }
}

async fn enter(State(entrance): State<Arc<Entrance>>, request: Request, next: Next) -> Response {
    if !entrance.informers.is_synced() {
        return incomplete();
    }
    limited(State(Arc::clone(&entrance.limiter)), request, next).await
}

/// Counts answers by what came of them.
fn count(metrics: &Metrics, status: StatusCode) {
    metrics.directory_requests.inc(match status.as_u16() {
        200..=299 => "success",
        401 | 403 => "denied",
        404 => "not_found",
        410 | 504 => "expired",
        429 => "rejected",
        400..=499 => "client_error",
        _ => "server_error",
    });
}
