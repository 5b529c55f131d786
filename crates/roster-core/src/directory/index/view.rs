//! The state of a resource at a revision, and the changes that led to it.

use std::cmp::Ordering;
use std::sync::Arc;

use imbl::Vector;

use super::field::Field;
use super::record::Record;
use super::table::Table;

/// Maximum number of changes in the log. Watches can resume and paged lists can continue from that far back.
const MAX_CHANGES: usize = 10_000;

/// Maximum size of the JSON of previous records in the log, in bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Change of one record.
#[derive(Clone, Debug)]
pub struct RecordChange {
    /// The revision that this change produced.
    pub revision: u64,
    /// The record before; `None` if it did not exist.
    pub before: Option<Arc<Record>>,
    /// The record after; `None` if it was removed.
    pub after: Option<Arc<Record>>,
}

impl RecordChange {
    fn bytes(&self) -> usize {
        self.before.as_ref().map_or(0, |before| before.json().len())
    }
}

/// Why the state at a revision is not available.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unavailable {
    /// The revision is older than the log.
    Gone,
    /// The revision has not been reached yet.
    Ahead,
}

/// All records at a revision. Revisions are those of etcd, and therefore the same on every replica.
#[derive(Clone, Debug)]
pub struct View {
    /// Number of lists that restarted the log. Changes before the last one are not available.
    pub epoch: u64,
    /// Revision of the last change.
    pub revision: u64,
    /// Every change up to this revision is included. At least `revision`.
    pub progress: u64,
    /// The records.
    pub table: Arc<Table>,
    /// The revision before the first change in the log.
    floor: u64,
    log: Vector<RecordChange>,
    log_bytes: usize,
}

/// All records at an earlier revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The records.
    pub table: Arc<Table>,
    /// Revision of the last change up to then.
    pub revision: u64,
}

impl View {
    /// Returns an empty view, before the first list.
    pub fn empty(fields: &'static [Field]) -> Self {
        let table = Arc::new(Table::new(fields, Vec::new()));
        Self { epoch: 0, revision: 0, progress: 0, table, floor: 0, log: Vector::new(), log_bytes: 0 }
    }

    /// Replaces the content with a complete list at a revision. If nothing was removed, the changes are known and
    /// watches continue; otherwise they must restart.
    pub fn relist(&mut self, records: Vec<Arc<Record>>, revision: u64) {
        if let Some(changed) = self.additions(&records) {
            for record in changed {
                self.set(record);
            }
            self.advance_to(revision);
            return;
        }
        *self = Self {
            epoch: self.epoch + 1,
            revision,
            progress: revision,
            table: Arc::new(Table::new(self.table.fields, records)),
            floor: revision,
            log: Vector::new(),
            log_bytes: 0,
        };
    }

    /// Returns the new and changed records of a list, by revision. `None` if records were also removed or recreated, if
    /// a change is not later than the last known one, or before the first list.
    fn additions(&self, records: &[Arc<Record>]) -> Option<Vec<Arc<Record>>> {
        if self.epoch == 0 {
            return None;
        }
        let (mut known, mut changed) = (0, Vec::new());
        for record in records {
            let before = self.table.get(record.name());
            known += usize::from(before.is_some());
            match before {
                // An object with the same name and another UID is a different object.
                Some(before) if before.uid() != record.uid() => return None,
                Some(before) if before.revision == record.revision => {}
                _ => changed.push(Arc::clone(record)),
            }
        }
        changed.sort_unstable_by_key(|record| record.revision);
        let is_later = changed.first().is_none_or(|record| record.revision > self.revision);
        (known == self.table.len() && is_later).then_some(changed)
    }

    /// Adds or updates a record.
    pub fn set(&mut self, record: Arc<Record>) {
        let before = Arc::make_mut(&mut self.table).set(&record);
        self.note(RecordChange { revision: record.revision, before, after: Some(record) });
    }

    /// Removes a record, with the revision of the deletion.
    pub fn remove(&mut self, name: &str, revision: u64) {
        if let Some(before) = Arc::make_mut(&mut self.table).remove(name) {
            self.note(RecordChange { revision, before: Some(before), after: None });
        }
    }

    /// Records that every change up to `revision` is included.
    pub fn advance_to(&mut self, revision: u64) {
        self.progress = self.progress.max(revision);
    }

    fn note(&mut self, change: RecordChange) {
        self.revision = self.revision.max(change.revision);
        self.advance_to(change.revision);
        self.log_bytes += change.bytes();
        self.log.push_back(change);
        while (self.log.len() > MAX_CHANGES || self.log_bytes > MAX_BYTES)
            && let Some(oldest) = self.log.pop_front()
        {
            self.log_bytes -= oldest.bytes();
            self.floor = oldest.revision;
        }
    }

    /// Returns the changes after a revision; none if it has not been reached yet.
    ///
    /// # Errors
    /// If the revision is older than the log.
    pub fn changes_since(&self, revision: u64) -> Result<Vector<RecordChange>, Unavailable> {
        if revision < self.floor {
            return Err(Unavailable::Gone);
        }
        if revision >= self.revision {
            return Ok(Vector::new());
        }
        Ok(self.log.skip(self.first_after(revision)))
    }

    /// Returns the position of the first change after a revision.
    fn first_after(&self, revision: u64) -> usize {
        let order =
            |change: &RecordChange| if change.revision <= revision { Ordering::Less } else { Ordering::Greater };
        self.log.binary_search_by(order).unwrap_or_else(|at| at)
    }

    /// Returns all records as they were at a revision.
    ///
    /// # Errors
    /// If the revision is older than the log or has not been reached yet.
    pub fn at(&self, revision: u64) -> Result<Snapshot, Unavailable> {
        if revision > self.progress {
            return Err(Unavailable::Ahead);
        }
        let mut shared = Arc::clone(&self.table);
        let table = Arc::make_mut(&mut shared);
        for change in self.changes_since(revision)?.iter().rev() {
            match (&change.before, &change.after) {
                (Some(before), _) => drop(table.set(before)),
                (None, Some(after)) => drop(table.remove(after.name())),
                (None, None) => {}
            }
        }
        let last_before = self.first_after(revision).checked_sub(1).and_then(|at| self.log.get(at));
        Ok(Snapshot { table: shared, revision: last_before.map_or(self.floor, |change| change.revision) })
    }
}
