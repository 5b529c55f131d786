//! Limits how many requests wait for quota.
//!
//! While a request waits in a webhook, it occupies a seat of kube-apiserver's API Priority and Fairness. By default,
//! all ServiceAccounts share 245 seats. So an owner may hold only a few of them, and all owners together a fraction.

use std::sync::Arc;

use roster_core::directory::Directory;
use roster_runtime::operations::keyed_permits::{KeyedPermit, KeyedPermits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::admission::review_origin::ReviewOrigin;

/// Maximum number of requests in the namespaces of one owner that wait at a replica.
pub const MAX_WAITING_PER_OWNER: usize = 16;

/// Maximum number of requests that wait at a replica. Two replicas hold about half of the 245 seats.
pub const MAX_WAITING: usize = 64;

/// Maximum number of waiting requests in the namespaces of one owner whose reviews prove only their path.
pub const MAX_WAITING_PER_OWNER_BY_PATH: usize = 8;

/// Maximum number of waiting requests whose reviews prove only their path.
pub const MAX_WAITING_BY_PATH: usize = 24;

/// Requests that wait at this replica. Reviews that prove only their path may be made up, so they have permits of their
/// own.
pub struct WaitPermits {
    of_api_server: Waiters,
    by_path: Waiters,
}

/// Waiting requests whose reviews have the same origin.
struct Waiters {
    by_owner: Arc<KeyedPermits<String>>,
    in_all: Arc<Semaphore>,
}

impl Waiters {
    fn new(max_per_owner: usize, max: usize) -> Self {
        Self { by_owner: KeyedPermits::new(max_per_owner), in_all: Arc::new(Semaphore::new(max)) }
    }
}

/// Permit of one request to wait. Returned on drop.
pub struct WaitPermit {
    _of_owner: KeyedPermit<String>,
    _of_all: OwnedSemaphorePermit,
}

impl Default for WaitPermits {
    fn default() -> Self {
        Self {
            of_api_server: Waiters::new(MAX_WAITING_PER_OWNER, MAX_WAITING),
            by_path: Waiters::new(MAX_WAITING_PER_OWNER_BY_PATH, MAX_WAITING_BY_PATH),
        }
    }
}

impl WaitPermits {
    /// Returns a permit for a request in a namespace, or `None` if too many requests wait already, or if the namespace
    /// may be made up. As long as the owner of another namespace is unknown, the namespace has permits of its own.
    pub fn acquire(&self, directory: &Directory, namespace: &str, origin: ReviewOrigin) -> Option<WaitPermit> {
        if may_be_made_up(directory, namespace, origin) {
            return None;
        }
        // No User has a name with a slash.
        let owner = directory.owner_of(namespace).map_or_else(|| format!("{namespace}/"), str::to_owned);
        let waiters = match origin {
            ReviewOrigin::ApiServer => &self.of_api_server,
            ReviewOrigin::PathOnly => &self.by_path,
        };
        let of_owner = waiters.by_owner.take(owner)?;
        let of_all = Arc::clone(&waiters.in_all).try_acquire_owned().ok()?;
        Some(WaitPermit { _of_owner: of_owner, _of_all: of_all })
    }
}

/// Returns whether the namespace of a review may not exist. Such a review must be answered at once, without storing
/// anything: its sender can make up any number of namespaces. kube-apiserver's own reviews may be about a namespace that
/// has just been created and has not reached the informers yet.
pub fn may_be_made_up(directory: &Directory, namespace: &str, origin: ReviewOrigin) -> bool {
    origin == ReviewOrigin::PathOnly && directory.owner_of(namespace).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster_core::directory::bindings::NamespaceState;

    fn own(directory: &mut Directory, namespace: &str, owner: &str) {
        let labels = [("roster.dev/owner".to_owned(), owner.to_owned())].into();
        directory.set_namespace(namespace, Some(NamespaceState { labels, is_terminating: false, locked_by: None }));
    }

    #[test]
    fn waiting_requests_are_limited_per_owner_and_in_total() {
        let mut directory = Directory::new(false);
        own(&mut directory, "apollo", "jane");
        own(&mut directory, "gemini", "jane");
        let permits = WaitPermits::default();
        let acquire = |namespace: &str| permits.acquire(&directory, namespace, ReviewOrigin::ApiServer);
        let mut held: Vec<WaitPermit> = (0..100).filter_map(|at| acquire(["apollo", "gemini"][at % 2])).collect();
        assert_eq!(held.len(), MAX_WAITING_PER_OWNER);
        held.extend((0..100).filter_map(|at| acquire(&format!("unowned-{at}"))));
        assert_eq!(held.len(), MAX_WAITING, "one owner leaves permits to the others");
        assert!(acquire("mercury").is_none());
        held.remove(0);
        assert!(acquire("gemini").is_some(), "a permit is returned when the request no longer waits");
        drop(held);
        assert_eq!(permits.of_api_server.in_all.available_permits(), MAX_WAITING);
    }

    /// A leaked path lets a client send reviews of any namespace.
    #[test]
    fn a_path_alone_takes_no_permits_of_kube_apiserver_and_none_for_made_up_namespaces() {
        let mut directory = Directory::new(false);
        for at in 0..MAX_WAITING {
            own(&mut directory, &format!("n{at}"), &format!("owner-{at}"));
        }
        let permits = WaitPermits::default();
        let by_path = |namespace: String| permits.acquire(&directory, &namespace, ReviewOrigin::PathOnly);
        assert!((0..MAX_WAITING).all(|at| by_path(format!("made-up-{at}")).is_none()));
        let of_one: Vec<_> = (0..MAX_WAITING).filter_map(|_| by_path("n0".to_owned())).collect();
        assert_eq!(of_one.len(), MAX_WAITING_PER_OWNER_BY_PATH);
        let others: Vec<_> = (1..MAX_WAITING).filter_map(|at| by_path(format!("n{at}"))).collect();
        assert_eq!(of_one.len() + others.len(), MAX_WAITING_BY_PATH);
        let of_api_server = |at| permits.acquire(&directory, &format!("n{at}"), ReviewOrigin::ApiServer);
        let held: Vec<_> = (0..MAX_WAITING).filter_map(of_api_server).collect();
        assert_eq!(held.len(), MAX_WAITING);
    }

    #[test]
    fn a_request_that_may_not_wait_holds_no_permit_of_its_owner() {
        let (directory, permits) = (Directory::new(false), WaitPermits::default());
        let acquire = |namespace: &str| permits.acquire(&directory, namespace, ReviewOrigin::ApiServer);
        let held: Vec<_> = (0..MAX_WAITING).map(|at| acquire(&format!("n{at}"))).collect();
        for _ in 0..=MAX_WAITING_PER_OWNER {
            assert!(acquire("full").is_none());
        }
        drop(held);
        assert!(acquire("full").is_some());
    }
}
