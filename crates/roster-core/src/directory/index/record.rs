//! One user or group in the index.

use std::cmp::Ordering;
use std::ops::Range;

use serde_json::Value;

use super::field::SEPARATOR;

/// The field of `metadata.name`, in every resource.
pub const NAME: usize = 0;

/// The field of `metadata.uid`, in every resource.
pub const UID: usize = 1;

/// The place of labels, behind all fields: a record has 63 of these at most, a bit each.
const LABELS: usize = 63;

/// Bytes that tell where the values of a field end.
const END: usize = size_of::<u32>();

/// What the index keeps of an object: the values that queries go by, and the JSON that answers are built from.
#[derive(Debug, Eq, PartialEq)]
pub struct Record {
    /// `metadata.resourceVersion`.
    pub revision: u64,
    /// Where the JSON of the metadata stands in the object's JSON.
    metadata: Range<u32>,
    /// A bit for each field that it has: most objects lack most fields.
    present: u64,
    /// Where the values of each field that it has end; the values, one after the other; the JSON. In one piece: there are
    /// many records, and each piece of memory has its margin.
    data: Box<[u8]>,
}

/// Puts a record together.
#[derive(Debug, Default)]
pub struct Values {
    next: usize,
    present: u64,
    ends: Vec<u8>,
    bytes: Vec<u8>,
}

impl Values {
    /// The values of the next field; none where it is absent.
    ///
    /// # Panics
    /// If there are more than 63 fields.
    pub fn push<V: AsRef<[u8]>>(&mut self, values: impl IntoIterator<Item = V>) {
        assert!(self.next < LABELS, "a resource has 63 fields at most");
        self.put(self.next, values);
        self.next += 1;
    }

    fn put<V: AsRef<[u8]>>(&mut self, field: usize, values: impl IntoIterator<Item = V>) {
        let begin = self.bytes.len();
        for value in values {
            // What is empty is as good as absent.
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

    /// The record. `labels`: as `key=value`. `json`: the object's, but for the two braces that close its status and
    /// itself; `metadata`: where that of its metadata stands in it.
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
    u32::try_from(length).expect("an object of Kubernetes has a few MiB at most")
}

impl Record {
    /// Where the values of each field that it has end, and what these places are in.
    fn parts(&self) -> (&[[u8; END]], &[u8]) {
        let (ends, rest) = self.data.split_at(self.present.count_ones() as usize * END);
        (ends.as_chunks().0, rest)
    }

    /// All that the field holds, as it is compared; empty where it is absent.
    pub fn field(&self, field: usize) -> &[u8] {
        let bit = 1 << field;
        if self.present & bit == 0 {
            return &[];
        }
        let (ends, values) = self.parts();
        let place = (self.present & (bit - 1)).count_ones() as usize;
        let end = |place: usize| u32::from_ne_bytes(ends[place]) as usize;
        &values[place.checked_sub(1).map_or(0, end)..end(place)]
    }

    /// `metadata.name`: Kubernetes admits none with capitals, so that it is what it is compared as.
    pub fn name(&self) -> &str {
        text(self.field(NAME))
    }

    /// `metadata.uid`, as it is compared.
    pub fn uid(&self) -> &str {
        text(self.field(UID))
    }

    /// Labels as `key=value`, in the order of keys.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.values(LABELS).map(text)
    }

    /// The values of a field with several.
    pub fn values(&self, field: usize) -> impl Iterator<Item = &[u8]> {
        let all = self.field(field);
        all.split(|byte| *byte == SEPARATOR).filter(move |_| !all.is_empty())
    }

    /// The order by one field, by name where that is equal.
    pub fn order(&self, other: &Self, field: usize) -> Ordering {
        self.field(field).cmp(other.field(field)).then_with(|| self.field(NAME).cmp(other.field(NAME)))
    }

    /// The object's JSON, but for the two braces that close its status and itself.
    pub fn json(&self) -> &[u8] {
        let (ends, rest) = self.parts();
        &rest[ends.last().map_or(0, |end| u32::from_ne_bytes(*end) as usize)..]
    }

    /// The JSON of its metadata.
    pub fn metadata_json(&self) -> &[u8] {
        &self.json()[self.metadata.start as usize..self.metadata.end as usize]
    }

    /// The whole object.
    pub fn to_value(&self) -> Value {
        let whole = [self.json(), b"}}"].concat();
        serde_json::from_slice(&whole).expect("the object was written as JSON")
    }
}

fn text(value: &[u8]) -> &str {
    str::from_utf8(value).expect("text is folded as text")
}
