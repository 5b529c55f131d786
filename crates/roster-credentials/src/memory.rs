//! Memory budget for hashing, shared by all pools of the process.
//!
//! A hash holds one semaphore permit per KiB. The semaphore is fair, so small hashes can't starve a large one. Buffers
//! of argon2id are kept for reuse, because getting fresh pages from the kernel takes a third of the time of a hash.
//! Memory in use and kept buffers together never exceed the budget.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hash::{Algorithm, Argon2idCost, Ceiling, Memory, PasswordHash};

/// Number of pools in the process: one for logins, one for everything else.
const POOLS: u32 = 2;

/// Memory budget for hashing.
pub struct HashMemory {
    total_kib: u32,
    /// Maximum size of a kept buffer: the size for new hashes.
    buffer_kib: u32,
    free: Arc<Semaphore>,
    /// Buffers kept for reuse.
    idle: Mutex<Vec<Memory>>,
}

/// Memory that one hash needs.
#[derive(Clone, Copy, Debug)]
pub struct MemoryNeed {
    kib: u32,
    /// Set for argon2id, which works in a reusable buffer.
    takes_buffer: bool,
}

/// Memory reserved for one hash. Released on drop.
pub struct Reserved {
    memory: Arc<HashMemory>,
    /// Working memory for argon2id.
    pub buffer: Memory,
    permit: Option<OwnedSemaphorePermit>,
}

impl HashMemory {
    /// Returns the budget for two pools of `slots` hashes each: enough for new hashes in all slots, and at least for one hash
    /// of [`Ceiling::STORED`], so that every hash that parses can be verified.
    pub fn new(cost: Argon2idCost, slots: usize) -> Self {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        let total_kib = POOLS.saturating_mul(slots).saturating_mul(cost.memory_kib()).max(Ceiling::STORED.memory_kib);
        Self {
            total_kib,
            buffer_kib: cost.memory_kib(),
            free: Arc::new(Semaphore::new(total_kib as usize)),
            idle: Mutex::default(),
        }
    }

    /// Returns what a new hash needs.
    pub fn need_of_new(&self) -> MemoryNeed {
        MemoryNeed { kib: self.buffer_kib, takes_buffer: true }
    }

    /// Returns what verifying `hash` needs.
    pub fn need_of(&self, hash: &PasswordHash) -> MemoryNeed {
        let takes_buffer = hash.algorithm() == Algorithm::Argon2id;
        // Verification may get a kept buffer that is larger than necessary.
        let min = if takes_buffer { self.buffer_kib } else { 0 };
        MemoryNeed { kib: hash.memory_kib().max(min), takes_buffer }
    }

    /// Waits until this much memory is free, and reserves it.
    pub async fn reserve(self: &Arc<Self>, need: MemoryNeed) -> Reserved {
        let permit = Arc::clone(&self.free).acquire_many_owned(need.kib).await.expect("the semaphore is never closed");
        let mut idle = self.idle();
        let buffer = if need.takes_buffer { idle.pop().unwrap_or_default() } else { Memory::default() };
        self.trim(&mut idle);
        Reserved { memory: Arc::clone(self), buffer, permit: Some(permit) }
    }

    /// Frees kept buffers until they fit into the budget together with the memory in use.
    fn trim(&self, idle: &mut Vec<Memory>) {
        while self.in_use_kib().saturating_add(kib_of(idle)) > self.total_kib && idle.pop().is_some() {}
    }

    /// Returns the memory in use, in KiB.
    pub fn in_use_kib(&self) -> u32 {
        self.total_kib - u32::try_from(self.free.available_permits()).unwrap_or(self.total_kib)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Memory>> {
        // A panic can't leave the vector in an inconsistent state.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl HashMemory {
    pub(super) fn total_kib(&self) -> u32 {
        self.total_kib
    }

    /// Returns the memory of kept buffers, in KiB.
    pub(super) fn kept_kib(&self) -> u32 {
        kib_of(&self.idle())
    }
}

fn kib_of(idle: &[Memory]) -> u32 {
    idle.iter().map(Memory::kib).fold(0, u32::saturating_add)
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // Do not keep a buffer that had to grow: it would hold the memory of one expensive hash forever.
        let kept = Some(buffer).filter(|buffer| (1..=self.memory.buffer_kib).contains(&buffer.kib()));
        let mut idle = self.memory.idle();
        // Release under the lock, so that the next reservation sees the buffer.
        drop(self.permit.take());
        idle.extend(kept);
        self.memory.trim(&mut idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn memory(slots: usize) -> Arc<HashMemory> {
        Arc::new(HashMemory::new(Argon2idCost::default(), slots))
    }

    fn hash(memory_kib: u32) -> PasswordHash {
        let text =
            format!("$argon2id$v=19$m={memory_kib},t=4,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG");
        PasswordHash::parse(&text).unwrap()
    }

    #[test]
    fn the_budget_is_enough_for_all_slots_and_the_most_expensive_hash() {
        assert_eq!(memory(1).total_kib(), 262_144);
        assert_eq!(memory(8).total_kib(), 2 * 8 * 19_456);
        assert_eq!(memory(1).need_of(&hash(262_144)).kib, 262_144);
    }

    #[tokio::test]
    async fn expensive_hashes_run_one_after_another() {
        let memory = memory(4);
        let need = memory.need_of(&hash(262_144));
        let first = memory.reserve(need).await;
        assert_eq!(memory.in_use_kib(), memory.total_kib());
        assert!(tokio::time::timeout(Duration::from_millis(1), memory.reserve(need)).await.is_err());
        drop(first);
        drop(memory.reserve(need).await);
        assert_eq!((memory.in_use_kib(), memory.kept_kib()), (0, 0));
    }

    #[tokio::test]
    async fn small_hashes_do_not_starve_an_expensive_one() {
        let memory = memory(4);
        let small = memory.reserve(memory.need_of_new()).await;
        let costly = memory.reserve(memory.need_of(&hash(262_144)));
        tokio::pin!(costly);
        assert!(futures::poll!(&mut costly).is_pending());
        let later = memory.reserve(memory.need_of_new());
        tokio::pin!(later);
        assert!(futures::poll!(&mut later).is_pending(), "there is enough memory, but a hash before it waits");
        drop(small);
        assert!(futures::poll!(&mut costly).is_ready());
    }

    #[tokio::test]
    async fn kept_buffers_are_freed_when_memory_is_needed() {
        let memory = memory(4);
        let fill = |reserved: &mut Reserved, kib| {
            drop(PasswordHash::create("x", Argon2idCost::new(kib, 2, 1).unwrap(), &mut reserved.buffer));
        };
        let mut all = Vec::new();
        for _ in 0..8 {
            let mut reserved = memory.reserve(memory.need_of_new()).await;
            fill(&mut reserved, 19_456);
            all.push(reserved);
        }
        assert_eq!(memory.kept_kib(), 0);
        drop(all);
        assert_eq!(memory.kept_kib(), 8 * 19_456);
        let mut grown = memory.reserve(memory.need_of(&hash(200_000))).await;
        assert!(memory.in_use_kib() + memory.kept_kib() <= memory.total_kib());
        fill(&mut grown, 200_000);
        drop(grown);
        assert!(memory.kept_kib() <= 4 * 19_456, "a buffer that had to grow is not kept");
        let reserved = memory.reserve(memory.need_of_new()).await;
        assert_eq!(reserved.buffer.kib(), 19_456, "the others are reused");
    }

    #[tokio::test]
    async fn other_algorithms_take_no_buffer() {
        let memory = memory(4);
        let bcrypt = PasswordHash::parse("$2b$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW").unwrap();
        let scrypt = "$scrypt$ln=15,r=8,p=1$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE";
        let scrypt = PasswordHash::parse(scrypt).unwrap();
        let both = (memory.reserve(memory.need_of(&bcrypt)).await, memory.reserve(memory.need_of(&scrypt)).await);
        assert_eq!(memory.in_use_kib(), 8 + 32_768);
        drop(both);
        assert_eq!((memory.in_use_kib(), memory.kept_kib()), (0, 0));
    }
}
