//! Who waits for whom (pure): a lane for each receiver, so that a dead one holds up nobody but itself.

use std::collections::{HashMap, VecDeque};

/// Deliveries to one receiver that are under way, those between two attempts among them.
const UNDER_WAY: usize = 4;
/// Deliveries to one receiver that wait behind those.
const WAITING: usize = 256;
/// All of them.
const TOTAL: usize = 1024;

/// Deliveries by receiver. It holds the receivers alone that have one.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    lanes: HashMap<String, Lane<T>>,
    total: usize,
}

#[derive(Debug)]
struct Lane<T> {
    under_way: usize,
    waiting: VecDeque<T>,
}

/// What becomes of a delivery that enters.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Entry<T> {
    /// It is to start now.
    Start(T),
    /// It waits, until another one ends.
    Waits,
    /// The lane is full.
    Full(T),
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), total: 0 }
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { under_way: 0, waiting: VecDeque::new() }
    }
}

impl<T> Lanes<T> {
    /// Whether another one may enter.
    pub fn has_room(&self) -> bool {
        self.total < TOTAL
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.total
    }

    /// A delivery enters the lane of its receiver.
    pub fn enter(&mut self, receiver: &str, delivery: T) -> Entry<T> {
        let lane = self.lanes.entry(receiver.to_owned()).or_default();
        if lane.waiting.len() >= WAITING {
            return Entry::Full(delivery);
        }
        self.total += 1;
        if lane.under_way < UNDER_WAY {
            lane.under_way += 1;
            return Entry::Start(delivery);
        }
        lane.waiting.push_back(delivery);
        Entry::Waits
    }

    /// A delivery to that receiver has ended; the one that is to start in its place.
    pub fn leave(&mut self, receiver: &str) -> Option<T> {
        let lane = self.lanes.get_mut(receiver)?;
        self.total -= 1;
        let next = lane.waiting.pop_front();
        if next.is_none() {
            lane.under_way -= 1;
            if lane.under_way == 0 {
                self.lanes.remove(receiver);
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
        assert_eq!(lanes.len(), 0);
        assert!(lanes.lanes.is_empty());
    }

    #[test]
    fn a_full_lane_takes_no_more_and_leaves_room_for_others() {
        let mut lanes = Lanes::default();
        for delivery in 0..UNDER_WAY + WAITING {
            assert!(!matches!(lanes.enter("a", delivery), Entry::Full(_)));
        }
        assert_eq!(lanes.enter("a", 7), Entry::Full(7));
        assert!(lanes.has_room());
        assert_eq!(lanes.enter("b", 8), Entry::Start(8));
    }

    #[test]
    fn all_lanes_together_are_bounded() {
        let mut lanes = Lanes::default();
        for delivery in 0..TOTAL {
            assert!(lanes.has_room());
            lanes.enter(&delivery.to_string(), delivery);
        }
        assert!(!lanes.has_room());
        lanes.leave("0");
        assert!(lanes.has_room());
    }
}
