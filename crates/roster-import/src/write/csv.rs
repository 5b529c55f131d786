//! Writes CSV with a column for each field.

use std::io::{self, Write};

use serde_json::Value;

use super::record::{Record, Writer};
use crate::columns::{Column, columns, join};
use crate::csv::formula::neutralized;
use crate::csv::{KIND, LABELS, NAME, PASSWORD_HASH};
use crate::rules::{Kind, Rules};

pub(super) struct Csv<W: Write> {
    out: csv::Writer<W>,
    user: Vec<Column>,
    group: Vec<Column>,
    paths: Vec<String>,
    with_hashes: bool,
}

impl<W: Write> Csv<W> {
    pub(super) fn new(out: W, with_hashes: bool, rules: &Rules) -> Self {
        let (user, group) = (columns(rules, Kind::User), columns(rules, Kind::Group));
        let mut paths: Vec<String> = user.iter().map(|column| column.path.clone()).collect();
        let further = group.iter().map(|column| column.path.clone()).filter(|path| !paths.contains(path));
        paths.extend(further.collect::<Vec<_>>());
        Self { out: csv::Writer::from_writer(out), user, group, paths, with_hashes }
    }
}

impl<W: Write> Writer for Csv<W> {
    fn begin(&mut self) -> io::Result<()> {
        let own = [KIND, NAME, LABELS].into_iter();
        let header = own.chain(self.paths.iter().map(String::as_str)).chain(self.with_hashes.then_some(PASSWORD_HASH));
        Ok(self.out.write_record(header)?)
    }

    fn record(&mut self, record: Record<'_>) -> io::Result<()> {
        let columns = match record.kind {
            Kind::User => &self.user,
            Kind::Group => &self.group,
        };
        let labels = record.object["metadata"]["labels"].as_object().into_iter().flatten();
        let labels = join(labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())));
        let mut row = vec![record.kind.name().to_owned(), record.name().to_owned(), labels];
        row.extend(self.paths.iter().map(|path| {
            let column = columns.iter().find(|column| column.path == *path);
            column.map(|column| column.write(record.object.get("spec").unwrap_or(&Value::Null))).unwrap_or_default()
        }));
        row.extend(self.with_hashes.then(|| record.hash.unwrap_or_default().to_owned()));
        Ok(self.out.write_record(row.iter().map(|cell| neutralized(cell).into_owned()))?)
    }

    fn end(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
