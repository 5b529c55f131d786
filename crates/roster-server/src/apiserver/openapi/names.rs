//! Names of kinds in the OpenAPI document.

use roster_api::directory::{GROUP, VERSION};
use serde_json::{Value, json};

/// Content type of every request and response.
pub(super) const JSON: &str = "application/json";

/// Returns the name of the schema of a kind.
pub(super) fn name(kind: &str) -> String {
    format!("dev.roster.directory.{VERSION}.{kind}")
}

/// Returns the extension by which kubectl finds the schema of a kind.
pub(super) fn group_version_kind(kind: &str) -> Value {
    json!({"group": GROUP, "version": VERSION, "kind": kind})
}
