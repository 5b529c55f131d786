//! Whether anything happens on a connection: requests count until the last byte of their answers is written, so that a
//! watch that has nothing to tell is no silence.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

/// How long a new connection may take until its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct Requests {
    in_flight: usize,
    is_first: bool,
    idle_since: Instant,
}

/// What happens on one connection.
#[derive(Debug)]
pub struct Activity(Mutex<Requests>);

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(Requests { in_flight: 0, is_first: true, idle_since: Instant::now() }))
    }
}

impl Activity {
    fn begin(self: &Arc<Self>) -> InFlight {
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
                    (0, true) => requests.idle_since + FIRST_REQUEST.min(longest),
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
struct InFlight(Arc<Activity>);

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

/// Counts requests.
pub async fn counted(State(activity): State<Arc<Activity>>, request: Request, next: Next) -> Response {
    let in_flight = activity.begin();
    next.run(request).await.map(|body| Body::new(Counted { body, _request: in_flight }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_the_last_answer_is_written() {
        let activity = Arc::new(Activity::default());
        let begin = Instant::now();
        activity.idle_for(Duration::from_secs(120)).await;
        assert_eq!(begin.elapsed(), FIRST_REQUEST, "whoever asks nothing is not waited for");
        let request = activity.begin();
        let waiting = activity.idle_for(Duration::from_secs(120));
        let ended = async {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            drop(request);
            Instant::now()
        };
        let ((), ended) = tokio::join!(waiting, ended);
        let silence = ended.elapsed();
        assert!((120..=240).contains(&silence.as_secs()), "{silence:?}");
    }
}
