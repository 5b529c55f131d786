//! Endpoints with which other services verify Roster's tokens: the token webhook (`TokenReview`), and OpenID Connect's
//! discovery documents. Both are public: a caller with a valid token already knows that it is valid.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::{TokenReviewSpec, TokenReviewStatus};
use roster_runtime::logins::token_authenticator::{TokenError, TokenVerdict};
use roster_runtime::tls::network_permits::RequestNetwork;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use tracing::warn;

use crate::apiserver::body::read_bytes;
use crate::apiserver::state::ApiState;
use crate::apiserver::status::ApiError;

/// Path of the token webhook.
pub(crate) const TOKEN_REVIEW_PATH: &str = "/tokenreview";

const GROUP: &str = "authentication.k8s.io/";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    spec: TokenReviewSpec,
}

/// `POST /tokenreview`: verifies a token for kube-apiserver.
///
/// # Errors
/// 400 if the body is not a TokenReview, 429 if too many API keys are looked up, 503 if the credential can't be read.
pub(crate) async fn review(State(api): ApiState, request: Request) -> Result<Response, ApiError> {
    let source = RequestNetwork::of(request.extensions());
    let source = source.ok_or_else(|| ApiError::internal("the connection is unknown"))?;
    let bytes = read_bytes(request).await?;
    // The error is not returned: it may contain the token.
    let review: Option<Review> = serde_json::from_slice(&bytes).ok();
    let is_review = |review: &Review| review.kind == "TokenReview" && review.api_version.starts_with(GROUP);
    let Review { api_version, spec, .. } = review
        .filter(is_review)
        .ok_or_else(|| ApiError::bad_request("the body must be a TokenReview of authentication.k8s.io/v1"))?;
    let token = SecretString::from(spec.token.unwrap_or_default());
    let verdict = api.logins.token_authenticator.authenticate(&token, source).await.map_err(|error| {
        warn!(%error, "looking up a token or API key failed");
        api.metrics.token_reviews.inc("unavailable");
        match error {
            TokenError::Saturated => ApiError::too_many_requests(),
            TokenError::Vault(_) => ApiError::unavailable("the credential is unavailable, please try again later"),
        }
    })?;
    let asked = spec.audiences.as_deref().unwrap_or_default();
    let known = match verdict {
        TokenVerdict::Known(known) => Some(known),
        TokenVerdict::Foreign | TokenVerdict::Refused => None,
    };
    let compatible = known.and_then(|known| {
        let audiences = api.logins.issuer.audiences.compatible(known.audience.as_deref(), asked)?;
        Some((known.user, audiences))
    });
    api.metrics.token_reviews.inc(if compatible.is_some() { "authenticated" } else { "refused" });
    let status = match compatible {
        Some((user, audiences)) => TokenReviewStatus {
            authenticated: Some(true),
            // Without audiences, kube-apiserver considers the token valid for itself.
            audiences: Some(audiences).filter(|audiences| !audiences.is_empty()),
            user: Some(user),
            error: None,
        },
        None => TokenReviewStatus { authenticated: Some(false), ..TokenReviewStatus::default() },
    };
    let answer =
        json!({"kind": "TokenReview", "apiVersion": api_version, "metadata": {}, "spec": {}, "status": status});
    Ok(axum::Json(answer).into_response())
}

/// `GET /.well-known/openid-configuration`
pub(crate) async fn configuration(State(api): ApiState) -> Response {
    public(axum::Json(api.logins.issuer.configuration()).into_response())
}

/// `GET /openid/v1/jwks`
pub(crate) async fn jwks(State(api): ApiState) -> Response {
    let mut response = public(axum::Json(api.logins.issuer.jwks()).into_response());
    let media_type = axum::http::HeaderValue::from_static("application/jwk-set+json");
    response.headers_mut().insert(axum::http::header::CONTENT_TYPE, media_type);
    response
}

fn public(mut response: Response) -> Response {
    // One hour: half the time that a new key is published before it signs tokens.
    let control = axum::http::HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(axum::http::header::CACHE_CONTROL, control);
    response
}
