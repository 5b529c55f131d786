//! Names that Users take over or release: of deleted Users, of Users that wait for them, and of Users that others name.

use std::collections::BTreeSet;

use kube::ResourceExt;
use roster_api::User;
use roster_credentials::claim::fold;

use super::{Identity, RequirementCollector};
use crate::directory::compact_user::CompactUser;
use crate::directory::labels::{Effect, LabelChange, Labels};
use crate::directory::tombstones::{StoredLabels, Tombstone};
use crate::rbac::requirement::AffectedIdentity;

impl RequirementCollector<'_> {
    /// A new User takes over what a deleted User of the same name declared, as soon as the old manifest is applied
    /// again. If its name is the username of a deleted User, it prevents that User from being restored.
    pub(super) fn takes_name(&mut self, name: &str, new: &User) {
        let directory = self.directory;
        // The directory may not have seen the deletion yet.
        if directory.user(name).is_some() {
            self.user_by_name(name, true);
            let groups = self.changed_since(&directory.memberships.labels_of(name), new);
            self.group_identities(&groups, &AffectedIdentity::named(format!("User {name}")));
        }
        self.deleted(name, directory.tombstones.known_as(name));
        for tombstone in directory.tombstones.of(name) {
            // If the labels are not known, every selector counts already.
            if let StoredLabels::All(labels) = &tombstone.labels {
                let groups = self.changed_since(labels, new);
                self.group_identities(&groups, &protected(name, tombstone));
            }
        }
    }

    /// Returns the groups that labels decide about, compared with the labels of the User that had the name before.
    fn changed_since(&self, before: &Labels, new: &User) -> BTreeSet<String> {
        self.affected(&LabelChange { before, after: new.labels(), removable: &BTreeSet::new() }, Effect::Any)
    }

    /// A User whose username is the name or username of a deleted User prevents that User from being restored, and is
    /// mistaken for it. The same applies to the name of any other User, existing or not, because RoleBindings and
    /// Groups may name it already.
    pub(super) fn takes_username(&mut self, name: &str, username: &str) {
        self.deleted(name, self.directory.tombstones.known_as(username));
        let other = fold(username);
        if other != name {
            self.user_by_name(&other, true);
        }
    }

    /// Applications identify people by email. They mistake a User with the email of a deleted User for that User, which
    /// also cannot be restored with its email. A User that wants the email of another User gets it when that User is
    /// deleted.
    pub(super) fn takes_emails(&mut self, name: &str, old: Option<&User>, new: &User) {
        let had = old.map(|old| CompactUser::of(old).identifiers).unwrap_or_default();
        let directory = self.directory;
        for email in CompactUser::of(new).identifiers.iter().skip(1).filter(|email| !had.contains(email)) {
            self.deleted(name, directory.tombstones.known_as(email));
            for other in directory.claimants(email).filter(|other| *other != name) {
                self.user_by_name(other, false);
            }
        }
    }

    /// Requires control of deleted Users. `named` is the name that the request contains.
    pub(super) fn deleted<'b>(&mut self, named: &str, tombstones: impl Iterator<Item = &'b Tombstone>) {
        for tombstone in tombstones {
            let Tombstone { user, is_admin, .. } = tombstone;
            for username in tombstone.usernames() {
                self.identity(&Identity {
                    affected: protected(named, tombstone),
                    name: user,
                    username,
                    is_admin: *is_admin,
                    groups: self.directory.claims_of_deleted(tombstone),
                });
            }
        }
    }

    /// Requires control of Users that wait for an identifier that this change releases: with that username, they gain
    /// what is bound to it and what is bound to themselves. Only an identifier that the User holds can be released.
    pub(super) fn successors(&mut self, old: &User, new: Option<&User>) {
        let name = old.name_any();
        let (had, keeps) = (CompactUser::of(old), new.map(CompactUser::of));
        let released = had.identifiers.iter().enumerate().filter(|(i, identifier)| {
            (*i > 0 || had.holds_username())
                && !keeps.as_ref().is_some_and(|keeps| keeps.identifiers.contains(identifier))
        });
        let directory = self.directory;
        for (_, identifier) in released {
            for other in directory.claimants(identifier).filter(|other| **other != name) {
                let waits = directory.user(other).is_some_and(|other| other.identifiers.first() == Some(identifier));
                if waits {
                    self.user_by_name(other, false);
                }
            }
        }
    }
}

/// Names a deleted User. `named` is the name that the request contains.
fn protected(named: &str, tombstone: &Tombstone) -> AffectedIdentity {
    let Tombstone { user, deleted, .. } = tombstone;
    let (deleted, expires) = (deleted.strftime("%F"), tombstone.expires().strftime("%F"));
    let text = format!("User {user} (deleted on {deleted}, its name is protected until {expires})");
    AffectedIdentity { text, is_named: user == named }
}
