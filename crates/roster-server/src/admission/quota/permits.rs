//! Limits how many requests wait for quota.
//!
//! While a request waits in a webhook, it occupies a seat of kube-apiserver's API Priority and Fairness. By default,
//! all ServiceAccounts share 245 seats. So an owner may hold only a few of them, and all owners together a fraction.

use std::sync::Arc;

use roster_core::directory::Directory;
use roster_runtime::operations::keyed_permits::{KeyedPermit, KeyedPermits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum number of requests in the namespaces of one owner that wait at a replica.
pub const MAX_WAITING_PER_OWNER: usize = 16;

/// Maximum number of requests that wait at a replica. Two replicas hold about half of the 245 seats.
pub const MAX_WAITING: usize = 64;

/// Requests that wait at this replica.
pub struct WaitPermits {
    by_owner: Arc<KeyedPermits<String>>,
    in_all: Arc<Semaphore>,
}

/// Permit of one request to wait. Returned on drop.
pub struct WaitPermit {
    _of_owner: KeyedPermit<String>,
    _of_all: OwnedSemaphorePermit,
}

impl Default for WaitPermits {
    fn default() -> Self {
        Self { by_owner: KeyedPermits::new(MAX_WAITING_PER_OWNER), in_all: Arc::new(Semaphore::new(MAX_WAITING)) }
    }
}

impl WaitPermits {
    /// Returns a permit for a request in a namespace, or `None` if too many requests wait already. As long as the owner
    /// of a namespace is unknown, the namespace has permits of its own.
    pub fn acquire(&self, directory: &Directory, namespace: &str) -> Option<WaitPermit> {
        // No User has a name with a slash.
        let owner = directory.owner_of(namespace).map_or_else(|| format!("{namespace}/"), str::to_owned);
        let of_owner = self.by_owner.take(owner)?;
        let of_all = Arc::clone(&self.in_all).try_acquire_owned().ok()?;
        Some(WaitPermit { _of_owner: of_owner, _of_all: of_all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster_core::directory::bindings::NamespaceState;

    #[test]
    fn waiting_requests_are_limited_per_owner_and_in_total() {
        let mut directory = Directory::new(false);
        for namespace in ["apollo", "gemini"] {
            let labels = [("roster.dev/owner".to_owned(), "jane".to_owned())].into();
            directory.set_namespace(namespace, Some(NamespaceState { labels, is_terminating: false, locked_by: None }));
        }
        let permits = WaitPermits::default();
        let acquire = |namespace: &str| permits.acquire(&directory, namespace);
        let mut held: Vec<WaitPermit> = (0..100).filter_map(|at| acquire(["apollo", "gemini"][at % 2])).collect();
        assert_eq!(held.len(), MAX_WAITING_PER_OWNER);
        held.extend((0..100).filter_map(|at| acquire(&format!("unowned-{at}"))));
        assert_eq!(held.len(), MAX_WAITING, "one owner leaves permits to the others");
        assert!(acquire("mercury").is_none());
        held.remove(0);
        assert!(acquire("gemini").is_some(), "a permit is returned when the request no longer waits");
        drop(held);
        assert_eq!(permits.in_all.available_permits(), MAX_WAITING);
    }

    #[test]
    fn a_request_that_may_not_wait_holds_no_permit_of_its_owner() {
        let (directory, permits) = (Directory::new(false), WaitPermits::default());
        let held: Vec<_> = (0..MAX_WAITING).map(|at| permits.acquire(&directory, &format!("n{at}"))).collect();
        for _ in 0..=MAX_WAITING_PER_OWNER {
            assert!(permits.acquire(&directory, "full").is_none());
        }
        drop(held);
        assert!(permits.acquire(&directory, "full").is_some());
    }
}
