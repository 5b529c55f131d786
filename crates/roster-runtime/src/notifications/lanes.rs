//! Queues of deliveries (pure): a lane per receiver and user, so that a dead receiver delays no others.

use std::collections::{HashMap, VecDeque};

/// Maximum number of active deliveries in one lane, including those waiting for a retry.
const MAX_IN_FLIGHT: usize = 4;
/// Maximum number of deliveries queued in one lane.
const MAX_QUEUED: usize = 32;
/// Maximum number of started deliveries in all lanes together, not counting those that wait for a retry.
const MAX_CONCURRENT: usize = 1024;
/// Maximum number of all deliveries, waiting ones included. Bounds the memory.
const MAX_TOTAL: usize = 16 * 1024;

/// Deliveries by lane. Empty lanes are removed.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    by_name: HashMap<String, Lane<T>>,
    in_flight: usize,
    total: usize,
}

#[derive(Debug)]
struct Lane<T> {
    in_flight: usize,
    waiting: VecDeque<T>,
}

/// Result of adding a delivery.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum LaneEntry<T> {
    /// Start it now.
    Start(T),
    /// Queued until another one ends.
    Waits,
    /// The lane is full, or the total limit is reached.
    Full(T),
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), in_flight: 0, total: 0 }
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { in_flight: 0, waiting: VecDeque::new() }
    }
}

impl<T> Lanes<T> {
    /// Whether another delivery can be attempted soon, given that `paused` ones wait for a retry.
    pub(super) fn has_capacity(&self, paused: usize) -> bool {
        self.in_flight.saturating_sub(paused) < MAX_CONCURRENT
    }

    /// Returns the number of deliveries.
    pub(super) fn len(&self) -> usize {
        self.total
    }

    /// Adds a delivery to a lane.
    pub(super) fn enter(&mut self, name: &str, delivery: T) -> LaneEntry<T> {
        if self.total >= MAX_TOTAL {
            return LaneEntry::Full(delivery);
        }
        let lane = self.by_name.entry(name.to_owned()).or_default();
        if lane.waiting.len() >= MAX_QUEUED {
            return LaneEntry::Full(delivery);
        }
        self.total += 1;
        if lane.in_flight < MAX_IN_FLIGHT {
            lane.in_flight += 1;
            self.in_flight += 1;
            return LaneEntry::Start(delivery);
        }
        lane.waiting.push_back(delivery);
        LaneEntry::Waits
    }

    /// Removes a finished delivery from its lane. Returns the next one to start.
    pub(super) fn leave(&mut self, name: &str) -> Option<T> {
        let lane = self.by_name.get_mut(name)?;
        self.total -= 1;
        let next = lane.waiting.pop_front();
        if next.is_none() {
            lane.in_flight -= 1;
            self.in_flight -= 1;
            if lane.in_flight == 0 {
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
    fn a_lane_limits_deliveries_in_flight_and_starts_others_in_order() {
        let mut lanes = Lanes::default();
        for delivery in 0..MAX_IN_FLIGHT {
            assert_eq!(lanes.enter("a", delivery), LaneEntry::Start(delivery));
        }
        assert_eq!(lanes.enter("a", 10), LaneEntry::Waits);
        assert_eq!(lanes.enter("a", 11), LaneEntry::Waits);
        assert_eq!(lanes.enter("b", 12), LaneEntry::Start(12));
        assert_eq!(lanes.leave("a"), Some(10));
        assert_eq!(lanes.leave("a"), Some(11));
        for _ in 0..MAX_IN_FLIGHT {
            assert_eq!(lanes.leave("a"), None);
        }
        assert_eq!(lanes.leave("b"), None);
        assert_eq!((lanes.len(), lanes.in_flight), (0, 0));
        assert!(lanes.by_name.is_empty());
    }

    #[test]
    fn a_full_lane_accepts_no_more_and_does_not_block_others() {
        let mut lanes = Lanes::default();
        for delivery in 0..MAX_IN_FLIGHT + MAX_QUEUED {
            assert!(!matches!(lanes.enter("a", delivery), LaneEntry::Full(_)));
        }
        assert_eq!(lanes.enter("a", 7), LaneEntry::Full(7));
        assert!(lanes.has_capacity(0));
        assert_eq!(lanes.enter("b", 8), LaneEntry::Start(8));
    }

    #[test]
    fn concurrent_attempts_are_limited_and_pauses_do_not_count() {
        let mut lanes = Lanes::default();
        for delivery in 0..MAX_CONCURRENT {
            assert!(lanes.has_capacity(0));
            lanes.enter(&delivery.to_string(), delivery);
        }
        assert!(!lanes.has_capacity(0) && lanes.has_capacity(1));
        lanes.leave("0");
        assert!(lanes.has_capacity(0));
    }

    #[test]
    fn queued_deliveries_occupy_no_slot() {
        let mut lanes = Lanes::default();
        for delivery in 0..MAX_CONCURRENT {
            lanes.enter(&(delivery % 32).to_string(), delivery);
        }
        assert_eq!((lanes.len(), lanes.in_flight), (MAX_CONCURRENT, 32 * MAX_IN_FLIGHT));
        assert!(lanes.has_capacity(0));
    }

    #[test]
    fn the_total_of_all_lanes_is_limited() {
        let mut lanes = Lanes::default();
        for delivery in 0..MAX_TOTAL {
            assert_eq!(lanes.enter(&delivery.to_string(), delivery), LaneEntry::Start(delivery));
        }
        assert_eq!(lanes.enter("another", 7), LaneEntry::Full(7));
        assert_eq!(lanes.by_name.len(), MAX_TOTAL);
        lanes.leave("0");
        assert_eq!(lanes.enter("another", 7), LaneEntry::Start(7));
    }
}
