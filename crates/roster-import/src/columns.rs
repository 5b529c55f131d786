//! Converts between a `spec` and a row of cells. The columns come from the schemas of the CRDs, so that a new field gets a
//! column without further code.

use serde_json::{Map, Number, Value};

use super::draft;
use super::rules::{Kind, Rules, Schema};

/// A cell that can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum CellError {
    #[error("must be true or false")]
    Flag,
    #[error("must be key=value pairs with semicolons between them")]
    Pairs,
    #[error("must be JSON")]
    Json,
}

/// Notation of a cell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shape {
    Text,
    Flag,
    /// `a;b`
    Texts,
    /// `key=value;key=value`
    Pairs,
    /// `key=value;key=another;other=value`
    Lists,
    /// Everything else.
    Json,
}

/// A column for one field of the `spec`.
#[derive(Clone, Debug)]
pub(super) struct Column {
    /// Path below `spec`, such as `validity.notAfter`.
    pub path: String,
    shape: Shape,
}

/// Returns the columns of a kind, sorted by path.
pub(super) fn columns(rules: &Rules, kind: Kind) -> Vec<Column> {
    let mut columns = Vec::new();
    collect(rules.spec(kind), "", &mut columns);
    columns
}

fn collect(schema: &Schema, prefix: &str, columns: &mut Vec<Column>) {
    for (name, schema) in &schema.properties {
        let path = format!("{prefix}{name}");
        if schema.kind == "object" && !schema.properties.is_empty() {
            collect(schema, &format!("{path}."), columns);
        } else {
            columns.push(Column { path, shape: shape(schema) });
        }
    }
}

fn shape(schema: &Schema) -> Shape {
    let kind_of = |schema: &Option<Box<Schema>>| schema.as_ref().map(|schema| schema.kind.clone()).unwrap_or_default();
    match (schema.kind.as_str(), kind_of(&schema.items).as_str(), kind_of(&schema.values).as_str()) {
        ("string", ..) => Shape::Text,
        ("boolean", ..) => Shape::Flag,
        ("array", "string", _) => Shape::Texts,
        ("object", _, "string") => Shape::Pairs,
        ("object", _, "array") => Shape::Lists,
        _ => Shape::Json,
    }
}

impl Column {
    /// Reads a cell into the field. Empty cells are ignored.
    pub(super) fn read(&self, cell: &str, spec: &mut Map<String, Value>) -> Result<(), CellError> {
        if !cell.is_empty() {
            draft::set(spec, &self.path, self.value(cell)?);
        }
        Ok(())
    }

    fn value(&self, cell: &str) -> Result<Value, CellError> {
        Ok(match self.shape {
            Shape::Text => cell.into(),
            Shape::Flag => flag(cell).ok_or(CellError::Flag)?.into(),
            Shape::Texts => split(cell).iter().map(|item| Value::from(item.trim())).filter(|item| item != "").collect(),
            Shape::Pairs => pairs(cell)?.map(|(key, value)| (key, scalar(value))).collect::<Map<_, _>>().into(),
            Shape::Lists => lists(cell),
            Shape::Json => serde_json::from_str(cell).map_err(|_| CellError::Json)?,
        })
    }

    /// Returns the cell of the field. It is empty if the field is not set.
    pub(super) fn write(&self, spec: &Value) -> String {
        let value = self.path.split('.').fold(spec, |value, name| &value[name]);
        match (self.shape, value) {
            (_, Value::Null) => String::new(),
            (Shape::Text | Shape::Flag, value) => text(value),
            (Shape::Texts, Value::Array(items)) => join(items.iter().map(text)),
            (Shape::Pairs, Value::Object(entries)) => {
                join(entries.iter().map(|(key, value)| format!("{key}={}", quoted(value))))
            }
            (Shape::Lists, Value::Object(entries)) => join(entries.iter().flat_map(|(key, values)| {
                let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
                let of = |value: &Value| format!("{key}={}", text(value));
                if values.is_empty() { vec![key.clone()] } else { values.iter().map(of).collect() }
            })),
            (_, value) => value.to_string(),
        }
    }
}

/// Parses a boolean in the notations of spreadsheets and databases.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "1" | "t" | "on" => Some(true),
        "false" | "no" | "n" | "0" | "f" | "off" => Some(false),
        _ => None,
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Formats a value so that [`scalar`] reads it back: text that looks like a number or begins with a quote is quoted.
fn quoted(value: &Value) -> String {
    match value {
        Value::String(text) if text.parse::<i64>().is_ok() || text.starts_with('"') => value.to_string(),
        value => text(value),
    }
}

fn scalar(text: String) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        return Number::from(number).into();
    }
    serde_json::from_str::<String>(&text).unwrap_or(text).into()
}

/// Parses `key=value;key=value`.
pub(super) fn pairs(cell: &str) -> Result<impl Iterator<Item = (String, String)>, CellError> {
    let items: Result<Vec<_>, CellError> = split(cell)
        .into_iter()
        .filter(|item| !item.is_empty())
        .map(|item| {
            let (key, value) = item.split_once('=').ok_or(CellError::Pairs)?;
            Ok((key.trim().to_owned(), value.to_owned()))
        })
        .collect();
    Ok(items?.into_iter())
}

fn lists(cell: &str) -> Value {
    let mut entries = Map::new();
    for item in split(cell).into_iter().filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once('=').map_or((item.as_str(), None), |(key, value)| (key, Some(value)));
        let list = entries.entry(key.trim()).or_insert_with(|| Value::Array(Vec::new()));
        if let (Value::Array(list), Some(value)) = (list, value) {
            list.push(value.into());
        }
    }
    entries.into()
}

/// Joins items with semicolons. Semicolons and backslashes in an item are escaped with a backslash.
pub(super) fn join(items: impl Iterator<Item = String>) -> String {
    items.map(|item| item.replace('\\', "\\\\").replace(';', "\\;")).collect::<Vec<_>>().join(";")
}

/// Splits a cell that [`join`] wrote.
pub(super) fn split(cell: &str) -> Vec<String> {
    let (mut items, mut item, mut escaped) = (Vec::new(), String::new(), false);
    for c in cell.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            ';' if !escaped => items.push(std::mem::take(&mut item)),
            c => {
                if escaped && c != ';' && c != '\\' {
                    item.push('\\');
                }
                item.push(c);
                escaped = false;
            }
        }
    }
    if escaped {
        item.push('\\');
    }
    items.push(item);
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn round_trip(spec: &Value) -> Value {
        let mut read = Map::new();
        for column in columns(&Rules::default(), Kind::User) {
            column.read(&column.write(spec), &mut read).unwrap();
        }
        read.into()
    }

    #[test]
    fn every_field_of_the_full_example_round_trips() {
        let text = include_str!("../../../examples/user-full.yaml");
        let mut users = serde_yaml::Deserializer::from_str(text).map(|document| {
            let value: Value = serde::Deserialize::deserialize(document).unwrap();
            value
        });
        let user = users.find(|value| value["kind"] == "User").unwrap();
        assert_eq!(round_trip(&user["spec"]), user["spec"]);
    }

    #[test]
    fn lists_and_maps_have_a_short_notation() {
        let spec = json!({
            "groups": ["a", "b"],
            "extra": {"costCenter": ["4;2", "x=y"], "empty": []},
            "quota": {"hard": {"pods": 5, "services": "5", "requests.cpu": "500m"}},
            "identities": [{"type": "ldap", "id": "uid=jane,ou=people"}],
        });
        let columns = columns(&Rules::default(), Kind::User);
        let cell = |path: &str| columns.iter().find(|column| column.path == path).unwrap().write(&spec);
        assert_eq!(cell("groups"), "a;b");
        assert_eq!(cell("extra"), r"costCenter=4\;2;costCenter=x=y;empty");
        assert_eq!(cell("quota.hard"), r#"pods=5;requests.cpu=500m;services="5""#);
        assert_eq!(cell("identities"), r#"[{"id":"uid=jane,ou=people","type":"ldap"}]"#);
        assert_eq!(round_trip(&spec), spec);
    }

    proptest! {
        #[test]
        fn items_round_trip(items in prop::collection::vec(".{0,12}", 1..6)) {
            prop_assert_eq!(split(&join(items.iter().cloned())), items);
        }
    }
}
