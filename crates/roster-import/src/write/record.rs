//! What is written, and by what.

use std::io;

use serde_json::Value;

use crate::rules::Kind;

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
    pub(super) fn spec(&self, field: &str) -> &str {
        self.object["spec"][field].as_str().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub(super) fn username(&self) -> &str {
        self.object["spec"]["username"].as_str().unwrap_or_else(|| self.name())
    }

    pub(super) fn list(&self, field: &str) -> impl Iterator<Item = &str> {
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
