//! Permits limited per holder, so that no holder can take them all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Permits in use by each holder.
#[derive(Debug)]
pub struct Seats<K: Eq + Hash> {
    most: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// A permit, released when dropped.
#[derive(Debug)]
pub struct Seat<K: Clone + Eq + Hash> {
    seats: Arc<Seats<K>>,
    holder: K,
}

impl<K: Clone + Eq + Hash> Seats<K> {
    /// Allows up to `most` permits per holder.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// Takes a permit, unless the holder is at the limit.
    pub fn take(self: &Arc<Self>, holder: K) -> Option<Seat<K>> {
        self.take_up_to(holder, self.most)
    }

    /// Takes a permit for a holder with its own limit.
    pub fn take_up_to(self: &Arc<Self>, holder: K, most: usize) -> Option<Seat<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(&holder).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        taken.insert(holder.clone(), count + 1);
        Some(Seat { seats: Arc::clone(self), holder })
    }
}

impl<K: Clone + Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
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
    fn each_holder_has_a_bounded_number_and_nothing_is_left_of_those_who_have_gone() {
        let seats = Seats::new(2);
        let mut taken: Vec<_> = (0..2).filter_map(|_| seats.take("one")).collect();
        assert_eq!(taken.len(), 2);
        assert!(seats.take("one").is_none());
        assert!(seats.take("two").is_some());
        taken.pop();
        assert!(seats.take("one").is_some());
        taken.clear();
        assert!(seats.taken.lock().unwrap().is_empty());
    }
}
