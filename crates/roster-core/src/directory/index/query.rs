//! What can be asked of a table, and whether a single record is an answer to it.

use kube::core::Expression;

use super::field::Field;
use super::record::Record;

/// A question about one value.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Test {
    /// The value is this; where this is empty, there is no value.
    Equal(Vec<u8>),
    /// The value has this in it.
    Contains {
        /// What it has in it; empty: there is a value.
        text: Vec<u8>,
        /// Whether something may come before.
        open_start: bool,
        /// Whether something may come after.
        open_end: bool,
    },
}

impl Test {
    /// What a value that it holds for has in it.
    pub fn text(&self) -> &[u8] {
        match self {
            Self::Equal(text) | Self::Contains { text, .. } => text,
        }
    }

    /// Whether it holds for a value that is there.
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

/// A comparison with a value.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Comparison {
    /// Less than, or earlier.
    Less,
    /// At most.
    AtMost,
    /// Greater than, or later.
    Greater,
    /// At least.
    AtLeast,
}

impl Comparison {
    /// Whether `value` stands so to `bound`.
    pub fn holds(self, value: &[u8], bound: &[u8]) -> bool {
        match self {
            Self::Less => value < bound,
            Self::AtMost => value <= bound,
            Self::Greater => value > bound,
            Self::AtLeast => value >= bound,
        }
    }
}

/// All that is asked of one field.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Condition {
    /// The field.
    pub field: usize,
    /// Whether a further filter on the field adds to it: that of a `filterBy` is an alternative, that of a selector not.
    pub is_open: bool,
    /// One of these holds, if there are any.
    pub any: Vec<Test>,
    /// None of these holds.
    pub none: Vec<Test>,
    /// All of these hold, and there is a value.
    pub compare: Vec<(Comparison, Vec<u8>)>,
}

impl Condition {
    /// Whether the record meets it.
    pub fn matches(&self, record: &Record, fields: &[Field]) -> bool {
        let is_many = fields[self.field].is_many;
        let holds = |test: &Test| test.holds(record, self.field, is_many);
        let value = record.field(self.field);
        let compares =
            |(comparison, bound): &(Comparison, Vec<u8>)| !value.is_empty() && comparison.holds(value, bound);
        (self.any.is_empty() || self.any.iter().any(holds))
            && !self.none.iter().any(holds)
            && self.compare.iter().all(compares)
    }
}

/// A field to sort by.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SortKey {
    /// The field.
    pub field: usize,
    /// Whether the greatest comes first.
    pub is_descending: bool,
}

/// Which records, and in which order. Equal ones are in the order of names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// What they have to meet, all of it; one condition a field.
    pub conditions: Vec<Condition>,
    /// What their labels have to meet, all of it.
    pub labels: Vec<Expression>,
    /// How they are sorted. Empty: by name.
    pub sort: Vec<SortKey>,
}

impl Query {
    /// Whether the record is an answer.
    pub fn matches(&self, record: &Record, fields: &[Field]) -> bool {
        self.conditions.iter().all(|condition| condition.matches(record, fields))
            && self.labels.iter().all(|expression| matches_label(expression, record))
    }
}

fn matches_label(expression: &Expression, record: &Record) -> bool {
    let value = |key: &str| {
        let mut labels = record.labels().filter_map(|label| label.split_once('='));
        labels.find(|(own, _)| *own == key).map(|(_, value)| value)
    };
    match expression {
        Expression::In(key, values) => value(key).is_some_and(|value| values.contains(value)),
        Expression::NotIn(key, values) => value(key).is_none_or(|value| !values.contains(value)),
        Expression::Equal(key, expected) => value(key) == Some(expected),
        Expression::NotEqual(key, other) => value(key) != Some(other),
        Expression::Exists(key) => value(key).is_some(),
        Expression::DoesNotExist(key) => value(key).is_none(),
    }
}
