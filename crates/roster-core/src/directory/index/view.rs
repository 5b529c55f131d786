//! The state of a resource at a moment, and the changes that led to it.

use std::cmp::Ordering;
use std::sync::Arc;

use imbl::Vector;

use super::field::Field;
use super::record::Record;
use super::table::Table;

/// Changes that are remembered. Watches can be taken up, and pages of a list read on, that far back.
const MOST_CHANGES: usize = 10_000;

/// Bytes of JSON that are remembered for no other reason than that it was once so.
const MOST_BYTES: usize = 64 * 1024 * 1024;

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

impl Change {
    fn bytes(&self) -> usize {
        self.before.as_ref().map_or(0, |before| before.json().len())
    }
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
    pub table: Arc<Table>,
    /// The revision before the first change in the log.
    floor: u64,
    log: Vector<Change>,
    log_bytes: usize,
}

/// All records at some moment of the past.
#[derive(Clone, Debug)]
pub struct Past {
    /// The records.
    pub table: Arc<Table>,
    /// Revision of the last change before.
    pub revision: u64,
}

impl View {
    /// Nothing is known yet.
    pub fn empty(fields: &'static [Field]) -> Self {
        let table = Arc::new(Table::new(fields, Vec::new()));
        Self { epoch: 0, revision: 0, progress: 0, table, floor: 0, log: Vector::new(), log_bytes: 0 }
    }

    /// A complete list at a revision. Where nobody has gone, it is clear what led to it, and watches go on; otherwise
    /// they have to begin anew.
    pub fn relist(&mut self, records: Vec<Arc<Record>>, revision: u64) {
        if let Some(changed) = self.only_set(&records) {
            for record in changed {
                self.set(record);
            }
            self.reach(revision);
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

    /// What of a list is new or changed, in the order of revisions. `None`: something is gone, too.
    fn only_set(&self, records: &[Arc<Record>]) -> Option<Vec<Arc<Record>>> {
        if self.epoch == 0 {
            return None;
        }
        let (mut known, mut changed) = (0, Vec::new());
        for record in records {
            let before = self.table.get(record.name());
            known += usize::from(before.is_some());
            match before {
                // Somebody of the same name is somebody else.
                Some(before) if before.uid() != record.uid() => return None,
                Some(before) if before.revision == record.revision => {}
                _ => changed.push(Arc::clone(record)),
            }
        }
        changed.sort_unstable_by_key(|record| record.revision);
        let is_later = changed.first().is_none_or(|record| record.revision > self.revision);
        (known == self.table.len() && is_later).then_some(changed)
    }

    /// A record as it is now.
    pub fn set(&mut self, record: Arc<Record>) {
        let before = Arc::make_mut(&mut self.table).set(&record);
        self.note(Change { revision: record.revision, before, after: Some(record) });
    }

    /// A record that is gone since `revision`.
    pub fn remove(&mut self, name: &str, revision: u64) {
        if let Some(before) = Arc::make_mut(&mut self.table).remove(name) {
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
        self.log_bytes += change.bytes();
        self.log.push_back(change);
        while (self.log.len() > MOST_CHANGES || self.log_bytes > MOST_BYTES)
            && let Some(forgotten) = self.log.pop_front()
        {
            self.log_bytes -= forgotten.bytes();
            self.floor = forgotten.revision;
        }
    }

    /// The changes after a revision.
    ///
    /// # Errors
    /// If they are not remembered. A revision that is not reached yet is none: there is nothing after it so far.
    pub fn changes_since(&self, revision: u64) -> Result<Vector<Change>, Unavailable> {
        if revision < self.floor {
            return Err(Unavailable::Gone);
        }
        if revision >= self.revision {
            return Ok(Vector::new());
        }
        Ok(self.log.skip(self.first_after(revision)))
    }

    /// Where the changes after a revision begin.
    fn first_after(&self, revision: u64) -> usize {
        let order = |change: &Change| if change.revision <= revision { Ordering::Less } else { Ordering::Greater };
        self.log.binary_search_by(order).unwrap_or_else(|at| at)
    }

    /// All records as they were at a revision.
    ///
    /// # Errors
    /// If it is no longer remembered, or not known yet.
    pub fn at(&self, revision: u64) -> Result<Past, Unavailable> {
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
        Ok(Past { table: shared, revision: last_before.map_or(self.floor, |change| change.revision) })
    }
}
