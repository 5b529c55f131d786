//! Validates objects against the rules of the CRDs before they are sent.
//!
//! The rules, including CEL, come from the schemas that `roster-api` generates, so that they are defined only once. Errors
//! have the same messages as those of kube-apiserver, and also the line in the file.

mod cel;
mod read;
mod schema;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use roster_api::{Group, User};
use serde_json::Value;

use cel::Engine;
pub(crate) use schema::Schema;

/// Kind of an imported or exported object.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    User,
    Group,
}

impl Kind {
    /// Returns the kind as written in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Group => "Group",
        }
    }
}

/// A field whose value is not allowed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Path of the field, such as `spec.timezone`.
    pub field: String,
    /// What is allowed.
    pub reason: String,
}

/// All faults of an entry.
pub(super) type Faults = Vec<Fault>;

pub(super) fn fault(field: &str, reason: impl Into<String>) -> Fault {
    Fault { field: field.to_owned(), reason: reason.into() }
}

/// Compiled schemas and rules of the CRDs.
pub struct Rules {
    user: Schema,
    group: Schema,
    engine: Engine,
}

impl Default for Rules {
    fn default() -> Self {
        let mut engine = Engine::default();
        let mut schema = |definition: &CustomResourceDefinition| {
            let version =
                definition.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
            let value = serde_json::to_value(version).expect("a schema is JSON");
            read::read(&value, &mut engine)
        };
        let (user, group) = (schema(&User::crd()), schema(&Group::crd()));
        Self { user, group, engine }
    }
}

impl Rules {
    /// Returns all violations of the CRD.
    pub fn check(&self, kind: Kind, object: &Value) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = Check { engine: &self.engine, faults: &mut faults };
        check.value(self.of(kind), object, "");
        faults
    }

    /// Returns the schema of a kind's `spec`.
    pub(super) fn spec(&self, kind: Kind) -> &Schema {
        &self.of(kind).properties["spec"]
    }

    fn of(&self, kind: Kind) -> &Schema {
        match kind {
            Kind::User => &self.user,
            Kind::Group => &self.group,
        }
    }
}

struct Check<'a> {
    engine: &'a Engine,
    faults: &'a mut Vec<Fault>,
}

impl Check<'_> {
    fn fault(&mut self, field: &str, reason: impl Into<String>) {
        self.faults.push(Fault { field: field.trim_start_matches('.').to_owned(), reason: reason.into() });
    }

    fn value(&mut self, schema: &Schema, value: &Value, field: &str) {
        let before = self.faults.len();
        match (schema.kind.as_str(), value) {
            ("object", Value::Object(_)) => self.object(schema, value, field),
            ("array", Value::Array(items)) => self.list(schema, items, field),
            ("string", Value::String(text)) => self.text(schema, text, field),
            ("string", Value::Number(number)) if schema.takes_number => {
                if !number.is_i64() {
                    self.fault(field, format!("must be an integer, or a quantity in quotes: \"{number}\""));
                }
            }
            ("boolean", Value::Bool(_)) | ("integer", Value::Number(_)) => {}
            ("boolean", _) => self.fault(field, "must be true or false"),
            ("array", _) => self.fault(field, "must be a list"),
            (kind, _) => self.fault(field, format!("must be of type {kind}")),
        }
        // Like kube-apiserver, run CEL rules only on values that match the schema.
        if self.faults.len() == before {
            for broken in self.engine.broken(schema, &schema.rules, value) {
                self.fault(field, broken);
            }
        }
    }

    fn object(&mut self, schema: &Schema, value: &Value, field: &str) {
        let Some(fields) = value.as_object() else { return };
        if schema.max_properties.is_some_and(|max| fields.len() > max) {
            self.fault(field, format!("must have at most {} entries", schema.max_properties.unwrap_or_default()));
        }
        for name in schema.required.iter().filter(|name| !fields.contains_key(*name)) {
            self.fault(&format!("{field}.{name}"), "is required");
        }
        for (name, value) in fields {
            let path = format!("{field}.{name}");
            match (schema.properties.get(name), &schema.values) {
                (Some(schema), _) => self.value(schema, value, &path),
                (None, Some(schema)) => self.value(schema, value, &format!("{field}[{name}]")),
                (None, None) if schema.properties.is_empty() || field.is_empty() => {}
                (None, None) => {
                    let names: Vec<&str> = schema.properties.keys().map(String::as_str).collect();
                    self.fault(&path, format!("is not a field; the fields are {}", names.join(", ")));
                }
            }
        }
    }

    fn list(&mut self, schema: &Schema, items: &[Value], field: &str) {
        if let Some(max) = schema.max_items.filter(|max| items.len() > *max) {
            self.fault(field, format!("must have at most {max} items"));
            return;
        }
        if let Some(min) = schema.min_items.filter(|min| items.len() < *min) {
            self.fault(field, format!("must have at least {min} items"));
        }
        let Some(schema) = &schema.items else { return };
        for (index, item) in items.iter().enumerate() {
            self.value(schema, item, &format!("{field}[{index}]"));
        }
    }

    fn text(&mut self, schema: &Schema, text: &str, field: &str) {
        let length = text.chars().count();
        if let Some(max) = schema.max_length.filter(|max| length > *max) {
            self.fault(field, format!("must have at most {max} characters"));
        } else if let Some(min) = schema.min_length.filter(|min| length < *min) {
            self.fault(field, format!("must have at least {min} characters"));
        }
        if !schema.choices.is_empty() && !schema.choices.iter().any(|choice| choice == text) {
            self.fault(field, format!("must be one of {}", schema.choices.join(", ")));
        }
        let is_timestamp = || text.parse::<Timestamp>().is_ok();
        if schema.is_time && !(schema.pattern.as_ref().is_none_or(|pattern| pattern.is_match(text)) && is_timestamp()) {
            self.fault(field, "must be a time such as 2027-01-31T08:00:00Z (RFC 3339)");
        } else if let Some(pattern) = schema.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.fault(field, format!("must match {}", pattern.as_str()));
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
