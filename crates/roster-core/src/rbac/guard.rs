//! The guard: nobody gains a right through Roster that they could not have granted directly.
//!
//! One rule on every path: *to control an identity, you must be able to bind every role that it holds, held before the
//! write or would hold after it*. This module derives the requirements of a change. `roster_server::admission::access`
//! asks kube-apiserver whether the requester meets them. Identities are counted by name, existing or not: two racing
//! writes must not achieve together what neither may do alone.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use roster_api::role_binding::{RoleRef, Subject, SubjectKind};
use roster_api::{Group, OWNER_LABEL, RoleBinding, TOMBSTONE_SECRET_TYPE, User, UserSpec};
use roster_credentials::claim::{Identifier, IdentifierKind, fold};

use super::Policy;
use super::requirement::{Requirement, RequirementReason, Requirements};
use crate::directory::bindings::{Binding, Scope};
use crate::directory::compact_user::CompactUser;
use crate::directory::labels::Labels;
use crate::directory::membership::DeclaredMembers;
use crate::directory::native::{Grant, Holder};
use crate::directory::tombstones::{MAX_TOMBSTONES_PER_USERNAME, Tombstone};
use crate::directory::{Directory, declared_members};

/// The label that kube-apiserver sets on every Namespace.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A write to be judged: old and new object. The old one is `None` on create, the new one on delete.
#[derive(Debug)]
pub enum GuardedChange<'a> {
    /// A User.
    User(Option<&'a User>, Option<&'a User>),
    /// A Group.
    Group(Option<&'a Group>, Option<&'a Group>),
    /// A RoleBinding.
    RoleBinding(Option<&'a RoleBinding>, Option<&'a RoleBinding>),
    /// The labels of a Namespace.
    Namespace {
        /// Its name; `None` if kube-apiserver will generate it.
        name: Option<&'a str>,
        /// The labels before the change; `None` on create.
        old: Option<&'a Labels>,
        /// The labels after the change.
        new: &'a Labels,
        /// The User who makes the change; `None` if the requester is not a User.
        by: Option<&'a str>,
    },
    /// Of credentials of these Users: their own, or a password Secret that names them.
    Credential(BTreeSet<&'a str>),
}

/// Returns what a requester must be allowed to do to make this change.
pub fn requirements(change: &GuardedChange<'_>, directory: &Directory, policy: &Policy) -> Requirements {
    let mut collector = RequirementCollector { directory, policy, found: Requirements::new() };
    match change {
        GuardedChange::User(old, new) => collector.user(*old, *new),
        GuardedChange::Group(old, new) => collector.group(*old, *new),
        GuardedChange::RoleBinding(old, new) => collector.role_binding(*old, *new),
        GuardedChange::Namespace { name, old, new, by } => {
            collector.owner(*old, new, *by);
            collector.namespace(*name, *old, new);
        }
        GuardedChange::Credential(users) => collector.credential(users),
    }
    collector.found
}

/// Returns the groups along a cycle that the change would close.
pub fn cycle(new: &Group, directory: &Directory) -> Option<Vec<String>> {
    let children = new.spec.member_groups.iter().cloned().collect();
    directory.memberships.would_cycle(&new.name_any(), &children)
}

/// Returns another User that claims the username of a new User as a login name. A User that waits for a name would
/// later get what has been bound to it since, and the user that releases the name may not know of that.
pub fn username_claimant<'a>(new: &User, directory: &'a Directory) -> Option<&'a str> {
    let name = new.name_any();
    let username = Identifier { kind: IdentifierKind::Username, text: new.username() };
    directory.claimants(&username.folded()).find(|other| **other != name)
}

/// Returns why a new User could be confused with another one: the `metadata.name` or the UID of one is the login name of
/// the other, or the name of one is the UID of the other. Groups or API paths that identify a person by username would
/// then refer to the wrong one.
pub fn confusable_name(new: &User, directory: &Directory) -> Option<String> {
    let name = new.name_any();
    if let Some(other) = directory.claimants(&name).find(|other| **other != name) {
        return Some(format!("metadata.name: {name} is the username of User {other}; choose another name"));
    }
    if let Some(other) = directory.user_with_uid(&name) {
        return Some(format!("metadata.name: {name} is the UID of User {other}; choose another name"));
    }
    confusable_username(&name, &new.username(), directory)
}

/// Returns why the User `name` could be confused with another one by its username, as [`confusable_name`].
pub fn confusable_username(name: &str, username: &str, directory: &Directory) -> Option<String> {
    let folded = fold(username);
    let named = Some(folded.as_str()).filter(|other| *other != name && directory.user(other).is_some());
    let (what, other) = match (named, directory.user_with_uid(&folded)) {
        (Some(other), _) => ("name (metadata.name)", other),
        (None, Some(other)) => ("UID", other),
        (None, None) => return None,
    };
    Some(format!("spec.username: {username} is the {what} of User {other}; choose another username"))
}

/// Returns why the User `name` cannot take a name or username that too many deleted Users had: the guard would have to
/// check each of them.
pub fn exhausted_username(name: &str, text: &str, directory: &Directory) -> Option<String> {
    directory.tombstones.is_username_exhausted(text, name).then(|| {
        format!(
            "spec.username: more than {MAX_TOMBSTONES_PER_USERNAME} deleted Users had the username {text}; choose \
             another one, or delete Secrets of type {TOMBSTONE_SECRET_TYPE} that protect it"
        )
    })
}

/// Returns why a new Namespace of a requester with a quota would count against nobody. It would escape the quota
/// without an owner, with an owner that does not exist, or with one that has neither a quota nor a role to control them
/// by.
pub fn quota_evasion(new: &Labels, by: Option<&str>, directory: &Directory, policy: &Policy) -> Option<String> {
    let by = by.filter(|by| directory.has_quota(by))?;
    let Some(owner) = owner(new) else {
        return Some(format!(
            "metadata.labels[{OWNER_LABEL}]: is required: User {by} has a quota, and a Namespace without an owner would \
             count against none; set it to {by}"
        ));
    };
    let is_controlled = || {
        let change = GuardedChange::Credential([owner].into());
        !requirements(&change, directory, policy).is_empty()
    };
    let counts = owner == by || directory.user(owner).is_some() && (directory.has_quota(owner) || is_controlled());
    (!counts).then(|| {
        format!(
            "metadata.labels[{OWNER_LABEL}]: User {owner} does not exist, or has neither a quota nor a role, and User \
             {by} has a quota, which the Namespace would escape; set it to {by}"
        )
    })
}

/// Returns the User that owns a Namespace with these labels.
fn owner(labels: &Labels) -> Option<&str> {
    labels.get(OWNER_LABEL).map(String::as_str).filter(|owner| !owner.is_empty())
}

/// Names and declared rights of an identity.
struct Identity<'a> {
    /// How denials name it.
    who: String,
    name: &'a str,
    username: &'a str,
    is_admin: bool,
    groups: BTreeSet<String>,
}

struct RequirementCollector<'a> {
    directory: &'a Directory,
    policy: &'a Policy,
    found: Requirements,
}

impl RequirementCollector<'_> {
    /// Deleting a User also takes control of it: it could be recreated with another password before somebody restores
    /// its groups.
    fn user(&mut self, old: Option<&User>, new: Option<&User>) {
        if is_handed_over(old, new) {
            self.user(old, None);
        }
        if let Some(old) = old {
            self.successors(old, new);
        }
        let Some(name) = new.or(old).map(ResourceExt::name_any) else { return };
        let versions = || old.into_iter().chain(new);
        let of_version: Vec<BTreeSet<String>> = versions().map(|user| self.groups_of(user)).collect();
        let memberships = &self.directory.memberships;
        // A label that adds a second way into a group counts, because it would outlast the first one.
        let is_same = |(old, new): (&User, &User)| {
            controls(&old.spec) == controls(&new.spec)
                && memberships.selecting(old.labels()) == memberships.selecting(new.labels())
        };
        if old.zip(new).is_some_and(is_same) && of_version.windows(2).all(|pair| pair[0] == pair[1]) {
            return;
        }
        let groups: BTreeSet<String> = of_version.into_iter().flatten().collect();
        // A rename gives up what the old username holds and takes over what the new one holds.
        let usernames: BTreeSet<String> = versions().map(User::username).collect();
        for username in &usernames {
            self.identity(&Identity {
                who: format!("User {name}"),
                name: &name,
                username,
                is_admin: versions().any(|user| user.spec.admin),
                groups: groups.clone(),
            });
        }
        if old.is_none() {
            self.takes_name(&name);
        }
        for username in usernames.iter().filter(|username| old.is_none_or(|old| old.username() != **username)) {
            self.takes_username(&name, username);
        }
    }

    /// A new User takes over what a deleted User of its name declared, once somebody applies the old manifest again. If
    /// its name is the username of a deleted User, it keeps that User from coming back.
    fn takes_name(&mut self, name: &str) {
        // The directory may not have seen the deletion yet.
        if self.directory.user(name).is_some() {
            self.person(name);
        }
        self.deleted(self.directory.tombstones.known_as(name));
    }

    /// A User whose username is the name or username of a deleted User keeps that User from coming back, and is
    /// mistaken for it. The same is true of the name of any other User, existing or not: RoleBindings and Groups may
    /// name it already.
    fn takes_username(&mut self, name: &str, username: &str) {
        self.deleted(self.directory.tombstones.known_as(username));
        let other = fold(username);
        if other != name {
            self.person(&other);
        }
    }

    fn deleted<'b>(&mut self, tombstones: impl Iterator<Item = &'b Tombstone>) {
        for tombstone in tombstones {
            let Tombstone { user, is_admin, deleted, .. } = tombstone;
            let (deleted, expires) = (deleted.strftime("%F"), tombstone.expires().strftime("%F"));
            for username in tombstone.usernames() {
                self.identity(&Identity {
                    who: format!("User {user} (deleted on {deleted}, its name is protected until {expires})"),
                    name: user,
                    username,
                    is_admin: *is_admin,
                    groups: self.directory.claims_of_deleted(tombstone),
                });
            }
        }
    }

    fn groups_of(&self, user: &User) -> BTreeSet<String> {
        let (name, labels) = (user.name_any(), user.labels());
        self.directory.memberships.would_claim(&name, labels, &user.spec.groups)
    }

    /// Requires control of Users that wait for an identifier that this change releases: they gain what is bound to that
    /// name and what is bound to themselves. Only an identifier that the User holds can be released.
    fn successors(&mut self, old: &User, new: Option<&User>) {
        let name = old.name_any();
        let (had, keeps) = (CompactUser::of(old), new.map(CompactUser::of));
        let given_up = had.identifiers.iter().enumerate().filter(|(i, identifier)| {
            (*i > 0 || had.holds_username())
                && !keeps.as_ref().is_some_and(|keeps| keeps.identifiers.contains(identifier))
        });
        let directory = self.directory;
        for (_, identifier) in given_up {
            for other in directory.claimants(identifier).filter(|other| **other != name) {
                let waits = directory.user(other).is_some_and(|other| other.identifiers.first() == Some(identifier));
                if waits {
                    self.person(other);
                }
            }
        }
    }

    fn group(&mut self, old: Option<&Group>, new: Option<&Group>) {
        if is_handed_over(old, new) {
            self.group(old, None);
        }
        let Some(name) = new.or(old).map(ResourceExt::name_any) else { return };
        let (before, after) = (old.map(declared_members), new.map(declared_members));
        if before == after {
            return;
        }
        let memberships = &self.directory.memberships;
        // Anyone who controls who is in a group controls the group, even while it is empty.
        for above in memberships.all_ancestors_of(&name) {
            self.group_identity(&above, &format!("Group {name}"));
        }
        let members = |declared: Option<_>| declared.map(|declared| memberships.would_have(declared));
        let had = members(before.as_ref()).unwrap_or_default();
        let has = members(after.as_ref()).unwrap_or_default();
        let mut touched: BTreeSet<String> = had.symmetric_difference(&has).cloned().collect();
        let accepts = |declared: Option<&DeclaredMembers>| declared.is_some_and(|declared| declared.accepts_declared);
        if old.is_none() || new.is_none() || accepts(before.as_ref()) != accepts(after.as_ref()) {
            // Users that name it or that it selects join or leave.
            touched.extend(memberships.claimants(&name).map(str::to_owned));
        }
        let mut groups = BTreeSet::new();
        for user in touched {
            groups.extend(memberships.claims(&user));
            self.person_without_groups(&user);
        }
        for group in groups {
            self.group_identity(&group, "a User whose membership changes");
        }
    }

    /// What was bound before counts as well as what is bound after: an identity that loses its roles for a moment would
    /// be easy to take over. Validity does not matter, as in the policies that decide.
    fn role_binding(&mut self, old: Option<&RoleBinding>, new: Option<&RoleBinding>) {
        if !is_handed_over(old, new) && old.map(|old| &old.spec) == new.map(|new| &new.spec) {
            return;
        }
        for binding in old.into_iter().chain(new).map(Binding::of) {
            for subject in &binding.subjects {
                self.grants(
                    &binding,
                    &format!("{:?} {}", subject.kind, subject.name),
                    &format!("RoleBinding {}", binding.name),
                );
            }
        }
    }

    /// A namespace is charged to its owner. Changing the owner therefore requires control of both owners, and the verb
    /// `assign` on each of them other than the requester. Owners may not simply give a namespace up: it would count
    /// against nobody.
    fn owner(&mut self, old: Option<&Labels>, new: &Labels, by: Option<&str>) {
        let (before, after) = (old.and_then(owner), owner(new));
        if before == after {
            return;
        }
        for user in after.filter(|after| by != Some(after)).into_iter().chain(before) {
            self.person(user);
        }
        for user in before.into_iter().chain(after).filter(|user| by != Some(user)) {
            let (identity, by) = (format!("User {user}"), format!("metadata.labels[{OWNER_LABEL}]"));
            self.found.insert(Requirement::Assign(user.to_owned()), RequirementReason { identity, by });
        }
        for reason in self.found.values_mut() {
            reason.identity = format!("{} (metadata.labels[{OWNER_LABEL}])", reason.identity);
        }
    }

    fn namespace(&mut self, name: Option<&str>, old: Option<&Labels>, new: &Labels) {
        // A selector that matches a new Namespace without any chosen label was granted by the author of the binding.
        // Only labels can be chosen in order to match.
        let bare = Labels::from([(NAMESPACE_NAME_LABEL.to_owned(), name.unwrap_or_default().to_owned())]);
        let before = self.directory.bindings.selecting(old.unwrap_or(&bare));
        for entered in self.directory.bindings.selecting(new).difference(&before) {
            let Some(binding) = self.directory.bindings.get(entered) else { continue };
            let grant = Grant { role: binding.role.clone(), namespace: name.map(str::to_owned) };
            let subjects: Vec<String> =
                binding.subjects.iter().take(3).map(|subject| format!("{:?} {}", subject.kind, subject.name)).collect();
            self.require(grant, &subjects.join(", "), &format!("RoleBinding {entered}, which the labels match"));
        }
    }

    /// Requires control of every User that a password Secret names, whether or not the User refers to the Secret yet:
    /// it may do so later. A deleted User may refer to it when it comes back.
    fn credential(&mut self, users: &BTreeSet<&str>) {
        for user in users {
            self.person(user);
            if self.directory.user(user).is_none() {
                self.deleted(self.directory.tombstones.of(user));
            }
        }
    }

    /// Requires control of a User by name. If it does not exist yet, its username will most likely be its name.
    fn person(&mut self, name: &str) {
        for group in self.directory.memberships.claims(name) {
            self.group_identity(&group, &format!("User {name}"));
        }
        self.person_without_groups(name);
    }

    fn person_without_groups(&mut self, name: &str) {
        let person = self.directory.user(name);
        let username = person.map_or(name, |person| &person.username);
        let is_admin = person.is_some_and(|person| person.is_admin);
        let who = format!("User {name}");
        self.identity(&Identity { who, name, username, is_admin, groups: BTreeSet::new() });
    }

    fn identity(&mut self, identity: &Identity<'_>) {
        let who = identity.who.as_str();
        self.native(&Holder::User(identity.username.to_owned()), who);
        self.bindings(SubjectKind::User, identity.name, who);
        if identity.is_admin {
            let role = RoleRef::cluster_role(&self.policy.administrator_role);
            self.require(Grant { role, namespace: None }, who, "spec.admin");
        }
        for group in &identity.groups {
            self.group_identity(group, who);
        }
    }

    fn group_identity(&mut self, group: &str, who: &str) {
        self.native(&Holder::Group(group.to_owned()), who);
        self.bindings(SubjectKind::Group, group, who);
    }

    /// Requires what native RBAC grants, regardless of who wrote it.
    fn native(&mut self, holder: &Holder, who: &str) {
        let directory = self.directory;
        for (grant, mut by) in directory.natives.grants_of(holder) {
            if let Some(native) = by.next() {
                self.require(grant.clone(), who, &format!("{holder}, native {}", native.key));
            }
        }
    }

    /// Requires what Roster's bindings grant, regardless of validity: anyone who extends one acts on the person who had
    /// it.
    fn bindings(&mut self, kind: SubjectKind, name: &str, who: &str) {
        let subject = Subject { kind, name: name.to_owned() };
        let directory = self.directory;
        for binding in directory.bindings.of_subject(&subject) {
            self.grants(binding, who, &format!("{kind:?} {name}, RoleBinding {}", binding.name));
        }
    }

    fn grants(&mut self, binding: &Binding, who: &str, by: &str) {
        let role = || binding.role.clone();
        match &binding.scope {
            // A selector also matches future namespaces.
            Scope::Cluster | Scope::Selector(_) => self.require(Grant { role: role(), namespace: None }, who, by),
            Scope::Namespaces(namespaces) => {
                for namespace in namespaces {
                    self.require(Grant { role: role(), namespace: Some(namespace.clone()) }, who, by);
                }
            }
        }
    }

    fn require(&mut self, grant: Grant, identity: &str, by: &str) {
        self.found
            .entry(Requirement::Bind(grant))
            .or_insert_with(|| RequirementReason { identity: identity.to_owned(), by: by.to_owned() });
    }
}

/// Returns whether a change adds owner references to an object, or removes some but not all of them. The garbage
/// collector deletes the object once its owners are gone, so this change can cause its deletion.
fn is_handed_over<K: Resource>(old: Option<&K>, new: Option<&K>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return false };
    let owner = |owner: &OwnerReference| [&owner.api_version, &owner.kind, &owner.name, &owner.uid].map(Clone::clone);
    let owners = |object: &K| object.owner_references().iter().map(owner).collect::<BTreeSet<_>>();
    let after = owners(new);
    !after.is_empty() && owners(old) != after
}

/// Returns the part of a User's spec that controls the identity. A field counts as control unless it is cleared here.
fn controls(spec: &UserSpec) -> UserSpec {
    UserSpec {
        display_name: None,
        first_name: None,
        last_name: None,
        mobile: None,
        language: None,
        timezone: None,
        preferred_shell: None,
        zone: None,
        quota: None,
        deletion_policy: roster_api::user::DeletionPolicy::default(),
        ..spec.clone()
    }
}

#[cfg(test)]
#[path = "guard_sequence_tests.rs"]
mod sequence_tests;
#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
