//! Watches that fail: what is known by them may be out of date.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::CounterBy;

/// Failures in a row from which on a watch counts as failing: one alone is everyday life.
const ROW: u32 = 2;

/// How long after the last failure it counts. A watch that has come back says nothing until something happens; one that
/// has not fails again sooner than this: kube's backoff goes up to 30 s, and its jitter up to as much again.
const MEMORY: Duration = Duration::from_secs(75);

/// Failures of watches, by resource.
#[derive(Debug)]
pub struct Failures {
    rows: Mutex<HashMap<&'static str, (u32, Instant)>>,
    count: CounterBy,
}

impl Failures {
    /// None so far. Each is counted in `count` as well.
    pub fn new(count: CounterBy) -> Self {
        Self { rows: Mutex::default(), count }
    }

    /// The watch has failed (again).
    pub fn begin_or_go_on(&self, resource: &'static str) {
        self.count.inc(resource);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.entry(resource).or_insert((0, Instant::now()));
        *row = (row.0 + 1, Instant::now());
    }

    /// The watch tells of something.
    pub fn end(&self, resource: &'static str) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).remove(resource);
    }

    /// Whether the watch of one of these resources fails at this moment.
    pub fn any_of(&self, resources: &[&str]) -> bool {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let fails = |(count, last): &(u32, Instant)| *count >= ROW && last.elapsed() < MEMORY;
        resources.iter().any(|resource| rows.get(resource).is_some_and(fails))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn one_failure_is_everyday_life_and_a_row_of_them_is_not() {
        let failures = Failures::new(Metrics::default().watch_errors);
        failures.begin_or_go_on("users");
        assert!(!failures.any_of(&["users"]));
        failures.begin_or_go_on("users");
        assert!(failures.any_of(&["users"]) && !failures.any_of(&["groups"]));
        failures.end("users");
        assert!(!failures.any_of(&["users"]));
    }
}
