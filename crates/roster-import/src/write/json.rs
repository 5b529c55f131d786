//! Writes manifests as a JSON array or as YAML documents.

use std::io::{self, Write};

use serde_json::Value;

use super::record::{Record, Writer};

pub(super) struct Json<W> {
    out: W,
    is_first: bool,
}

impl<W: Write> Json<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, is_first: true }
    }
}

fn manifests<'a>(record: &Record<'a>) -> impl Iterator<Item = &'a Value> {
    record.secret.into_iter().chain([record.object])
}

impl<W: Write> Writer for Json<W> {
    fn begin(&mut self) -> io::Result<()> {
        self.out.write_all(b"[")
    }

    fn record(&mut self, record: Record<'_>) -> io::Result<()> {
        for manifest in manifests(&record) {
            self.out.write_all(if self.is_first { b"\n" } else { b",\n" })?;
            self.is_first = false;
            serde_json::to_writer(&mut self.out, manifest)?;
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.out.write_all(b"\n]\n")?;
        self.out.flush()
    }
}

pub(super) struct Yaml<W>(W);

impl<W: Write> Yaml<W> {
    pub(super) fn new(out: W) -> Self {
        Self(out)
    }
}

impl<W: Write> Writer for Yaml<W> {
    fn record(&mut self, record: Record<'_>) -> io::Result<()> {
        for manifest in manifests(&record) {
            let text = serde_yaml::to_string(manifest).map_err(io::Error::other)?;
            write!(self.0, "---\n{text}")?;
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
