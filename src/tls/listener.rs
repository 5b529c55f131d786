//! The accept loop of the TLS port.
//!
//! Of our own because a TLS handshake must never hold up the next connection, certificates change without a restart,
//! and the number of connections, those of one peer, and the time that each may do nothing are all bounded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
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
    let peers = Arc::new(Peers::default());
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
        let Some(seat) = Peers::seat(&peers, remote.ip()) else {
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

/// How many connections each peer has.
#[derive(Debug, Default)]
struct Peers(Mutex<HashMap<IpAddr, usize>>);

impl Peers {
    /// A seat for one more connection, if the peer has not too many.
    fn seat(peers: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let mut counts = peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= MAX_CONNECTIONS_OF_A_PEER {
            return None;
        }
        *count += 1;
        Some(Seat { peers: Arc::clone(peers), peer })
    }
}

struct Seat {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_a_bounded_number_of_seats() {
        let (peers, peer) = (Arc::new(Peers::default()), IpAddr::from([127, 0, 0, 1]));
        let mut seats: Vec<Seat> = (0..MAX_CONNECTIONS_OF_A_PEER).filter_map(|_| Peers::seat(&peers, peer)).collect();
        assert_eq!(seats.len(), MAX_CONNECTIONS_OF_A_PEER);
        assert!(Peers::seat(&peers, peer).is_none() && Peers::seat(&peers, IpAddr::from([127, 0, 0, 2])).is_some());
        seats.pop();
        assert!(Peers::seat(&peers, peer).is_some());
        drop(seats);
        assert!(peers.0.lock().unwrap().is_empty());
    }
}
