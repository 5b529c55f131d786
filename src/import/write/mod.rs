//! People and groups in the formats of other systems: the inverse of reading them.
//!
//! Each writer takes one object at a time and keeps none (LDIF: names), so that a directory of any size is written in the
//! memory of one page.

mod csv;
mod json;
pub(super) mod ldif;
mod plain;

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::Value;

use super::rules::{Kind, Rules};

/// What is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
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

/// An object that is written. Not `Debug`: there is a hash in it.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// User or Group.
    pub kind: Kind,
    /// `metadata` and `spec`.
    pub object: &'a Value,
    /// The password Secret, with a hash.
    pub secret: Option<&'a Value>,
    /// The hash in it.
    pub hash: Option<&'a str>,
}

impl Record<'_> {
    fn spec(&self, field: &str) -> &str {
        self.object["spec"][field].as_str().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    fn username(&self) -> &str {
        self.object["spec"]["username"].as_str().unwrap_or_else(|| self.name())
    }

    fn list(&self, field: &str) -> impl Iterator<Item = &str> {
        self.object["spec"][field].as_array().into_iter().flatten().filter_map(Value::as_str)
    }
}

/// A writer of one format. Groups come before people.
pub trait Writer {
    /// What stands before everything.
    ///
    /// # Errors
    /// If it can't be written.
    fn begin(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Writes one object.
    ///
    /// # Errors
    /// If it can't be written.
    fn record(&mut self, record: Record<'_>) -> io::Result<()>;

    /// What stands behind everything.
    ///
    /// # Errors
    /// If it can't be written.
    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
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
