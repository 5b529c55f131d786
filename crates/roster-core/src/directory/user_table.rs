//! Users, indexed by every key that lookups use. Only the user stores the text of a key: the table has eight bytes per
//! key.

use std::hash::{BuildHasher, RandomState};
use std::mem::discriminant;

use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use super::compact_user::CompactUser;
use super::nodes::Id;

/// Type of a lookup key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum LookupKey {
    Name,
    Uid,
    Username,
    /// An identifier, by its position in [`CompactUser::identifiers`].
    Identifier(u16),
}

/// Users, indexed by name, UID, username and identifiers.
#[derive(Debug, Default)]
pub(super) struct UserTable {
    // Boxed because a slab doubles in size when it is full, and a CompactUser is large.
    slots: Slab<Box<(Box<str>, CompactUser)>>,
    table: HashTable<(Id, LookupKey)>,
    hashes: RandomState,
}

impl UserTable {
    /// Returns the User with that name.
    pub(super) fn get(&self, name: &str) -> Option<&CompactUser> {
        self.entry(name).map(|(_, person)| person)
    }

    /// Returns the User with that name, and the name.
    pub(super) fn entry(&self, name: &str) -> Option<(&str, &CompactUser)> {
        let (name, person) = self.slots[self.id(name)? as usize].as_ref();
        Some((name, person))
    }

    /// Returns the names of all Users.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().map(|(_, slot)| slot.0.as_ref())
    }

    /// Returns the name of the User with that UID.
    pub(super) fn by_uid(&self, uid: &str) -> Option<&str> {
        self.look_up(LookupKey::Uid, uid).next()
    }

    /// Returns the names of the Users with this username, sorted.
    pub(super) fn by_username(&self, username: &str) -> impl Iterator<Item = &str> {
        self.look_up(LookupKey::Username, username)
    }

    /// Returns the names of the Users that hold or want this identifier, sorted.
    pub(super) fn claiming(&self, identifier: &str) -> impl Iterator<Item = &str> {
        self.look_up(LookupKey::Identifier(0), identifier)
    }

    /// Adds or replaces a User.
    pub(super) fn insert(&mut self, name: &str, person: CompactUser) {
        self.remove(name);
        let lookup_keys = lookup_keys(&person);
        let slot = self.slots.insert(Box::new((name.into(), person)));
        let id = Id::try_from(slot).expect("fewer than 2^32 users");
        for by in lookup_keys {
            let entry = (id, by);
            let hash = hash(&self.hashes, by, text(&self.slots, entry));
            let (slots, hashes) = (&self.slots, &self.hashes);
            self.table.insert_unique(hash, entry, |other| hash_of(slots, hashes, *other));
        }
    }

    /// Removes and returns the User with that name.
    pub(super) fn remove(&mut self, name: &str) -> Option<CompactUser> {
        let id = self.id(name)?;
        for by in lookup_keys(&self.slots[id as usize].1) {
            let entry = (id, by);
            let hash = hash_of(&self.slots, &self.hashes, entry);
            self.table.find_entry(hash, |other| *other == entry).expect("every lookup key is in the table").remove();
        }
        Some(self.slots.remove(id as usize).1)
    }

    fn id(&self, name: &str) -> Option<Id> {
        self.ids(LookupKey::Name, name).next()
    }

    fn ids<'a>(&'a self, by: LookupKey, value: &'a str) -> impl Iterator<Item = Id> + 'a {
        let found = self.table.iter_hash(hash(&self.hashes, by, value));
        let is_match = move |entry: &&(Id, LookupKey)| {
            discriminant(&entry.1) == discriminant(&by) && text(&self.slots, **entry) == value
        };
        found.filter(is_match).map(|(id, _)| *id)
    }

    fn look_up(&self, by: LookupKey, value: &str) -> impl Iterator<Item = &str> + use<'_> {
        // Nearly always one name.
        let mut names: SmallVec<[&str; 1]> = self.ids(by, value).map(|id| self.slots[id as usize].0.as_ref()).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter()
    }
}

/// Returns all lookup keys of a User.
fn lookup_keys(person: &CompactUser) -> impl Iterator<Item = LookupKey> + use<> {
    let identifiers = u16::try_from(person.identifiers.len()).expect("the schema admits fewer emails");
    [LookupKey::Name, LookupKey::Uid, LookupKey::Username]
        .into_iter()
        .chain((0..identifiers).map(LookupKey::Identifier))
}

fn text(slots: &Slab<Box<(Box<str>, CompactUser)>>, (id, by): (Id, LookupKey)) -> &str {
    let (name, person) = slots[id as usize].as_ref();
    match by {
        LookupKey::Name => name,
        LookupKey::Uid => &person.uid,
        LookupKey::Username => &person.username,
        LookupKey::Identifier(at) => &person.identifiers[usize::from(at)],
    }
}

fn hash(hashes: &RandomState, by: LookupKey, text: &str) -> u64 {
    hashes.hash_one((discriminant(&by), text))
}

fn hash_of(slots: &Slab<Box<(Box<str>, CompactUser)>>, hashes: &RandomState, entry: (Id, LookupKey)) -> u64 {
    hash(hashes, entry.1, text(slots, entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use roster_api::{User, UserSpec};
    use std::collections::BTreeMap;

    fn person(uid: &str, username: &str, email: &str) -> CompactUser {
        let spec = UserSpec { username: Some(username.into()), email: Some(email.into()), ..UserSpec::default() };
        let mut user = User::new("any", spec);
        user.metadata.uid = Some(uid.into());
        CompactUser::of(&user)
    }

    proptest! {
        /// Compares with a linear scan through random edits.
        #[test]
        fn users_are_found_by_every_key(edits in prop::collection::vec(("[a-f]", prop::option::of(("[A-C]", "[a-c]"))), 0..60)) {
            let (mut people, mut plain) = (UserTable::default(), BTreeMap::new());
            for (name, edit) in edits {
                if let Some((username, email)) = edit {
                    let person = person(&format!("uid-{name}"), &username, &email);
                    people.insert(&name, person.clone());
                    plain.insert(name, person);
                } else {
                    prop_assert_eq!(people.remove(&name), plain.remove(&name));
                }
                let mut names: Vec<_> = people.names().collect();
                names.sort_unstable();
                prop_assert!(names.into_iter().eq(plain.keys()));
                for text in ["a", "b", "c", "d", "A", "B", "uid-a", "uid-b"] {
                    let by = |holds: &dyn Fn(&CompactUser) -> bool| -> Vec<&str> {
                        plain.iter().filter(|(_, person)| holds(person)).map(|(name, _)| name.as_str()).collect()
                    };
                    prop_assert_eq!(people.get(text), plain.get(text));
                    prop_assert_eq!(people.by_uid(text), by(&|person| person.uid == text).first().copied());
                    prop_assert_eq!(people.by_username(text).collect::<Vec<_>>(), by(&|person| person.username == text));
                    let wants = |person: &CompactUser| person.identifiers.iter().any(|own| own == text);
                    prop_assert_eq!(people.claiming(text).collect::<Vec<_>>(), by(&wants));
                }
            }
            let lookup_keys: usize = plain.values().map(|person| 3 + person.identifiers.len()).sum();
            prop_assert_eq!(people.table.len(), lookup_keys);
        }
    }
}
