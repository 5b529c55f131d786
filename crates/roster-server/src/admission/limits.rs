//! Limits on reviews: permits for those in flight, and their time.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use roster_runtime::tls::network_permits::{NetworkPermitLimits, NetworkPermits, RequestNetwork};

/// Reviews in flight. Paths can leak, so a network that is not known to be kube-apiserver's leaves permits for others.
pub const REVIEWS: NetworkPermitLimits = NetworkPermitLimits { total: 64, direct: 48, of_network: 40, of_site: 40 };

/// Requests that wait for quota at the same time, per webhook. Only their amounts are in memory.
pub const WAITING: NetworkPermitLimits =
    NetworkPermitLimits { total: 1024, direct: 768, of_network: 640, of_site: 640 };

/// How long a review of kube-apiserver waits for a permit.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum time for one review that can deny a request, including the time to read it. kube-apiserver gives up after
/// 10 s, and then includes the secret path of the webhook in the error for the requester.
pub const REVIEW_TIMEOUT: Duration = Duration::from_secs(7);

/// Maximum time for a request that waits for quota. kube-apiserver ignores failures of these webhooks.
pub const WAITING_TIMEOUT: Duration = Duration::from_secs(10);

/// Limits the number of reviews in flight. Their [`RequestNetwork`] becomes an extension.
pub async fn bounded(State(permits): State<Arc<NetworkPermits>>, mut request: Request, next: Next) -> Response {
    let Some(source) = RequestNetwork::of(request.extensions()) else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the connection is unknown").into_response();
    };
    let Some(_permit) = permits.take(source, PERMIT_TIMEOUT).await else {
        return (StatusCode::TOO_MANY_REQUESTS, "too many concurrent reviews; try again").into_response();
    };
    request.extensions_mut().insert(source);
    next.run(request).await
}

/// Limits the time of a review. The response has no `Retry-After`: with it, kube-apiserver would send the review again,
/// and its own timeout, which includes all attempts, could end the last one.
pub async fn timed(State(timeout): State<Duration>, request: Request, next: Next) -> Response {
    let response = tokio::time::timeout(timeout, next.run(request)).await;
    response
        .unwrap_or_else(|_| (StatusCode::SERVICE_UNAVAILABLE, "the review took too long; try again").into_response())
}

/// Has kube-apiserver send a review again that was one too many. Only for webhooks whose failures kube-apiserver
/// ignores.
pub async fn retried(mut response: Response) -> Response {
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::routing::post;
    use axum::{Router, middleware};
    use roster_runtime::tls::peer::Peer;
    use tower::ServiceExt;

    fn request(site: u8) -> axum::http::Request<Body> {
        let remote = ([192, 0, site, 1], 1).into();
        let peer = Arc::new(Peer { remote, certificates: Vec::new() });
        axum::http::Request::post("/").extension(peer).body(Body::empty()).unwrap()
    }

    /// A client that knows a path cannot take all permits from one site.
    #[tokio::test]
    async fn a_path_alone_takes_a_part_of_the_permits() {
        let limits = NetworkPermitLimits { total: 4, direct: 3, of_network: 2, of_site: 2 };
        let permits = middleware::from_fn_with_state(Arc::new(NetworkPermits::new(limits)), bounded);
        let app = Router::new().route("/", post(std::future::pending::<StatusCode>)).layer(permits);
        let mut held: Vec<_> = (0..2).map(|_| Box::pin(app.clone().oneshot(request(1)))).collect();
        for review in &mut held {
            assert!(futures::poll!(review).is_pending());
        }
        let refused = app.clone().oneshot(request(1)).await.unwrap();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(!refused.headers().contains_key(header::RETRY_AFTER), "kube-apiserver must not send it again");
        assert!(futures::poll!(Box::pin(app.clone().oneshot(request(2)))).is_pending());
    }

    /// Roster answers before kube-apiserver gives up and reveals the path to the requester.
    #[tokio::test]
    async fn slow_reviews_are_answered_before_kube_apiserver_gives_up() {
        const { assert!(REVIEW_TIMEOUT.as_secs() + PERMIT_TIMEOUT.as_secs() < 10) };
        let limit = middleware::from_fn_with_state(Duration::from_millis(20), timed);
        let app = Router::new().route("/", post(std::future::pending::<StatusCode>)).layer(limit);
        let answer = app.oneshot(request(1)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!answer.headers().contains_key(header::RETRY_AFTER));
    }
}
