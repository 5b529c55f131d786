//! What happens on a connection: requests count until the last byte of their answers is written, so a watch without
//! events is not idle.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// How long connections may take.
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

#[derive(Debug)]
struct Requests {
    in_flight: usize,
    is_first: bool,
    idle_since: Instant,
    /// When the first byte of the next request came.
    headers_since: Option<Instant>,
    timeouts: Timeouts,
}

/// What happens on one connection.
#[derive(Debug)]
pub struct Activity(Mutex<Requests>);

impl Default for Activity {
    fn default() -> Self {
        Self::new(TIMEOUTS)
    }
}

impl Activity {
    fn new(timeouts: Timeouts) -> Self {
        let requests =
            Requests { in_flight: 0, is_first: true, idle_since: Instant::now(), headers_since: None, timeouts };
        Self(Mutex::new(requests))
    }

    /// Notes that a request's headers are complete.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        let mut requests = self.requests();
        requests.in_flight += 1;
        requests.is_first = false;
        requests.headers_since = None;
        InFlight(Arc::clone(self))
    }

    /// Whether there is work on the connection, and since when no request has been in flight. A new connection has work
    /// until its first request can be expected: it must not be closed for the next new one.
    pub fn standing(&self) -> (bool, Instant) {
        let requests = self.requests();
        let is_new = requests.is_first && requests.idle_since.elapsed() < NEW;
        (requests.in_flight > 0 || is_new, requests.idle_since)
    }

    /// Returns when no request has come for `longest`, or when the first one, or the headers of one, take too long.
    pub async fn idle_for(&self, longest: Duration) {
        loop {
            let (end, next_look) = {
                let requests = self.requests();
                let idle = if requests.is_first { requests.timeouts.first_request.min(longest) } else { longest };
                let slow = requests.headers_since.map(|since| since + requests.timeouts.headers);
                let end = match (requests.in_flight, slow) {
                    (0, Some(slow)) => slow.min(requests.idle_since + idle),
                    (0, None) => requests.idle_since + idle,
                    _ => Instant::now() + longest,
                };
                // Headers may begin meanwhile.
                (end, Instant::now() + requests.timeouts.headers)
            };
            if end <= Instant::now() {
                return;
            }
            sleep_until(end.min(next_look)).await;
        }
    }

    /// Notes that bytes came.
    fn received(&self) {
        let mut requests = self.requests();
        if requests.in_flight == 0 && requests.headers_since.is_none() {
            requests.headers_since = Some(Instant::now());
        }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is not answered yet, or whose answer is not written yet.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl InFlight {
    /// Ties the request to the body of its answer.
    pub fn until_the_end_of(self, body: Body) -> Body {
        Body::new(Counted { body, _request: self })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut requests = self.0.requests();
        requests.in_flight -= 1;
        requests.idle_since = Instant::now();
    }
}

/// The body of an answer, with its request.
struct Counted {
    body: Body,
    _request: InFlight,
}

impl HttpBody for Counted {
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

/// A stream that tells its [`Activity`] when bytes come.
#[derive(Debug)]
pub struct Observed<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Observed<S> {
    /// Observes what is read from `stream`.
    pub const fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
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
        let (first_request, longest) = (SHORT, Duration::from_millis(100));
        let begin = Instant::now();
        let activity = Arc::new(Activity::new(Timeouts { first_request, headers: HOUR }));
        // Whoever asks nothing is not waited for.
        tokio::time::timeout(Duration::from_secs(600), activity.idle_for(HOUR)).await.unwrap();
        assert!(begin.elapsed() >= first_request);
        let request = activity.begin();
        let ended = async {
            tokio::time::sleep(longest * 3).await;
            let at = Instant::now();
            drop(request);
            at
        };
        let ((), ended) = tokio::join!(activity.idle_for(longest), ended);
        assert!(ended.elapsed() >= longest, "{:?} after the answer", ended.elapsed());
    }

    /// Bytes that trickle in do not extend the time for headers, on a connection that has had a request either.
    #[tokio::test]
    async fn headers_that_trickle_in_end_the_connection() {
        let activity = Arc::new(Activity::new(Timeouts { first_request: HOUR, headers: SHORT }));
        let (mut client, server) = tokio::io::duplex(16);
        let mut server = Observed::new(server, Arc::clone(&activity));
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
}
