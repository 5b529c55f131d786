//! Renders objects as JSON: as themselves, as their metadata, or as table rows.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use roster_api::directory::API_VERSION;
use roster_core::directory::index::record::Record;
use roster_core::rbac::permissions::{role_name, roles_of};
use roster_runtime::informers::Informers;
use serde::Serialize;
use serde_json::{Value, json};

use super::negotiate::Form;
use super::params::IncludeObject;
use super::resource::{Cell, Column, Resource};

/// API version of tables and partial metadata.
const META: &str = "meta.k8s.io/v1";

/// Counts of a list, in its metadata. An extension to Kubernetes lists.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Maximum number of objects per page.
    pub limit: Option<u64>,
    /// Page number, from 1.
    pub page: Option<u64>,
    /// Number of pages.
    pub pages: Option<u64>,
    /// Objects on all pages.
    pub total: Option<u64>,
}

/// The part of a list before its objects.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    api_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    column_definitions: Option<Value>,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    metadata: &'a ListMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
}

/// Renders objects of one resource in one form.
#[derive(Clone, Debug)]
pub struct Renderer {
    /// Resource of the objects.
    pub resource: &'static Resource,
    /// Form to render.
    pub form: Form,
    /// What is included with each table row.
    pub include: IncludeObject,
    /// Name of the User that the caller is, if any.
    pub current: Option<String>,
    /// Value of `metadata.name` of the only object, if it was selected by a key other than its name. A client that
    /// keeps a copy, such as `kubectl wait`, looks the object up by the key that it selected. Tables always show the
    /// name.
    pub alias: Option<String>,
}

impl Renderer {
    /// Renders the beginning of a list, up to the bracket that opens the array of objects.
    pub fn head(&self, metadata: &ListMeta, counts: Counts) -> String {
        let (kind, api_version, list) = match self.form {
            Form::Object => (format!("{}List", self.resource.kind), API_VERSION, "items"),
            Form::Metadata => ("PartialObjectMetadataList".to_owned(), META, "items"),
            Form::Table => ("Table".to_owned(), META, "rows"),
        };
        let column_definitions = (self.form == Form::Table).then(|| columns(self.resource.columns));
        let Counts { limit, page, pages, total } = if self.form == Form::Object { counts } else { Counts::default() };
        let head = Head { api_version, column_definitions, kind: &kind, limit, metadata, page, pages, total };
        let mut head = serde_json::to_string(&head).expect("texts and numbers are JSON");
        head.pop();
        head.extend([",\"", list, "\":["]);
        head
    }

    /// Returns the JSON members to add to the status of each object, all from the same state of the directory.
    pub fn joined(&self, records: &[Arc<Record>], informers: &Informers, now: Timestamp) -> Vec<String> {
        let is_shown = self.form == Form::Object || self.form == Form::Table && self.include == IncludeObject::Object;
        if !self.resource.is_joined || !is_shown {
            return vec![String::new(); records.len()];
        }
        let directory = informers.directory();
        let join = |record: &Arc<Record>| {
            let mut joined = String::new();
            for (at, role) in roles_of(&directory, record.name(), now).into_iter().enumerate() {
                joined.push_str(if at == 0 { r#","roles":["# } else { "," });
                joined.push_str(&serde_json::to_string(&role_name(role)).expect("texts are JSON"));
            }
            if !joined.is_empty() {
                joined.push(']');
            }
            if self.current.as_deref() == Some(record.name()) {
                joined.push_str(r#","current":true"#);
            }
            joined
        };
        records.iter().map(join).collect()
    }

    /// Renders one object of a list.
    pub fn item(&self, record: &Record, joined: &str, now: Timestamp, out: &mut Vec<u8>) {
        match self.form {
            Form::Table => self.row(record, joined, now, out),
            form => {
                let begin = out.len();
                match form {
                    Form::Metadata => metadata(record, out),
                    _ => object(record, joined, out),
                }
                if let Some(alias) = &self.alias {
                    let mut renamed: Value = serde_json::from_slice(&out[begin..]).expect("it was written as JSON");
                    renamed["metadata"]["name"] = alias.as_str().into();
                    out.truncate(begin);
                    out.extend(renamed.to_string().into_bytes());
                }
            }
        }
    }

    /// Renders a single object.
    pub fn single(&self, record: &Record, joined: &str, now: Timestamp) -> Vec<u8> {
        let mut out = Vec::with_capacity(record.json().len() + 256);
        if self.form == Form::Table {
            let revision = Some(record.revision.to_string());
            let metadata = ListMeta { resource_version: revision, ..ListMeta::default() };
            out.extend(self.head(&metadata, Counts::default()).into_bytes());
            self.row(record, joined, now, &mut out);
            out.extend(b"]}");
        } else {
            self.item(record, joined, now, &mut out);
        }
        out
    }

    /// Renders an object that was deleted or no longer matches the query: as it was, with the revision of that change.
    pub fn gone(&self, record: &Record, revision: u64, now: Timestamp) -> Vec<u8> {
        let mut object = record.to_value();
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        if let Some(alias) = self.alias.as_ref().filter(|_| self.form != Form::Table) {
            object["metadata"]["name"] = alias.as_str().into();
        }
        let rendered = match self.form {
            Form::Object => object,
            Form::Metadata => partial(&object["metadata"]),
            Form::Table => {
                let mut table: Value = serde_json::from_slice(&self.single(record, "", now)).unwrap_or_default();
                table["metadata"]["resourceVersion"] = revision.to_string().into();
                match self.include {
                    IncludeObject::None => {}
                    IncludeObject::Metadata => table["rows"][0]["object"] = partial(&object["metadata"]),
                    IncludeObject::Object => table["rows"][0]["object"] = object,
                }
                table
            }
        };
        rendered.to_string().into_bytes()
    }

    /// Renders a bookmark with a revision. `ends_initial_events` marks the end of the initial events.
    pub fn bookmark(&self, revision: u64, ends_initial_events: bool) -> Value {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial_events {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self.form {
            Form::Object => json!({"kind": self.resource.kind, "apiVersion": API_VERSION, "metadata": metadata}),
            Form::Metadata => partial(&metadata),
            Form::Table => json!({"kind": "Table", "apiVersion": META, "metadata": metadata,
                "columnDefinitions": columns(self.resource.columns), "rows": []}),
        }
    }

    fn row(&self, record: &Record, joined: &str, now: Timestamp, out: &mut Vec<u8>) {
        let shown = record.to_value();
        let cells: Vec<Value> = self.resource.columns.iter().map(|column| cell(column.cell, &shown, now)).collect();
        out.extend(br#"{"cells":"#);
        out.extend(json!(cells).to_string().into_bytes());
        match self.include {
            IncludeObject::None => {}
            IncludeObject::Metadata => {
                out.extend(br#","object":"#);
                metadata(record, out);
            }
            IncludeObject::Object => {
                out.extend(br#","object":"#);
                object(record, joined, out);
            }
        }
        out.push(b'}');
    }
}

fn object(record: &Record, joined: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(record.json());
    out.extend(joined.as_bytes());
    out.extend(b"}}");
}

fn metadata(record: &Record, out: &mut Vec<u8>) {
    out.extend(format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{META}","metadata":"#).into_bytes());
    out.extend_from_slice(record.metadata_json());
    out.push(b'}');
}

/// Returns a PartialObjectMetadata with this metadata.
pub fn partial(metadata: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": META, "metadata": metadata})
}

/// Returns the column definitions of a table.
pub fn columns(columns: &[Column]) -> Value {
    let definition = |column: &Column| {
        json!({"name": column.name, "type": column.kind, "format": if column.name == "Name" { "name" } else { "" },
            "description": column.description, "priority": column.priority})
    };
    columns.iter().map(definition).collect()
}

/// Returns the value of a cell for an object.
pub fn cell(cell: Cell, object: &Value, now: Timestamp) -> Value {
    match cell {
        Cell::Path(path) => at(object, path).clone(),
        Cell::Age(path) => {
            let time = at(object, path).as_str().and_then(|time| time.parse::<Timestamp>().ok());
            time.map_or(Value::Null, |time| human_duration(now.as_second() - time.as_second()).into())
        }
        Cell::Condition(kind) => {
            let conditions = at(object, "status.conditions").as_array().into_iter().flatten();
            let found = conditions.into_iter().find(|condition| condition["type"] == kind);
            found.map_or(Value::Null, |condition| condition["status"].clone())
        }
    }
}

fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(object, |value, key| &value[key])
}

/// Formats seconds as kubectl does: two units while the first is small, otherwise one.
fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, unit: &str, small: i64, rest: &str| match seconds % big / small {
        0 => format!("{}{unit}", seconds / big),
        more => format!("{}{unit}{more}{rest}", seconds / big),
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 | 0 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two(MINUTE, "m", 1, "s"),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two(HOUR, "h", MINUTE, "m"),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two(DAY, "d", HOUR, "h"),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two(YEAR, "y", DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_those_of_kubectl() {
        let ages = [0, 1, 119, 120, 125, 3599, 3600 * 3, 3600 * 5 + 60, 3600 * 47, 86_400 * 3 + 3600, 86_400 * 400];
        let shown = ["0s", "1s", "119s", "2m", "2m5s", "59m", "3h", "5h1m", "47h", "3d1h", "400d"];
        assert_eq!(ages.map(human_duration), shown);
        assert_eq!(human_duration(-60), "<invalid>");
    }
}
