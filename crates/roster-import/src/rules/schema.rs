//! The schemas of the CRDs, as far as they are used.

use std::collections::BTreeMap;

use cel::Program;
use regex::Regex;

/// A compiled rule.
pub(crate) struct Rule {
    pub(super) id: usize,
    pub(super) program: Program,
    pub(super) message: String,
}

/// The parts of a structural schema that the CRDs use.
#[derive(Default)]
pub(crate) struct Schema {
    /// `object`, `array`, `string`, …
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
    pub(super) choices: Vec<String>,
    pub(super) pattern: Option<Regex>,
    pub(super) is_time: bool,
    pub(super) takes_number: bool,
    pub(super) rules: Vec<Rule>,
}
