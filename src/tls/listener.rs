//! The accept loop of the TLS port.
//!
//! Of our own because a TLS handshake must never hold up the next connection, certificates change without a restart,
//! and the number of connections, those of one peer, and the time that each may do nothing are all bounded.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::{debug, warn};

use super::activity::Activity;
use super::peer::Peer;
use crate::operations::seats::Seats;

const MAX_CONNECTIONS: usize = 4096;
/// kube-apiserver takes one for each watch that it passes on; the rest is for everybody else.
const MAX_CONNECTIONS_OF_A_PEER: usize = 2048;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(10);
/// Clients in Go give up an idle connection after 90 s: they are to be the first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Room for an identity with a few thousand groups. kube-apiserver takes 1 MiB.
const MAX_HEADER_BYTES: usize = 256 * 1024;
const MAX_HEADERS: usize = 4096;

/// Serves `app` until `shutdown`, then lets requests in flight end. From `leaving` on, each answer is the last one on its
/// connection: whoever asks again asks another replica, before this one is gone.
///
/// # Errors
/// None of its own: a failed accept is logged and tried again.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    app: Router,
    leaving: CancellationToken,
    shutdown: CancellationToken,
) -> Result<()> {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let peers = Seats::new(MAX_CONNECTIONS_OF_A_PEER);
    let graceful = GracefulShutdown::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = Arc::clone(&connections).acquire_owned() => permit?,
        };
        let (stream, remote) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: give others the time to close theirs.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Some(seat) = peers.take(remote.ip()) else {
            debug!(%remote, "a peer has too many connections");
            continue;
        };
        let acceptor = TlsAcceptor::from(tls.load_full());
        let (app, leaving, watcher) = (app.clone(), leaving.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _held = (permit, seat);
            if let Err(error) = connection(stream, acceptor, app, leaving, watcher).await {
                debug!(error = format!("{error:#}"), "a connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        warn!("some requests did not end within {GRACE:?}");
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    app: Router,
    leaving: CancellationToken,
    watcher: Watcher,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let remote = stream.peer_addr()?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let session = stream.get_ref().1;
    let certificates = session.peer_certificates().unwrap_or_default().to_vec();
    let activity = Arc::new(Activity::default());
    let (peer, begins) = (Arc::new(Peer { remote, certificates }), Arc::clone(&activity));
    // Not as layers of the router: those would be made anew for each route of each connection.
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&peer));
        let (in_flight, leaving) = (begins.begin(), leaving.clone());
        let answer = app.clone().call(request.map(Body::new));
        async move {
            let mut answer = answer.await?.map(|body| in_flight.until_the_end_of(body));
            if leaving.is_cancelled() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = Builder::new();
    // Without a timeout of its own for headers: it would run while a connection waits for its next request, and close it
    // under the hands of a client that is about to send one. Slow ones are idle.
    builder.max_headers(MAX_HEADERS).max_buf_size(MAX_HEADER_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = watcher.watch(connection) => ended.map_err(|error| anyhow::anyhow!(error)),
        () = activity.idle_for(IDLE_TIMEOUT) => Ok(()),
    }
}
