//! Watches that fail: what is known by them may be out of date.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::metrics::CounterBy;

/// Failures in a row from which on a watch counts as failing: one alone is everyday life.
const ROW: u32 = 2;

/// Failures of watches, by resource.
#[derive(Debug)]
pub struct Failures {
    /// Failures since the watch was last heard.
    rows: Mutex<HashMap<&'static str, u32>>,
    count: CounterBy,
}

impl Failures {
    /// None so far. Each is counted in `count` as well.
    pub fn new(count: CounterBy) -> Self {
        Self { rows: Mutex::default(), count }
    }

    /// The watch has failed (again). Where something has been missed by then, one failure is as good as a row.
    pub fn begin_or_go_on(&self, resource: &'static str, is_gap: bool) {
        self.count.inc(resource);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.entry(resource).or_default();
        *row = row.saturating_add(if is_gap { ROW } else { 1 });
    }

    /// The watch tells of something.
    pub fn end(&self, resource: &'static str) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).remove(resource);
    }

    /// Whether the watch of one of these resources fails: until it is heard again, however long that takes.
    pub fn any_of(&self, resources: &[&str]) -> bool {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        resources.iter().any(|resource| rows.get(resource).is_some_and(|count| *count >= ROW))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn one_failure_is_everyday_life_and_a_row_of_them_is_not() {
        let failures = Failures::new(Metrics::default().watch_errors);
        failures.begin_or_go_on("users", false);
        assert!(!failures.any_of(&["users"]));
        failures.begin_or_go_on("users", false);
        assert!(failures.any_of(&["users"]) && !failures.any_of(&["groups"]));
        failures.end("users");
        assert!(!failures.any_of(&["users"]));
    }

    #[test]
    fn one_gap_is_enough() {
        let failures = Failures::new(Metrics::default().watch_errors);
        failures.begin_or_go_on("users", true);
        assert!(failures.any_of(&["users"]));
        failures.end("users");
        assert!(!failures.any_of(&["users"]));
    }
}
