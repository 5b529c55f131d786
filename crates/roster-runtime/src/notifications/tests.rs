//! Tests notices to receivers on loopback, over TLS.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rstest::rstest;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_util::sync::DropGuard;

use super::*;
use crate::metrics::Metrics;
use crate::tls::connections::LIMITS;
use crate::tls::listener::{self, Port};
use roster_api::user::Notification;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_millis(300);

/// Returns claims in cleartext instead of signing them.
#[derive(Default)]
struct UnsignedSigner(Mutex<Vec<String>>);

impl TokenSigner for UnsignedSigner {
    fn sign(&self, typ: &str, claims: &Value) -> Result<String> {
        let token = format!("{typ} {claims}");
        self.0.lock().unwrap().push(token.clone());
        Ok(token)
    }

    fn issuer(&self) -> String {
        "https://id.example.com".to_owned()
    }
}

/// A receiver and the notices that it got.
struct Receiver {
    port: u16,
    ca: NamedTempFile,
    arrived: UnboundedReceiver<(String, HeaderMap, String)>,
    _end: DropGuard,
}

impl Receiver {
    /// Returns these responses in order, then none: later requests hang.
    async fn start(answers: impl IntoIterator<Item = StatusCode>) -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let issued = rcgen::generate_simple_self_signed(names).unwrap();
        let mut ca = NamedTempFile::new().unwrap();
        ca.write_all(issued.cert.pem().as_bytes()).unwrap();
        let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        let tls = ServerConfig::builder().with_no_client_auth();
        let tls = tls.with_single_cert(vec![issued.cert.der().clone()], key).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let (app, arrived) = app(answers.into_iter().collect());
        let shutdown = CancellationToken::new();
        let port_of_receiver = Port {
            tls: Some(Arc::new(ArcSwap::from_pointee(tls))),
            limits: LIMITS,
            app,
            is_api_server: Arc::new(|_| false),
            api_servers: Vec::new(),
            shed: Metrics::default().connections_shed,
            leaving: shutdown.clone(),
        };
        tokio::spawn(listener::serve(socket, port_of_receiver, shutdown.clone()));
        Self { port, ca, arrived, _end: shutdown.drop_guard() }
    }

    fn at(&self, host: &str) -> Recipient {
        recipient(&format!("https://{host}:{}/jane?key=1", self.port))
    }

    fn for_another(&self, host: &str) -> Recipient {
        Recipient { username: "joan".to_owned(), uid: "77aa".to_owned(), ..self.at(host) }
    }

    async fn next(&mut self) -> (String, HeaderMap, String) {
        timeout(SOON, self.arrived.recv()).await.expect("nothing arrives").unwrap()
    }

    async fn nothing_more(&mut self) {
        assert!(timeout(A_WHILE, self.arrived.recv()).await.is_err(), "more arrives");
    }
}

fn app(answers: VecDeque<StatusCode>) -> (Router, UnboundedReceiver<(String, HeaderMap, String)>) {
    let (sender, arrived) = unbounded_channel();
    let answers = Arc::new(Mutex::new(answers));
    let app = Router::new().fallback(move |uri: axum::http::Uri, headers: HeaderMap, body: String| {
        sender.send((uri.to_string(), headers, body)).unwrap();
        let answer = answers.lock().unwrap().pop_front();
        async move { if let Some(status) = answer { answered(status) } else { std::future::pending().await } }
    });
    (app, arrived)
}

fn answered(status: StatusCode) -> Response {
    (status, [(header::LOCATION, "/elsewhere")], "x".repeat(100_000)).into_response()
}

fn recipient(url: &str) -> Recipient {
    Recipient { username: "jane".to_owned(), uid: "4f2c".to_owned(), url: url.to_owned() }
}

/// A notifier with a running dispatcher.
struct TestNotifier {
    notifier: Notifier,
    signer: Arc<UnsignedSigner>,
    metrics: Metrics,
    _end: DropGuard,
}

impl TestNotifier {
    fn open(ca: Option<&NamedTempFile>, allowed: &[&str]) -> Self {
        let options = NotificationOptions {
            allowed_networks: allowed.iter().map(|net| net.parse().unwrap()).collect(),
            ca_file: ca.map(|file| file.path().to_owned()),
        };
        let (signer, metrics) = (Arc::new(UnsignedSigner::default()), Metrics::default());
        let backoff = ExponentialBuilder::new().with_min_delay(Duration::from_millis(1)).with_max_times(2);
        let counter = metrics.notifications.clone();
        let (notifier, dispatcher) = Notifier::with_backoff(options, signer.clone(), counter, backoff).unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(dispatcher.run(shutdown.clone()));
        Self { notifier, signer, metrics, _end: shutdown.drop_guard() }
    }

    fn for_receiver(receiver: &Receiver) -> Self {
        Self::open(Some(&receiver.ca), &["127.0.0.0/8"])
    }

    async fn counts(&self, outcome: &str, count: usize) {
        let line = counted(outcome, count);
        let seen = async {
            while !self.metrics.render().contains(&line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(SOON, seen).await.is_ok(), "no {line} in {}", self.metrics.render());
    }
}

fn counted(outcome: &str, count: usize) -> String {
    format!("roster_notifications_total{{outcome=\"{outcome}\"}} {count}\n")
}

#[tokio::test]
async fn a_notice_arrives_as_it_was_signed() {
    let mut receiver = Receiver::start([StatusCode::ACCEPTED]).await;
    let fixture = TestNotifier::for_receiver(&receiver);
    fixture.notifier.notify(&receiver.at("localhost"), Notice::PasswordChanged);
    let (path, headers, body) = receiver.next().await;
    assert_eq!(path, "/jane?key=1");
    assert_eq!(headers[header::CONTENT_TYPE], "application/secevent+jwt");
    assert_eq!(headers[header::ACCEPT], "application/json");
    assert_eq!(*fixture.signer.0.lock().unwrap(), [body.as_str()]);
    let claims: Value = serde_json::from_str(body.strip_prefix("secevent+jwt ").unwrap()).unwrap();
    assert_eq!(claims["iss"], "https://id.example.com");
    assert_eq!(claims["aud"], receiver.at("localhost").url);
    assert_eq!(claims["sub_id"]["sub"], "4f2c");
    assert_eq!(
        claims["events"],
        json!({Notice::PasswordChanged.event_type(): {"credential_type": "password", "change_type": "update"}})
    );
    fixture.counts("sent", 1).await;
}

#[tokio::test]
async fn a_transient_failure_is_retried_with_the_same_token() {
    let mut receiver = Receiver::start([StatusCode::INTERNAL_SERVER_ERROR, StatusCode::ACCEPTED]).await;
    let fixture = TestNotifier::for_receiver(&receiver);
    fixture.notifier.notify(&receiver.at("127.0.0.1"), Notice::PasswordChanged);
    let (first, second) = (receiver.next().await, receiver.next().await);
    assert_eq!(first.2, second.2);
    fixture.counts("sent", 1).await;
}

#[tokio::test]
async fn retries_end_after_the_last_attempt() {
    let mut receiver = Receiver::start([StatusCode::BAD_GATEWAY; 3]).await;
    let fixture = TestNotifier::for_receiver(&receiver);
    fixture.notifier.notify(&receiver.at("127.0.0.1"), Notice::PasswordChanged);
    fixture.counts("failed", 1).await;
    for _ in 0..3 {
        receiver.next().await;
    }
    receiver.nothing_more().await;
}

#[rstest]
#[case::redirect(StatusCode::FOUND)]
#[case::redirect_that_keeps_the_method(StatusCode::PERMANENT_REDIRECT)]
#[case::unwanted(StatusCode::BAD_REQUEST)]
#[case::gone(StatusCode::GONE)]
#[tokio::test]
async fn redirects_and_refusals_are_final(#[case] status: StatusCode) {
    let mut receiver = Receiver::start([status, StatusCode::ACCEPTED]).await;
    let fixture = TestNotifier::for_receiver(&receiver);
    fixture.notifier.notify(&receiver.at("localhost"), Notice::PasswordChanged);
    fixture.counts("failed", 1).await;
    assert_eq!(receiver.next().await.0, "/jane?key=1");
    receiver.nothing_more().await;
}

#[rstest]
#[case::name("localhost")]
#[case::address("127.0.0.1")]
#[case::mapped("[::ffff:127.0.0.1]")]
#[tokio::test]
async fn internal_addresses_are_refused_before_connecting(#[case] host: &str) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{host}:{}/", socket.local_addr().unwrap().port());
    let fixture = TestNotifier::open(None, &["10.0.0.0/8"]);
    fixture.notifier.notify(&recipient(&url), Notice::PasswordChanged);
    fixture.counts("refused", 1).await;
    assert!(timeout(A_WHILE, socket.accept()).await.is_err(), "a connection was made");
}

#[tokio::test]
async fn plain_http_is_refused() {
    let fixture = TestNotifier::open(None, &["127.0.0.0/8"]);
    fixture.notifier.notify(&recipient("http://127.0.0.1/"), Notice::PasswordChanged);
    fixture.counts("refused", 1).await;
}

#[tokio::test]
async fn a_receiver_with_an_untrusted_certificate_gets_nothing() {
    let mut receiver = Receiver::start([]).await;
    let fixture = TestNotifier::open(None, &["127.0.0.0/8"]);
    fixture.notifier.notify(&receiver.at("localhost"), Notice::PasswordChanged);
    fixture.counts("failed", 1).await;
    receiver.nothing_more().await;
}

#[tokio::test]
async fn a_slow_receiver_does_not_hold_up_another() {
    let mut slow = Receiver::start([]).await;
    let fixture = TestNotifier::for_receiver(&slow);
    for _ in 0..32 {
        fixture.notifier.notify(&slow.at("localhost"), Notice::PasswordChanged);
    }
    for _ in 0..4 {
        slow.next().await;
    }
    slow.nothing_more().await;
    // The same port under another name is another receiver for the lanes.
    fixture.notifier.notify(&slow.at("127.0.0.1"), Notice::PasswordChanged);
    assert!(slow.next().await.1[header::HOST].to_str().unwrap().starts_with("127.0.0.1"));
}

#[tokio::test]
async fn one_user_does_not_hold_up_another_at_the_same_receiver() {
    let mut slow = Receiver::start([]).await;
    let fixture = TestNotifier::for_receiver(&slow);
    for _ in 0..32 {
        fixture.notifier.notify(&slow.at("localhost"), Notice::PasswordChanged);
    }
    for _ in 0..4 {
        slow.next().await;
    }
    slow.nothing_more().await;
    fixture.notifier.notify(&slow.for_another("localhost"), Notice::PasswordChanged);
    assert!(slow.next().await.2.contains("77aa"));
}

#[test]
fn users_without_a_receiver_are_not_notified() {
    let named: Notification = serde_json::from_value(json!({"type": "webhook", "url": "https://a/"})).unwrap();
    assert!(Recipient::new("jane", "4f2c", None).is_none());
    let recipient = Recipient::new("jane", "4f2c", Some(&named)).unwrap();
    assert_eq!((recipient.username, recipient.uid, recipient.url), ("jane".into(), "4f2c".into(), "https://a/".into()));
}

#[tokio::test]
async fn notices_beyond_the_queue_are_dropped_and_counted() {
    let metrics = Metrics::default();
    let options = NotificationOptions::default();
    let (notifier, dispatcher) =
        Notifier::new(options, Arc::new(UnsignedSigner::default()), metrics.notifications.clone()).unwrap();
    for _ in 0..QUEUE + 2 {
        notifier.notify(&recipient("https://hooks.example.com/"), Notice::PasswordChanged);
    }
    assert!(metrics.render().contains(&counted("dropped", 2)), "{}", metrics.render());
    drop(dispatcher);
}

#[tokio::test]
async fn the_dispatcher_stops_on_shutdown_with_deliveries_in_flight() {
    let mut receiver = Receiver::start([]).await;
    let options = NotificationOptions {
        allowed_networks: vec!["127.0.0.0/8".parse().unwrap()],
        ca_file: Some(receiver.ca.path().to_owned()),
    };
    let (notifier, dispatcher) =
        Notifier::new(options, Arc::new(UnsignedSigner::default()), Metrics::default().notifications.clone()).unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(dispatcher.run(shutdown.clone()));
    notifier.notify(&receiver.at("localhost"), Notice::PasswordChanged);
    receiver.next().await;
    shutdown.cancel();
    timeout(SOON / 2, running).await.expect("the dispatcher still runs").unwrap().unwrap();
}
