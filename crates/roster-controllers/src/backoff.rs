//! Exponential backoff for each object, with a maximum, reset on success.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const MIN_WAIT: Duration = Duration::from_millis(250);
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Number of consecutive failures, by name of the object. Contains only objects that are failing.
#[derive(Debug, Default)]
pub struct Backoff(Mutex<HashMap<String, u32>>);

impl Backoff {
    /// Counts a failure of `name`. Returns how long to wait before the next attempt.
    pub fn failed(&self, name: &str) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(name.to_owned()).or_default();
        let wait = MIN_WAIT.saturating_mul(1 << (*count).min(20)).min(MAX_WAIT);
        *count += 1;
        wait
    }

    /// Resets the failures of `name`.
    pub fn succeeded(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_maximum_and_is_reset_on_success() {
        let backoff = Backoff::default();
        let waits: Vec<Duration> = (0..64).map(|_| backoff.failed("jane")).collect();
        assert_eq!(waits[..3], [MIN_WAIT, MIN_WAIT * 2, MIN_WAIT * 4]);
        assert_eq!(waits[63], MAX_WAIT);
        assert_eq!(backoff.failed("john"), MIN_WAIT);
        backoff.succeeded("jane");
        assert_eq!(backoff.failed("jane"), MIN_WAIT);
        backoff.succeeded("jane");
        backoff.succeeded("john");
        assert!(backoff.0.lock().unwrap().is_empty());
    }
}
