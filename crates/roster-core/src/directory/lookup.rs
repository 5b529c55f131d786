//! Lookups in the directory.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::PolicyRule;
use roster_api::role_binding::{RoleKind, RoleRef, Subject, SubjectKind};
use roster_credentials::claim;
use smallvec::SmallVec;

use super::bindings::Binding;
use super::compact_user::CompactUser;
use super::native::Holder;
use super::{Directory, RoleKey};

impl Directory {
    /// Returns the User with that name.
    pub fn user(&self, name: &str) -> Option<&CompactUser> {
        self.users.get(name)
    }

    /// Returns the names of all Users.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.names()
    }

    /// Returns the names of the Users with this username, exactly as written.
    pub fn users_with_username(&self, username: &str) -> impl Iterator<Item = &str> {
        self.users.by_username(username)
    }

    /// Returns the names of the Users that hold or want this folded identifier.
    pub fn claimants(&self, identifier: &str) -> impl Iterator<Item = &str> {
        self.users.claiming(identifier)
    }

    /// Returns the name of the User that holds this username, exactly as written.
    pub fn username_holder(&self, username: &str) -> Option<&str> {
        self.users_with_username(username).find(|name| self.holds_username(name))
    }

    /// Returns whether the User holds its username.
    pub(super) fn holds_username(&self, name: &str) -> bool {
        self.user(name).is_some_and(CompactUser::holds_username)
    }

    /// Returns the name of the User with that UID.
    pub fn user_with_uid(&self, uid: &str) -> Option<&str> {
        self.users.by_uid(uid)
    }

    /// Returns the names of the Users that a key may refer to: by UID, name, username or email. An identifier that
    /// several Users want and none is known to hold refers to none of them.
    ///
    /// There is nearly always at most one name. There are several if the name of one User is the username or the UID of
    /// another.
    pub fn users_by_key(&self, key: &str) -> SmallVec<[&str; 1]> {
        let folded = claim::fold(key);
        let holder = self.claimants(&folded).find(|name| self.user(name).is_some_and(|person| person.holds(&folded)));
        let mut claimants = self.claimants(&folded);
        let only = claimants.next().filter(|_| claimants.next().is_none());
        let by_name = self.users.entry(key).map(|(name, _)| name);
        let mut found: SmallVec<[&str; 1]> =
            self.users.by_uid(key).into_iter().chain(by_name).chain(holder.or(only)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Returns the generation of the Group with that name, if its UID matches.
    pub fn group_generation(&self, name: &str, uid: Option<&String>) -> Option<i64> {
        self.groups.get(name).filter(|(known, _)| Some(known) == uid)?.1
    }

    /// Returns the names of all Groups.
    pub fn groups(&self) -> impl Iterator<Item = &String> {
        self.groups.keys()
    }

    /// Returns whether this owner UID belongs to an existing User or RoleBinding.
    pub fn is_owner_known(&self, uid: &str) -> bool {
        self.users.by_uid(uid).is_some() || self.bindings.by_uid(uid).is_some()
    }

    /// Returns the roles that the group holds directly or through a group that it is nested in: from native bindings
    /// that name the group, or that belong to a RoleBinding of Roster that names it.
    pub fn roles_of_group(&self, group: &str) -> BTreeSet<&RoleRef> {
        let mut roles = BTreeSet::new();
        for name in self.memberships.ancestors_of(group) {
            let subject = Subject { kind: SubjectKind::Group, name };
            let in_force = |binding: &&Binding| self.natives.owned_by(&binding.uid).next().is_some();
            roles.extend(self.bindings.of_subject(&subject).filter(in_force).map(|binding| &binding.role));
            roles.extend(self.natives.roles_of(Holder::Group(&subject.name)));
        }
        roles
    }

    /// Returns whether a native role exists in the namespace; a ClusterRole exists in all of them.
    pub fn has_role(&self, role: &RoleRef, namespace: Option<&str>) -> bool {
        self.rules_of(role, namespace).is_some()
    }

    /// Returns the rules of a native role in the namespace, if it exists; a ClusterRole has the same rules in all of
    /// them.
    pub fn rules_of(&self, role: &RoleRef, namespace: Option<&str>) -> Option<&Arc<[PolicyRule]>> {
        let namespace = namespace.filter(|_| role.kind == RoleKind::Role).map(str::to_owned);
        self.roles.get(&RoleKey { role: role.clone(), namespace })
    }

    /// Returns all native roles.
    pub fn roles(&self) -> impl Iterator<Item = &RoleKey> {
        self.roles.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use roster_api::condition::{DesiredCondition, NAME_CLAIMED, carry_over};
    use roster_api::user::UserStatus;
    use roster_api::{User, UserSpec};

    /// Builds a User that holds its username and email if `is_holder`, or that has no status yet.
    fn user(name: &str, username: &str, is_holder: bool) -> User {
        let (username, email) = (Some(username.to_owned()), Some(format!("{name}@example.com")));
        let mut user = User::new(name, UserSpec { username: username.clone(), email, ..UserSpec::default() });
        user.metadata.uid = Some(format!("uid-{name}"));
        let claimed = DesiredCondition { kind: NAME_CLAIMED, status: true, reason: "Claimed", message: String::new() };
        let conditions = carry_over(&[], vec![claimed], Some(1), Timestamp::UNIX_EPOCH);
        user.status = is_holder.then(|| UserStatus { username, conditions, ..UserStatus::default() });
        user
    }

    #[test]
    fn case_c7_a_key_refers_to_every_user_that_it_identifies() {
        let mut directory = Directory::default();
        for user in [
            user("alice", "bob", true),
            user("bob", "robert", true),
            user("uid-alice", "carol", true),
            user("dave", "dave", true),
            user("new-a", "shared", false),
            user("new-b", "shared", false),
            user("new-c", "Dave", false),
        ] {
            directory.set_user(&user, Timestamp::UNIX_EPOCH);
        }
        for (key, expected) in [
            ("alice", &["alice"][..]),
            ("Robert", &["bob"]),
            ("ALICE@example.com", &["alice"]),
            ("uid-bob", &["bob"]),
            ("carol", &["uid-alice"]),
            ("dave", &["dave"]),
            ("nobody", &[]),
            // No User is known to hold it yet.
            ("shared", &[]),
            ("bob", &["alice", "bob"]),
            ("uid-alice", &["alice", "uid-alice"]),
        ] {
            assert_eq!(directory.users_by_key(key).as_slice(), expected, "{key}");
        }
    }
}
