//! Whether anything happens on a connection: requests count until the last byte of their answers is written, so that a
//! watch that has nothing to tell is no silence.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

/// How long a new connection may take until its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct Requests {
    in_flight: usize,
    is_first: bool,
    idle_since: Instant,
    first_request: Duration,
}

/// What happens on one connection.
#[derive(Debug)]
pub struct Activity(Mutex<Requests>);

impl Default for Activity {
    fn default() -> Self {
        Self::new(FIRST_REQUEST)
    }
}

impl Activity {
    fn new(first_request: Duration) -> Self {
        Self(Mutex::new(Requests { in_flight: 0, is_first: true, idle_since: Instant::now(), first_request }))
    }

    /// A request begins.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        requests.in_flight += 1;
        requests.is_first = false;
        InFlight(Arc::clone(self))
    }

    /// Returns when nothing has happened for so long; sooner where there has been no request at all.
    pub async fn idle_for(&self, longest: Duration) {
        loop {
            let end = {
                let requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                match (requests.in_flight, requests.is_first) {
                    (0, true) => requests.idle_since + requests.first_request.min(longest),
                    (0, false) => requests.idle_since + longest,
                    _ => Instant::now() + longest,
                }
            };
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// A request that is not answered yet, or whose answer is not written yet.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl InFlight {
    /// The body of its answer, with which it ends.
    pub fn until_the_end_of(self, body: Body) -> Body {
        Body::new(Counted { body, _request: self })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut requests = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_idle_when_the_last_answer_is_written() {
        let (first_request, longest) = (Duration::from_millis(20), Duration::from_millis(100));
        let begin = Instant::now();
        let activity = Arc::new(Activity::new(first_request));
        // Whoever asks nothing is not waited for.
        tokio::time::timeout(Duration::from_secs(600), activity.idle_for(Duration::from_secs(3600))).await.unwrap();
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
}
