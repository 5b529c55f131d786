//! Index record of one user or group.

use std::cmp::Ordering;
use std::ops::Range;

use serde_json::Value;

use super::field::SEPARATOR;

/// Index of the field `metadata.name`, in every resource.
pub const NAME: usize = 0;

/// Index of the field `metadata.uid`, in every resource.
pub const UID: usize = 1;

/// Index of the labels, after all fields. A record has at most 63 fields, because each field and the labels take one
/// bit.
const LABELS: usize = 63;

/// Size in bytes of the end offset of a field.
const END: usize = size_of::<u32>();

/// Indexed object: the values that queries use, and the JSON that responses are built from.
#[derive(Debug, Eq, PartialEq)]
pub struct Record {
    /// `metadata.resourceVersion`.
    pub revision: u64,
    /// Position of the metadata in the object's JSON.
    metadata: Range<u32>,
    /// Bit set of the fields that have a value. Most objects lack most fields.
    present: u64,
    /// End offset of each present field, then all values, then the JSON. One allocation, because there are many records
    /// and each allocation has overhead.
    data: Box<[u8]>,
}

/// Builder of a record.
#[derive(Debug, Default)]
pub struct RecordBuilder {
    next: usize,
    present: u64,
    ends: Vec<u8>,
    bytes: Vec<u8>,
}

impl RecordBuilder {
    /// Adds the values of the next field; none if it is absent.
    ///
    /// # Panics
    /// If there are more than 63 fields.
    pub fn push<V: AsRef<[u8]>>(&mut self, values: impl IntoIterator<Item = V>) {
        assert!(self.next < LABELS, "a resource has at most 63 fields");
        self.put(self.next, values);
        self.next += 1;
    }

    fn put<V: AsRef<[u8]>>(&mut self, field: usize, values: impl IntoIterator<Item = V>) {
        let begin = self.bytes.len();
        for value in values {
            // An empty value counts as absent.
            if self.bytes.len() > begin && !value.as_ref().is_empty() {
                self.bytes.push(SEPARATOR);
            }
            self.bytes.extend_from_slice(value.as_ref());
        }
        if self.bytes.len() > begin {
            self.present |= 1 << field;
            self.ends.extend(to_u32(self.bytes.len()).to_ne_bytes());
        }
    }

    /// Builds the record. `labels` are `key=value`. `json` is the object without the two braces that close its status
    /// and itself. `metadata` is the position of the metadata in `json`.
    pub fn finish(
        mut self,
        revision: u64,
        labels: impl IntoIterator<Item = String>,
        json: &[u8],
        metadata: Range<usize>,
    ) -> Record {
        self.put(LABELS, labels);
        Record {
            revision,
            metadata: to_u32(metadata.start)..to_u32(metadata.end),
            present: self.present,
            data: [self.ends.as_slice(), &self.bytes, json].concat().into(),
        }
    }
}

fn to_u32(length: usize) -> u32 {
    u32::try_from(length).expect("a Kubernetes object has at most a few MiB")
}

impl Record {
    /// Returns the end offset of each present field, and the bytes that these point into.
    fn parts(&self) -> (&[[u8; END]], &[u8]) {
        let (ends, rest) = self.data.split_at(self.present.count_ones() as usize * END);
        (ends.as_chunks().0, rest)
    }

    /// Returns the encoded values of the field; empty if it is absent.
    pub fn field(&self, field: usize) -> &[u8] {
        let bit = 1 << field;
        if self.present & bit == 0 {
            return &[];
        }
        let (ends, values) = self.parts();
        let position = (self.present & (bit - 1)).count_ones() as usize;
        let end = |position: usize| u32::from_ne_bytes(ends[position]) as usize;
        &values[position.checked_sub(1).map_or(0, end)..end(position)]
    }

    /// Returns `metadata.name`. Kubernetes rejects capital letters in it, so the folded form is the name itself.
    pub fn name(&self) -> &str {
        text(self.field(NAME))
    }

    /// Returns `metadata.uid`, folded.
    pub fn uid(&self) -> &str {
        text(self.field(UID))
    }

    /// Returns the labels as `key=value`, sorted by key.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.values(LABELS).map(text)
    }

    /// Returns the value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let mut labels = self.labels().filter_map(|label| label.split_once('='));
        labels.find(|(own, _)| *own == key).map(|(_, value)| value)
    }

    /// Returns the values of a field with several values.
    pub fn values(&self, field: usize) -> impl Iterator<Item = &[u8]> {
        let all = self.field(field);
        all.split(|byte| *byte == SEPARATOR).filter(move |_| !all.is_empty())
    }

    /// Compares two records by one field, then by name.
    pub fn order(&self, other: &Self, field: usize) -> Ordering {
        self.field(field).cmp(other.field(field)).then_with(|| self.field(NAME).cmp(other.field(NAME)))
    }

    /// Returns the object's JSON without the two braces that close its status and itself.
    pub fn json(&self) -> &[u8] {
        let (ends, rest) = self.parts();
        &rest[ends.last().map_or(0, |end| u32::from_ne_bytes(*end) as usize)..]
    }

    /// Returns the JSON of the metadata.
    pub fn metadata_json(&self) -> &[u8] {
        &self.json()[self.metadata.start as usize..self.metadata.end as usize]
    }

    /// Returns the whole object.
    pub fn to_value(&self) -> Value {
        let whole = [self.json(), b"}}"].concat();
        serde_json::from_slice(&whole).expect("the object was written as JSON")
    }
}

fn text(value: &[u8]) -> &str {
    str::from_utf8(value).expect("folded text is UTF-8")
}
