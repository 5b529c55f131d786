//! Index records of users and groups: their fields, and the JSON that responses are built from.

pub mod group;
pub mod user;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use roster_api::directory::API_VERSION;
use serde::Serialize;

use super::index::field::{Field, fold, number, quantity, time};
use super::index::record::{Record, RecordBuilder};
use super::tracking::is_tracking;
use crate::quota::amount::Amount;

/// Writes the values of an object, field by field.
struct Writer {
    fields: &'static [Field],
    next: usize,
    values: RecordBuilder,
}

impl Writer {
    fn new(fields: &'static [Field]) -> Self {
        Self { fields, next: 0, values: RecordBuilder::default() }
    }

    /// Moves to the next field. Panics unless it has this name, so that the caller and the list of fields cannot
    /// diverge.
    fn next(&mut self, name: &str) -> &'static Field {
        let field = &self.fields[self.next];
        assert_eq!(field.name, name, "fields must be written in the order of their list");
        self.next += 1;
        field
    }

    fn texts<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a String>) {
        self.next(name);
        self.values.push(values.into_iter().map(|value| fold(value)));
    }

    /// Writes a word or a flag in the syntax of queries.
    fn word(&mut self, name: &str, value: &impl ToString) {
        let field = self.next(name);
        self.values.push(field.kind.read(&value.to_string()).ok());
    }

    fn number(&mut self, name: &str, value: Option<i64>) {
        self.next(name);
        self.values.push(value.map(number));
    }

    fn quantity(&mut self, name: &str, value: Option<&String>) {
        self.next(name);
        self.values.push(value.and_then(|text| Amount::parse(text)).map(quantity));
    }

    fn time(&mut self, name: &str, value: Option<&Time>) {
        self.next(name);
        self.values.push(value.map(|value| time(value.0)));
    }

    fn finish(self, kind: &str, metadata: &ObjectMeta, spec: &impl Serialize, status: &impl Serialize) -> Record {
        assert_eq!(self.next, self.fields.len(), "every field must be written");
        let revision = metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0);
        let visible = visible(metadata);
        let labels = visible.labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
        let mut json = format!(r#"{{"apiVersion":"{API_VERSION}","kind":"{kind}","metadata":"#).into_bytes();
        let begin = json.len();
        append(&mut json, &visible);
        let end = json.len();
        json.extend_from_slice(br#","spec":"#);
        append(&mut json, spec);
        json.extend_from_slice(br#","status":"#);
        append(&mut json, status);
        assert_eq!(json.pop(), Some(b'}'), "a status is an object");
        self.values.finish(revision, labels, &json, begin..end)
    }
}

fn append(json: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(json, value).expect("objects that were parsed from JSON serialize to JSON");
}

/// Returns the metadata that responses contain and label selectors match: without managed fields, owner references, and
/// the labels and annotations by which deployment tools track their objects.
fn visible(metadata: &ObjectMeta) -> ObjectMeta {
    let own = |texts: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        texts.iter().filter(|(key, _)| !is_tracking(key)).map(|(key, text)| (key.clone(), text.clone())).collect()
    };
    let own = |texts: &Option<BTreeMap<String, String>>| texts.as_ref().map(own).filter(|texts| !texts.is_empty());
    ObjectMeta {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        generation: metadata.generation,
        creation_timestamp: metadata.creation_timestamp.clone(),
        deletion_timestamp: metadata.deletion_timestamp.clone(),
        labels: own(&metadata.labels),
        annotations: own(&metadata.annotations),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use crate::directory::index::record::{NAME, UID};

    #[test]
    fn name_and_uid_come_first() {
        for fields in [super::user::FIELDS, super::group::FIELDS] {
            assert_eq!((fields[NAME].path, fields[UID].path), ("metadata.name", "metadata.uid"));
        }
    }
}
