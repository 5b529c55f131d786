//! Tombstones of deleted Users in the directory.

use std::collections::BTreeSet;

use jiff::Timestamp;
use roster_api::role_binding::{Subject, SubjectKind};

use super::labels::Labels;
use super::native::Holder;
use super::tombstones::{StoredLabels, Tombstone};
use super::{Affected, Directory};

impl Directory {
    /// Returns the tombstone of a User that is being removed, if it declared anything that needs protection.
    pub(super) fn tombstone_of(&self, name: &str, now: Timestamp) -> Option<Tombstone> {
        let person = self.users.get(name)?;
        let groups = self.memberships.declared_by(name);
        let labels = StoredLabels::of(self.memberships.labels_of(name));
        let emails: BTreeSet<String> = person.identifiers.iter().skip(1).cloned().collect();
        // Any label counts: a selector that matches it may belong to a Group that is deleted now and restored later.
        let needs_protection = person.is_admin
            || !groups.is_empty()
            || person.username != name
            || !labels.is_empty()
            || !emails.is_empty() && self.is_named(name, &person.username);
        needs_protection.then(|| Tombstone {
            user: name.to_owned(),
            uid: person.uid.clone(),
            username: person.username.clone(),
            other_usernames: BTreeSet::new(),
            emails,
            created: person.created,
            is_admin: person.is_admin,
            groups: groups.into_iter().collect(),
            labels,
            deleted: now,
        })
    }

    /// Returns the groups that the User of a tombstone could belong to if it were restored, like
    /// [`Memberships::would_claim`].
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

    /// Updates which deleted Groups hold a role, among these groups and the groups nested in them. Call this after
    /// changing the bindings that name these groups, or what they are nested in.
    pub(super) fn update_deleted_groups(&mut self, groups: &BTreeSet<String>) {
        let deleted = self.memberships.deleted_groups_among(groups);
        let holding = self.memberships.holding(&deleted, |group| self.is_bound(group));
        for group in deleted {
            self.memberships.set_deleted_group_bound(&group, holding.contains(&group));
        }
    }

    /// Returns whether a native binding or a RoleBinding of Roster names the group, regardless of validity.
    fn is_bound(&self, group: &str) -> bool {
        let subject = Subject { kind: SubjectKind::Group, name: group.to_owned() };
        self.has_binding(&Holder::Group(group.to_owned()), &subject)
    }

    /// Returns whether a Group or a binding names the User, regardless of validity.
    fn is_named(&self, name: &str, username: &str) -> bool {
        let subject = Subject { kind: SubjectKind::User, name: name.to_owned() };
        !self.memberships.claims(name).is_empty() || self.has_binding(&Holder::User(username.to_owned()), &subject)
    }

    fn has_binding(&self, holder: &Holder, subject: &Subject) -> bool {
        self.natives.grants_of(holder).next().is_some() || self.bindings.of_subject(subject).next().is_some()
    }

    /// Records a stored tombstone and the UID of its Secret.
    pub fn set_tombstone(&mut self, mut tombstone: Tombstone, secret: String, now: Timestamp) -> Affected {
        // A deletion time in the future would protect the name for too long.
        tombstone.deleted = tombstone.deleted.min(now);
        let user = tombstone.user.clone();
        self.tombstones.set_stored(tombstone, secret);
        Affected { tombstones: [user].into(), ..Affected::default() }
    }

    /// Records that a tombstone is no longer stored. `secret` is the UID of its Secret, if known.
    pub fn remove_tombstone(&mut self, user: &str, secret: Option<&str>) -> Affected {
        self.tombstones.remove_stored(user, secret);
        Affected { tombstones: [user.to_owned()].into(), ..Affected::default() }
    }
}
