//! Reads and parses AdmissionReviews.
//!
//! A review may be large, and parsed JSON larger still: `{}` alone can become an object of a kilobyte. So bodies are
//! read within the limits of [`roster_runtime::tls::bodies`], their JSON values are counted before parsing, and large
//! ones are parsed on separate threads, a few at a time.

use std::cell::Cell;
use std::fmt::{self, Display};
use std::sync::Arc;

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRef, FromRequest, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use kube::Resource;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use roster_runtime::operations::json::parsable;
use roster_runtime::tls::bodies::{BodyError, BodyLimits, BodyPermit, BodyReader, length};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tokio::sync::Semaphore;
use tracing::warn;

/// Maximum size of a small body, in bytes. Parsing it takes less than a millisecond.
const SMALL: usize = 64 * 1024;

/// Maximum number of large reviews parsed at the same time.
const PARSERS: usize = 2;

/// Limits for one kind of review.
#[derive(Clone, Copy, Debug)]
pub struct ReviewLimits {
    /// Maximum size of one review, in bytes.
    pub max_bytes: usize,
    /// Maximum number of JSON values in one review. Bounds the memory that it takes once parsed.
    pub max_values: usize,
    /// Maximum size of all large reviews in flight, in bytes.
    pub budget: usize,
}

/// Reviews that can deny a request. An object in etcd has at most 1.5 MiB, a Secret 1 MiB (1.4 MiB in base64). A review
/// holds the object twice, and up to 512 KiB of annotations.
pub const DECISIONS: ReviewLimits =
    ReviewLimits { max_bytes: 4 * 1024 * 1024, max_values: 100_000, budget: 32 * 1024 * 1024 };

/// Reviews of pods, claims and services that wait for quota: kube-apiserver continues without a response.
pub const WAITING: ReviewLimits = ReviewLimits { max_bytes: 1024 * 1024, max_values: 20_000, budget: 8 * 1024 * 1024 };

/// Small and large bodies have separate budgets, so that large ones do not delay small ones. The bodies of one site can
/// take half of either, unless it is known to be kube-apiserver's: a path alone can leak.
#[derive(Debug)]
pub struct ReviewBodies {
    small: BodyReader,
    large: BodyReader,
}

impl ReviewBodies {
    /// Creates the budgets for reviews within these limits.
    pub fn new(limits: ReviewLimits) -> Arc<Self> {
        let small = BodyLimits {
            max_bytes: SMALL,
            max_per_peer: 128,
            max_per_site: 128,
            budget: 16 * 1024 * 1024,
            free_bytes: 0,
        };
        let large = BodyLimits {
            max_bytes: limits.max_bytes,
            max_per_peer: 4,
            max_per_site: 4,
            budget: limits.budget,
            free_bytes: 0,
        };
        Arc::new(Self { small: BodyReader::for_reviews(small), large: BodyReader::for_reviews(large) })
    }

    fn reader(&self, request: &Request) -> &BodyReader {
        let is_small = length(request).is_some_and(|length| length <= SMALL);
        if is_small { &self.small } else { &self.large }
    }
}

/// Reads the body before the review takes a permit.
pub async fn read_body(State(bodies): State<Arc<ReviewBodies>>, request: Request, next: Next) -> Response {
    match bodies.reader(&request).read(request).await {
        Ok((request, _budget)) => next.run(request).await,
        Err(error) => unread(error),
    }
}

/// A review's share of the budget for bodies.
#[derive(Clone)]
pub struct Budget {
    _permit: Arc<BodyPermit>,
}

/// Reads the body of a review that may wait for a long time. Its [`Budget`] is an extension of the request, so that the
/// handler can return it once the body is parsed.
pub async fn read_body_of_waiting(State(bodies): State<Arc<ReviewBodies>>, request: Request, next: Next) -> Response {
    match bodies.reader(&request).read(request).await {
        Ok((mut request, permit)) => {
            request.extensions_mut().insert(Budget { _permit: Arc::new(permit) });
            next.run(request).await
        }
        Err(error) => unread(error),
    }
}

/// Returns the response to a review whose body was not read. kube-apiserver includes its text in the error for the
/// caller. There is no `Retry-After`: see [`super::limits::timed`].
fn unread(error: BodyError) -> Response {
    let (status, advice) = match error {
        BodyError::TooManyOfPeer => (StatusCode::TOO_MANY_REQUESTS, "; try again"),
        BodyError::Saturated => (
            StatusCode::TOO_MANY_REQUESTS,
            "; try again, and if it happens again, remove or shorten the object's labels and annotations",
        ),
        BodyError::TooSlow => (
            StatusCode::REQUEST_TIMEOUT,
            "; try again, and if it happens again, remove or shorten the object's labels and annotations",
        ),
        BodyError::TooLarge(_) => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "; remove or shorten the object's labels and annotations, or split its lists",
        ),
        BodyError::Broken => (StatusCode::BAD_REQUEST, ""),
        BodyError::UnknownPeer => (StatusCode::INTERNAL_SERVER_ERROR, ""),
    };
    (status, format!("{error}{advice}")).into_response()
}

/// Parses reviews. Clones share the same permits.
#[derive(Clone, Debug)]
pub struct Parser(Arc<Semaphore>);

impl Default for Parser {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PARSERS)))
    }
}

impl Parser {
    /// Parses the body of a review with `parse`, whose error must not contain any of the body: it may hold a password.
    ///
    /// # Errors
    /// An HTTP response that describes the problem.
    pub async fn parse<T: Send + 'static>(
        &self,
        request: Request,
        limits: ReviewLimits,
        parse: impl FnOnce(&[u8]) -> serde_json::Result<T> + Send + 'static,
    ) -> Result<T, Response> {
        // `read_body` has read it already.
        let body = to_bytes(request.into_body(), limits.max_bytes).await;
        let body = body.map_err(|_| refused(StatusCode::BAD_REQUEST, "the body could not be read"))?;
        let parse = move |body: &Bytes| {
            let body = parsable(body.clone());
            let counted = check_values(&body, limits.max_values);
            counted.and_then(|()| parse(&body))
        };
        let parsed = if body.len() <= SMALL {
            parse(&body)
        } else {
            let permit = Arc::clone(&self.0).acquire_owned().await;
            let parsed = tokio::task::spawn_blocking(move || {
                // Parsing continues if the request is cancelled.
                let _permit = permit;
                parse(&body)
            });
            let parsed = parsed.await;
            parsed.map_err(|_| refused(StatusCode::INTERNAL_SERVER_ERROR, "the review could not be parsed"))?
        };
        parsed.map_err(|error| {
            // Log the position, not the value.
            let (line, column) = (error.line(), error.column());
            warn!(category = ?error.classify(), line, column, "parsing an admission review failed");
            let max = limits.max_values;
            refused(
                StatusCode::BAD_REQUEST,
                format!(
                    "line {line}, column {column}: the body must be an AdmissionReview of admission.k8s.io/v1 with at \
                     most {max} JSON values, of a resource that this path serves"
                ),
            )
        })
    }
}

fn refused(status: StatusCode, message: impl Display) -> Response {
    (status, message.to_string()).into_response()
}

/// Response to a review with a field that is not allowed.
pub fn malformed(message: &'static str) -> Response {
    refused(StatusCode::BAD_REQUEST, message)
}

/// Response to a review without a request.
pub fn without_request() -> Response {
    Json(AdmissionResponse::invalid("the review has no request").into_review()).into_response()
}

/// The request of a review that can deny it.
pub struct Reviewed<K: Resource>(pub AdmissionRequest<K>);

impl<K, S> FromRequest<S> for Reviewed<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + 'static,
    Parser: FromRef<S>,
    S: Sync,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let parse = |body: &[u8]| serde_json::from_slice::<AdmissionReview<K>>(body);
        let review = Parser::from_ref(state).parse(request, DECISIONS, parse).await?;
        review.try_into().map(Self).map_err(|_| without_request())
    }
}

/// Fails if a body has more than `max` JSON values. Allocates no memory for them.
fn check_values(body: &[u8], max: usize) -> serde_json::Result<()> {
    let left = Cell::new(max);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    Values(&left).deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Visitor that counts down for each value.
#[derive(Clone, Copy)]
struct Values<'a>(&'a Cell<usize>);

impl Values<'_> {
    fn count<E: serde::de::Error>(self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Values<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.count()
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.count()
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.count()
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.count()
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.count()
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.count()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.count()?;
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.count()?;
        while entries.next_key::<IgnoredAny>()?.is_some() {
            entries.next_value_seed(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use k8s_openapi::api::core::v1::Secret;
    use rstest::rstest;

    #[rstest]
    #[case("null", 1)]
    #[case("[1, -2, 3.5, \"x\\n\", true]", 6)]
    #[case(r#"{"a": {"b": [{}, {}]}, "c": null}"#, 6)]
    fn every_value_counts(#[case] json: &str, #[case] values: usize) {
        assert!(check_values(json.as_bytes(), values).is_ok());
        assert!(check_values(json.as_bytes(), values - 1).is_err());
    }

    #[tokio::test]
    async fn unread_bodies_are_answered_with_advice() {
        for (error, status) in [
            (BodyError::TooSlow, StatusCode::REQUEST_TIMEOUT),
            (BodyError::Saturated, StatusCode::TOO_MANY_REQUESTS),
            (BodyError::TooLarge(7), StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            let response = unread(error);
            assert_eq!(response.status(), status);
            let text = to_bytes(response.into_body(), 4096).await.unwrap();
            let text = String::from_utf8_lossy(&text);
            assert!(text.starts_with(&error.to_string()), "{text}");
            assert!(text.contains("remove or shorten the object's labels and annotations"), "{text}");
        }
    }

    #[test]
    fn invalid_json_is_refused() {
        for bad in ["", "[", "[1] 2", "{\"a\"}", &"[".repeat(100_000)] {
            assert!(check_values(bad.as_bytes(), 1_000_000).is_err());
        }
    }

    /// Includes a large body, which another thread parses.
    #[tokio::test]
    async fn parse_errors_do_not_quote_the_body() {
        for size in [0, SMALL] {
            let padding = " ".repeat(size);
            let body = format!(r#"{{"request": {{"object": "hunter2"}}}}{padding}"#);
            let request = Request::new(Body::from(body));
            let parser = Parser::default();
            let parsed =
                parser.parse(request, DECISIONS, |body| serde_json::from_slice::<AdmissionReview<Secret>>(body));
            let answer = parsed.await.map(drop).unwrap_err();
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
            let text = to_bytes(answer.into_body(), 4096).await.unwrap();
            assert!(!String::from_utf8_lossy(&text).contains("hunter2"));
        }
    }
}
