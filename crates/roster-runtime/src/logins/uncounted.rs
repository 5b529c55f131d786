//! Failed attempts that could not be written to the identity Secret, kept until they are.
//!
//! An uncounted failure is a free guess. While one waits here, its user can't log in, even with the right password.
//! While kube-apiserver accepts no writes at all, or too many failures wait, no user can.

use std::collections::HashMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use roster_credentials::lockout::Failure;

/// Maximum number of users with waiting failures before all logins are refused. Attempts in flight can exceed it.
const MAX_USERS: usize = 1024;

/// Failures waiting to be counted.
#[derive(Debug)]
pub struct UncountedFailures {
    deferred: Mutex<Deferred>,
    gauge: Gauge<i64, AtomicI64>,
}

#[derive(Debug, Default)]
struct Deferred {
    /// Keyed by UID of the User.
    by_user: HashMap<String, Vec<Failure>>,
    /// Whether a failure waits because kube-apiserver does not accept writes.
    is_storage_failing: bool,
}

impl UncountedFailures {
    /// Creates an empty set. `gauge` reports the number of blocked users.
    pub fn new(gauge: Gauge<i64, AtomicI64>) -> Self {
        Self { deferred: Mutex::default(), gauge }
    }

    /// Whether that user's logins must be refused.
    pub fn blocks(&self, uid: &str) -> bool {
        self.deferred().by_user.contains_key(uid)
    }

    /// Whether all logins must be refused: any of them could be a guess that can't be counted.
    pub fn blocks_all_users(&self) -> bool {
        let deferred = self.deferred();
        deferred.is_storage_failing || deferred.by_user.len() >= MAX_USERS
    }

    /// Keeps failures that could not be written. `is_storage_failing`: because kube-apiserver accepts no writes.
    pub(super) fn defer(&self, uid: &str, failures: Vec<Failure>, is_storage_failing: bool) {
        let mut deferred = self.deferred();
        deferred.by_user.entry(uid.to_owned()).or_default().extend(failures);
        deferred.is_storage_failing |= is_storage_failing;
        self.update_gauge(&deferred);
    }

    /// Records that a write succeeded.
    pub(super) fn note_storage_works(&self) {
        self.deferred().is_storage_failing = false;
    }

    /// Removes the first `count` failures of a user: they were written, or the user is gone.
    pub(super) fn remove(&self, uid: &str, count: usize) {
        let mut deferred = self.deferred();
        if let Some(failures) = deferred.by_user.get_mut(uid) {
            failures.drain(..count.min(failures.len()));
            if failures.is_empty() {
                deferred.by_user.remove(uid);
            }
        }
        if deferred.by_user.is_empty() {
            deferred.is_storage_failing = false;
        }
        self.update_gauge(&deferred);
    }

    pub(super) fn users(&self) -> Vec<String> {
        self.deferred().by_user.keys().cloned().collect()
    }

    pub(super) fn failures_of(&self, uid: &str) -> Vec<Failure> {
        self.deferred().by_user.get(uid).cloned().unwrap_or_default()
    }

    fn update_gauge(&self, deferred: &Deferred) {
        self.gauge.set(i64::try_from(deferred.by_user.len()).unwrap_or(i64::MAX));
    }

    fn deferred(&self) -> MutexGuard<'_, Deferred> {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn too_many_uncounted_users_block_all_logins_and_none_is_lost() {
        let uncounted = UncountedFailures::new(Gauge::default());
        let failure = || vec![Failure { source: "192.0.2.7".into(), at: Timestamp::now() }];
        for user in 0..MAX_USERS {
            assert!(!uncounted.blocks_all_users());
            uncounted.defer(&user.to_string(), failure(), false);
        }
        assert!(uncounted.blocks_all_users());
        uncounted.defer("in flight", failure(), false);
        assert!(uncounted.blocks("in flight"));
        for uid in ["0", "1"] {
            uncounted.remove(uid, 1);
        }
        assert!(!uncounted.blocks_all_users());
        uncounted.defer("2", failure(), false);
        uncounted.remove("2", 1);
        assert!(uncounted.blocks("2"), "a failure added in the meantime is still waiting");
    }
}
