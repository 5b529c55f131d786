//! The HTTP side of admission.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Resource;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::guard::{Guard, Guarded, with_code};
use super::password_secret::{self, Refusal};
use super::quota::hints::Hints;
use super::quota::namespaces::{NamespaceCount, Verdict};
use crate::api::{Group, PASSWORD_SECRET_TYPE, User};
use crate::credentials::pool::HashPool;
use crate::metrics::Metrics;

/// Path of the webhook for password Secrets.
pub const PASSWORD_SECRETS_PATH: &str = "/admission/password-secrets";

/// A Secret has at most 1 MiB; a review holds it twice, in base64, with room for metadata.
const MAX_REVIEW_BYTES: usize = 8 * 1024 * 1024;

/// Reviews in flight. With the bound on each it bounds the memory that anybody who reaches the port can take.
const MAX_REVIEWS: usize = 64;

/// Longest time for one review, its body included. kube-apiserver waits no longer either.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// Lets a bounded number of requests in, each for a bounded time.
async fn bounded(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(_place) = places.try_acquire() else {
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], "too many reviews at the same time")
            .into_response();
    };
    let response = tokio::time::timeout(REVIEW_TIMEOUT, next.run(request)).await;
    response.unwrap_or_else(|_| (StatusCode::REQUEST_TIMEOUT, "the review took too long").into_response())
}

/// Tells how long kube-apiserver waited, and counts those whom nobody judged.
async fn measured(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let response = next.run(request).await;
    metrics.admission_duration.observe(began.elapsed().as_secs_f64());
    match response.status() {
        StatusCode::TOO_MANY_REQUESTS => metrics.admissions.inc("saturated"),
        StatusCode::REQUEST_TIMEOUT => metrics.admissions.inc("failed"),
        _ => {}
    }
    response
}

/// What admission judges by.
pub struct Admission {
    /// Where passwords are hashed.
    pub pool: HashPool,
    /// Who may do what to whom.
    pub guard: Arc<Guard>,
    /// How many namespaces somebody owns.
    pub namespaces: NamespaceCount,
    /// Room for what is to be created.
    pub hints: Hints,
    /// What became of requests.
    pub metrics: Arc<Metrics>,
}

/// The routes of admission.
pub fn router(admission: Admission) -> Router {
    // Places of their own: hashing takes long, and must not keep the guard from answering.
    let places = || middleware::from_fn_with_state(Arc::new(Semaphore::new(MAX_REVIEWS)), bounded);
    let guard_routes = Router::new()
        .route("/admission/guard/users", post(guarded::<User>))
        .route("/admission/guard/groups", post(guarded::<Group>))
        .route("/admission/guard/namespaces", post(guarded::<Namespace>))
        .route("/admission/guard/secrets", post(guarded::<Secret>))
        .route("/admission/cycles", post(cycles))
        .route("/admission/quota/namespaces", post(namespaces))
        .layer(places());
    let metrics = Arc::clone(&admission.metrics);
    // They wait for others.
    let hint_routes = Router::new().route("/admission/quota/hints", post(hints)).layer(places());
    Router::new()
        .route(PASSWORD_SECRETS_PATH, post(password_secrets))
        .layer(places())
        .merge(guard_routes)
        .layer(middleware::from_fn_with_state(metrics, measured))
        .merge(hint_routes)
        .layer(DefaultBodyLimit::max(MAX_REVIEW_BYTES))
        .with_state(Arc::new(admission))
}

type Review<K> = Json<AdmissionReview<K>>;

async fn guarded<K>(State(admission): State<Arc<Admission>>, Json(review): Review<K>) -> Review<DynamicObject>
where
    K: Guarded + Resource<DynamicType = ()> + Clone,
{
    let request: AdmissionRequest<K> = match review.try_into() {
        Ok(request) => request,
        Err(_) => return Json(AdmissionResponse::invalid("the review has no request").into_review()),
    };
    let (outcome, response) = admission.guard.judge(&request).await;
    admission.metrics.admissions.inc(outcome);
    Json(response.into_review())
}

async fn cycles(State(admission): State<Arc<Admission>>, Json(review): Review<Group>) -> Review<DynamicObject> {
    let request: AdmissionRequest<Group> = match review.try_into() {
        Ok(request) => request,
        Err(_) => return Json(AdmissionResponse::invalid("the review has no request").into_review()),
    };
    let (outcome, response) = admission.guard.refuse_cycle(&request);
    admission.metrics.admissions.inc(outcome);
    Json(response.into_review())
}

async fn namespaces(State(admission): State<Arc<Admission>>, Json(review): Review<Namespace>) -> Review<DynamicObject> {
    let request: AdmissionRequest<Namespace> = match review.try_into() {
        Ok(request) => request,
        Err(_) => return Json(AdmissionResponse::invalid("the review has no request").into_review()),
    };
    // First, so that nothing is noted down for somebody who may not do it: the other webhook is asked at the same time.
    let (outcome, refused) = admission.guard.judge(&request).await;
    if !refused.allowed {
        admission.metrics.admissions.inc(outcome);
        return Json(refused.into_review());
    }
    let verdict = admission.namespaces.judge(&request).await;
    admission.metrics.admissions.inc(verdict.noted(&request));
    let response = AdmissionResponse::from(&request);
    Json(match verdict {
        Verdict::Allowed => response.into_review(),
        Verdict::Refused(why) => with_code(response.deny(format!("the quota: {why}")), 403, "Forbidden").into_review(),
        Verdict::Exists(why) => with_code(response.deny(why), 409, "AlreadyExists").into_review(),
        Verdict::Unknown(why) => {
            let why = format!("the quota can't judge this at the moment: {why}");
            with_code(response.deny(why), 503, "ServiceUnavailable").into_review()
        }
    })
}

async fn hints(State(admission): State<Arc<Admission>>, Json(review): Review<DynamicObject>) -> Review<DynamicObject> {
    let request: AdmissionRequest<DynamicObject> = match review.try_into() {
        Ok(request) => request,
        Err(_) => return Json(AdmissionResponse::invalid("the review has no request").into_review()),
    };
    let outcome = admission.hints.make_room(&request).await;
    admission.metrics.quota_hints.inc(outcome.as_str());
    Json(AdmissionResponse::from(&request).into_review())
}

async fn password_secrets(
    State(admission): State<Arc<Admission>>,
    Json(review): Review<Secret>,
) -> Review<DynamicObject> {
    let request: AdmissionRequest<Secret> = match review.try_into() {
        Ok(request) => request,
        Err(_) => return Json(AdmissionResponse::invalid("the review has no request").into_review()),
    };
    let response = AdmissionResponse::from(&request);
    let (outcome, response) = match decide(&admission.pool, &request).await {
        Ok(None) => ("unchanged", response),
        Ok(Some(patch)) => match response.with_patch(patch) {
            Ok(response) => ("protected", response),
            Err(_) => ("failed", AdmissionResponse::invalid("the patch could not be written")),
        },
        Err(refusal) => {
            let reason = refusal.reason();
            // The name may be what holds the password.
            let name = Some(&request.name).filter(|_| !matches!(refusal, Refusal::Copied(_)));
            info!(namespace = request.namespace, name, reason, "a password Secret was refused");
            let (outcome, code, reason) = match refusal {
                Refusal::Saturated(_) => ("saturated", 429, "TooManyRequests"),
                Refusal::Source(_) | Refusal::UnknownKeys(_) | Refusal::LastApplied(_) | Refusal::Copied(_) => {
                    ("refused", 422, "Invalid")
                }
            };
            let mut response = response.deny(refusal);
            response.result.code = code;
            response.result.reason = reason.to_owned();
            (outcome, response)
        }
    };
    admission.metrics.admissions.inc(outcome);
    Json(response.into_review())
}

/// The patch that makes the Secret safe to store, if it needs one.
async fn decide(pool: &HashPool, request: &AdmissionRequest<Secret>) -> Result<Option<json_patch::Patch>, Refusal> {
    let Some(secret) = request.object.as_ref() else { return Ok(None) };
    if secret.type_.as_deref() != Some(PASSWORD_SECRET_TYPE) {
        warn!(namespace = request.namespace, "the webhook was called for a Secret of another type; it is left alone");
        return Ok(None);
    }
    let mut safe = secret.clone();
    password_secret::protect(&mut safe, request.old_object.as_ref(), pool).await?;
    if safe == *secret {
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

    use crate::credentials::hash::Argon2idCost;
    use crate::informers::Informers;
    use crate::rbac::Policy;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use kube::Client;
    use kube::client::Body as KubeBody;
    use serde_json::{Value, json};
    use tower::ServiceExt;

    async fn review(object: Value) -> Value {
        let metrics = Arc::new(Metrics::default());
        let pool = HashPool::new(Argon2idCost::default(), 1, 4, metrics.hashing.clone());
        let body = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u-1", "operation": "CREATE", "namespace": "team-a", "name": "x", "dryRun": true,
                "kind": {"group": "", "version": "v1", "kind": "Secret"},
                "resource": {"group": "", "version": "v1", "resource": "secrets"},
                "userInfo": {}, "object": object,
            },
        });
        let request = Request::post(PASSWORD_SECRETS_PATH).header("content-type", "application/json");
        let request = request.body(Body::from(body.to_string())).unwrap();
        let informers = Arc::new(Informers::new(false, Arc::clone(&metrics)));
        let guard = Arc::new(Guard::new(nobody(), "operator".to_owned(), Arc::clone(&informers), Policy::default()));
        let namespaces = NamespaceCount::new(nobody(), "roster-system", Arc::clone(&informers));
        let hints = Hints::new(nobody(), informers);
        let response = router(Admission { pool, guard, namespaces, hints, metrics }).oneshot(request).await.unwrap();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["response"].take()
    }

    /// A client that reaches no API server.
    fn nobody() -> Client {
        let refuse = |_: Request<KubeBody>| async {
            Err::<axum::http::Response<KubeBody>, _>(io::Error::other("nobody is there"))
        };
        Client::new(tower::service_fn(refuse), "default")
    }

    fn secret(kind: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "type": kind, "data": {"password": "aHVudGVyMg=="}})
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
