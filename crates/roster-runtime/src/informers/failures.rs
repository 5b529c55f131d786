//! Tracks failing watches, whose data may be out of date.

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
    /// Creates a tracker without failures. Each failure also increments `count`.
    pub fn new(count: CounterBy) -> Self {
        Self { consecutive: Mutex::default(), count }
    }

    /// Creates the counter of a watch that starts, so that Prometheus sees its first failure.
    pub fn start(&self, resource: &'static str) {
        self.count.create(resource);
    }

    /// Records a failure. If it left a gap, because changes may have been missed, the watch counts as failing at once.
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

    /// Whether the watch of any of these resources is failing. It stays failing until it reports something again.
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
    fn a_watch_that_starts_has_a_counter() {
        let metrics = Metrics::default();
        WatchFailures::new(metrics.watch_errors.clone()).start("namespaces");
        let text = metrics.render();
        assert!(text.contains("roster_watch_errors_total{resource=\"namespaces\"} 0\n"), "{text}");
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
