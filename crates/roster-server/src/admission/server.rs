//! HTTP server for the admission webhooks.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRef, Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Resource;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use kube::core::response::StatusDetails;
use roster_api::{Group, PASSWORD_SECRET_TYPE, User};
use roster_credentials::pool::HashPool;
use roster_credentials::source::PASSWORD_KEY;
use roster_runtime::metrics::Metrics;
use roster_runtime::tls::connections::{Connection, Trust};
use roster_runtime::tls::network_permits::{NetworkPermits, RequestNetwork};
use roster_runtime::tls::origin::{Webhook, WebhookOrigin};
use tower::Layer;
use tracing::{info, warn};

use super::guard::{Guard, Guarded, with_code};
use super::limits::{REVIEW_TIMEOUT, REVIEWS, WAITING, WAITING_TIMEOUT, bounded, retried, timed};
use super::password_secret::{self, Refusal};
use super::password_shares::PasswordShares;
use super::quantities;
use super::quota::defaults::Containers;
use super::quota::enforcement::Enforcement;
use super::quota::hints::Hints;
use super::quota::namespaces::{NamespaceCount, NamespaceVerdict};
use super::quota::request::{self, Malformed, QuotaReview};
use super::review::{self, Parser, ReviewBodies, Reviewed, read_body, read_body_of_waiting};
use super::review_origin::ReviewOrigin;

/// Every path below [`PREFIX`](roster_runtime::tls::origin::PREFIX).
const ANY_ADMISSION_PATH: &str = "/admission/{*path}";

/// Records the duration of a review, and counts reviews that got no verdict.
async fn measured(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let response = next.run(request).await;
    metrics.admission_duration.observe(began.elapsed().as_secs_f64());
    match response.status() {
        StatusCode::TOO_MANY_REQUESTS => metrics.admissions.inc("saturated"),
        StatusCode::REQUEST_TIMEOUT | StatusCode::SERVICE_UNAVAILABLE => metrics.admissions.inc("failed"),
        _ => {}
    }
    response
}

/// State of the admission webhooks.
pub struct Admission {
    /// Hashes passwords.
    pub pool: HashPool,
    /// Limits the reviews of passwords of one owner and one requester.
    pub password_shares: PasswordShares,
    /// Allows or denies writes, depending on the roles that they grant.
    pub guard: Arc<Guard>,
    /// Limits how many namespaces a user owns.
    pub namespaces: NamespaceCount,
    /// Lets requests wait until quota is enforced.
    pub enforcement: Enforcement,
    /// Requests larger allotments.
    pub hints: Hints,
    /// Parses reviews.
    pub parser: Parser,
    /// Counts verdicts.
    pub metrics: Arc<Metrics>,
}

impl FromRef<Arc<Admission>> for Parser {
    fn from_ref(admission: &Arc<Admission>) -> Self {
        admission.parser.clone()
    }
}

/// Verifies that a request comes from kube-apiserver.
struct OriginCheck {
    origin: WebhookOrigin,
    metrics: Arc<Metrics>,
}

/// Responds 404 unless the path proves that the request comes from kube-apiserver, before the body is read or logged.
/// Handlers see only the route, so the secret in the path cannot get into a log.
async fn proven(State(check): State<Arc<OriginCheck>>, mut request: Request, next: Next) -> Response {
    let Some(webhook) = check.origin.prove(request.uri().path(), Timestamp::now()) else {
        check.metrics.admissions.inc("unproven");
        return StatusCode::NOT_FOUND.into_response();
    };
    *request.uri_mut() = Uri::from_static(webhook.route());
    if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
        // The path may have leaked, so it proves less than a certificate.
        connection.mark(Trust::Webhook);
    }
    let origin = ReviewOrigin::of(&request);
    request.extensions_mut().insert(origin);
    next.run(request).await
}

/// Routes of the webhooks, for kube-apiserver only.
pub fn router(admission: Admission, origin: WebhookOrigin) -> Router {
    let check = Arc::new(OriginCheck { origin, metrics: Arc::clone(&admission.metrics) });
    // Wraps the whole router, so that a request is proven before it is routed.
    let reviews = middleware::from_fn_with_state(check, proven).layer(reviews(admission));
    Router::new().route_service(ANY_ADMISSION_PATH, reviews)
}

fn reviews(admission: Admission) -> Router {
    let permits = |limits| middleware::from_fn_with_state(Arc::new(NetworkPermits::new(limits)), bounded);
    let timed_out_after = |timeout| middleware::from_fn_with_state(timeout, timed);
    let bodies = || middleware::from_fn_with_state(ReviewBodies::new(review::DECISIONS), read_body);
    // Separate permits and budgets: hashing is slow and must not block the guard. Also, a client that knows the path of one
    // must not be able to block the other.
    let password_routes = Router::new()
        .route(Webhook::PasswordSecrets.route(), post(password_secrets))
        .layer(permits(REVIEWS))
        .layer(bodies());
    let guard_routes = Router::new()
        .route(Webhook::Users.route(), post(guarded::<User>))
        .route(Webhook::Groups.route(), post(guarded::<Group>))
        .route(Webhook::Namespaces.route(), post(guarded::<Namespace>))
        .route(Webhook::Secrets.route(), post(guarded::<Secret>))
        .route(Webhook::Cycles.route(), post(cycles))
        .route(Webhook::NamespaceQuota.route(), post(namespaces))
        .route(Webhook::Quantities.route(), post(quantities))
        .layer(permits(REVIEWS))
        .layer(bodies());
    let metrics = Arc::clone(&admission.metrics);
    // These requests wait for the leader. Each webhook has its own budget and permits, so they do not block others.
    let waiting = |route, handler| {
        let budget = middleware::from_fn_with_state(ReviewBodies::new(review::WAITING), read_body_of_waiting);
        let timed = Router::new().route(route, handler).layer(timed_out_after(WAITING_TIMEOUT));
        timed.layer(permits(WAITING)).layer(budget).layer(middleware::map_response(retried))
    };
    let waiting_routes = waiting(Webhook::QuotaEnforcement.route(), post(enforcement))
        .merge(waiting(Webhook::QuotaHints.route(), post(hints)));
    password_routes
        .merge(guard_routes)
        .layer(timed_out_after(REVIEW_TIMEOUT))
        .layer(middleware::from_fn_with_state(metrics, measured))
        .merge(waiting_routes)
        .with_state(Arc::new(admission))
}

type Answer = Json<AdmissionReview<DynamicObject>>;

async fn guarded<K>(State(admission): State<Arc<Admission>>, Reviewed(request): Reviewed<K>) -> Answer
where
    K: Guarded + Resource<DynamicType = ()> + Clone,
{
    let (outcome, response) = admission.guard.judge(&request).await;
    admission.metrics.admissions.inc(outcome);
    Json(response.into_review())
}

async fn cycles(State(admission): State<Arc<Admission>>, Reviewed(request): Reviewed<Group>) -> Answer {
    let (outcome, response) = admission.guard.refuse_cycle(&request);
    admission.metrics.admissions.inc(outcome);
    Json(response.into_review())
}

async fn namespaces(State(admission): State<Arc<Admission>>, Reviewed(request): Reviewed<Namespace>) -> Answer {
    // Judge first, so that denied requests reserve nothing: kube-apiserver calls the guard's own webhook in parallel.
    let (outcome, refused) = admission.guard.judge(&request).await;
    if !refused.allowed {
        admission.metrics.admissions.inc(outcome);
        return Json(refused.into_review());
    }
    let verdict = admission.namespaces.judge(&request).await;
    admission.metrics.admissions.inc(verdict.log_and_label(&request));
    let response = AdmissionResponse::from(&request);
    Json(match verdict {
        NamespaceVerdict::Allowed => response.into_review(),
        NamespaceVerdict::Refused(why) => {
            with_code(response.deny(format!("the quota: {why}")), 403, "Forbidden").into_review()
        }
        NamespaceVerdict::Exists(why) => with_code(response.deny(why), 409, "AlreadyExists").into_review(),
        NamespaceVerdict::Unknown(why) => {
            let why = format!("the quota can't be checked at the moment: {why}");
            with_code(response.deny(why), 503, "ServiceUnavailable").into_review()
        }
    })
}

async fn quantities(State(admission): State<Arc<Admission>>, request: Request) -> Response {
    let parse = |body: &[u8]| serde_json::from_slice::<AdmissionReview<DynamicObject>>(body);
    let review = match admission.parser.parse(request, review::DECISIONS, parse).await {
        Ok(review) => review,
        Err(refusal) => return refusal,
    };
    let Ok(request): Result<AdmissionRequest<DynamicObject>, _> = review.try_into() else {
        return review::without_request();
    };
    let response = AdmissionResponse::from(&request);
    let (outcome, response) = match request.object.as_ref().and_then(quantities::explain) {
        Some(advice) => ("refused", with_code(response.deny(advice), 422, "Invalid")),
        None => ("unchanged", response),
    };
    admission.metrics.admissions.inc(outcome);
    Json(response.into_review()).into_response()
}

async fn quota_review(admission: &Admission, request: Request) -> Result<QuotaReview, Response> {
    let _budget = request.extensions().get::<review::Budget>().cloned();
    let parse = |body: &[u8]| request::parse(body, Timestamp::now());
    let parsed = admission.parser.parse(request, review::WAITING, parse).await?;
    parsed.map_err(|malformed| match malformed {
        Malformed::WithoutRequest => review::without_request(),
        Malformed::Namespace => review::malformed("request.namespace: must be a DNS label of at most 63 characters"),
    })
}

async fn enforcement(
    State(admission): State<Arc<Admission>>,
    Extension(origin): Extension<ReviewOrigin>,
    request: Request,
) -> Response {
    let review = match quota_review(&admission, request).await {
        Ok(review) => review,
        Err(refusal) => return refusal,
    };
    let verdict = admission.enforcement.wait(&review.demand, origin).await;
    let patch = |containers: &Containers| {
        containers.with_defaults(&admission.enforcement.defaults_in(&review.demand.namespace))
    };
    let verdict = verdict.map(|()| review.containers.as_ref().and_then(patch));
    Json(review.answer(verdict)).into_response()
}

async fn hints(
    State(admission): State<Arc<Admission>>,
    Extension(origin): Extension<ReviewOrigin>,
    request: Request,
) -> Response {
    let review = match quota_review(&admission, request).await {
        Ok(review) => review,
        Err(refusal) => return refusal,
    };
    let (outcome, refusal) = admission.hints.wait_for_capacity(&review.demand, origin).await;
    admission.metrics.quota_hints.inc(outcome.as_str());
    Json(review.answer(refusal.map_or(Ok(None), Err))).into_response()
}

async fn password_secrets(
    State(admission): State<Arc<Admission>>,
    Extension(origin): Extension<ReviewOrigin>,
    Extension(source): Extension<RequestNetwork>,
    Reviewed(request): Reviewed<Secret>,
) -> Answer {
    let response = AdmissionResponse::from(&request);
    let (namespace, name) = (request.namespace.clone(), request.name.clone());
    let (outcome, response) = match decide(&admission, request, origin, source.network).await {
        Ok(None) => ("unchanged", response),
        Ok(Some(patch)) => match response.with_patch(patch) {
            Ok(response) => ("protected", response),
            Err(_) => ("failed", AdmissionResponse::invalid("the patch could not be written")),
        },
        Err(refusal) => {
            let reason = refusal.reason();
            // The name may contain the password.
            let name = Some(name).filter(|_| !matches!(refusal, Refusal::PasswordInMetadata(_)));
            info!(namespace, name, reason, "rejected a password Secret");
            let (outcome, code, reason) = match refusal {
                Refusal::Saturated(_) | Refusal::OverShare(_) => ("saturated", 429, "TooManyRequests"),
                Refusal::Source(_)
                | Refusal::UnknownKeys(_)
                | Refusal::LastApplied(_)
                | Refusal::PasswordInMetadata(_) => ("refused", 422, "Invalid"),
            };
            let mut response = response.deny(refusal);
            response.result.code = code;
            response.result.reason = reason.to_owned();
            if code == 429 {
                // Clients such as kubectl try again.
                response.result.details = Some(StatusDetails {
                    name: String::new(),
                    group: String::new(),
                    kind: String::new(),
                    uid: String::new(),
                    causes: Vec::new(),
                    retry_after_seconds: 1,
                });
            }
            (outcome, response)
        }
    };
    admission.metrics.admissions.inc(outcome);
    Json(response.into_review())
}

/// Returns the patch that makes the Secret safe to store, if it needs one.
async fn decide(
    admission: &Admission,
    request: AdmissionRequest<Secret>,
    origin: ReviewOrigin,
    network: IpNet,
) -> Result<Option<json_patch::Patch>, Refusal> {
    let Some(secret) = &request.object else { return Ok(None) };
    if secret.type_.as_deref() != Some(PASSWORD_SECRET_TYPE) {
        warn!(namespace = request.namespace, "webhook called for a Secret of another type, leaving it unchanged");
        return Ok(None);
    }
    // Secrets that contain a hash cost nothing.
    let has_password = secret.data.as_ref().is_some_and(|data| data.contains_key(PASSWORD_KEY));
    let turn =
        if has_password { Some(admission.password_shares.take(&request, origin, network)?.turn().await) } else { None };
    let pool = admission.pool.clone();
    // The pool continues to hash if the client disconnects. Until then, the turn is not over.
    let patch = tokio::spawn(async move {
        let _turn = turn;
        protecting_patch(request, &pool).await
    });
    patch.await.unwrap_or_else(|error| resume_unwind(error.into_panic()))
}

async fn protecting_patch(
    request: AdmissionRequest<Secret>,
    pool: &HashPool,
) -> Result<Option<json_patch::Patch>, Refusal> {
    let Some(secret) = request.object else { return Ok(None) };
    let mut safe = secret.clone();
    password_secret::protect(&mut safe, request.old_object.as_ref(), pool).await?;
    if safe == secret {
        return Ok(None);
    }
    let before = serde_json::to_value(secret).expect("a Secret is JSON");
    let after = serde_json::to_value(&safe).expect("a Secret is JSON");
    Ok(Some(json_patch::diff(&before, &after)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::time::Duration;

    use crate::admission::quota::seen::Seen;
    use arc_swap::ArcSwap;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use futures::FutureExt;
    use kube::Client;
    use kube::client::Body as KubeBody;
    use roster_core::quota::defaults::Defaults;
    use roster_core::rbac::Policy;
    use roster_credentials::hash::Argon2idCost;
    use roster_runtime::informers::Informers;
    use roster_runtime::tls::authority::Authorities;
    use roster_runtime::tls::peer::Peer;
    use serde_json::{Value, json};
    use tower::ServiceExt;

    fn app(metrics: Arc<Metrics>, authorities: &Authorities) -> Router {
        let origin = WebhookOrigin::new(Arc::new(ArcSwap::from_pointee(authorities.clone())));
        router(admission(metrics), origin)
    }

    fn admission(metrics: Arc<Metrics>) -> Admission {
        let pool = HashPool::new(Argon2idCost::default(), 1, 4, metrics.hashing.clone());
        let informers = Arc::new(Informers::new(false, Arc::clone(&metrics)));
        let guard = Arc::new(Guard::new(
            unreachable_client(),
            "operator".to_owned(),
            Arc::clone(&informers),
            Policy::default(),
        ));
        let namespaces = NamespaceCount::new(unreachable_client(), "roster-system", Arc::clone(&informers));
        let seen = Arc::new(Seen::new(unreachable_client()));
        let enforcement =
            Enforcement::new(Arc::clone(&informers), Arc::clone(&seen), Arc::default(), Defaults::default());
        let password_shares = PasswordShares::new(Arc::clone(&informers), 1);
        let hints = Hints::new(unreachable_client(), informers, seen, Arc::default());
        let parser = Parser::default();
        Admission { pool, password_shares, guard, namespaces, enforcement, hints, parser, metrics }
    }

    fn authorities() -> Authorities {
        Authorities::create(Timestamp::now(), Duration::from_secs(86_400)).unwrap()
    }

    fn creation_of(object: &Value) -> Value {
        json!({
            "uid": "u-1", "operation": "CREATE", "namespace": "team-a", "name": "x", "dryRun": true,
            "kind": {"group": "", "version": "v1", "kind": "Secret"},
            "resource": {"group": "", "version": "v1", "resource": "secrets"},
            "userInfo": {}, "object": object,
        })
    }

    async fn review(object: Value) -> Value {
        let metrics = Arc::new(Metrics::default());
        let request = creation_of(&object);
        let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let authorities = authorities();
        let path = Webhook::PasswordSecrets.path(&authorities, Timestamp::now());
        let peer = Peer { remote: ([192, 0, 2, 1], 1).into(), certificates: Vec::new() };
        let request = Request::post(format!("{path}?timeout=10s")).extension(Arc::new(peer));
        let request = request.body(Body::from(body.to_string())).unwrap();
        let response = app(metrics, &authorities).oneshot(request).await.unwrap();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["response"].take()
    }

    /// A client whose requests always fail.
    fn unreachable_client() -> Client {
        let refuse = |_: Request<KubeBody>| async {
            Err::<axum::http::Response<KubeBody>, _>(io::Error::other("connection refused"))
        };
        Client::new(tower::service_fn(refuse), "default")
    }

    fn secret(kind: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "type": kind, "data": {"password": "aHVudGVyMg=="}})
    }

    /// A body that panics when it is read.
    fn untouchable() -> Body {
        Body::from_stream(futures::stream::poll_fn(|_| -> std::task::Poll<Option<Result<Vec<u8>, io::Error>>> {
            panic!("the body is read")
        }))
    }

    #[tokio::test]
    async fn without_proof_the_answer_is_a_bare_404_and_the_body_is_not_read() {
        let metrics = Arc::new(Metrics::default());
        let app = app(Arc::clone(&metrics), &authorities());
        let of_another_installation = Webhook::Users.path(&authorities(), Timestamp::now());
        let former = Webhook::ALL.map(|webhook| format!("/admission{}", webhook.route()));
        let guessed = Webhook::ALL.map(|webhook| format!("/admission/{}{}", "0".repeat(64), webhook.route()));
        let paths = former.into_iter().chain(guessed).chain([of_another_installation, "/admission/x".to_owned()]);
        let mut refused = 0;
        for path in paths {
            for method in ["GET", "POST"] {
                let request = Request::builder().method(method).uri(&path).header("content-type", "application/json");
                let response = app.clone().oneshot(request.body(untouchable()).unwrap()).await.unwrap();
                assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
                assert!(to_bytes(response.into_body(), usize::MAX).await.unwrap().is_empty(), "{path}");
                refused += 1;
            }
        }
        let counted = metrics.render();
        let expected = format!("roster_admission_requests_total{{outcome=\"unproven\"}} {refused}");
        assert!(counted.contains(&expected), "{counted}");
    }

    /// The pool continues to hash. Otherwise, a client that disconnects could use all of its slots.
    #[tokio::test]
    async fn a_client_that_disconnects_keeps_its_turn_until_its_password_is_hashed() {
        let admission = admission(Arc::default());
        let request = || serde_json::from_value(creation_of(&secret(PASSWORD_SECRET_TYPE))).unwrap();
        let network = IpNet::from(std::net::IpAddr::from([192, 0, 2, 1]));
        let hashing = decide(&admission, request(), ReviewOrigin::PathOnly, network);
        assert!(hashing.now_or_never().is_none(), "the hash is not ready");
        let next = admission.password_shares.take(&request(), ReviewOrigin::PathOnly, network).unwrap();
        let mut next = Box::pin(next.turn());
        assert!(next.as_mut().now_or_never().is_none(), "the only turn is taken");
        next.await;
    }

    #[tokio::test]
    async fn answers_with_a_patch_that_removes_the_password() {
        let response = review(secret(PASSWORD_SECRET_TYPE)).await;
        assert_eq!(
            (&response["allowed"], &response["uid"], &response["patchType"]),
            (&json!(true), &json!("u-1"), &json!("JSONPatch"))
        );
    }

    #[tokio::test]
    async fn leaves_other_secrets_alone() {
        let response = review(secret("Opaque")).await;
        assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
    }

    #[tokio::test]
    async fn refusals_are_invalid_and_name_the_field() {
        let mut bad = secret(PASSWORD_SECRET_TYPE);
        bad["data"]["password"] = json!("");
        let response = review(bad).await;
        assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(422)));
        assert!(response["status"]["message"].as_str().unwrap().contains("data.password"));
    }
}
