//! Queries on a table, and matching a single record against a query.

use super::field::Field;
use super::record::Record;
use super::selector::Requirement;

/// Test on one value.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum ValueTest {
    /// The value equals this. If empty, matches records without a value.
    Equal(Vec<u8>),
    /// The value contains this text.
    Contains {
        /// The text. If empty, matches any value.
        text: Vec<u8>,
        /// Whether other text may precede it.
        open_start: bool,
        /// Whether other text may follow it.
        open_end: bool,
    },
}

impl ValueTest {
    /// Returns the text that every matching value contains.
    pub fn text(&self) -> &[u8] {
        match self {
            Self::Equal(text) | Self::Contains { text, .. } => text,
        }
    }

    /// Returns whether it holds for an existing value.
    pub fn holds_for(&self, value: &[u8]) -> bool {
        match self {
            Self::Equal(text) => value == text,
            Self::Contains { text, open_start: false, .. } => value.starts_with(text),
            Self::Contains { text, open_end: false, .. } => value.ends_with(text),
            Self::Contains { text, .. } => contains(value, text),
        }
    }

    fn holds(&self, record: &Record, field: usize, is_many: bool) -> bool {
        let value = record.field(field);
        match self {
            _ if value.is_empty() => *self == Self::Equal(Vec::new()),
            _ if is_many => record.values(field).any(|value| self.holds_for(value)),
            _ => self.holds_for(value),
        }
    }
}

fn contains(value: &[u8], text: &[u8]) -> bool {
    text.is_empty() || value.windows(text.len()).any(|window| window == text)
}

/// Comparison operator.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Comparison {
    /// Less than, or earlier.
    Less,
    /// Less than or equal.
    AtMost,
    /// Greater than, or later.
    Greater,
    /// Greater than or equal.
    AtLeast,
}

impl Comparison {
    /// Returns whether the comparison holds between `value` and `bound`.
    pub fn holds(self, value: &[u8], bound: &[u8]) -> bool {
        match self {
            Self::Less => value < bound,
            Self::AtMost => value <= bound,
            Self::Greater => value > bound,
            Self::AtLeast => value >= bound,
        }
    }
}

/// All conditions on one field.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Condition {
    /// Index of the field.
    pub field: usize,
    /// Whether further filters on the field are added as alternatives, as in a `filterBy`. Selectors are combined by
    /// AND.
    pub is_open: bool,
    /// At least one of these holds, unless the list is empty.
    pub any: Vec<ValueTest>,
    /// None of these holds.
    pub none: Vec<ValueTest>,
    /// All of these hold, and the field has a value.
    pub compare: Vec<(Comparison, Vec<u8>)>,
}

impl Condition {
    /// Returns whether the record meets the condition.
    pub fn matches(&self, record: &Record, fields: &[Field]) -> bool {
        let is_many = fields[self.field].is_many;
        let holds = |test: &ValueTest| test.holds(record, self.field, is_many);
        let value = record.field(self.field);
        let compares =
            |(comparison, bound): &(Comparison, Vec<u8>)| !value.is_empty() && comparison.holds(value, bound);
        (self.any.is_empty() || self.any.iter().any(holds))
            && !self.none.iter().any(holds)
            && self.compare.iter().all(compares)
    }
}

/// Sort key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SortKey {
    /// Index of the field.
    pub field: usize,
    /// Whether the greatest value comes first.
    pub is_descending: bool,
}

/// Which records to return, and in which order. Ties are sorted by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Conditions, combined by AND.
    pub conditions: Vec<Condition>,
    /// Label requirements, combined by AND.
    pub labels: Vec<Requirement>,
    /// Sort keys. If empty, sorts by name.
    pub sort: Vec<SortKey>,
}

impl Query {
    /// Returns whether the record matches.
    pub fn matches(&self, record: &Record, fields: &[Field]) -> bool {
        self.conditions.iter().all(|condition| condition.matches(record, fields))
            && self.labels.iter().all(|requirement| requirement.operator.holds(record.label(&requirement.key)))
    }
}
