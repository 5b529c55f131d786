//! The interface of writers.

use std::io;

use serde_json::Value;

use crate::rules::Kind;

/// An object to write. Not `Debug`, because it contains a hash.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub kind: Kind,
    /// Manifest with `metadata` and `spec`.
    pub object: &'a Value,
    /// Manifest of the password Secret, if hashes are exported.
    pub secret: Option<&'a Value>,
    /// Hash in the Secret.
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

/// Writer of one format. Write groups before users.
pub trait Writer {
    /// Writes the header, if the format has one.
    ///
    /// # Errors
    /// If the output can't be written.
    fn begin(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Writes one object.
    ///
    /// # Errors
    /// If the output can't be written.
    fn record(&mut self, record: Record<'_>) -> io::Result<()>;

    /// Writes the rest and flushes the output.
    ///
    /// # Errors
    /// If the output can't be written.
    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}
