//! The accept loop of the TLS port.
//!
//! Of our own because a TLS handshake must never hold up the next connection, certificates change without a restart,
//! and the number of connections, those of one peer, and the time that each may do nothing are all bounded.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use arc_swap::ArcSwap;
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::activity::{Activity, counted};
use super::peer::Peer;
use crate::operations::seats::Seats;

const MAX_CONNECTIONS: usize = 1024;
/// kube-apiserver takes a handful; the rest is for everybody else.
const MAX_CONNECTIONS_OF_A_PEER: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(10);
/// Clients in Go give up an idle connection after 90 s: they are to be the first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Room for an identity with a few thousand groups. kube-apiserver takes 1 MiB.
const MAX_HEADER_BYTES: u32 = 256 * 1024;
const MAX_HEADERS: usize = 4096;

/// Serves `app` until `shutdown`, then lets requests in flight end.
///
/// # Errors
/// None of its own: a failed accept is logged and tried again.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    app: Router,
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
        let (app, watcher) = (app.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _held = (permit, seat);
            if let Err(error) = connection(stream, acceptor, app, watcher).await {
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

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, app: Router, watcher: Watcher) -> Result<()> {
    stream.set_nodelay(true)?;
    let remote = stream.peer_addr()?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let session = stream.get_ref().1;
    let certificates = session.peer_certificates().unwrap_or_default().to_vec();
    let is_http2 = session.alpn_protocol() == Some(b"h2".as_slice());
    let activity = Arc::new(Activity::default());
    let app = app
        .layer(Extension(Arc::new(Peer { remote, certificates })))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&activity), counted));
    // The protocol is agreed upon in the handshake: nobody waits for whoever says nothing to show which one it is.
    let builder = Builder::new(TokioExecutor::new());
    let mut builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_concurrent_streams(256)
        .max_header_list_size(MAX_HEADER_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)).into_owned();
    tokio::select! {
        ended = watcher.watch(connection) => ended.map_err(|error| anyhow::anyhow!(error)),
        () = activity.idle_for(IDLE_TIMEOUT) => Ok(()),
    }
}
