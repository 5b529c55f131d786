//! Rows of Keystone's tables.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::draft::Place;

/// A row of a table.
pub(super) struct Row {
    pub place: Place,
    pub fields: Map<String, Value>,
}

impl Row {
    /// Returns a column as text. NULL and missing columns are empty.
    pub(super) fn text(&self, column: &str) -> String {
        match self.fields.get(column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        }
    }

    /// Returns the groups in the row of a user. Files that people write themselves may have them. Objects of the API have none, but
    /// the additional attributes of a user, which may have any name, are among their fields.
    pub(super) fn groups(&self) -> Option<&Value> {
        self.fields.get("groups").filter(|_| !self.fields.contains_key("links"))
    }

    /// Returns the column `extra`, which is JSON, either as an object or encoded as a string.
    pub(super) fn extra(&self) -> Value {
        match self.fields.get("extra") {
            Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_default(),
            Some(value) => value.clone(),
            None => Value::Null,
        }
    }
}

/// Rows by table.
pub(super) type Tables = HashMap<String, Vec<Row>>;
