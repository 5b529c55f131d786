//! Delivers one notice to one receiver: a signed token by POST (RFC 8935), with retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use aws_lc_rs::rand;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, Uri, header};
use backon::{ExponentialBuilder, Retryable};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use super::connect::{HttpsClient, NoPermittedAddress};
use super::event::{Notice, NoticeToken, claims};
use super::recipient::Recipient;
use super::sign::TokenSigner;

/// Concurrent attempts to all receivers. Deliveries waiting for a retry do not count.
const ATTEMPTS: usize = 16;
/// Timeout of an attempt, from name resolution to the end of the response.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a response, whose body is ignored.
const MAX_ANSWER_BYTES: usize = 4096;
/// Maximum `Retry-After` that is honored.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// Maximum length of an error in a log.
const MAX_ERROR_CHARS: usize = 200;
const HTTPS_PORT: u16 = 443;
const MEDIA_TYPE: &str = "application/secevent+jwt";
const TOKEN_TYPE: &str = "secevent+jwt";

/// Six attempts, 10, 20, 40, 80 and 160 s apart, each delay up to doubled by jitter: ten minutes at most, unless the
/// receiver asks for more.
pub(super) const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(10))
    .with_factor(2.0)
    .without_max_delay()
    .with_max_times(5)
    .with_jitter();

/// A notice to deliver.
pub(super) struct Delivery {
    pub to: Recipient,
    pub notice: Notice,
    receiver: Uri,
    happened: Timestamp,
}

impl Delivery {
    /// Returns `None` if the URL is not acceptable. The schema checks it too, but a rule added later is not applied to
    /// stored objects.
    pub(super) fn new(to: &Recipient, notice: Notice, happened: Timestamp) -> Option<Self> {
        let receiver: Uri = to.url.parse().ok()?;
        let has_user = receiver.authority()?.as_str().contains('@');
        let usable = receiver.scheme_str() == Some("https") && !has_user && receiver.host() != Some("");
        usable.then(|| Self { to: to.clone(), notice, receiver, happened })
    }

    /// Returns the host of the receiver, the only part of the URL that may be logged: the rest may be secret.
    pub(super) fn host(&self) -> String {
        self.receiver.host().unwrap_or_default().to_ascii_lowercase()
    }

    /// Returns the delivery's lane, so that one user's broken receiver does not affect others.
    pub(super) fn lane(&self) -> String {
        format!("{}:{} {}", self.host(), self.receiver.port_u16().unwrap_or(HTTPS_PORT), self.to.uid)
    }

    fn claims(&self, issuer: &str) -> Result<Value, DeliveryError> {
        let mut id = [0; 16];
        rand::fill(&mut id).map_err(|_| DeliveryError::Unsigned(anyhow!("no randomness")))?;
        let id = BASE64_URL_SAFE_NO_PAD.encode(id);
        let token = NoticeToken { id, happened: self.happened, issued: Timestamp::now() };
        Ok(claims(issuer, &self.to, &self.notice, &token))
    }
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliveryError {
    #[error(transparent)]
    Refused(#[from] NoPermittedAddress),
    #[error("the receiver answered {status}")]
    Answered { status: StatusCode, retry_after: Option<Duration> },
    #[error("the receiver did not answer within {ATTEMPT_TIMEOUT:?}")]
    Slow,
    #[error("no answer from the receiver: {0}")]
    Unreachable(String),
    #[error("the notification could not be signed: {0:#}")]
    Unsigned(anyhow::Error),
}

impl DeliveryError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Answered { status, .. } => {
                status.is_server_error()
                    || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(status)
            }
            Self::Slow | Self::Unreachable(_) | Self::Unsigned(_) => true,
        }
    }

    /// Returns how long to wait before a retry, given the `planned` backoff. `None` if there are no attempts left.
    fn wait(&self, planned: Option<Duration>) -> Option<Duration> {
        let asked = if let Self::Answered { retry_after, .. } = self { *retry_after } else { None };
        planned.map(|planned| planned.max(asked.unwrap_or_default()))
    }
}

impl From<hyper_util::client::legacy::Error> for DeliveryError {
    fn from(error: hyper_util::client::legacy::Error) -> Self {
        let mut cause: &(dyn std::error::Error + 'static) = &error;
        loop {
            if let Some(refused) = cause.downcast_ref::<NoPermittedAddress>() {
                return Self::Refused(*refused);
            }
            match cause.source() {
                Some(deeper) => cause = deeper,
                None => return Self::Unreachable(cause.to_string().chars().take(MAX_ERROR_CHARS).collect()),
            }
        }
    }
}

/// Deliveries waiting for a retry.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    count: AtomicUsize,
    begun: Notify,
}

impl Pauses {
    /// Returns their number.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Completes when another one starts to wait.
    pub(super) async fn begun(&self) {
        self.begun.notified().await;
    }

    async fn pause(self: Arc<Self>, time: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.begun.notify_one();
        sleep(time).await;
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends deliveries.
pub(super) struct Sender {
    pub pauses: Arc<Pauses>,
    client: HttpsClient,
    signer: Arc<dyn TokenSigner>,
    attempts: Semaphore,
    backoff: ExponentialBuilder,
}

impl Sender {
    pub(super) fn new(client: HttpsClient, signer: Arc<dyn TokenSigner>, backoff: ExponentialBuilder) -> Self {
        Self { pauses: Arc::default(), client, signer, attempts: Semaphore::new(ATTEMPTS), backoff }
    }

    /// Sends a delivery, and retries transient errors.
    pub(super) async fn send(&self, delivery: &Delivery) -> Result<(), DeliveryError> {
        let claims = delivery.claims(&self.signer.issuer())?;
        let pauses = Arc::clone(&self.pauses);
        (|| self.attempt(&delivery.receiver, &claims))
            .retry(self.backoff)
            .sleep(move |time: Duration| Arc::clone(&pauses).pause(time))
            .when(DeliveryError::is_transient)
            .adjust(DeliveryError::wait)
            .notify(|error, wait| {
                debug!(user = delivery.to.username, host = delivery.host(), %error, ?wait, "retrying a notification");
            })
            .await
    }

    async fn attempt(&self, receiver: &Uri, claims: &Value) -> Result<(), DeliveryError> {
        let _permit = self.attempts.acquire().await.expect("the semaphore is never closed");
        let request = self.request(receiver, claims).map_err(DeliveryError::Unsigned)?;
        let deadline = Instant::now() + ATTEMPT_TIMEOUT;
        let response = timeout_at(deadline, self.client.request(request)).await.map_err(|_| DeliveryError::Slow)??;
        let outcome = judge(response.status(), response.headers());
        // Let the receiver finish its response. This does not affect the outcome.
        let _ = timeout_at(deadline, to_bytes(Body::new(response.into_body()), MAX_ANSWER_BYTES)).await;
        outcome
    }

    /// Builds a signed request. Each attempt signs again, because the key may appear or change in between.
    fn request(&self, receiver: &Uri, claims: &Value) -> anyhow::Result<Request<Body>> {
        let token = self.signer.sign(TOKEN_TYPE, claims)?;
        let request = Request::post(receiver)
            .header(header::CONTENT_TYPE, MEDIA_TYPE)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "roster");
        Ok(request.body(Body::from(token))?)
    }
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), DeliveryError> {
    if status.is_success() {
        return Ok(());
    }
    let retry_after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| parse_retry_after(text, Timestamp::now()));
    Err(DeliveryError::Answered { status, retry_after })
}

/// Parses seconds or an RFC 9110 date, whose format is a subset of the date format of email (RFC 2822).
fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let wait = text.parse().map(Duration::from_secs).ok().or_else(|| {
        let at = DateTimeParser::new().parse_timestamp(text).ok()?;
        Duration::try_from(at.duration_since(now)).ok()
    });
    wait.map(|wait| wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use backon::BackoffBuilder;
    use rstest::rstest;

    fn answered(status: u16, retry_after: Option<u64>) -> DeliveryError {
        let retry_after = retry_after.map(Duration::from_secs);
        DeliveryError::Answered { status: StatusCode::from_u16(status).unwrap(), retry_after }
    }

    #[rstest]
    #[case("https://hooks.example.com/jane?x=y", Some("hooks.example.com"))]
    #[case("https://HOOKS.example.com:8443", Some("hooks.example.com"))]
    #[case("https://[2001:4860::1]/", Some("[2001:4860::1]"))]
    #[case("http://hooks.example.com/", None)]
    #[case("https://jane:secret@hooks.example.com/", None)]
    #[case("https:///jane", None)]
    #[case("/jane", None)]
    #[case("", None)]
    fn only_https_urls_are_receivers(#[case] url: &str, #[case] host: Option<&str>) {
        let to = Recipient { username: "jane".to_owned(), uid: "u".to_owned(), url: url.to_owned() };
        let delivery = Delivery::new(&to, Notice::PasswordChanged, Timestamp::UNIX_EPOCH);
        assert_eq!(delivery.map(|delivery| delivery.host()).as_deref(), host);
    }

    #[test]
    fn a_lane_belongs_to_one_receiver_and_one_user() {
        let lane = |url: &str, uid: &str| {
            let to = Recipient { username: "jane".to_owned(), uid: uid.to_owned(), url: url.to_owned() };
            Delivery::new(&to, Notice::PasswordChanged, Timestamp::UNIX_EPOCH).unwrap().lane()
        };
        assert_eq!(lane("https://a/x", "1"), lane("https://A:443/y", "1"));
        assert_ne!(lane("https://a/x", "1"), lane("https://a:8443/x", "1"));
        assert_ne!(lane("https://a/x", "1"), lane("https://b/x", "1"));
        assert_ne!(lane("https://a/x", "1"), lane("https://a/x", "2"));
    }

    #[tokio::test]
    async fn pauses_are_signalled_and_end() {
        let pauses = Arc::new(Pauses::default());
        let pausing = tokio::spawn(Arc::clone(&pauses).pause(Duration::from_millis(10)));
        pauses.begun().await;
        assert_eq!(pauses.count(), 1);
        pausing.await.unwrap();
        assert_eq!(pauses.count(), 0);
    }

    #[rstest]
    #[case(302, false)]
    #[case(400, false)]
    #[case(404, false)]
    #[case(410, false)]
    #[case(408, true)]
    #[case(429, true)]
    #[case(500, true)]
    #[case(503, true)]
    fn transient_errors_are_retried(#[case] status: u16, #[case] transient: bool) {
        assert_eq!(answered(status, None).is_transient(), transient);
    }

    #[rstest]
    #[case("0", Some(0))]
    #[case("30", Some(30))]
    #[case("86400", Some(120))]
    #[case("Sun, 06 Nov 1994 08:50:07 GMT", Some(30))]
    #[case("Sun, 06 Nov 1994 08:49:07 GMT", None)]
    #[case("Wed, 06 Nov 2999 08:49:07 GMT", Some(120))]
    #[case("-1", None)]
    #[case("soon", None)]
    fn retry_after_is_respected_within_a_limit(#[case] text: &str, #[case] seconds: Option<u64>) {
        let now = "1994-11-06T08:49:37Z".parse().unwrap();
        assert_eq!(parse_retry_after(text, now), seconds.map(Duration::from_secs));
    }

    #[test]
    fn six_attempts_take_at_most_ten_minutes() {
        let waits: Vec<Duration> = BACKOFF.build().collect();
        assert_eq!(waits.len(), 5);
        let total: Duration = waits.iter().sum();
        assert!((310..=620).contains(&total.as_secs()), "{waits:?}");
    }

    #[test]
    fn retries_wait_for_the_longer_of_retry_after_and_backoff() {
        let second = Duration::from_secs;
        assert_eq!(answered(429, Some(90)).wait(Some(second(10))), Some(second(90)));
        assert_eq!(answered(429, Some(5)).wait(Some(second(10))), Some(second(10)));
        assert_eq!(answered(429, Some(90)).wait(None), None);
        assert_eq!(DeliveryError::Slow.wait(Some(second(10))), Some(second(10)));
    }
}
