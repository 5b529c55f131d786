//! People and groups in the formats of other systems: the inverse of reading them.
//!
//! Each writer takes one object at a time and keeps none (LDIF: names), so that a directory of any size is written in the
//! memory of one page.

mod csv;
mod json;
pub(super) mod ldif;
mod plain;
mod record;

pub use record::{Record, Writer};

use std::io::Write;

use super::rules::Rules;

/// What is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// Everything, a row a person or group.
    Csv,
    /// Everything, an array of manifests.
    Json,
    /// Everything, a document a manifest.
    Yaml,
    /// People as inetOrgPerson and posixAccount, groups as groupOfNames.
    Ldif,
    /// Names and hashes.
    Htpasswd,
    /// /etc/passwd.
    Passwd,
}

/// The writer of a format. `with_hashes`: CSV has a column for them.
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
