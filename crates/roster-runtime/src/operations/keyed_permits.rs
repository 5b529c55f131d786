//! Permits limited per holder, so that no holder can take them all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Permits in use by each holder.
#[derive(Debug)]
pub struct KeyedPermits<K: Eq + Hash> {
    max: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// A permit, released when dropped.
#[derive(Debug)]
pub struct KeyedPermit<K: Clone + Eq + Hash> {
    permits: Arc<KeyedPermits<K>>,
    holder: K,
}

impl<K: Clone + Eq + Hash> KeyedPermits<K> {
    /// Allows up to `max` permits per holder.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default() })
    }

    /// Takes a permit, unless the holder is at the limit.
    pub fn take(self: &Arc<Self>, holder: K) -> Option<KeyedPermit<K>> {
        self.take_up_to(holder, self.max)
    }

    /// Takes a permit for a holder with its own limit.
    pub fn take_up_to(self: &Arc<Self>, holder: K, max: usize) -> Option<KeyedPermit<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(&holder).copied().unwrap_or_default();
        if count >= max {
            return None;
        }
        taken.insert(holder.clone(), count + 1);
        Some(KeyedPermit { permits: Arc::clone(self), holder })
    }
}

impl<K: Clone + Eq + Hash> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        let mut taken = self.permits.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holder_is_limited_and_forgotten_when_its_permits_are_released() {
        let permits = KeyedPermits::new(2);
        let mut taken: Vec<_> = (0..2).filter_map(|_| permits.take("one")).collect();
        assert_eq!(taken.len(), 2);
        assert!(permits.take("one").is_none());
        assert!(permits.take("two").is_some());
        taken.pop();
        assert!(permits.take("one").is_some());
        taken.clear();
        assert!(permits.taken.lock().unwrap().is_empty());
    }
}
