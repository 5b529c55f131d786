//! The memory that all hashing of the process shares: hashes of every pool, whatever their parameters ask for.
//!
//! A hash holds as many permits as it takes KiB. The semaphore is first come, first served, so a hash that needs much is
//! not overtaken for ever by those that need little. Buffers of argon2id are kept for reuse, because fresh pages cost a
//! third of the time of a hash; they count too: what is in use and what is kept is never more than the whole together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hash::{Algorithm, Argon2idCost, Ceiling, Memory, PasswordHash};

/// Pools of a process: one for logins, one for everything else.
const POOLS: u32 = 2;

/// Memory for hashing.
pub struct HashMemory {
    total_kib: u32,
    /// Size of the buffers that are kept: that of new hashes.
    buffer_kib: u32,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Memory>>,
}

/// What one hash needs.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    kib: u32,
    /// Whether it works in a buffer that can be kept.
    takes_buffer: bool,
}

/// Memory that is reserved for one hash. Given back when dropped.
pub struct Reserved {
    memory: Arc<HashMemory>,
    /// Where argon2id works.
    pub buffer: Memory,
    permit: Option<OwnedSemaphorePermit>,
}

impl HashMemory {
    /// Memory for two pools of `slots` hashes each: enough for new hashes in all of them, and for one hash of the highest
    /// cost that is stored. So nothing that parses waits for memory that can't come.
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

    /// What a new hash needs.
    pub fn need_of_new(&self) -> Need {
        Need { kib: self.buffer_kib, takes_buffer: true }
    }

    /// What the verification of `hash` needs.
    pub fn need_of(&self, hash: &PasswordHash) -> Need {
        let takes_buffer = hash.algorithm() == Algorithm::Argon2id;
        // A buffer that was kept may be larger than the hash asks for.
        let least = if takes_buffer { self.buffer_kib } else { 0 };
        Need { kib: hash.memory_kib().max(least), takes_buffer }
    }

    /// Waits until there is as much.
    pub async fn reserve(self: &Arc<Self>, need: Need) -> Reserved {
        let permit = Arc::clone(&self.free).acquire_many_owned(need.kib).await.expect("the semaphore is never closed");
        let mut idle = self.idle();
        let buffer = if need.takes_buffer { idle.pop().unwrap_or_default() } else { Memory::default() };
        self.trim(&mut idle);
        Reserved { memory: Arc::clone(self), buffer, permit: Some(permit) }
    }

    /// Frees buffers that are kept, as far as what is in use needs their room.
    fn trim(&self, idle: &mut Vec<Memory>) {
        while self.in_use_kib().saturating_add(kib_of(idle)) > self.total_kib && idle.pop().is_some() {}
    }

    /// Memory that is reserved at this moment, in KiB.
    pub fn in_use_kib(&self) -> u32 {
        self.total_kib - u32::try_from(self.free.available_permits()).unwrap_or(self.total_kib)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Memory>> {
        // The vector is valid at every instant; a panic elsewhere leaves nothing half done.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl HashMemory {
    pub(super) fn total_kib(&self) -> u32 {
        self.total_kib
    }

    /// Memory of buffers that are kept for the next hash, in KiB.
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
        // One that had to grow is not kept: that one costly hash would stay resident.
        let kept = Some(buffer).filter(|buffer| (1..=self.memory.buffer_kib).contains(&buffer.kib()));
        let mut idle = self.memory.idle();
        // Under the lock: whoever reserves what becomes free here sees the buffer.
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
    fn there_is_enough_for_all_slots_and_for_the_costliest_hash() {
        assert_eq!(memory(1).total_kib(), 262_144);
        assert_eq!(memory(8).total_kib(), 2 * 8 * 19_456);
        assert_eq!(memory(1).need_of(&hash(262_144)).kib, 262_144);
    }

    #[tokio::test]
    async fn costly_hashes_follow_each_other() {
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
    async fn a_costly_hash_is_not_overtaken_by_small_ones() {
        let memory = memory(4);
        let small = memory.reserve(memory.need_of_new()).await;
        let costly = memory.reserve(memory.need_of(&hash(262_144)));
        tokio::pin!(costly);
        assert!(futures::poll!(&mut costly).is_pending());
        let later = memory.reserve(memory.need_of_new());
        tokio::pin!(later);
        assert!(futures::poll!(&mut later).is_pending(), "there is room for it, but somebody waits");
        drop(small);
        assert!(futures::poll!(&mut costly).is_ready());
    }

    #[tokio::test]
    async fn buffers_are_kept_and_give_way_to_what_is_in_use() {
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
        assert!(memory.kept_kib() <= 4 * 19_456, "what had to grow is not kept");
        let reserved = memory.reserve(memory.need_of_new()).await;
        assert_eq!(reserved.buffer.kib(), 19_456, "and the others are used again");
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
