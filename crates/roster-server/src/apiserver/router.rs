//! Routes of the aggregated API and their middleware.
//!
//! ```text
//!  request ─▶ authenticate ─▶ permit ─▶ parse ─▶ resolve the name ─▶ authorize ─▶ answer
//! ```

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{self, Extensions, HeaderMap, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use roster_api::directory::{GROUP, VERSION};
use roster_runtime::informers::Informers;
use roster_runtime::logins::issuer::JWKS_PATH;
use roster_runtime::metrics::Metrics;
use roster_runtime::operations::health::Health;
use tower::ServiceBuilder;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};

use super::authenticate::{Authenticator, authenticate};
use super::handlers::{
    api_keys, assignments, bearers, groups, logins, passwords, profile, rename, reviews, totp, users,
};
use super::limits::{MAX_BODY_BYTES, RequestLimiter, limited};
use super::read_only;
use super::state::{DirectoryApi, DirectoryApiParts};
use super::status::ApiError;
use super::watch::Uncompressed;
use super::{discovery, openapi};

/// Smallest response that is compressed, in bytes, if the client accepts it. kube-apiserver has the same threshold.
const COMPRESSED_FROM: u64 = 128 * 1024;

/// The routes of the aggregated API.
pub fn router(parts: DirectoryApiParts, health: Arc<Health>) -> Router {
    let (informers, metrics) = (Arc::clone(&parts.informers), Arc::clone(&parts.metrics));
    let token_authenticator = Arc::clone(&parts.logins.token_authenticator);
    let front_proxy = Arc::clone(&parts.front_proxy);
    let authenticator =
        Authenticator::new(parts.client.clone(), front_proxy, token_authenticator, Arc::clone(&informers));
    let api = DirectoryApi::new(parts);
    let limits = |limiter: RequestLimiter| middleware::from_fn_with_state(Arc::new(limiter), limited);
    let base = format!("/apis/{GROUP}/{VERSION}");
    // Not nested, and with few layers: each layer costs more than most lookups.
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
        .layer(middleware::from_fn_with_state(ResourceMiddleware::new(&informers), enter));
    // Open to all callers: these requests carry the credentials to verify.
    let attempts = Router::new().route(&format!("{base}/logins"), post(logins::login));
    let token_reviews = Router::new().route(bearers::TOKEN_REVIEW_PATH, post(bearers::review));
    let open = attempts
        .layer(limits(RequestLimiter::for_logins()))
        .merge(token_reviews.layer(limits(RequestLimiter::for_token_reviews())))
        .layer(middleware::from_fn_with_state(informers, require_sync))
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
        .method_not_allowed_fallback(read_only::method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::new(authenticator), authenticate))
        .merge(open)
        .layer(
            ServiceBuilder::new()
                .map_response(move |response: http::Response<_>| {
                    count(&metrics, response.status());
                    response
                })
                .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(is_compressed))
                .layer(DefaultBodyLimit::max(MAX_BODY_BYTES)),
        )
        .with_state(Arc::new(api))
        .merge(probes(health))
}

/// Health endpoints. The TLS port is public, so unlike the probe port it gives no reasons.
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

/// Returns 503 until every informer has synced: a partial list would be a wrong answer.
async fn require_sync(State(informers): State<Arc<Informers>>, request: Request, next: Next) -> Response {
    if informers.is_synced() {
        return next.run(request).await;
    }
    incomplete()
}

fn incomplete() -> Response {
    ApiError::unavailable("the informers have not synced yet").into_response()
}

/// State of the combined middleware for resources: separate layers would cost as much as some responses.
struct ResourceMiddleware {
    informers: Arc<Informers>,
    limiter: Arc<RequestLimiter>,
}

impl ResourceMiddleware {
    fn new(informers: &Arc<Informers>) -> Arc<Self> {
        Arc::new(Self { informers: Arc::clone(informers), limiter: Arc::new(RequestLimiter::for_resources()) })
    }
}

async fn enter(State(state): State<Arc<ResourceMiddleware>>, request: Request, next: Next) -> Response {
    if !state.informers.is_synced() {
        return incomplete();
    }
    limited(State(Arc::clone(&state.limiter)), request, next).await
}

/// Counts responses by status.
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
