//! The socket under a connection: what the kernel may hold for it, and whether its client reads.
//!
//! A client that never reads its answers fills the send buffer, which the kernel otherwise lets grow to megabytes that
//! count for the memory of the pod. Requests that it sends meanwhile fill the receive buffer. Four bounds hold this down:
//!
//! - `TCP_NOTSENT_LOWAT`: Roster writes no more while the kernel has not sent what it got. Unlike a small send buffer, it
//!   does not slow down fast clients, because data on its way to the client does not count. It also reports progress in
//!   small steps, so a slow reader is not taken for one that has stopped.
//! - `SO_SNDBUF`: bounds what a client that reads but acknowledges nothing can hold. kube-apiserver is exempt: the kernel
//!   adapts its buffers to the bandwidth and latency of the control plane.
//! - `SO_RCVBUF`: the same for requests.
//! - `TCP_USER_TIMEOUT` once Roster has closed the connection: the kernel drops what the client does not take. Never earlier:
//!   the kernel counts from the first probe of a small window, and would end the connection of a client that reads slowly all
//!   the time.
//!
//! Keepalive probes end connections whose client has disappeared.
//!
//! Above the kernel, [`Socket`] reports to [`Activity`] when a write has to wait.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::activity::Activity;
use super::connections::Trust;

/// Bytes of `TCP_NOTSENT_LOWAT`. The kernel may exceed it by the segment that it is filling, up to 64 KiB.
const UNSENT: u32 = 16 * 1024;

/// Bytes of `SO_SNDBUF`, which the kernel doubles for its own bookkeeping: 64 KiB in flight are 64 MB/s at a round trip of
/// 1 ms.
const SEND_BUFFER: usize = 32 * 1024;

/// Bytes of `SO_RCVBUF`, which the kernel doubles. Requests wait there while their client does not read the answers to
/// earlier ones. The window must hold two segments, which have 64 KiB on loopback: with room for less, each waits for a
/// delayed acknowledgement, and a review of 1 MB takes seconds.
const RECEIVE_BUFFER: usize = 128 * 1024;

/// Ends the connection of a client that has disappeared without closing it within a minute: a watch without events would
/// hold its permit until its end.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);

/// Returns how long a client may take nothing of an answer.
///
/// A slow client of kube-apiserver looks from here as if nothing were read for a while: kube-apiserver buffers megabytes,
/// and takes more only when a good part of them is gone. It ends most requests after 60 s itself.
pub const fn stall_timeout(trust: Trust) -> Duration {
    match trust {
        Trust::Anonymous | Trust::Authenticated => Duration::from_secs(10),
        Trust::ApiServer => Duration::from_secs(60),
    }
}

/// An accepted socket.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    activity: Arc<Activity>,
    is_blocked: bool,
}

impl Socket {
    /// Bounds what the kernel holds for `stream`, and reports blocked writes to `activity`.
    ///
    /// # Errors
    /// If the kernel refuses an option: the client is gone already.
    pub fn new(stream: TcpStream, activity: Arc<Activity>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_notsent_lowat(UNSENT)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        Ok(Self { stream, activity, is_blocked: false })
    }

    /// Sets the bounds that depend on the client. To be called once, after the handshake: buffers of a fixed size never
    /// become adaptive again.
    ///
    /// # Errors
    /// If the kernel refuses an option: the client is gone already.
    pub fn bound_for(&self, trust: Trust) -> io::Result<()> {
        let socket = SockRef::from(&self.stream);
        if trust == Trust::ApiServer {
            return Ok(());
        }
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)
    }

    fn note<T>(&mut self, outcome: &Poll<io::Result<T>>) {
        let is_blocked = outcome.is_pending();
        if self.is_blocked != is_blocked {
            self.is_blocked = is_blocked;
            self.activity.set_blocked(is_blocked);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Otherwise the kernel would go on offering the rest to a client that does not read.
        let _ = if self.is_blocked {
            self.stream.set_zero_linger()
        } else {
            SockRef::from(&self.stream).set_tcp_user_timeout(Some(stall_timeout(Trust::Anonymous)))
        };
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A client that takes as little as the kernel allows without reading, and the socket that serves it.
    async fn pair(trust: Trust) -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(1).unwrap();
        let client = client.connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::new(listener.accept().await.unwrap().0, Arc::default()).unwrap();
        socket.bound_for(trust).unwrap();
        (client, socket)
    }

    /// Writes until the client would have to read, and returns the number of bytes.
    async fn fill(socket: &mut Socket) -> usize {
        let mut written = 0;
        while let Poll::Ready(count) = futures::poll!(Box::pin(socket.write(&[0; 16 * 1024]))) {
            written += count.unwrap();
        }
        written
    }

    async fn is_blocked(activity: &Activity) -> bool {
        tokio::time::timeout(Duration::from_millis(50), activity.stalled_for(|| Duration::ZERO)).await.is_ok()
    }

    #[tokio::test]
    async fn the_kernel_holds_little_that_the_client_does_not_read() {
        for trust in [Trust::Anonymous, Trust::Authenticated, Trust::ApiServer] {
            let (_client, mut socket) = pair(trust).await;
            let written = fill(&mut socket).await;
            assert!(written <= 160 * 1024, "{trust:?}: {written} bytes");
        }
    }

    #[tokio::test]
    async fn buffers_are_fixed_for_everyone_but_kube_apiserver() {
        let (_client, socket) = pair(Trust::Authenticated).await;
        let options = SockRef::from(&socket.stream);
        assert_eq!(options.send_buffer_size().unwrap(), 2 * SEND_BUFFER);
        assert_eq!(options.recv_buffer_size().unwrap(), 2 * RECEIVE_BUFFER);
        let (_client, socket) = pair(Trust::ApiServer).await;
        let options = SockRef::from(&socket.stream);
        assert_ne!(options.send_buffer_size().unwrap(), 2 * SEND_BUFFER);
    }

    /// The kernel would count the time in which a client with a small window reads a large segment bit by bit.
    #[tokio::test]
    async fn the_kernel_ends_no_connection_that_is_in_use() {
        for trust in [Trust::Anonymous, Trust::Authenticated, Trust::ApiServer] {
            let (_client, socket) = pair(trust).await;
            assert_eq!(SockRef::from(&socket.stream).tcp_user_timeout().unwrap(), None, "{trust:?}");
        }
    }

    #[tokio::test]
    async fn clients_that_have_disappeared_are_noticed() {
        let (_client, socket) = pair(Trust::Anonymous).await;
        let options = SockRef::from(&socket.stream);
        assert!(options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
    }

    /// With less, the client waits for a delayed acknowledgement after each segment.
    #[tokio::test]
    async fn two_segments_fit_into_the_receive_buffer() {
        const LOOPBACK_SEGMENT: usize = 64 * 1024;
        let (_client, socket) = pair(Trust::Anonymous).await;
        assert!(SockRef::from(&socket.stream).recv_buffer_size().unwrap() >= 2 * 2 * LOOPBACK_SEGMENT);
    }

    #[tokio::test]
    async fn a_client_that_goes_on_reading_unblocks_the_connection() {
        let (mut client, mut socket) = pair(Trust::Anonymous).await;
        let activity = Arc::clone(&socket.activity);
        fill(&mut socket).await;
        assert!(is_blocked(&activity).await);
        let read = async {
            let mut buffer = [0; 4096];
            loop {
                client.read_exact(&mut buffer).await.unwrap();
            }
        };
        let write = socket.write_all(&[0]);
        tokio::select! {
            written = tokio::time::timeout(PATIENCE, write) => written.unwrap().unwrap(),
            () = read => {}
        }
        assert!(!is_blocked(&activity).await);
    }

    /// The client gets a reset instead of the rest of the answer.
    #[tokio::test]
    async fn a_blocked_connection_that_is_closed_leaves_nothing_in_the_kernel() {
        let (mut client, mut socket) = pair(Trust::Anonymous).await;
        let written = fill(&mut socket).await;
        drop(socket);
        let mut rest = Vec::new();
        let outcome = tokio::time::timeout(PATIENCE, client.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(rest.len() < written, "all {written} bytes arrived");
    }
}
