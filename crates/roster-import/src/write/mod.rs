//! Exports users and groups in the formats of other systems.
//!
//! Writers take one object at a time and keep none of them, so that memory does not grow with the directory. Only LDIF
//! keeps groups and some names until the end.

mod csv;
mod json;
pub(super) mod ldif;
mod plain;
mod record;

pub use record::{Record, Writer};

use std::io::Write;

use super::rules::Rules;

/// Format to export.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// All fields, one row per user or group.
    Csv,
    /// All fields, an array of manifests.
    Json,
    /// All fields, one document per manifest.
    Yaml,
    /// Users as inetOrgPerson, groups as groupOfMembers.
    Ldif,
    /// Usernames and hashes.
    Htpasswd,
    /// Lines of `/etc/passwd`.
    Passwd,
}

/// Returns the writer for a format. `with_hashes` adds a hash column to CSV. `base` is the base DN for LDIF.
pub fn writer<'a>(
    target: Target,
    out: impl Write + 'a,
    with_hashes: bool,
    base: &str,
    rules: &Rules,
) -> Box<dyn Writer + 'a> {
    match target {
        Target::Csv => Box::new(csv::Csv::new(out, with_hashes, rules)),
        Target::Json => Box::new(json::Json::new(out)),
        Target::Yaml => Box::new(json::Yaml::new(out)),
        Target::Ldif => Box::new(ldif::Ldif::new(out, base)),
        Target::Htpasswd => Box::new(plain::Htpasswd::new(out)),
        Target::Passwd => Box::new(plain::Passwd::new(out)),
    }
}
