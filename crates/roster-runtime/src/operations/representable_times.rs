//! Times that kube-apiserver stores, but Roster cannot represent.
//!
//! A client chooses the times in `metadata.managedFields` of each object that it writes. kube-apiserver accepts all years
//! from 0 to 9999, with a time zone a part of the years before and after, and in protobuf all that fit into 64 bits of
//! seconds. jiff's timestamps end at 9999-12-30T22:00:00Z, and it reads years before 0 only with six digits. So such an
//! object could not be parsed, and one of them in a list would stop a whole watch. Roster does not use these times, so
//! they are replaced with one that can be represented, in every response of kube-apiserver.

use std::borrow::Cow;
use std::future::ready;
use std::sync::LazyLock;

use axum::body::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use regex::bytes::{Regex, RegexBuilder};

/// A field of kube-apiserver's compact JSON with a time that is too late or too early. The names of all such fields end
/// like these. Text inside of strings cannot match, because its quotes are escaped.
static OUT_OF_RANGE: LazyLock<Regex> = LazyLock::new(|| {
    let time = r#"((?:[tT]ime|[tT]imestamp)":")(?:9999-12-3[01]|[1-9][0-9]{4,12}-[0-9]{2}-[0-9]{2}|-[0-9]{4,12}-[0-9]{2}-[0-9]{2})T[0-9:.]{1,20}Z""#;
    // Each thread keeps a cache, which needs a few states only.
    RegexBuilder::new(time).unicode(false).dfa_size_limit(32 * 1024).build().expect("the expression is valid")
});

/// What replaces these times.
const REPLACEMENT: &[u8] = br#"${1}9999-12-30T00:00:00Z""#;

/// Maximum length of a match, in bytes.
const MAX_MATCH: usize = 64;

/// Replaces times that cannot be represented in complete JSON.
fn representable(json: &[u8]) -> Cow<'_, [u8]> {
    OUT_OF_RANGE.replace_all(json, REPLACEMENT)
}

/// Replaces times in chunks of JSON.
#[derive(Default)]
struct Chunks {
    /// The end of the previous chunk, if it may be the beginning of a match.
    held: Bytes,
}

impl Chunks {
    fn push(&mut self, chunk: Bytes) -> Bytes {
        let data = if self.held.is_empty() { chunk } else { [&self.held[..], &chunk].concat().into() };
        let end = data.len() - pending(&data);
        self.held = data.slice(end..);
        let data = data.slice(..end);
        match representable(&data) {
            Cow::Borrowed(_) => data,
            Cow::Owned(replaced) => replaced.into(),
        }
    }

    fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.held)
    }
}

/// Returns the length of the end that may be the beginning of a match. It is empty at the end of an event or a list, so
/// that nothing is delayed.
fn pending(data: &[u8]) -> usize {
    let last = data.iter().rev().take(MAX_MATCH);
    last.clone().position(|byte| b"{},[]\n".contains(byte)).unwrap_or_else(|| last.len())
}

/// Replaces the times in a body of compact JSON while it is read. Trailers are dropped.
pub(super) fn readable<B>(body: B) -> impl Body<Data = Bytes, Error = B::Error> + Send
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    let chunks = body.into_data_stream().map_ok(Some).chain(stream::once(ready(Ok(None))));
    let readable = chunks.scan(Chunks::default(), |chunks, chunk| {
        ready(Some(chunk.map(|chunk| match chunk {
            Some(chunk) => chunks.push(chunk),
            None => chunks.finish(),
        })))
    });
    // A body of one chunk stays one, which needs no copy to be collected.
    let readable = readable.try_filter(|chunk| ready(!chunk.is_empty()));
    StreamBody::new(readable.map_ok(Frame::data))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    /// Metadata with a time as kube-apiserver writes it.
    fn metadata(time: &str) -> String {
        json!({"name": "x", "managedFields": [{"manager": "m", "time": time, "operation": "Update"}]}).to_string()
    }

    #[rstest]
    #[case::last_second("9999-12-31T23:59:59Z")]
    #[case::first_that_is_too_late("9999-12-30T22:00:01Z")]
    #[case::with_a_time_zone("10000-01-01T13:59:59Z")]
    #[case::with_microseconds("9999-12-31T00:00:00.000001Z")]
    #[case::of_protobuf("318857-05-20T17:46:40Z")]
    #[case::last_of_64_bits("292277024627-12-06T15:30:07Z")]
    #[case::before_year_0("-0001-12-31T10:00:00Z")]
    #[case::first_of_64_bits("-292277022657-01-27T08:29:52Z")]
    fn times_out_of_range_can_be_read(#[case] time: &str) {
        let json = metadata(time);
        serde_json::from_str::<ObjectMeta>(&json).expect_err("it is out of range");
        let read: ObjectMeta = serde_json::from_slice(&representable(json.as_bytes())).unwrap();
        let latest: Timestamp = "9999-12-30T00:00:00Z".parse().unwrap();
        assert_eq!(read.managed_fields.unwrap()[0].time.as_ref().unwrap().0, latest);
    }

    #[rstest]
    #[case::earlier(json!({"time": "9999-12-29T23:59:59Z"}))]
    #[case::earliest(json!({"time": "0000-01-01T00:00:00Z"}))]
    #[case::other_fields(json!({"notAfter": "9999-12-31T23:59:59Z"}))]
    #[case::other_text(json!({"time": "9999-12-31T23:59:59Z or later", "uptime": "12345-T"}))]
    #[case::nested_text(json!({"manifest": r#"{"time":"9999-12-31T23:59:59Z"}"#}))]
    fn everything_else_stays(#[case] json: Value) {
        let json = json.to_string();
        assert!(matches!(representable(json.as_bytes()), Cow::Borrowed(_)), "{json}");
    }

    #[tokio::test]
    async fn chunks_can_end_anywhere() {
        let json = format!("{}\n{}\n", metadata("9999-12-31T23:59:59Z"), metadata("10000-01-01T13:59:59Z"));
        let expected = representable(json.as_bytes()).into_owned();
        for size in 1..json.len() {
            let chunks: Vec<_> = json.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
            let body = StreamBody::new(stream::iter(chunks).map(|chunk| Ok::<_, std::io::Error>(Frame::data(chunk))));
            assert_eq!(readable(body).collect().await.unwrap().to_bytes(), expected, "chunks of {size} bytes");
        }
    }

    #[test]
    fn events_are_not_delayed() {
        let event = Bytes::from(format!("{}\n", metadata("2026-01-01T00:00:00Z")));
        assert_eq!(Chunks::default().push(event.clone()), event);
    }

    #[tokio::test]
    async fn the_end_of_a_body_is_not_lost() {
        let body = readable(http_body_util::Full::new(Bytes::from_static(b"plain text")));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "plain text");
    }
}
