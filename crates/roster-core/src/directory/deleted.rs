//! Deleted Users in the directory: their tombstones as they are stored and as they are due.

use std::collections::BTreeSet;

use jiff::Timestamp;
use roster_api::role_binding::{Subject, SubjectKind};

use super::labels::Labels;
use super::native::Holder;
use super::tombstones::{StoredLabels, Tombstone};
use super::{Concerned, Directory};

impl Directory {
    /// What is to be remembered of a User that is being removed, if it held anything by its own declaration.
    pub(super) fn tombstone_of(&self, name: &str, now: Timestamp) -> Option<Tombstone> {
        let person = self.users.get(name)?;
        let groups = self.memberships.declared_by(name);
        let labels = StoredLabels::of(self.memberships.labels_of(name));
        // Any label: a selector that asks for it may belong to a Group that is deleted now and restored later.
        let is_worth_it = person.is_admin || !groups.is_empty() || person.username != name || !labels.is_empty();
        is_worth_it.then(|| Tombstone {
            user: name.to_owned(),
            uid: person.uid.clone(),
            username: person.username.clone(),
            other_usernames: BTreeSet::new(),
            created: person.created,
            is_admin: person.is_admin,
            groups: groups.into_iter().collect(),
            labels,
            deleted: now,
        })
    }

    /// Groups that the User of a tombstone would belong to if it came back, as [`Memberships::would_claim`] has it.
    ///
    /// [`Memberships::would_claim`]: super::membership::Memberships::would_claim
    pub fn claims_of_deleted(&self, tombstone: &Tombstone) -> BTreeSet<String> {
        let Tombstone { user, groups, labels, .. } = tombstone;
        match labels {
            StoredLabels::All(labels) => self.memberships.would_claim(user, labels, groups),
            StoredLabels::TooLarge => {
                let selecting = self.memberships.with_selector().map(str::to_owned);
                let groups: Vec<String> = groups.iter().cloned().chain(selecting).collect();
                self.memberships.would_claim(user, &Labels::new(), &groups)
            }
        }
    }

    /// Sorts the deleted Groups among these and below them by whether they hold a role, after a change to what names
    /// these groups or to what they are nested in.
    pub(super) fn sort_former(&mut self, groups: &BTreeSet<String>) {
        let former = self.memberships.former_among(groups);
        let holding = self.memberships.holding(&former, |group| self.is_bound(group));
        for group in former {
            self.memberships.sort_former(&group, holding.contains(&group));
        }
    }

    /// Whether a binding names the group, whatever its validity.
    fn is_bound(&self, group: &str) -> bool {
        let holder = Holder::Group(group.to_owned());
        let subject = Subject { kind: SubjectKind::Group, name: group.to_owned() };
        self.natives.grants_of(&holder).next().is_some() || self.bindings.of_subject(&subject).next().is_some()
    }

    /// A tombstone that is stored, in the Secret of that UID.
    pub fn set_tombstone(&mut self, mut tombstone: Tombstone, secret: String, now: Timestamp) -> Concerned {
        // A deletion in the future would protect the name for longer than it says.
        tombstone.deleted = tombstone.deleted.min(now);
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
