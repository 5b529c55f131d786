//! Slots for undoing changes, which lists of past revisions need. Undoing takes time and memory.

use std::sync::Arc;

use roster_runtime::operations::keyed_permits::{KeyedPermit, KeyedPermits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::RequestPermit;
use super::permit_holder::PermitHolder;
use super::status::ApiError;

/// Maximum number of lists that undo changes at the same time.
const MAX_UNDOING: usize = 2;

/// Maximum number of requests that wait for a slot. Each holds its permit, so without a limit, callers that list past
/// revisions could take the permits of all other requests.
const MAX_WAITING: usize = 16;

/// Limits how many lists undo changes: a few at a time, and one per caller.
pub struct UndoLimiter {
    slots: Arc<Semaphore>,
    waiting: Semaphore,
    callers: Arc<KeyedPermits<PermitHolder>>,
}

/// A slot, freed on drop. It holds the permit of its request, so a client that disconnects does not free the permit
/// while the work continues.
pub struct UndoPermit {
    _caller: Option<KeyedPermit<PermitHolder>>,
    _slot: OwnedSemaphorePermit,
    _permit: RequestPermit,
}

impl Default for UndoLimiter {
    fn default() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(MAX_UNDOING)),
            waiting: Semaphore::new(MAX_WAITING),
            callers: KeyedPermits::new(1),
        }
    }
}

impl UndoLimiter {
    /// Waits for a slot. Slots are granted in order of arrival, so a caller must not queue more than one request.
    ///
    /// # Errors
    /// 429 if another request of the caller has a slot or waits for one, or if too many requests wait.
    pub async fn acquire(&self, permit: RequestPermit) -> Result<UndoPermit, ApiError> {
        let caller = match permit.source().share() {
            PermitHolder::Exempt => None,
            share => {
                let over_share = || ApiError::over_share(&format!("{share} 1 list of a past revision"));
                Some(self.callers.take(share.clone()).ok_or_else(over_share)?)
            }
        };
        let slot = if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            slot
        } else {
            let _waiting = self.waiting.try_acquire().map_err(|_| ApiError::too_many_requests())?;
            let slot = Arc::clone(&self.slots).acquire_owned().await;
            slot.map_err(|_| ApiError::internal("the list failed"))?
        };
        Ok(UndoPermit { _caller: caller, _slot: slot, _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_caller_has_one_slot_and_others_wait() {
        let undoing = UndoLimiter::default();
        let acquire = |name: &str| undoing.acquire(RequestPermit::for_test(PermitHolder::User(name.to_owned())));
        let jane = acquire("jane").await.unwrap();
        let refused = acquire("jane").await.map(drop).unwrap_err();
        assert_eq!(refused.code(), 429);
        let _john = acquire("john").await.unwrap();
        let mut joe = Box::pin(acquire("joe"));
        assert!(futures::poll!(&mut joe).is_pending());
        assert_eq!(acquire("joe").await.map(drop).unwrap_err().code(), 429, "another request of joe already waits");
        drop(jane);
        assert!(joe.await.is_ok());
        assert!(acquire("jane").await.is_ok());
    }

    #[tokio::test]
    async fn a_limited_number_of_requests_wait_in_total() {
        let undoing = UndoLimiter::default();
        let acquire = |share: PermitHolder| undoing.acquire(RequestPermit::for_test(share));
        let user = |at: usize| PermitHolder::User(format!("user-{at}"));
        let held = [acquire(user(0)).await.unwrap(), acquire(user(1)).await.unwrap()];
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|at| Box::pin(acquire(user(10 + at)))).collect();
        for request in &mut waiting {
            assert!(futures::poll!(request).is_pending());
        }
        for share in [user(2), PermitHolder::Exempt] {
            assert_eq!(acquire(share).await.map(drop).unwrap_err().code(), 429);
        }
        drop(waiting.pop());
        let mut next = Box::pin(acquire(user(2)));
        assert!(futures::poll!(&mut next).is_pending(), "a dropped request no longer waits");
        drop(held);
        assert!(waiting.remove(0).await.is_ok());
        assert!(waiting.remove(0).await.is_ok());
    }

    #[tokio::test]
    async fn a_cancelled_request_stops_waiting() {
        let undoing = UndoLimiter::default();
        let acquire = |name: &str| undoing.acquire(RequestPermit::for_test(PermitHolder::User(name.to_owned())));
        let (one, _two) = (acquire("one").await.unwrap(), acquire("two").await.unwrap());
        let mut three = Box::pin(acquire("three"));
        assert!(futures::poll!(&mut three).is_pending());
        drop(three);
        drop(one);
        assert!(acquire("three").await.is_ok());
    }
}
