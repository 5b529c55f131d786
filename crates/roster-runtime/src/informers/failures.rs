//! Failing watches, whose data may be out of date.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::metrics::CounterBy;

/// Consecutive failures after which a watch counts as failing: a single one is normal.
const FAILING_AFTER: u32 = 2;

/// Consecutive failures of watches, by resource.
#[derive(Debug)]
pub struct WatchFailures {
    /// Failures since the watch last reported anything.
    consecutive: Mutex<HashMap<&'static str, u32>>,
    count: CounterBy,
}

impl WatchFailures {
    /// Starts without failures. Each is also counted in `count`.
    pub fn new(count: CounterBy) -> Self {
        Self { consecutive: Mutex::default(), count }
    }

    /// Records a failure. After a gap, one failure makes the watch count as failing.
    pub fn record_failure(&self, resource: &'static str, is_gap: bool) {
        self.count.inc(resource);
        let mut consecutive = self.consecutive.lock().unwrap_or_else(PoisonError::into_inner);
        let count = consecutive.entry(resource).or_default();
        *count = count.saturating_add(if is_gap { FAILING_AFTER } else { 1 });
    }

    /// Records that the watch works again.
    pub fn record_recovery(&self, resource: &'static str) {
        self.consecutive.lock().unwrap_or_else(PoisonError::into_inner).remove(resource);
    }

    /// Whether the watch of one of these resources is failing: until it reports again, however long that takes.
    pub fn any_of(&self, resources: &[&str]) -> bool {
        let consecutive = self.consecutive.lock().unwrap_or_else(PoisonError::into_inner);
        resources.iter().any(|resource| consecutive.get(resource).is_some_and(|count| *count >= FAILING_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_watch_is_failing_after_two_consecutive_failures() {
        let failures = WatchFailures::new(Metrics::default().watch_errors);
        failures.record_failure("users", false);
        assert!(!failures.any_of(&["users"]));
        failures.record_failure("users", false);
        assert!(failures.any_of(&["users"]) && !failures.any_of(&["groups"]));
        failures.record_recovery("users");
        assert!(!failures.any_of(&["users"]));
    }

    #[test]
    fn a_watch_is_failing_after_one_gap() {
        let failures = WatchFailures::new(Metrics::default().watch_errors);
        failures.record_failure("users", true);
        assert!(failures.any_of(&["users"]));
        failures.record_recovery("users");
        assert!(!failures.any_of(&["users"]));
    }
}
