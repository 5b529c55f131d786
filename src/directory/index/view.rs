//! The state of a resource at a moment, and the changes that led to it.

use std::sync::Arc;

use imbl::Vector;

use super::field::Field;
use super::record::Record;
use super::table::Table;

/// Changes that are remembered. Watches can be taken up, and pages of a list read on, that far back.
const MOST_CHANGES: usize = 10_000;

/// A change of one record.
#[derive(Clone, Debug)]
pub struct Change {
    /// The revision that it led to.
    pub revision: u64,
    /// What the record was; `None`: it was not there.
    pub before: Option<Arc<Record>>,
    /// What it is; `None`: it is gone.
    pub after: Option<Arc<Record>>,
}

/// Why the state at a revision can't be had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unavailable {
    /// It is no longer remembered.
    Gone,
    /// It is not known yet.
    Ahead,
}

/// All records at a revision. Revisions are those of etcd, and so the same on every replica.
#[derive(Clone, Debug)]
pub struct View {
    /// Counts the lists that this goes back to: what came before a list is not remembered.
    pub epoch: u64,
    /// Revision of the last change.
    pub revision: u64,
    /// Everything up to this revision is known. At least `revision`.
    pub progress: u64,
    /// The records.
    pub table: Table,
    /// The revision before the first change in the log.
    floor: u64,
    log: Vector<Change>,
}

impl View {
    /// Nothing is known yet.
    pub fn empty(fields: &'static [Field]) -> Self {
        let table = Table::new(fields, Vec::new());
        Self { epoch: 0, revision: 0, progress: 0, table, floor: 0, log: Vector::new() }
    }

    /// A complete list at a revision. What led to it is not known.
    pub fn relist(&mut self, records: Vec<Arc<Record>>, revision: u64) {
        let table = Table::new(self.table.fields, records);
        *self =
            Self { epoch: self.epoch + 1, revision, progress: revision, table, floor: revision, log: Vector::new() };
    }

    /// A record as it is now.
    pub fn set(&mut self, record: Record) {
        let (revision, record) = (record.revision, Arc::new(record));
        let before = self.table.set(&record);
        self.note(Change { revision, before, after: Some(record) });
    }

    /// A record that is gone since `revision`.
    pub fn remove(&mut self, name: &str, revision: u64) {
        if let Some(before) = self.table.remove(name) {
            self.note(Change { revision, before: Some(before), after: None });
        }
    }

    /// Everything up to `revision` is known.
    pub fn reach(&mut self, revision: u64) {
        self.progress = self.progress.max(revision);
    }

    fn note(&mut self, change: Change) {
        self.revision = self.revision.max(change.revision);
        self.reach(change.revision);
        self.log.push_back(change);
        if self.log.len() > MOST_CHANGES
            && let Some(forgotten) = self.log.pop_front()
        {
            self.floor = forgotten.revision;
        }
    }

    /// The changes after a revision.
    ///
    /// # Errors
    /// If they are not remembered. A revision that is not reached yet is none: there is nothing after it so far.
    pub fn changes_since(&self, revision: u64) -> Result<impl Iterator<Item = &Change>, Unavailable> {
        if revision < self.floor {
            return Err(Unavailable::Gone);
        }
        let first = match self.log.binary_search_by(|change| {
            if change.revision <= revision { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater }
        }) {
            Ok(at) | Err(at) => at,
        };
        Ok(self.log.iter().skip(first))
    }

    /// All records as they were at a revision.
    ///
    /// # Errors
    /// If it is no longer remembered, or not known yet.
    pub fn at(&self, revision: u64) -> Result<Table, Unavailable> {
        if revision > self.progress {
            return Err(Unavailable::Ahead);
        }
        let mut table = self.table.clone();
        let later: Vec<&Change> = self.changes_since(revision)?.collect();
        for change in later.into_iter().rev() {
            match (&change.before, &change.after) {
                (Some(before), _) => drop(table.set(before)),
                (None, Some(after)) => drop(table.remove(&after.name)),
                (None, None) => {}
            }
        }
        Ok(table)
    }
}
