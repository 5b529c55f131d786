//! Sets of names by key.

use std::borrow::Borrow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Sorted names. Most keys have a single name, for which a set would take too much memory.
#[derive(Debug)]
enum Names {
    One(String),
    Several(BTreeSet<String>),
}

/// Sets of names by key.
#[derive(Debug)]
pub(super) struct NamesBy<K>(HashMap<K, Names>);

impl<K> Default for NamesBy<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> NamesBy<K> {
    /// Adds a name.
    pub(super) fn insert(&mut self, key: K, name: &str) {
        match self.0.entry(key) {
            Entry::Vacant(entry) => drop(entry.insert(Names::One(name.to_owned()))),
            Entry::Occupied(mut entry) => match entry.get_mut() {
                Names::One(one) if one == name => {}
                Names::One(one) => {
                    let both = [std::mem::take(one), name.to_owned()];
                    *entry.get_mut() = Names::Several(both.into());
                }
                Names::Several(names) => drop(names.insert(name.to_owned())),
            },
        }
    }

    /// Removes a name.
    pub(super) fn remove(&mut self, key: K, name: &str) {
        let Entry::Occupied(mut entry) = self.0.entry(key) else { return };
        let is_empty = match entry.get_mut() {
            Names::One(one) => one == name,
            Names::Several(names) => {
                names.remove(name);
                names.is_empty()
            }
        };
        if is_empty {
            entry.remove();
        }
    }

    /// Returns the keys that have names.
    pub(super) fn keys(&self) -> impl ExactSizeIterator<Item = &K> {
        self.0.keys()
    }

    /// Returns the names of a key, sorted.
    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> impl Iterator<Item = &String> + use<'_, K, Q>
    where
        K: Borrow<Q>,
    {
        let (one, several) = match self.0.get(key) {
            None => (None, None),
            Some(Names::One(one)) => (Some(one), None),
            Some(Names::Several(names)) => (None, Some(names)),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_added_and_removed() {
        let mut names = NamesBy::<String>::default();
        let of = |names: &NamesBy<String>| names.get("key").cloned().collect::<Vec<_>>();
        for name in ["b", "a", "a", "b", "c"] {
            names.insert("key".to_owned(), name);
        }
        assert_eq!(of(&names), ["a", "b", "c"]);
        for name in ["a", "x", "b"] {
            names.remove("key".to_owned(), name);
        }
        assert_eq!(of(&names), ["c"]);
        names.remove("key".to_owned(), "x");
        names.remove("other".to_owned(), "c");
        assert_eq!(of(&names), ["c"]);
        names.remove("key".to_owned(), "c");
        assert!(names.0.is_empty());
    }
}
