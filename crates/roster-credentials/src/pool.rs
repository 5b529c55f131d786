//! A bounded pool for hashing: bounded concurrency, bounded memory, bounded queue.
//!
//! Each hash takes a core and 19 MiB for tens of milliseconds. The pool runs at most `slots` at a time, in memory that it
//! may share with another pool ([`HashMemory`]), and lets at most `queue` callers wait; whoever comes beyond that is told
//! so at once and can say 429 to its client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::hash::{Argon2idCost, Memory, PasswordHash};
use super::memory::{HashMemory, Need};
use crate::HashMetrics;

/// The queue is full.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("all hashing slots are busy and the queue is full; try again in a few seconds")]
pub struct Saturated;

/// The pool. Cheap to clone; clones share slots, memory and queue.
#[derive(Clone)]
pub struct HashPool(Arc<Inner>);

struct Inner {
    cost: Argon2idCost,
    count: usize,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    memory: Arc<HashMemory>,
    metrics: HashMetrics,
}

impl HashPool {
    /// A pool of `slots` concurrent hashes and `queue` waiting callers.
    pub fn new(cost: Argon2idCost, slots: usize, queue: usize, metrics: HashMetrics) -> Self {
        Self::within(Arc::new(HashMemory::new(cost, slots)), cost, (slots, queue), metrics)
    }

    /// Another pool of the same size, which shares this one's memory and nothing else: neither keeps the other from its
    /// slots.
    #[must_use]
    pub fn sibling(&self) -> Self {
        let inner = &self.0;
        Self::within(Arc::clone(&inner.memory), inner.cost, (inner.count, inner.queue), inner.metrics.clone())
    }

    fn within(
        memory: Arc<HashMemory>,
        cost: Argon2idCost,
        (count, queue): (usize, usize),
        metrics: HashMetrics,
    ) -> Self {
        let (slots, waiting) = (Arc::new(Semaphore::new(count)), AtomicUsize::new(0));
        Self(Arc::new(Inner { cost, count, slots, waiting, queue, memory, metrics }))
    }

    /// What a hash costs.
    pub fn cost(&self) -> Argon2idCost {
        self.0.cost
    }

    /// Hashes a password with the pool's cost.
    ///
    /// # Errors
    /// [`Saturated`] if the queue is full.
    pub async fn hash(&self, password: &SecretString) -> Result<PasswordHash, Saturated> {
        let (password, cost) = (password.clone(), self.0.cost);
        let need = self.0.memory.need_of_new();
        self.run(need, move |memory| PasswordHash::create(password.expose_secret(), cost, memory)).await
    }

    /// Whether `hash` is the hash of `password`.
    ///
    /// # Errors
    /// [`Saturated`] if the queue is full.
    pub async fn verify(&self, password: &SecretString, hash: &PasswordHash) -> Result<bool, Saturated> {
        let (password, hash) = (password.clone(), hash.clone());
        let need = self.0.memory.need_of(&hash);
        self.run(need, move |memory| hash.verify(password.expose_secret(), memory)).await
    }

    /// Whether `hash` was made from `password` itself. Unlike [`Self::verify`], false if the algorithm cannot tell: see
    /// [`PasswordHash::covers`].
    ///
    /// # Errors
    /// [`Saturated`] if the queue is full.
    pub async fn is_same(&self, password: &SecretString, hash: &PasswordHash) -> Result<bool, Saturated> {
        Ok(hash.covers(password.expose_secret()) && self.verify(password, hash).await?)
    }

    async fn run<T: Send + 'static>(
        &self,
        need: Need,
        job: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Result<T, Saturated> {
        let inner = Arc::clone(&self.0);
        let place = Place::take(&inner)?;
        let permit = Arc::clone(&inner.slots).acquire_owned().await.expect("the semaphore is never closed");
        // After the slot, and held for no longer than the hash takes: whoever waits here waits for those who run.
        let mut reserved = inner.memory.reserve(need).await;
        drop(place);
        let worker = Arc::clone(&inner);
        let result = tokio::task::spawn_blocking(move || {
            let (started, cpu) = (Instant::now(), thread_cpu_seconds());
            let result = job(&mut reserved.buffer);
            worker.metrics.duration.observe(started.elapsed().as_secs_f64());
            worker.metrics.cpu.inc_by(thread_cpu_seconds() - cpu);
            // Given back here and not by the caller, who may be gone by now while this still takes a core.
            drop((reserved, permit));
            result
        })
        .await;
        match result {
            Ok(result) => Ok(result),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// CPU time of this thread so far.
fn thread_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.try_into().unwrap_or_default()).as_secs_f64()
}

/// A place in the queue, given back when dropped: also when the caller goes away while it waits.
struct Place<'a>(&'a Inner);

impl<'a> Place<'a> {
    fn take(inner: &'a Inner) -> Result<Self, Saturated> {
        let taken = inner.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
            (waiting < inner.queue).then_some(waiting + 1)
        });
        if taken.is_err() {
            inner.metrics.rejected.inc();
            return Err(Saturated);
        }
        inner.metrics.waiting.inc();
        Ok(Self(inner))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.waiting.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(slots: usize, queue: usize) -> HashPool {
        HashPool::new(Argon2idCost::default(), slots, queue, HashMetrics::default())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn hashes_and_verifies() {
        let pool = pool(2, 8);
        let password = SecretString::from("correct horse");
        let hash = pool.hash(&password).await.unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_eq!(pool.verify(&password, &hash).await, Ok(true));
        assert_eq!(pool.verify(&SecretString::from("wrong"), &hash).await, Ok(false));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn memory_is_one_buffer_a_slot_however_many_callers() {
        let pool = pool(2, 64);
        let password = SecretString::from("x");
        let hashes = futures::future::join_all((0..24).map(|_| pool.hash(&password))).await;
        assert!(hashes.iter().all(Result::is_ok));
        assert!(pool.0.memory.kept_kib() <= 2 * 19_456);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn callers_that_go_away_free_no_slot_before_its_hash_is_done() {
        let pool = pool(1, 64);
        let password = SecretString::from("x");
        for _ in 0..8 {
            let _ = tokio::time::timeout(Duration::from_millis(2), pool.hash(&password)).await;
        }
        assert!(pool.hash(&password).await.is_ok());
        assert_eq!(pool.0.memory.kept_kib(), 19_456, "two ran at the same time");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_pools_share_their_memory_whatever_the_hashes_ask_for() {
        let first = pool(4, 64);
        let (second, memory) = (first.sibling(), Arc::clone(&first.0.memory));
        let costly = "$argon2id$v=19$m=65536,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG";
        let costly = PasswordHash::parse(costly).unwrap();
        let password = SecretString::from("x");
        let pools = [&first, &second];
        let all = futures::future::join_all((0..16).map(|at| pools[at % 2].verify(&password, &costly)));
        tokio::pin!(all);
        let mut most = 0;
        let results = loop {
            tokio::select! {
                results = &mut all => break results,
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
            most = most.max(memory.in_use_kib());
        };
        assert!(results.iter().all(|result| *result == Ok(false)));
        assert!((65_536..=memory.total_kib()).contains(&most), "{most}");
        assert!(memory.kept_kib() <= 8 * 19_456, "a buffer that grew is not kept");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn beyond_the_queue_callers_are_turned_away_at_once() {
        let pool = pool(1, 2);
        let password = SecretString::from("x");
        let results = futures::future::join_all((0..16).map(|_| pool.hash(&password))).await;
        assert!(results.iter().any(|result| result.as_ref().is_err_and(|error| *error == Saturated)));
        assert!(results.iter().any(Result::is_ok));
        assert_eq!(pool.0.waiting.load(Ordering::Acquire), 0);
    }
}
