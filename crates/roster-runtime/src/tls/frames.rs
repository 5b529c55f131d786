//! Splits response bodies into small frames and holds a value until the client has read them.
//!
//! hyper takes frames until its write buffer is full, and drops a body after taking its last frame. It would drop a
//! body of one large frame before its client reads anything. It takes each small frame only when its buffer has space.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};

/// Maximum frame size: one TLS record. hyper's write buffer holds two, and 16 on connections of kube-apiserver.
const MAX_FRAME_BYTES: usize = 16 * 1024;

/// Splits the body into frames of at most 16 KiB, and holds `held` until the body is dropped. A body of a single frame
/// is returned unchanged: hyper buffers it at once, so there is nothing to hold.
pub fn hold<T: Send + Unpin + 'static>(body: Body, held: T) -> Body {
    if body.size_hint().exact().is_some_and(|bytes| bytes <= MAX_FRAME_BYTES as u64) {
        return body;
    }
    Body::new(HoldingBody { body, rest: Bytes::new(), _held: held })
}

struct HoldingBody<T> {
    body: Body,
    /// Rest of the inner body's last frame.
    rest: Bytes,
    _held: T,
}

impl<T: Unpin> HttpBody for HoldingBody<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(MAX_FRAME_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    /// Never true before the end: hyper would drop the body together with its last frame. This way it first writes what
    /// does not fit into its buffer.
    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        let exact = self.body.size_hint().exact().map(|bytes| bytes + self.rest.len() as u64);
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::Arc;

    use futures::stream;
    use http_body_util::BodyExt;
    use rstest::rstest;

    /// Returns a body of these parts: a stream without a known length if there are several.
    fn body(parts: &[usize]) -> Body {
        if let [length] = *parts {
            return Body::from(vec![b'x'; length]);
        }
        let parts: Vec<_> = parts.iter().map(|length| Ok::<_, Infallible>(vec![b'x'; *length])).collect();
        Body::from_stream(stream::iter(parts))
    }

    #[rstest]
    #[case::one_part(&[100_000])]
    #[case::a_stream(&[1, 50_000, 0, MAX_FRAME_BYTES, 3])]
    #[tokio::test]
    async fn a_body_is_split_into_small_frames_and_holds_its_permit(#[case] parts: &[usize]) {
        let held = Arc::new(());
        let mut body = hold(body(parts), Arc::clone(&held));
        let whole: usize = parts.iter().sum();
        assert_eq!(body.size_hint().exact(), (parts.len() == 1).then_some(whole as u64));
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= MAX_FRAME_BYTES);
            length += data.len();
            assert!(parts.len() > 1 || body.size_hint().exact() == Some((whole - length) as u64));
            assert_eq!(Arc::strong_count(&held), 2);
        }
        assert_eq!(length, whole);
        drop(body);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn a_body_of_one_frame_holds_nothing() {
        let held = Arc::new(());
        let bodies = [0, MAX_FRAME_BYTES].map(|length| hold(body(&[length]), Arc::clone(&held)));
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(bodies[0].is_end_stream());
    }
}
