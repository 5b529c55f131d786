//! Backoff for one object at a time: exponential, bounded, forgotten on success.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(300);

/// Consecutive failures by object. It holds the failing ones alone.
#[derive(Debug, Default)]
pub struct Backoff(Mutex<HashMap<String, u32>>);

impl Backoff {
    /// Counts a failure of `name` and tells how long to wait before the next attempt.
    pub fn failed(&self, name: &str) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(name.to_owned()).or_default();
        let wait = FIRST.saturating_mul(1 << (*count).min(20)).min(LONGEST);
        *count += 1;
        wait
    }

    /// Forgets the failures of `name`.
    pub fn succeeded(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_bound_and_is_forgotten_on_success() {
        let backoff = Backoff::default();
        let waits: Vec<Duration> = (0..64).map(|_| backoff.failed("jane")).collect();
        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(waits[63], LONGEST);
        assert_eq!(backoff.failed("john"), FIRST);
        backoff.succeeded("jane");
        assert_eq!(backoff.failed("jane"), FIRST);
        backoff.succeeded("jane");
        backoff.succeeded("john");
        assert!(backoff.0.lock().unwrap().is_empty());
    }
}
