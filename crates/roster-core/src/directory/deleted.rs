//! Deleted Users in the directory: their tombstones as they are stored and as they are due.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::tombstones::Tombstone;
use super::{Concerned, Directory};

impl Directory {
    /// What is to be remembered of a User that is being removed, if it held anything by its own declaration.
    pub(super) fn tombstone_of(&self, name: &str, now: Timestamp) -> Option<Tombstone> {
        let person = self.users.get(name)?;
        let groups: BTreeSet<String> = self.memberships.declared_by(name).map(str::to_owned).collect();
        let is_worth_it = person.is_admin || !groups.is_empty() || person.username != name;
        is_worth_it.then(|| Tombstone {
            user: name.to_owned(),
            uid: person.uid.clone(),
            username: person.username.clone(),
            is_admin: person.is_admin,
            groups: groups.into_iter().collect(),
            deleted: now,
        })
    }

    /// A tombstone that is stored, in the Secret of that UID.
    pub fn set_tombstone(&mut self, tombstone: Tombstone, secret: String) -> Concerned {
        let user = tombstone.user.clone();
        self.tombstones.set_stored(tombstone, secret);
        Concerned { tombstones: [user].into(), ..Concerned::default() }
    }

    /// A tombstone that is no longer stored. With the UID of its Secret, where that is known.
    pub fn remove_tombstone(&mut self, user: &str, secret: Option<&str>) -> Concerned {
        self.tombstones.remove_stored(user, secret);
        Concerned { tombstones: [user.to_owned()].into(), ..Concerned::default() }
    }
}
