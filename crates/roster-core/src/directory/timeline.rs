//! Instants at which the passing of time alone changes something. Each key has at most one: its next instant.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use jiff::Timestamp;

/// Next instant of each key.
#[derive(Debug)]
pub(super) struct Timeline<K> {
    keys: BTreeMap<Timestamp, BTreeSet<K>>,
    instants: HashMap<K, Timestamp>,
}

impl<K> Default for Timeline<K> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), instants: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord> Timeline<K> {
    /// Sets or removes the key's next instant.
    pub(super) fn set(&mut self, key: K, instant: Option<Timestamp>) {
        if let Some(before) = self.instants.remove(&key)
            && let Some(keys) = self.keys.get_mut(&before)
        {
            keys.remove(&key);
            if keys.is_empty() {
                self.keys.remove(&before);
            }
        }
        if let Some(instant) = instant {
            self.keys.entry(instant).or_default().insert(key.clone());
            self.instants.insert(key, instant);
        }
    }

    /// Removes and returns every key whose instant has come.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<K> {
        let mut due = Vec::new();
        while let Some(entry) = self.keys.first_entry().filter(|entry| *entry.key() <= now) {
            due.extend(entry.remove());
        }
        for key in &due {
            self.instants.remove(key);
        }
        due
    }

    /// Returns the key's next instant.
    pub(super) fn get(&self, key: &K) -> Option<Timestamp> {
        self.instants.get(key).copied()
    }

    /// Returns the number of keys with an instant.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.instants.len()
    }

    /// Returns the key with the earliest instant.
    pub(super) fn first(&self) -> Option<&K> {
        self.keys.values().next()?.first()
    }

    /// Returns the earliest instant.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.keys.keys().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_instant() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut timeline = Timeline::default();
        timeline.set("a", Some(at(5)));
        timeline.set("b", Some(at(5)));
        timeline.set("a", Some(at(3)));
        assert_eq!((timeline.next(), timeline.take_due(at(4))), (Some(at(3)), vec!["a"]));
        assert_eq!(timeline.take_due(at(5)), ["b"]);
        timeline.set("a", Some(at(9)));
        timeline.set("a", None);
        assert!(timeline.keys.is_empty() && timeline.instants.is_empty());
    }
}
