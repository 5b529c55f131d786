//! Queues of deliveries (pure): a lane per receiver and user, so that a dead receiver delays no others.

use std::collections::{HashMap, VecDeque};

/// Maximum number of active deliveries in one lane, including those waiting for a retry.
const UNDER_WAY: usize = 4;
/// Maximum number of deliveries queued in one lane.
const WAITING: usize = 32;
/// Maximum number of deliveries of all lanes being attempted or about to be. Those waiting for a retry do not count.
const PLACES: usize = 1024;
/// Maximum number of all deliveries, waiting ones included. Bounds the memory.
const TOTAL: usize = 16 * 1024;

/// Deliveries by lane. Empty lanes are removed.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    by_name: HashMap<String, Lane<T>>,
    under_way: usize,
    total: usize,
}

#[derive(Debug)]
struct Lane<T> {
    under_way: usize,
    waiting: VecDeque<T>,
}

/// Result of adding a delivery.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Entry<T> {
    /// Start it now.
    Start(T),
    /// Queued until another one ends.
    Waits,
    /// The lane is full, or the total limit is reached.
    Full(T),
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), under_way: 0, total: 0 }
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { under_way: 0, waiting: VecDeque::new() }
    }
}

impl<T> Lanes<T> {
    /// Whether another delivery can be attempted soon, given that `paused` ones wait for a retry.
    pub fn has_room(&self, paused: usize) -> bool {
        self.under_way.saturating_sub(paused) < PLACES
    }

    /// Returns the number of deliveries.
    pub fn len(&self) -> usize {
        self.total
    }

    /// Adds a delivery to a lane.
    pub fn enter(&mut self, name: &str, delivery: T) -> Entry<T> {
        if self.total >= TOTAL {
            return Entry::Full(delivery);
        }
        let lane = self.by_name.entry(name.to_owned()).or_default();
        if lane.waiting.len() >= WAITING {
            return Entry::Full(delivery);
        }
        self.total += 1;
        if lane.under_way < UNDER_WAY {
            lane.under_way += 1;
            self.under_way += 1;
            return Entry::Start(delivery);
        }
        lane.waiting.push_back(delivery);
        Entry::Waits
    }

    /// Removes an ended delivery from its lane. Returns the next one to start.
    pub fn leave(&mut self, name: &str) -> Option<T> {
        let lane = self.by_name.get_mut(name)?;
        self.total -= 1;
        let next = lane.waiting.pop_front();
        if next.is_none() {
            lane.under_way -= 1;
            self.under_way -= 1;
            if lane.under_way == 0 {
                self.by_name.remove(name);
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_has_few_under_way_and_starts_the_others_in_order() {
        let mut lanes = Lanes::default();
        for delivery in 0..UNDER_WAY {
            assert_eq!(lanes.enter("a", delivery), Entry::Start(delivery));
        }
        assert_eq!(lanes.enter("a", 10), Entry::Waits);
        assert_eq!(lanes.enter("a", 11), Entry::Waits);
        assert_eq!(lanes.enter("b", 12), Entry::Start(12));
        assert_eq!(lanes.leave("a"), Some(10));
        assert_eq!(lanes.leave("a"), Some(11));
        for _ in 0..UNDER_WAY {
            assert_eq!(lanes.leave("a"), None);
        }
        assert_eq!(lanes.leave("b"), None);
        assert_eq!((lanes.len(), lanes.under_way), (0, 0));
        assert!(lanes.by_name.is_empty());
    }

    #[test]
    fn a_full_lane_takes_no_more_and_leaves_room_for_others() {
        let mut lanes = Lanes::default();
        for delivery in 0..UNDER_WAY + WAITING {
            assert!(!matches!(lanes.enter("a", delivery), Entry::Full(_)));
        }
        assert_eq!(lanes.enter("a", 7), Entry::Full(7));
        assert!(lanes.has_room(0));
        assert_eq!(lanes.enter("b", 8), Entry::Start(8));
    }

    #[test]
    fn what_is_tried_at_the_same_time_is_bounded_and_what_pauses_does_not_count() {
        let mut lanes = Lanes::default();
        for delivery in 0..PLACES {
            assert!(lanes.has_room(0));
            lanes.enter(&delivery.to_string(), delivery);
        }
        assert!(!lanes.has_room(0) && lanes.has_room(1));
        lanes.leave("0");
        assert!(lanes.has_room(0));
    }

    #[test]
    fn what_waits_behind_others_takes_no_place() {
        let mut lanes = Lanes::default();
        for delivery in 0..PLACES {
            lanes.enter(&(delivery % 32).to_string(), delivery);
        }
        assert_eq!((lanes.len(), lanes.under_way), (PLACES, 32 * UNDER_WAY));
        assert!(lanes.has_room(0));
    }

    #[test]
    fn all_lanes_together_are_bounded() {
        let mut lanes = Lanes::default();
        for delivery in 0..TOTAL {
            assert_eq!(lanes.enter(&delivery.to_string(), delivery), Entry::Start(delivery));
        }
        assert_eq!(lanes.enter("another", 7), Entry::Full(7));
        assert_eq!(lanes.by_name.len(), TOTAL);
        lanes.leave("0");
        assert_eq!(lanes.enter("another", 7), Entry::Start(7));
    }
}
