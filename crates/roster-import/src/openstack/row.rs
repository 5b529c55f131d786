//! Tables of Keystone.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::draft::Place;

/// A row of a table, and where it stands.
pub struct Row {
    pub place: Place,
    pub fields: Map<String, Value>,
}

impl Row {
    /// A column as text; empty where it is NULL or absent.
    pub fn text(&self, column: &str) -> String {
        match self.fields.get(column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        }
    }

    /// What Keystone keeps in a column of JSON, in a string or as it is.
    pub fn extra(&self) -> Value {
        match self.fields.get("extra") {
            Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_default(),
            Some(value) => value.clone(),
            None => Value::Null,
        }
    }
}

/// Rows by table.
pub type Tables = HashMap<String, Vec<Row>>;
