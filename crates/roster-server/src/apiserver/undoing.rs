//! Slots for undoing changes, which lists of past revisions need. Undoing takes time and memory.

use std::sync::Arc;

use roster_runtime::operations::seats::{Seat, Seats};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::{RequestPermit, Share};
use super::status::ApiError;

/// Most lists that undo changes at the same time.
const MAX_UNDOING: usize = 2;

/// Most requests that wait for a slot. Each holds its permit, so without a limit, callers that list past revisions
/// could take the permits of all other requests.
const MAX_WAITING: usize = 16;

/// Limits how many lists undo changes: a few at a time, one of each caller.
pub struct Undoing {
    turns: Arc<Semaphore>,
    waiting: Semaphore,
    callers: Arc<Seats<Share>>,
}

/// A slot, freed on drop. It holds the permit of its request, so a client that disconnects does not free the permit
/// while the work continues.
pub struct UndoTurn {
    _caller: Option<Seat<Share>>,
    _turn: OwnedSemaphorePermit,
    _permit: RequestPermit,
}

impl Default for Undoing {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(MAX_UNDOING)),
            waiting: Semaphore::new(MAX_WAITING),
            callers: Seats::new(1),
        }
    }
}

impl Undoing {
    /// Waits for a slot. Slots are granted in order of arrival, so a caller must not queue more than one request.
    ///
    /// # Errors
    /// 429 if another request of the caller has a slot or waits for one, or if too many requests wait.
    pub async fn turn(&self, permit: RequestPermit) -> Result<UndoTurn, ApiError> {
        let caller = match permit.source().share() {
            Share::Exempt => None,
            share => {
                let over_share = || ApiError::over_share(&format!("{share} 1 list of a past revision"));
                Some(self.callers.take(share.clone()).ok_or_else(over_share)?)
            }
        };
        let turn = if let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() {
            turn
        } else {
            let _waiting = self.waiting.try_acquire().map_err(|_| ApiError::too_many_requests())?;
            let turn = Arc::clone(&self.turns).acquire_owned().await;
            turn.map_err(|_| ApiError::internal("the list failed"))?
        };
        Ok(UndoTurn { _caller: caller, _turn: turn, _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_caller_has_one_turn_and_others_wait_for_theirs() {
        let undoing = Undoing::default();
        let turn = |name: &str| undoing.turn(RequestPermit::for_test(Share::User(name.to_owned())));
        let jane = turn("jane").await.unwrap();
        let refused = turn("jane").await.map(drop).unwrap_err();
        assert_eq!(refused.code(), 429);
        let _john = turn("john").await.unwrap();
        let mut joe = Box::pin(turn("joe"));
        assert!(futures::poll!(&mut joe).is_pending());
        assert_eq!(turn("joe").await.map(drop).unwrap_err().code(), 429, "it waits already");
        drop(jane);
        assert!(joe.await.is_ok());
        assert!(turn("jane").await.is_ok());
    }

    #[tokio::test]
    async fn a_bounded_number_of_requests_wait_whoever_makes_them() {
        let undoing = Undoing::default();
        let turn = |share: Share| undoing.turn(RequestPermit::for_test(share));
        let user = |at: usize| Share::User(format!("user-{at}"));
        let held = [turn(user(0)).await.unwrap(), turn(user(1)).await.unwrap()];
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|at| Box::pin(turn(user(10 + at)))).collect();
        for request in &mut waiting {
            assert!(futures::poll!(request).is_pending());
        }
        for share in [user(2), Share::Exempt] {
            assert_eq!(turn(share).await.map(drop).unwrap_err().code(), 429);
        }
        drop(waiting.pop());
        let mut next = Box::pin(turn(user(2)));
        assert!(futures::poll!(&mut next).is_pending(), "whoever goes away makes room");
        drop(held);
        assert!(waiting.remove(0).await.is_ok());
        assert!(waiting.remove(0).await.is_ok());
    }

    #[tokio::test]
    async fn a_request_that_goes_away_while_it_waits_frees_its_place() {
        let undoing = Undoing::default();
        let turn = |name: &str| undoing.turn(RequestPermit::for_test(Share::User(name.to_owned())));
        let (one, _two) = (turn("one").await.unwrap(), turn("two").await.unwrap());
        let mut three = Box::pin(turn("three"));
        assert!(futures::poll!(&mut three).is_pending());
        drop(three);
        drop(one);
        assert!(turn("three").await.is_ok());
    }
}
