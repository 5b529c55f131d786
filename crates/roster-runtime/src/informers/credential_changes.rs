//! Changes of stored credentials, for those who keep a session of their User open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Counts the changes of each credential that is followed.
#[derive(Debug, Default)]
pub struct CredentialChanges {
    /// By UID of the User.
    counts: Mutex<HashMap<String, Weak<AtomicU64>>>,
}

/// Number of changes of one credential since someone began to follow it. The credential is followed until the last copy
/// is dropped.
#[derive(Clone, Debug)]
pub struct ChangeCount(Arc<AtomicU64>);

impl ChangeCount {
    /// Returns the current number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl CredentialChanges {
    /// Follows the credential of the User with this UID.
    pub fn follow(&self, uid: &str) -> ChangeCount {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get(uid).and_then(Weak::upgrade) {
            return ChangeCount(count);
        }
        counts.retain(|_, count| count.strong_count() > 0);
        let count = Arc::default();
        counts.insert(uid.to_owned(), Arc::downgrade(&count));
        ChangeCount(count)
    }

    /// Counts a change of the credential of the User with this UID, if it is followed.
    pub fn note(&self, uid: &str) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get(uid).and_then(Weak::upgrade) {
            count.fetch_add(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted_for_followed_credentials_only() {
        let changes = CredentialChanges::default();
        changes.note("u-1");
        let (one, same, other) = (changes.follow("u-1"), changes.follow("u-1"), changes.follow("u-2"));
        changes.note("u-1");
        changes.note("u-3");
        assert_eq!((one.get(), same.get(), other.get()), (1, 1, 0));
        drop((one, same));
        let again = changes.follow("u-1");
        assert_eq!((again.get(), changes.counts.lock().unwrap().len()), (0, 2));
    }
}
