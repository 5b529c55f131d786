//! One user or group in the index.

use std::cmp::Ordering;
use std::ops::Range;

use bytes::Bytes;
use serde_json::Value;

use super::field::SEPARATOR;

/// What the index keeps of an object: the values that queries go by, and the JSON that answers are built from.
#[derive(Debug, Eq, PartialEq)]
pub struct Record {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.resourceVersion`.
    pub revision: u64,
    /// Labels as `key=value`, sorted.
    pub labels: Box<[Box<str>]>,
    /// The object's JSON, but for the two braces that close its status and itself.
    pub json: Bytes,
    /// Where the JSON of its metadata stands in it.
    pub metadata: Range<u32>,
    /// The values of all fields, one after the other.
    values: Box<[u8]>,
    /// Where the values of each field end.
    ends: Box<[u32]>,
}

/// Puts a record together.
#[derive(Debug, Default)]
pub struct Values {
    values: Vec<u8>,
    ends: Vec<u32>,
}

impl Values {
    /// The values of the next field; none where it is absent.
    pub fn push<V: AsRef<[u8]>>(&mut self, values: impl IntoIterator<Item = V>) {
        let begin = self.values.len();
        for value in values {
            // What is empty is as good as absent.
            if self.values.len() > begin && !value.as_ref().is_empty() {
                self.values.push(SEPARATOR);
            }
            self.values.extend_from_slice(value.as_ref());
        }
        self.ends.push(to_u32(self.values.len()));
    }

    /// The record.
    pub fn finish(
        self,
        (name, uid, revision): (&str, &str, u64),
        labels: Box<[Box<str>]>,
        json: Bytes,
        metadata: Range<usize>,
    ) -> Record {
        Record {
            name: name.into(),
            uid: uid.into(),
            revision,
            labels,
            json,
            metadata: to_u32(metadata.start)..to_u32(metadata.end),
            values: self.values.into(),
            ends: self.ends.into(),
        }
    }
}

fn to_u32(length: usize) -> u32 {
    u32::try_from(length).expect("an object of Kubernetes has a few MiB at most")
}

impl Record {
    /// All that the field holds, as it is compared; empty where it is absent.
    pub fn field(&self, field: usize) -> &[u8] {
        let begin = if field == 0 { 0 } else { self.ends[field - 1] };
        &self.values[begin as usize..self.ends[field] as usize]
    }

    /// The values of a field with several.
    pub fn values(&self, field: usize) -> impl Iterator<Item = &[u8]> {
        let all = self.field(field);
        all.split(|byte| *byte == SEPARATOR).filter(move |_| !all.is_empty())
    }

    /// The order by one field, by name where that is equal.
    pub fn order(&self, other: &Self, field: usize) -> Ordering {
        self.field(field).cmp(other.field(field)).then_with(|| self.name.cmp(&other.name))
    }

    /// The whole object.
    pub fn to_value(&self) -> Value {
        let whole = [self.json.as_ref(), b"}}"].concat();
        serde_json::from_slice(&whole).expect("the object was written as JSON")
    }

    /// The JSON of its metadata.
    pub fn metadata_json(&self) -> Bytes {
        self.json.slice(self.metadata.start as usize..self.metadata.end as usize)
    }
}
