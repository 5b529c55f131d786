//! JSON of kube-apiserver, such that it can always be parsed.
//!
//! A client chooses the entries in `metadata.managedFields` of each object that it writes, and kube-apiserver stores
//! them without much validation. Some of them could not be parsed: one such object in a list would stop a whole watch,
//! and in a review it would deny all changes. So all JSON is changed before it is parsed:
//!
//! - [`nesting`]: what is nested too deeply is removed.
//! - Bytes that are not UTF-8 are replaced. The names of fields can contain them.
//! - [`times`]: times that cannot be represented are replaced.

mod nesting;
mod times;

use std::borrow::Cow;
use std::future::ready;

use axum::body::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};

use self::nesting::Nesting;
use self::times::{MAX_LENGTH, representable};

/// Replaces bytes that are not UTF-8 with U+FFFD.
fn text(bytes: &[u8]) -> Cow<'_, [u8]> {
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(_) => Cow::Borrowed(bytes),
        Cow::Owned(replaced) => Cow::Owned(replaced.into_bytes()),
    }
}

/// Applies a change. If it changes nothing, the bytes are not copied.
fn changed(bytes: Bytes, change: impl FnOnce(&[u8]) -> Cow<'_, [u8]>) -> Bytes {
    match change(&bytes) {
        Cow::Borrowed(_) => bytes,
        Cow::Owned(changed) => changed.into(),
    }
}

/// Changes chunks of compact JSON.
#[derive(Default)]
struct Chunks {
    nesting: Nesting,
    /// The end of the previous chunk, if what follows decides whether it is changed.
    held: Bytes,
}

impl Chunks {
    fn push(&mut self, chunk: Bytes) -> Bytes {
        let chunk = changed(chunk, |chunk| self.nesting.limit(chunk));
        let data = if self.held.is_empty() { chunk } else { [&self.held[..], &chunk].concat().into() };
        let end = decided(&data);
        self.held = data.slice(end..);
        readable(data.slice(..end))
    }

    fn finish(&mut self) -> Bytes {
        readable(std::mem::take(&mut self.held))
    }
}

fn readable(data: Bytes) -> Bytes {
    changed(changed(data, text), representable)
}

/// Changes complete, compact JSON.
pub fn parsable(json: Bytes) -> Bytes {
    readable(changed(json, |json| Nesting::default().limit(json)))
}

/// Returns the length of the beginning in which all changes are decided. It is everything at the end of an event or a
/// list, so that nothing is delayed.
fn decided(data: &[u8]) -> usize {
    let last = data.iter().rev().take(MAX_LENGTH);
    let pending = last.clone().position(|byte| b"{},[]\n".contains(byte)).unwrap_or_else(|| last.len());
    // A character of up to four bytes is not split.
    let end = data.len() - pending;
    let is_boundary = |end: &usize| data.get(*end).is_none_or(|byte| byte & 0xc0 != 0x80);
    (end.saturating_sub(3)..=end).rev().find(is_boundary).unwrap_or(end)
}

/// Changes a body of compact JSON while it is read. Trailers are dropped.
pub(super) fn parsable_body<B>(body: B) -> impl Body<Data = Bytes, Error = B::Error> + Send
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    let chunks = body.into_data_stream().map_ok(Some).chain(stream::once(ready(Ok(None))));
    let parsable = chunks.scan(Chunks::default(), |chunks, chunk| {
        ready(Some(chunk.map(|chunk| match chunk {
            Some(chunk) => chunks.push(chunk),
            None => chunks.finish(),
        })))
    });
    // A body of one chunk stays one, which needs no copy to be collected.
    let parsable = parsable.try_filter(|chunk| ready(!chunk.is_empty()));
    StreamBody::new(parsable.map_ok(Frame::data))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::json;

    use super::*;

    /// Metadata of an object with a field manager.
    fn metadata(time: &str, fields: &str) -> Vec<u8> {
        let entry = json!({"manager": "m", "time": time, "operation": "Update", "fieldsV1": {"f:spec": "FIELDS"}});
        let metadata = json!({"name": "x", "managedFields": [entry], "annotations": {"quote": "\\\"{[é"}});
        metadata.to_string().replace(r#""FIELDS""#, fields).into_bytes()
    }

    /// Lines of metadata. The first three cannot be parsed, for one reason each.
    fn odd() -> Vec<u8> {
        let deep = format!("{}{{}}{}", r#"{"f:a":"#.repeat(200), "}".repeat(200));
        let today = "2026-01-01T00:00:00Z";
        let named = String::from_utf8(metadata(today, r#"{"f:NAME":{}}"#)).unwrap();
        let (before, after) = named.split_once("NAME").unwrap();
        let not_utf8 = [before.as_bytes(), b"\xff\xc3(\xf0\x9f\x92", after.as_bytes()].concat();
        let lines = [metadata("9999-12-31T23:59:59Z", "{}"), metadata(today, &deep), not_utf8, metadata(today, "{}")];
        lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect()
    }

    async fn collected(chunks: Vec<Bytes>) -> Bytes {
        let body = StreamBody::new(stream::iter(chunks).map(|chunk| Ok::<_, std::io::Error>(Frame::data(chunk))));
        parsable_body(body).collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn odd_field_managers_can_be_parsed() {
        let read = collected(vec![odd().into()]).await;
        assert_eq!(parsable(odd().into()), read);
        let read = std::str::from_utf8(&read).unwrap();
        assert_eq!(read.lines().count(), 4);
        for line in read.lines() {
            let metadata: ObjectMeta = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert_eq!(metadata.annotations.unwrap()["quote"], "\\\"{[é");
        }
        for line in odd().split_inclusive(|byte| *byte == b'\n').take(3) {
            serde_json::from_slice::<ObjectMeta>(line).expect_err("it cannot be parsed unchanged");
        }
    }

    #[tokio::test]
    async fn chunks_can_end_anywhere() {
        let json = odd();
        let expected = collected(vec![json.clone().into()]).await;
        for size in (1..300).chain([4096, json.len() - 1]) {
            let chunks = json.chunks(size).map(Bytes::copy_from_slice).collect();
            assert_eq!(collected(chunks).await, expected, "chunks of {size} bytes");
        }
    }

    #[test]
    fn events_are_not_delayed() {
        let event = Bytes::from([&metadata("2026-01-01T00:00:00Z", "{}")[..], b"\n"].concat());
        assert_eq!(Chunks::default().push(event.clone()), event);
    }

    #[tokio::test]
    async fn the_end_of_a_body_is_not_lost() {
        assert_eq!(collected(vec![Bytes::from_static(b"plain text")]).await, "plain text");
        assert_eq!(collected(vec![Bytes::from_static(b"not UTF-8: \xc3")]).await, "not UTF-8: \u{fffd}");
    }
}
