//! The subset of OpenAPI schemas that the CRDs use.

use std::collections::BTreeMap;

use cel::Program;
use regex::Regex;

/// A compiled CEL rule.
pub(crate) struct Rule {
    /// Key in the cache of results.
    pub(super) id: usize,
    pub(super) program: Program,
    pub(super) message: String,
}

/// Schema of a value.
#[derive(Default)]
pub(crate) struct Schema {
    /// Type: `object`, `array`, `string`, …
    pub kind: String,
    /// Fields by name.
    pub properties: BTreeMap<String, Schema>,
    /// Schema of the values of a map.
    pub values: Option<Box<Schema>>,
    /// Schema of the items of a list.
    pub items: Option<Box<Schema>>,
    pub(super) required: Vec<String>,
    pub(super) max_length: Option<usize>,
    pub(super) min_length: Option<usize>,
    pub(super) max_items: Option<usize>,
    pub(super) min_items: Option<usize>,
    pub(super) max_properties: Option<usize>,
    /// Values of an enum. Empty if every string is allowed.
    pub(super) choices: Vec<String>,
    pub(super) pattern: Option<Regex>,
    /// Format `date-time`.
    pub(super) is_time: bool,
    /// `x-kubernetes-int-or-string`.
    pub(super) takes_number: bool,
    pub(super) rules: Vec<Rule>,
}
