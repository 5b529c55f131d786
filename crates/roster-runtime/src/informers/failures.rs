//! Failing watches, whose data may be out of date.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::metrics::CounterBy;

/// Consecutive failures after which a watch counts as failing: a single one is normal.
const ROW: u32 = 2;

/// Consecutive failures of watches, by resource.
#[derive(Debug)]
pub struct Failures {
    /// Failures since the watch last reported anything.
    rows: Mutex<HashMap<&'static str, u32>>,
    count: CounterBy,
}

impl Failures {
    /// Starts without failures. Each is also counted in `count`.
    pub fn new(count: CounterBy) -> Self {
        Self { rows: Mutex::default(), count }
    }

    /// Records a failure. After a gap, one failure makes the watch count as failing.
    pub fn begin_or_go_on(&self, resource: &'static str, is_gap: bool) {
        self.count.inc(resource);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.entry(resource).or_default();
        *row = row.saturating_add(if is_gap { ROW } else { 1 });
    }

    /// Records that the watch works again.
    pub fn end(&self, resource: &'static str) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).remove(resource);
    }

    /// Whether the watch of one of these resources is failing: until it reports again, however long that takes.
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
