//! Serializes attempts on one user, so that each is judged after the failures of earlier ones have been counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use roster_credentials::pool::Saturated;
use tokio::sync::{Mutex, MutexGuard, Semaphore};

use super::vault::OpenedCredential;

/// Maximum number of attempts in flight on one name from one source, and of requests that wait for the same
/// [`WaitLimitedMutex`]. Further ones are rejected, whether or not the name exists, so that a user's queue never delays
/// a refusal longer than one for an unknown name.
pub const MAX_CONCURRENT: usize = 8;

/// Admits one request at a time.
pub struct WaitLimitedMutex {
    lock: Mutex<()>,
    waiting: Semaphore,
}

impl Default for WaitLimitedMutex {
    fn default() -> Self {
        Self { lock: Mutex::default(), waiting: Semaphore::new(MAX_CONCURRENT) }
    }
}

impl WaitLimitedMutex {
    /// Waits until earlier requests have released the lock.
    ///
    /// # Errors
    /// If too many requests are waiting already.
    pub async fn take(&self) -> Result<MutexGuard<'_, ()>, Saturated> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Saturated)?;
        Ok(self.lock.lock().await)
    }
}

/// Serializes the judgement of attempts on one user. The password is compared with the stored hash before the wait.
#[derive(Default)]
pub struct JudgementQueue {
    last: Mutex<Option<Saved>>,
    waiting: AtomicUsize,
    failures: AtomicU64,
}

/// A credential as an attempt saved it.
struct Saved {
    uid: String,
    opened: OpenedCredential,
}

impl JudgementQueue {
    /// Returns how many times failures have been written. Anything read before the last of these writes is out of date.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }

    /// Waits until earlier attempts have been judged.
    pub async fn wait(&self) -> Judgement<'_> {
        let _waiting = Waiting::new(&self.waiting);
        Judgement { queue: self, last: self.last.lock().await }
    }
}

/// The turn of one attempt. It ends on drop.
pub struct Judgement<'a> {
    queue: &'a JudgementQueue,
    last: MutexGuard<'a, Option<Saved>>,
}

impl Judgement<'_> {
    /// Returns the user's credential as the last attempt saved it, unless `opened` was read after that. This saves
    /// reads: many attempts on one user take one write each and no read.
    pub fn newer_than(&self, opened: &OpenedCredential, uid: &str) -> Option<OpenedCredential> {
        let saved = self.last.as_ref().filter(|saved| saved.uid == uid && saved.opened.is_as_new_as(opened));
        saved.map(|saved| saved.opened.clone())
    }

    /// Keeps the saved credential for waiting attempts, if there are any. `has_failed`: a failure was written.
    pub fn saved(&mut self, opened: OpenedCredential, uid: &str, has_failed: bool) {
        if has_failed {
            self.queue.failures.fetch_add(1, Ordering::SeqCst);
        }
        let is_awaited = self.queue.waiting.load(Ordering::SeqCst) > 0;
        *self.last = is_awaited.then(|| Saved { uid: uid.to_owned(), opened });
    }
}

/// Counts a waiting request until dropped, including on cancellation.
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
    async fn waiting_attempts_use_the_saved_credential_unless_theirs_is_newer() {
        let queue = JudgementQueue::default();
        let mut first = queue.wait().await;
        let mut second = Box::pin(queue.wait());
        assert!(futures::poll!(&mut second).is_pending());
        first.saved(OpenedCredential::at_revision("7"), "uid", true);
        drop(first);
        let mut second = second.await;
        assert_eq!(queue.failures(), 1);
        for (read_at, uid, is_newer) in
            [("5", "uid", true), ("7", "uid", true), ("9", "uid", false), ("5", "another", false), ("x", "uid", false)]
        {
            let newer = second.newer_than(&OpenedCredential::at_revision(read_at), uid);
            assert_eq!(newer.is_some(), is_newer, "{read_at} of {uid}");
        }
        second.saved(OpenedCredential::at_revision("8"), "uid", false);
        assert!(second.newer_than(&OpenedCredential::at_revision("5"), "uid").is_none(), "no attempt waits for it");
        assert_eq!(queue.failures(), 1);
    }

    #[tokio::test]
    async fn cancelled_attempts_do_not_count_as_waiting() {
        let queue = JudgementQueue::default();
        let mut first = queue.wait().await;
        let mut second = Box::pin(queue.wait());
        assert!(futures::poll!(&mut second).is_pending());
        drop(second);
        first.saved(OpenedCredential::at_revision("7"), "uid", true);
        assert!(first.newer_than(&OpenedCredential::at_revision("5"), "uid").is_none());
    }
}
