//! What is nested more deeply than it can be parsed.
//!
//! kube-apiserver accepts 10,000 levels in `metadata.managedFields[].fieldsV1`; serde_json stops at 128. No other field
//! that Roster reads is nested as deeply as the limit here.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

/// Levels of objects and lists that are kept. Deeper ones are empty.
const MAX_DEPTH: usize = 100;

/// Position in JSON that is read in chunks.
#[derive(Default)]
pub(super) struct Nesting {
    depth: usize,
    is_in_string: bool,
    is_escaped: bool,
}

impl Nesting {
    /// Removes the contents of objects and lists that are nested too deeply. `chunk` continues the previous one.
    pub(super) fn limit<'a>(&mut self, chunk: &'a [u8]) -> Cow<'a, [u8]> {
        let too_deep = self.too_deep(chunk);
        if too_deep.is_empty() {
            return Cow::Borrowed(chunk);
        }
        let mut kept = Vec::with_capacity(chunk.len());
        let mut from = 0;
        for range in too_deep {
            kept.extend_from_slice(&chunk[from..range.start]);
            from = range.end;
        }
        kept.extend_from_slice(&chunk[from..]);
        Cow::Owned(kept)
    }

    /// Returns the parts of the chunk that are nested too deeply, in order.
    fn too_deep(&mut self, chunk: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut start = (self.depth > MAX_DEPTH).then_some(0);
        let mut position = 0;
        while position < chunk.len() {
            if self.is_in_string {
                position += self.end_of_string(&chunk[position..]);
                continue;
            }
            match chunk[position] {
                b'"' => self.is_in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth == MAX_DEPTH + 1 {
                        start = Some(position + 1);
                    }
                }
                b'}' | b']' => {
                    if self.depth == MAX_DEPTH + 1 {
                        found.extend(start.take().map(|start| start..position));
                    }
                    self.depth = self.depth.saturating_sub(1);
                }
                _ => {}
            }
            position += 1;
        }
        found.extend(start.map(|start| start..chunk.len()));
        found.retain(|range| !range.is_empty());
        found
    }

    /// Reads the rest of a string, or of the chunk, and returns its length.
    fn end_of_string(&mut self, rest: &[u8]) -> usize {
        let mut position = 0;
        while position < rest.len() {
            if std::mem::take(&mut self.is_escaped) {
                position += 1;
                continue;
            }
            let Some(next) = memchr2(b'"', b'\\', &rest[position..]) else { return rest.len() };
            position += next + 1;
            if rest[position - 1] == b'"' {
                self.is_in_string = false;
                return position;
            }
            self.is_escaped = true;
        }
        position
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn nested(levels: usize) -> String {
        format!("{}{}", r#"{"a":["#.repeat(levels / 2), "]}".repeat(levels / 2))
    }

    #[rstest]
    #[case::shallow(json!({"a": [{"b": "}}}"}], "c": "{\\\"{"}).to_string())]
    #[case::limit(nested(MAX_DEPTH))]
    #[case::brackets_in_strings(json!(["{[".repeat(MAX_DEPTH), "\\", "\"{".repeat(MAX_DEPTH)]).to_string())]
    #[case::text("}}}] not JSON".to_owned())]
    fn what_is_not_too_deep_stays(#[case] json: String) {
        assert!(matches!(Nesting::default().limit(json.as_bytes()), Cow::Borrowed(_)), "{json}");
    }

    #[test]
    fn only_what_is_too_deep_is_removed() {
        let json = format!(r#"{{"deep":{},"after":[{{"x":"}}"}}]}}"#, nested(10_000));
        let limited = Nesting::default().limit(json.as_bytes()).into_owned();
        let limited: Value = serde_json::from_slice(&limited).unwrap();
        assert_eq!(limited["after"], json!([{"x": "}"}]));
        let mut value = &limited["deep"];
        let mut depth = 1;
        while let Some(next) = value.get("a").or_else(|| value.get(0)) {
            value = next;
            depth += 1;
        }
        assert_eq!(depth, MAX_DEPTH);
    }
}
