//! Activity of a connection. A request is in flight until the last byte of its response is written, so a connection
//! with a watch that has no events is not idle. It is not stalled either: a connection is stalled only if bytes are
//! waiting for the client and it reads none of them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Timeouts of a connection.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    /// From the handshake to the end of the first request's headers.
    first_request: Duration,
    /// From the first byte of a request's headers to the last.
    headers: Duration,
}

const TIMEOUTS: Timeouts = Timeouts { first_request: Duration::from_secs(15), headers: Duration::from_secs(10) };

/// How long a connection without a request counts as new.
const NEW: Duration = Duration::from_secs(5);

/// How long a write may block before the connection counts as stalled.
const STALLED: Duration = Duration::from_secs(1);

/// State of a connection, ordered by what closing it would cost the client, cheapest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ActivityState {
    /// Response bytes are waiting, and the client does not read them.
    Stalled,
    /// No request is in flight.
    Idle,
    /// A request is in flight, or the connection is new and its first request may still arrive, so that new connections
    /// do not evict each other.
    Busy,
}

#[derive(Debug)]
struct Requests {
    in_flight: usize,
    is_first: bool,
    idle_since: Instant,
    /// When the first byte of the next request arrived.
    headers_since: Option<Instant>,
    /// Since when the client has read none of the bytes waiting for it.
    blocked_since: Option<Instant>,
    timeouts: Timeouts,
}

/// Tracks requests and blocked writes of one connection.
#[derive(Debug)]
pub struct Activity {
    requests: Mutex<Requests>,
    /// Notified when `blocked_since` changes.
    blocked_changed: Notify,
}

impl Default for Activity {
    fn default() -> Self {
        Self::new(TIMEOUTS)
    }
}

impl Activity {
    fn new(timeouts: Timeouts) -> Self {
        let requests = Requests {
            in_flight: 0,
            is_first: true,
            idle_since: Instant::now(),
            headers_since: None,
            blocked_since: None,
            timeouts,
        };
        Self { requests: Mutex::new(requests), blocked_changed: Notify::new() }
    }

    /// Records that a request's headers are complete.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        let mut requests = self.requests();
        requests.in_flight += 1;
        requests.is_first = false;
        requests.headers_since = None;
        InFlight(Arc::clone(self))
    }

    /// Returns the connection's state, and since when it has been stalled or without a request in flight.
    pub fn state(&self) -> (ActivityState, Instant) {
        let requests = self.requests();
        let is_new = requests.is_first && requests.idle_since.elapsed() < NEW;
        match requests.blocked_since {
            Some(since) if since.elapsed() >= STALLED => (ActivityState::Stalled, since),
            _ if requests.in_flight > 0 || is_new => (ActivityState::Busy, requests.idle_since),
            _ => (ActivityState::Idle, requests.idle_since),
        }
    }

    /// Completes when no request arrived for `timeout`, or the first request or a request's headers take too long.
    pub async fn idle_for(&self, timeout: Duration) {
        loop {
            let (end, next_check) = {
                let requests = self.requests();
                let idle = if requests.is_first { requests.timeouts.first_request.min(timeout) } else { timeout };
                let slow = requests.headers_since.map(|since| since + requests.timeouts.headers);
                let is_idle = requests.in_flight == 0 && requests.blocked_since.is_none();
                let end = match slow {
                    Some(slow) if is_idle => slow.min(requests.idle_since + idle),
                    None if is_idle => requests.idle_since + idle,
                    _ => Instant::now() + timeout,
                };
                // Headers may start to arrive in the meantime.
                (end, Instant::now() + requests.timeouts.headers)
            };
            if end <= Instant::now() {
                return;
            }
            sleep_until(end.min(next_check)).await;
        }
    }

    /// Records whether a write is blocked on the client.
    pub fn set_blocked(&self, is_blocked: bool) {
        let mut requests = self.requests();
        requests.blocked_since = is_blocked.then(Instant::now);
        if !is_blocked {
            // A connection whose response was still being read was not idle.
            requests.idle_since = Instant::now();
        }
        drop(requests);
        self.blocked_changed.notify_waiters();
    }

    /// Sets the time since which a write has been blocked.
    #[cfg(test)]
    pub fn stall_since(&self, since: Instant) {
        self.requests().blocked_since = Some(since);
    }

    /// Completes when the client has read nothing for `timeout()`, which is evaluated when the wait begins.
    pub async fn stalled_for(&self, timeout: impl Fn() -> Duration) {
        loop {
            let changed = self.blocked_changed.notified();
            let Some(since) = self.requests().blocked_since else {
                changed.await;
                continue;
            };
            if timeout_at(since + timeout(), changed).await.is_err() {
                return;
            }
        }
    }

    /// Records that bytes arrived.
    fn received(&self) {
        let mut requests = self.requests();
        if requests.in_flight == 0 && requests.headers_since.is_none() {
            requests.headers_since = Some(Instant::now());
        }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is in flight until its response is written.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl InFlight {
    /// Keeps the request in flight until the response body is dropped.
    pub fn until_the_end_of(self, body: Body) -> Body {
        Body::new(CountedBody { body, _request: self })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut requests = self.0.requests();
        requests.in_flight -= 1;
        requests.idle_since = Instant::now();
    }
}

/// A response body that keeps its request in flight.
struct CountedBody {
    body: Body,
    _request: InFlight,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that reports reads to its [`Activity`].
#[derive(Debug)]
pub struct ObservedStream<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> ObservedStream<S> {
    /// Wraps `stream` and reports its reads to `activity`.
    pub const fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ObservedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.received();
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ObservedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
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

    const SHORT: Duration = Duration::from_millis(20);
    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_connection_is_idle_when_the_last_answer_is_written() {
        let (first_request, timeout) = (SHORT, Duration::from_millis(100));
        let begin = Instant::now();
        let activity = Arc::new(Activity::new(Timeouts { first_request, headers: HOUR }));
        // A client that sends no request is disconnected.
        tokio::time::timeout(Duration::from_secs(600), activity.idle_for(HOUR)).await.unwrap();
        assert!(begin.elapsed() >= first_request);
        let request = activity.begin();
        let ended = async {
            tokio::time::sleep(timeout * 3).await;
            let at = Instant::now();
            drop(request);
            at
        };
        let ((), ended) = tokio::join!(activity.idle_for(timeout), ended);
        assert!(ended.elapsed() >= timeout, "{:?} after the answer", ended.elapsed());
    }

    /// Trickling bytes do not extend the header timeout, even after an earlier request on the connection.
    #[tokio::test]
    async fn headers_that_arrive_too_slowly_end_the_connection() {
        let activity = Arc::new(Activity::new(Timeouts { first_request: HOUR, headers: SHORT }));
        let (mut client, server) = tokio::io::duplex(16);
        let mut server = ObservedStream::new(server, Arc::clone(&activity));
        for _ in 0..2 {
            let trickle = async {
                loop {
                    client.write_all(b"x").await.unwrap();
                    server.read_u8().await.unwrap();
                    tokio::time::sleep(SHORT / 4).await;
                }
            };
            tokio::select! {
                () = activity.idle_for(HOUR) => {}
                () = trickle => {}
                () = tokio::time::sleep(Duration::from_secs(600)) => panic!("it is still open"),
            }
            drop(activity.begin());
        }
    }

    #[tokio::test]
    async fn a_connection_is_stalled_when_the_client_reads_nothing() {
        let activity = Activity::new(TIMEOUTS);
        let begin = Instant::now();
        let step = SHORT;
        let timeout = step * 4;
        // A slow client: each step is shorter than the limit, but their sum is longer.
        let slow = async {
            for _ in 0..8 {
                activity.set_blocked(true);
                tokio::time::sleep(step).await;
                activity.set_blocked(false);
            }
            activity.set_blocked(true);
            Instant::now()
        };
        let ((), stopped) = tokio::join!(activity.stalled_for(|| timeout), slow);
        assert!(stopped.elapsed() >= timeout && begin.elapsed() >= step * 8 + timeout);
    }

    /// A watch without events has nothing to write.
    #[tokio::test]
    async fn a_request_in_flight_without_anything_to_write_is_neither_idle_nor_stalled() {
        let activity = Arc::new(Activity::new(TIMEOUTS));
        let _watch = activity.begin();
        activity.set_blocked(true);
        activity.set_blocked(false);
        tokio::select! {
            () = activity.stalled_for(|| SHORT) => panic!("it is stalled"),
            () = activity.idle_for(SHORT) => panic!("it is idle"),
            () = tokio::time::sleep(SHORT * 5) => {}
        }
        assert_eq!(activity.state().0, ActivityState::Busy);
    }

    /// The last response may be written while its client is still reading.
    #[tokio::test]
    async fn a_connection_is_not_idle_while_its_client_reads() {
        let activity = Arc::new(Activity::new(TIMEOUTS));
        drop(activity.begin());
        activity.set_blocked(true);
        tokio::select! {
            () = activity.idle_for(SHORT) => panic!("it is idle"),
            () = tokio::time::sleep(SHORT * 5) => {}
        }
        activity.set_blocked(false);
        tokio::time::timeout(Duration::from_secs(600), activity.idle_for(SHORT)).await.unwrap();
    }

    #[test]
    fn a_short_block_is_not_a_stall() {
        let activity = Arc::new(Activity::new(TIMEOUTS));
        let request = activity.begin();
        activity.set_blocked(true);
        assert_eq!(activity.state().0, ActivityState::Busy);
        let long_ago = Instant::now() - STALLED;
        activity.stall_since(long_ago);
        assert_eq!(activity.state(), (ActivityState::Stalled, long_ago));
        activity.set_blocked(false);
        drop(request);
        assert_eq!(activity.state().0, ActivityState::Idle);
    }
}
