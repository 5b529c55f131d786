//! Times that kube-apiserver stores, but Roster cannot represent.
//!
//! In `metadata.managedFields`, kube-apiserver accepts all years from 0 to 9999, with a time zone a part of the years
//! before and after, and in protobuf all that fit into 64 bits of seconds. jiff's timestamps end at
//! 9999-12-30T22:00:00Z, and it reads years before 0 only with six digits. Roster does not use these times, so they are
//! replaced with one that can be represented.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder};

/// A field of kube-apiserver's compact JSON with a time that is too late or too early. The names of all such fields end
/// like these. Text inside of strings cannot match, because its quotes are escaped. Nor can labels, whose keys clients
/// choose, because their values cannot contain colons.
static OUT_OF_RANGE: LazyLock<Regex> = LazyLock::new(|| {
    let time = r#"((?:[tT]ime|[tT]imestamp)":")(?:9999-12-3[01]|[1-9][0-9]{4,12}-[0-9]{2}-[0-9]{2}|-[0-9]{4,12}-[0-9]{2}-[0-9]{2})T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?Z""#;
    // Each thread keeps a cache, which needs a few states only.
    RegexBuilder::new(time).unicode(false).dfa_size_limit(32 * 1024).build().expect("the expression is valid")
});

/// What replaces these times.
const REPLACEMENT: &[u8] = br#"${1}9999-12-30T00:00:00Z""#;

/// Maximum length of a match, in bytes.
pub(super) const MAX_LENGTH: usize = 64;

/// Replaces times that cannot be represented in complete JSON.
pub(super) fn representable(json: &[u8]) -> Cow<'_, [u8]> {
    OUT_OF_RANGE.replace_all(json, REPLACEMENT)
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
    #[case::label(json!({"labels": {"end-time": "9999-12-31T00.00.00Z", "time": "10000-01-01T0Z"}}))]
    #[case::nested_text(json!({"manifest": r#"{"time":"9999-12-31T23:59:59Z"}"#}))]
    fn everything_else_stays(#[case] json: Value) {
        let json = json.to_string();
        assert!(matches!(representable(json.as_bytes()), Cow::Borrowed(_)), "{json}");
    }
}
