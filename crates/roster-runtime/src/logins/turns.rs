//! The order of attempts on one user: each is judged by what those before have failed with.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use roster_credentials::pool::Saturated;
use tokio::sync::{Mutex, MutexGuard, Semaphore};

use super::vault::Opened;

/// Attempts on one name from one source in flight, until they are answered; and requests that wait for the same [`Turn`].
/// Further ones are rejected, whether or not the name exists, so the queue of a user does not grow until its refusals are
/// later than those of unknown names.
pub const MAX_AT_A_TIME: usize = 8;

/// One request at a time.
pub struct Turn {
    lock: Mutex<()>,
    waiting: Semaphore,
}

impl Default for Turn {
    fn default() -> Self {
        Self { lock: Mutex::default(), waiting: Semaphore::new(MAX_AT_A_TIME) }
    }
}

impl Turn {
    /// Waits for the turn.
    ///
    /// # Errors
    /// If too many wait for it.
    pub async fn take(&self) -> Result<MutexGuard<'_, ()>, Saturated> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Saturated)?;
        Ok(self.lock.lock().await)
    }
}

/// Serialises the judgement of attempts on one user. Hashes are computed before.
#[derive(Default)]
pub struct Judging {
    last: Mutex<Option<Saved>>,
    waiting: AtomicUsize,
    failures: AtomicU64,
}

/// A credential as an attempt has left it.
struct Saved {
    uid: String,
    opened: Opened,
}

impl Judging {
    /// How often failures were written. What was read before the last of these writes is out of date.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }

    /// Waits until the attempts before have been judged.
    pub async fn turn(&self) -> JudgingTurn<'_> {
        let _waiting = Waiting::new(&self.waiting);
        JudgingTurn { judging: self, last: self.last.lock().await }
    }
}

/// The turn of one attempt, until it is dropped.
pub struct JudgingTurn<'a> {
    judging: &'a Judging,
    last: MutexGuard<'a, Option<Saved>>,
}

impl JudgingTurn<'_> {
    /// Returns the credential of the user as the last attempt has left it, unless `opened` was read after that. It saves
    /// reading it again: many attempts on one user take one write each, and no read.
    pub fn newer_than(&self, opened: &Opened, uid: &str) -> Option<Opened> {
        let saved = self.last.as_ref().filter(|saved| saved.uid == uid && saved.opened.is_as_new_as(opened));
        saved.map(|saved| saved.opened.clone())
    }

    /// Keeps the credential as it was saved for the attempts that wait, if any do. `has_failed`: a failure was written.
    pub fn saved(&mut self, opened: Opened, uid: &str, has_failed: bool) {
        if has_failed {
            self.judging.failures.fetch_add(1, Ordering::SeqCst);
        }
        let is_awaited = self.judging.waiting.load(Ordering::SeqCst) > 0;
        *self.last = is_awaited.then(|| Saved { uid: uid.to_owned(), opened });
    }
}

/// Counts one that waits until it is dropped, also if it is cancelled.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_wait_go_by_what_was_saved_and_never_by_something_older() {
        let judging = Judging::default();
        let mut first = judging.turn().await;
        let mut second = Box::pin(judging.turn());
        assert!(futures::poll!(&mut second).is_pending());
        first.saved(Opened::at_revision("7"), "uid", true);
        drop(first);
        let mut second = second.await;
        assert_eq!(judging.failures(), 1);
        for (read_at, uid, is_newer) in
            [("5", "uid", true), ("7", "uid", true), ("9", "uid", false), ("5", "another", false), ("x", "uid", false)]
        {
            let newer = second.newer_than(&Opened::at_revision(read_at), uid);
            assert_eq!(newer.is_some(), is_newer, "{read_at} of {uid}");
        }
        second.saved(Opened::at_revision("8"), "uid", false);
        assert!(second.newer_than(&Opened::at_revision("5"), "uid").is_none(), "nobody waits for it");
        assert_eq!(judging.failures(), 1);
    }

    #[tokio::test]
    async fn those_who_go_away_do_not_wait() {
        let judging = Judging::default();
        let mut first = judging.turn().await;
        let mut second = Box::pin(judging.turn());
        assert!(futures::poll!(&mut second).is_pending());
        drop(second);
        first.saved(Opened::at_revision("7"), "uid", true);
        assert!(first.newer_than(&Opened::at_revision("5"), "uid").is_none());
    }
}
