//! Pool for hashing with bounded concurrency, memory and queue.
//!
//! By default, a hash takes a core and 19 MiB for tens of milliseconds. The pool runs at most `slots` hashes at a time, in
//! memory that it may share with another pool ([`HashMemory`]). At most `queue` callers wait. Further callers get
//! [`Saturated`] at once, which servers return as status 429.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::hash::{Argon2idCost, Memory, PasswordHash};
use super::memory::{HashMemory, MemoryNeed};
use crate::HashMetrics;

/// The queue is full.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("all hashing slots are busy and the queue is full; try again in a few seconds")]
pub struct Saturated;

/// Pool for hashing. Cheap to clone; clones share slots, memory and queue.
#[derive(Clone)]
pub struct HashPool(Arc<Inner>);

/// Size of a pool.
#[derive(Clone, Copy)]
struct Capacity {
    /// Maximum number of concurrent hashes.
    slots: usize,
    /// Maximum number of waiting callers.
    queue: usize,
}

struct Inner {
    cost: Argon2idCost,
    capacity: Capacity,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    memory: Arc<HashMemory>,
    metrics: HashMetrics,
}

impl HashPool {
    /// Creates a pool for `slots` concurrent hashes and `queue` waiting callers.
    pub fn new(cost: Argon2idCost, slots: usize, queue: usize, metrics: HashMetrics) -> Self {
        Self::with_memory(Arc::new(HashMemory::new(cost, slots)), cost, Capacity { slots, queue }, metrics)
    }

    /// Creates another pool of the same capacity that shares the memory of this one, but has its own slots and queue.
    #[must_use]
    pub fn sibling(&self) -> Self {
        let inner = &self.0;
        Self::with_memory(Arc::clone(&inner.memory), inner.cost, inner.capacity, inner.metrics.clone())
    }

    fn with_memory(memory: Arc<HashMemory>, cost: Argon2idCost, capacity: Capacity, metrics: HashMetrics) -> Self {
        let (slots, waiting) = (Arc::new(Semaphore::new(capacity.slots)), AtomicUsize::new(0));
        Self(Arc::new(Inner { cost, capacity, slots, waiting, memory, metrics }))
    }

    /// Returns the cost of new hashes.
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

    /// Returns whether `hash` is the hash of `password`.
    ///
    /// # Errors
    /// [`Saturated`] if the queue is full.
    pub async fn verify(&self, password: &SecretString, hash: &PasswordHash) -> Result<bool, Saturated> {
        let (password, hash) = (password.clone(), hash.clone());
        let need = self.0.memory.need_of(&hash);
        self.run(need, move |memory| hash.verify(password.expose_secret(), memory)).await
    }

    /// Returns whether `hash` was created from exactly `password`. Unlike [`Self::verify`], returns false if a match
    /// does not prove that: see [`PasswordHash::covers`].
    ///
    /// # Errors
    /// [`Saturated`] if the queue is full.
    pub async fn is_same(&self, password: &SecretString, hash: &PasswordHash) -> Result<bool, Saturated> {
        Ok(hash.covers(password.expose_secret()) && self.verify(password, hash).await?)
    }

    async fn run<T: Send + 'static>(
        &self,
        need: MemoryNeed,
        job: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Result<T, Saturated> {
        let inner = Arc::clone(&self.0);
        let queued = QueuePermit::acquire(&inner)?;
        let permit = Arc::clone(&inner.slots).acquire_owned().await.expect("the semaphore is never closed");
        // Reserve memory only after acquiring a slot. Memory is then held only while a hash runs, so a wait for memory
        // ends when a running hash ends.
        let mut reserved = inner.memory.reserve(need).await;
        drop(queued);
        let worker = Arc::clone(&inner);
        let result = tokio::task::spawn_blocking(move || {
            let (started, cpu) = (Instant::now(), thread_cpu_seconds());
            let result = job(&mut reserved.buffer);
            worker.metrics.duration.observe(started.elapsed().as_secs_f64());
            worker.metrics.cpu.inc_by(thread_cpu_seconds() - cpu);
            // Released here and not by the caller, whose future may have been dropped while the hash still runs.
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

/// Returns the CPU time of this thread so far.
fn thread_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.try_into().unwrap_or_default()).as_secs_f64()
}

/// Permit to wait in the queue. Released on drop, even if the caller's future is dropped while it waits.
struct QueuePermit<'a>(&'a Inner);

impl<'a> QueuePermit<'a> {
    fn acquire(inner: &'a Inner) -> Result<Self, Saturated> {
        let acquired = inner.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
            (waiting < inner.capacity.queue).then_some(waiting + 1)
        });
        if acquired.is_err() {
            inner.metrics.rejected.inc();
            return Err(Saturated);
        }
        inner.metrics.waiting.inc();
        Ok(Self(inner))
    }
}

impl Drop for QueuePermit<'_> {
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
    async fn memory_is_bounded_by_the_slots() {
        let pool = pool(2, 64);
        let password = SecretString::from("x");
        let hashes = futures::future::join_all((0..24).map(|_| pool.hash(&password))).await;
        assert!(hashes.iter().all(Result::is_ok));
        assert!(pool.0.memory.kept_kib() <= 2 * 19_456);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn dropped_callers_release_their_slot_only_after_the_hash() {
        let pool = pool(1, 64);
        let password = SecretString::from("x");
        for _ in 0..8 {
            let _ = tokio::time::timeout(Duration::from_millis(2), pool.hash(&password)).await;
        }
        assert!(pool.hash(&password).await.is_ok());
        assert_eq!(pool.0.memory.kept_kib(), 19_456, "two hashes ran at the same time");
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
        let mut peak = 0;
        let results = loop {
            tokio::select! {
                results = &mut all => break results,
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
            peak = peak.max(memory.in_use_kib());
        };
        assert!(results.iter().all(|result| *result == Ok(false)));
        assert!((65_536..=memory.total_kib()).contains(&peak), "{peak}");
        assert!(memory.kept_kib() <= 8 * 19_456, "a buffer that grew is not kept");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn callers_beyond_the_queue_are_rejected_at_once() {
        let pool = pool(1, 2);
        let password = SecretString::from("x");
        let results = futures::future::join_all((0..16).map(|_| pool.hash(&password))).await;
        assert!(results.iter().any(|result| result.as_ref().is_err_and(|error| *error == Saturated)));
        assert!(results.iter().any(Result::is_ok));
        assert_eq!(pool.0.waiting.load(Ordering::Acquire), 0);
    }
}
