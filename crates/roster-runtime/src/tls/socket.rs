//! Socket of a connection: limits what the kernel buffers for it, and detects clients that do not read.
//!
//! A client that never reads its responses fills the send buffer, which the kernel otherwise grows to megabytes that
//! count towards the memory of the pod. Requests that it sends meanwhile fill the receive buffer. Four options limit
//! this:
//!
//! - `TCP_NOTSENT_LOWAT`: Roster stops writing while the kernel has unsent data. Unlike a small send buffer, it does
//!   not slow down fast clients, because data in flight does not count. It also reports progress in small steps, so a
//!   slow reader is not mistaken for one that has stopped.
//! - `SO_SNDBUF`: bounds what a client that acknowledges nothing can hold. kube-apiserver is exempt: the kernel adapts
//!   its buffers to the bandwidth and latency of the control plane.
//! - `SO_RCVBUF`: the same for requests. It is small until the connection has proven that it comes from kube-apiserver.
//! - `TCP_USER_TIMEOUT` once Roster has closed the connection: the kernel drops what the client does not read.
//!
//! Two kernel timers end connections of clients that have disappeared:
//!
//! - Keepalive probes, if no data is unacknowledged.
//! - `TCP_USER_TIMEOUT`, if some is. Without it, the kernel would retransmit for 15 minutes. It is set only once no
//!   write has blocked for [`USER_TIMEOUT`]. The kernel counts from the first probe of a small window, so an earlier
//!   timeout would disconnect clients that read slowly all the time.
//!
//! Above the kernel, [`Socket`] reports blocked writes to [`Activity`](super::activity::Activity).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::connections::{Connection, Trust};

/// Bytes of `TCP_NOTSENT_LOWAT`. The kernel may exceed it by the segment that it is filling, up to 64 KiB.
const MAX_UNSENT_BYTES: u32 = 16 * 1024;

/// Bytes of `SO_SNDBUF`, which the kernel doubles for its own bookkeeping: 64 KiB in flight are 64 MB/s at a round trip
/// of 1 ms.
const SEND_BUFFER_BYTES: usize = 32 * 1024;

/// Bytes of `SO_RCVBUF` of connections not proven to be kube-apiserver's. The kernel doubles it. Requests wait there
/// while their client does not read earlier responses. These clients' bodies have 64 KiB at most.
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024;

/// Bytes of `SO_RCVBUF` of connections of kube-apiserver, which the kernel doubles. The window must hold two segments
/// (of 64 KiB each on loopback). Otherwise each waits for a delayed acknowledgement, and a review of 1 MB takes
/// seconds.
const API_SERVER_RECEIVE_BUFFER_BYTES: usize = 128 * 1024;

/// Detects within a minute that a client disappeared without closing its connection: a watch without events would hold
/// its permit until its end.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);

/// How long a client may acknowledge no written data while no write is blocked. A client that reads as slowly as
/// [`stall_timeout`] allows has read everything in the kernel's buffers by then. The only reading client that is
/// disconnected is one whose receive buffer stays full for minutes, because it reads exactly as fast as data is
/// written.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns how long a client may read nothing of a response.
///
/// A slow client behind kube-apiserver looks as if nothing were read for a while: kube-apiserver buffers megabytes, and
/// reads more only when a good part of them is sent. It ends most requests after 60 s itself.
pub const fn stall_timeout(trust: Trust) -> Duration {
    match trust {
        Trust::Anonymous | Trust::Authenticated | Trust::Webhook => Duration::from_secs(10),
        Trust::ApiServer => Duration::from_secs(60),
    }
}

/// An accepted socket.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
    is_blocked: bool,
    /// When the last blocked write ended.
    unblocked: Instant,
    /// Whether the kernel ends the connection after [`USER_TIMEOUT`].
    is_timed: bool,
    /// Whether the receive buffer has the size for kube-apiserver.
    is_wide: bool,
}

impl Socket {
    /// Limits the kernel's buffers for `stream`, and reports blocked writes to the activity of `connection`.
    ///
    /// # Errors
    /// If the kernel refuses an option because the client is gone.
    pub fn new(stream: TcpStream, connection: Arc<Connection>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_notsent_lowat(MAX_UNSENT_BYTES)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        let unblocked = Instant::now();
        Ok(Self { stream, connection, is_blocked: false, unblocked, is_timed: false, is_wide: false })
    }

    /// Limits the send buffer, except that of kube-apiserver. Call it once, after the handshake: a buffer of a fixed
    /// size never becomes adaptive again.
    ///
    /// # Errors
    /// If the kernel refuses the option because the client is gone.
    pub fn bound_sending(&self) -> io::Result<()> {
        if self.connection.trust() == Trust::ApiServer {
            return Ok(());
        }
        SockRef::from(&self.stream).set_send_buffer_size(SEND_BUFFER_BYTES)
    }

    /// Enlarges the receive buffer of connections of kube-apiserver, and of the limited number of those with the path of
    /// a webhook, which are probably kube-apiserver's: the path is known before the body of a review is read.
    fn widen(&mut self) {
        if !self.is_wide && self.connection.trust() >= Trust::Webhook {
            self.is_wide = true;
            // With the small buffer, a large review only takes longer, so the connection is kept.
            let _ = SockRef::from(&self.stream).set_recv_buffer_size(API_SERVER_RECEIVE_BUFFER_BYTES);
        }
    }

    /// Sets or clears the kernel timeout for clients that acknowledge nothing for [`USER_TIMEOUT`].
    fn limit_silence(&mut self) {
        let is_due = !self.is_blocked && self.unblocked.elapsed() >= USER_TIMEOUT;
        if self.is_timed != is_due {
            self.is_timed = is_due;
            // The kernel refuses only if the client is gone.
            let _ = SockRef::from(&self.stream).set_tcp_user_timeout(is_due.then_some(USER_TIMEOUT));
        }
    }

    fn note<T>(&mut self, outcome: &Poll<io::Result<T>>) {
        let is_blocked = outcome.is_pending();
        if self.is_blocked != is_blocked {
            self.is_blocked = is_blocked;
            self.unblocked = Instant::now();
            self.connection.activity().set_blocked(is_blocked);
        }
        self.limit_silence();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Otherwise the kernel would keep offering the rest to a client that does not read.
        let _ = if self.is_blocked {
            self.stream.set_zero_linger()
        } else {
            SockRef::from(&self.stream).set_tcp_user_timeout(Some(stall_timeout(self.connection.trust())))
        };
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.widen();
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this whenever it polls a connection that has nothing to write, and
    /// [`Activity::idle_for`](super::activity::Activity::idle_for) causes a poll every few seconds.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.limit_silence();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
