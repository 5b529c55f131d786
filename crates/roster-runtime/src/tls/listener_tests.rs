use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::routing::get;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpSocket;
use tokio_util::sync::DropGuard;

use super::*;
use crate::metrics::Metrics;
use crate::tls::connections::PROBE_LIMITS;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Serves `app` over plain HTTP. Returns a client with the smallest receive buffer that the kernel allows.
async fn served(app: Router) -> (TcpStream, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(1).unwrap();
    let client = client.connect(listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    tokio::spawn(serve(listener, port(app), shutdown.clone()));
    (client.await.unwrap(), shutdown.drop_guard())
}

fn port(app: Router) -> Port {
    Port {
        tls: None,
        limits: PROBE_LIMITS,
        app,
        is_api_server: Arc::new(|_| false),
        api_servers: Vec::new(),
        shed: Metrics::default().connections_shed,
        leaving: CancellationToken::new(),
    }
}

/// hyper reads the next request after the last response is written, so at most one response waits for a client.
#[rstest]
#[case::no_body("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")]
#[case::unread_body("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")]
#[tokio::test]
async fn a_client_that_reads_no_responses_has_few_requests_handled(#[case] request: &str) {
    const REQUESTS: usize = 50_000;
    let answered = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&answered);
    let app = Router::new().fallback(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        async {}
    });
    let (mut client, _shutdown) = served(app).await;
    // The kernel accepts them all from the client, and the server gets only those that it reads.
    client.write_all(request.repeat(REQUESTS).as_bytes()).await.unwrap();
    let mut answered_before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = answered.load(Ordering::Relaxed);
        if now > 0 && now == answered_before {
            break;
        }
        answered_before = now;
    }
    assert!(answered_before < REQUESTS / 10, "{answered_before} requests were answered");
}

#[tokio::test]
async fn a_slow_client_gets_complete_responses() {
    const LENGTH: usize = 300_000;
    const ANSWERS: usize = 3;
    let app = Router::new().route("/", get(async || "z".repeat(LENGTH)));
    let (mut client, _shutdown) = served(app).await;
    let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(ANSWERS - 1) + last;
    client.write_all(requests.as_bytes()).await.unwrap();
    let read = async {
        let (mut buffer, mut answers) = ([0; 2000], Vec::new());
        loop {
            let count = client.read(&mut buffer).await.unwrap();
            if count == 0 {
                return String::from_utf8(answers).unwrap();
            }
            answers.extend_from_slice(&buffer[..count]);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let answers = tokio::time::timeout(TIMEOUT, read).await.unwrap();
    assert_eq!(answers.matches('z').count(), ANSWERS * LENGTH);
}

#[rstest]
#[case::one("HTTP/1.1\r\nHost: a", 200)]
#[case::two("HTTP/1.1\r\nHost: a\r\nHost: b", 400)]
#[case::the_same_twice("HTTP/1.1\r\nHost: a\r\nhost: a", 400)]
#[case::none("HTTP/1.1", 400)]
#[case::none_in_http_1_0("HTTP/1.0", 200)]
#[case::two_in_http_1_0("HTTP/1.0\r\nHost: a\r\nHost: b", 400)]
#[tokio::test]
async fn a_request_names_one_host(#[case] head: &str, #[case] status: u16) {
    let (mut client, _shutdown) = served(Router::new().fallback(async || "answered")).await;
    client.write_all(format!("GET / {head}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer[9..]), status.to_string());
    if status == 400 {
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("it is the last request on the connection");
    }
}

/// A stream without any activity.
struct Quiet {
    request: &'static [u8],
    flushed: Arc<AtomicUsize>,
}

impl AsyncRead for Quiet {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.request.is_empty() {
            return Poll::Pending;
        }
        buffer.put_slice(std::mem::take(&mut self.request));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Quiet {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushed.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// [`Socket`] checks its timeouts when it is flushed.
#[tokio::test]
async fn a_watch_without_events_is_flushed_periodically() {
    let endless = || async { Body::from_stream(futures::stream::pending::<Result<Vec<u8>, Infallible>>()) };
    let port = port(Router::new().fallback(endless));
    let table = ConnectionTable::new(port.limits, port.shed.clone());
    let open = table.admit([127, 0, 0, 1].into()).unwrap();
    let flushed = Arc::new(AtomicUsize::new(0));
    let stream = Quiet { request: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", flushed: Arc::clone(&flushed) };
    let peer = Peer { remote: ([127, 0, 0, 1], 1).into(), certificates: Vec::new() };
    let graceful = GracefulShutdown::new();
    let watcher = graceful.watcher();
    // A separate task, so that this task's timers do not wake it.
    let served = tokio::spawn(async move { port.requests(stream, peer, open.connection(), watcher).await });
    let flushed_again = async {
        // Wait until the response has started.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = flushed.load(Ordering::Relaxed);
        while flushed.load(Ordering::Relaxed) == before {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, flushed_again).await.expect("it is flushed");
    assert!(!served.is_finished());
    served.abort();
}
