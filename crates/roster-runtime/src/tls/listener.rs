//! Accept loop of the TLS port and the probe port.
//!
//! Roster has its own accept loop because a TLS handshake must never delay the next connection, certificates change
//! without a restart, and there are limits on connections (in total and per network), headers, unread responses and
//! idle time. See [`super::connections`] for eviction, and [`super::socket`] for clients that do not read.
//!
//! HTTP/1.1 only: an HTTP/2 client could hold many responses on one connection by keeping its windows closed.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, HOST};
use axum::http::{HeaderValue, StatusCode, Version};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::{debug, warn};

use super::activity::ObservedStream;
use super::connections::{Connection, ConnectionLimits, ConnectionTable, OpenConnection, Trust};
use super::peer::Peer;
use super::socket::{Socket, stall_timeout};
use crate::metrics::CounterBy;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(10);
/// Longer than the 90 s after which Go clients close idle connections, so that the client closes first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Limits of request headers. Beyond them, hyper responds with 431.
#[derive(Clone, Copy)]
struct HeaderLimits {
    /// Bytes of the request line and all headers. hyper checks between two reads, so the last read may exceed it.
    bytes: usize,
    count: usize,
}

/// Limits for kube-apiserver: an identity with a few thousand groups.
const API_SERVER_HEADERS: HeaderLimits = HeaderLimits { bytes: 256 * 1024, count: 4096 };
/// Limits for all other clients: a bearer token of 16 KiB, and headers of browsers and proxies. Partial headers stay in
/// memory.
const HEADERS: HeaderLimits = HeaderLimits { bytes: 32 * 1024, count: 100 };

/// Response bytes that may wait to be encrypted and sent, except to kube-apiserver: one TLS record.
const TLS_BUFFER: usize = 16 * 1024;

const AMBIGUOUS_HOST: &str = "the request must have exactly one Host header\n";

/// Returns whether a chain of client certificates is kube-apiserver's.
pub type ApiServerRecognizer = Arc<dyn Fn(&[CertificateDer<'static>]) -> bool + Send + Sync>;

/// Configuration of a port.
#[derive(Clone)]
pub struct Port {
    /// Current TLS configuration. `None`: plain HTTP.
    pub tls: Option<Arc<ArcSwap<ServerConfig>>>,
    /// Limits on open connections.
    pub limits: ConnectionLimits,
    /// Handles requests.
    pub app: Router,
    /// Recognizes kube-apiserver at the handshake.
    pub is_api_server: ApiServerRecognizer,
    /// Addresses from which kube-apiserver is expected.
    pub api_servers: Vec<IpAddr>,
    /// Counts connections that are `evicted`, `refused` or `stalled`.
    pub shed: CounterBy,
    /// Once cancelled, each response closes its connection, so that clients move to other replicas before this one
    /// stops.
    pub leaving: CancellationToken,
}

/// Serves `port` until `shutdown`, then waits for requests in flight.
///
/// # Errors
/// Never: failed accepts are logged and retried.
pub async fn serve(listener: TcpListener, port: Port, shutdown: CancellationToken) -> Result<()> {
    let port = Arc::new(port);
    let table = ConnectionTable::new(port.limits, port.shed.clone());
    port.api_servers.iter().for_each(|address| table.expect_api_server(*address));
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, remote) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Probably out of file descriptors: wait until some connections are closed.
                    warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Some(open) = table.admit(remote.ip()) else {
            debug!(%remote, "refused a connection: the limit is reached");
            continue;
        };
        let (port, watcher) = (Arc::clone(&port), graceful.watcher());
        tokio::spawn(async move {
            let connection = Arc::clone(open.connection());
            tokio::select! {
                // Dropping the connection closes it.
                () = connection.evicted() => debug!(%remote, "closed a connection to make room"),
                ended = port.connection(stream, remote, &open, watcher) => {
                    if let Err(error) = ended {
                        debug!(%remote, error = format!("{error:#}"), "connection ended early");
                    }
                }
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        warn!("some requests did not finish within {GRACE:?}");
    }
    Ok(())
}

impl Port {
    async fn connection(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        open: &OpenConnection,
        watcher: Watcher,
    ) -> Result<()> {
        let connection = open.connection();
        let socket = Socket::new(stream, Arc::clone(connection))?;
        let Some(tls) = &self.tls else {
            socket.bound_sending()?;
            let peer = Peer { remote, certificates: Vec::new() };
            return self.requests(socket, peer, connection, watcher).await;
        };
        let acceptor = TlsAcceptor::from(tls.load_full());
        let mut stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await??;
        let (socket, session) = stream.get_mut();
        let certificates = session.peer_certificates().unwrap_or_default().to_vec();
        if !certificates.is_empty() && (self.is_api_server)(&certificates) {
            connection.mark(Trust::ApiServer);
        } else {
            session.set_buffer_limit(Some(TLS_BUFFER));
        }
        socket.bound_sending()?;
        self.requests(stream, Peer { remote, certificates }, connection, watcher).await
    }

    /// Answers requests until the connection ends.
    async fn requests<S: AsyncRead + AsyncWrite + Unpin + 'static>(
        &self,
        stream: S,
        peer: Peer,
        connection: &Arc<Connection>,
        watcher: Watcher,
    ) -> Result<()> {
        let headers = if connection.trust() == Trust::ApiServer { API_SERVER_HEADERS } else { HEADERS };
        let (activity, peer) = (connection.activity(), Arc::new(peer));
        // Not layers of the router: those would be rebuilt for each route of each connection.
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&peer));
            request.extensions_mut().insert(Arc::clone(connection));
            let (in_flight, leaving, has_one_host) = (activity.begin(), self.leaving.clone(), names_one_host(&request));
            let answer = has_one_host.then(|| self.app.clone().call(request.map(Body::new)));
            async move {
                let answer = match answer {
                    Some(answer) => answer.await?,
                    None => (StatusCode::BAD_REQUEST, AMBIGUOUS_HOST).into_response(),
                };
                let mut answer = answer.map(|body| in_flight.until_the_end_of(body));
                if !has_one_host || leaving.is_cancelled() {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let mut builder = Builder::new();
        // hyper's header timeout is disabled: it also runs while a connection waits for its next request, and would
        // close it just when a client sends one. The activity bounds headers from their first byte on.
        builder.max_headers(headers.count).max_buf_size(headers.bytes);
        let stream = ObservedStream::new(stream, Arc::clone(activity));
        let served = builder.serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            ended = watcher.watch(served) => ended.map_err(|error| anyhow::anyhow!(error)),
            () = activity.idle_for(IDLE_TIMEOUT) => Ok(()),
            () = activity.stalled_for(|| stall_timeout(connection.trust())) => {
                connection.count_stalled();
                Err(anyhow::anyhow!("the client does not read the response"))
            }
        }
    }
}

/// Whether the request has exactly one Host header, as RFC 9112 (3.2) requires of HTTP/1.1. With two, a proxy in front
/// of Roster may use a different one than Roster does.
fn names_one_host(request: &Request<Incoming>) -> bool {
    match request.headers().get_all(HOST).iter().count() {
        0 => request.version() < Version::HTTP_11,
        count => count == 1,
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
