//! The guard: nobody gains a right through Roster that they could not have granted directly.
//!
//! One rule on every path: *to control an identity, you must be able to bind every role that it holds, held before the
//! write or would hold after it*. This module derives the requirements of a change. `roster_server::admission::access`
//! asks kube-apiserver whether the requester meets them. Identities are counted by name, existing or not: two racing
//! writes must not achieve together what neither may do alone.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use roster_api::role_binding::{RoleKind, RoleRef, Subject, SubjectKind};
use roster_api::{Group, OWNER_LABEL, RoleBinding, User};
use roster_credentials::claim::fold;

use super::Policy;
use super::control::{controls, is_reduction};
use super::requirement::{AffectedIdentity, Requirement, RequirementReason, Requirements};
use crate::directory::bindings::{Binding, Scope};
use crate::directory::compact_user::CompactUser;
use crate::directory::labels::Labels;
use crate::directory::membership::DeclaredMembers;
use crate::directory::native::{Grant, Holder};
use crate::directory::tombstones::Tombstone;
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
    let mut collector =
        RequirementCollector { directory, policy, extent: Extent::Everything, found: Requirements::new() };
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

/// Returns the User that owns a Namespace with these labels.
pub(super) fn owner(labels: &Labels) -> Option<&str> {
    labels.get(OWNER_LABEL).map(String::as_str).filter(|owner| !owner.is_empty())
}

/// Names and declared rights of an identity.
struct Identity<'a> {
    who: AffectedIdentity,
    name: &'a str,
    username: &'a str,
    is_admin: bool,
    groups: BTreeSet<String>,
}

/// Which grants of an identity count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Extent {
    Everything,
    /// Everything except what an administrator of a single namespace can grant: native bindings in a namespace, and
    /// Roles of a namespace. Otherwise, they could keep anybody from being disabled, by granting something that nobody
    /// else may bind.
    BeyondNamespaces,
}

struct RequirementCollector<'a> {
    directory: &'a Directory,
    policy: &'a Policy,
    extent: Extent,
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
        let keeps_groups = |(old, new): &(&User, &User)| {
            memberships.selecting(old.labels()) == memberships.selecting(new.labels())
                && of_version.windows(2).all(|pair| pair[0] == pair[1])
        };
        let kept = old.zip(new).filter(keeps_groups);
        if kept.is_some_and(|(old, new)| controls(&old.spec) == controls(&new.spec)) {
            return;
        }
        if kept.is_some_and(|(old, new)| is_reduction(&old.spec, &new.spec)) {
            self.extent = Extent::BeyondNamespaces;
        }
        let groups: BTreeSet<String> = of_version.into_iter().flatten().collect();
        // A rename gives up what the old username holds and takes over what the new one holds.
        let usernames: BTreeSet<String> = versions().map(User::username).collect();
        for username in &usernames {
            self.identity(&Identity {
                who: AffectedIdentity::named(format!("User {name}")),
                name: &name,
                username,
                is_admin: versions().any(|user| user.spec.admin),
                groups: groups.clone(),
            });
        }
        if old.is_none() {
            self.takes_name(&name);
        }
        if let Some(new) = new {
            self.takes_emails(&name, old, new);
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
            self.person(name, true);
        }
        self.deleted(name, self.directory.tombstones.known_as(name));
    }

    /// A User whose username is the name or username of a deleted User keeps that User from coming back, and is
    /// mistaken for it. The same is true of the name of any other User, existing or not: RoleBindings and Groups may
    /// name it already.
    fn takes_username(&mut self, name: &str, username: &str) {
        self.deleted(name, self.directory.tombstones.known_as(username));
        let other = fold(username);
        if other != name {
            self.person(&other, true);
        }
    }

    /// Applications identify people by email. A User with the email of a deleted User is mistaken for it there, and
    /// keeps it from coming back. One with the email of another User gets the email when that User is deleted.
    fn takes_emails(&mut self, name: &str, old: Option<&User>, new: &User) {
        let had = old.map(|old| CompactUser::of(old).identifiers).unwrap_or_default();
        let directory = self.directory;
        for email in CompactUser::of(new).identifiers.iter().skip(1).filter(|email| !had.contains(email)) {
            self.deleted(name, directory.tombstones.known_as(email));
            for other in directory.claimants(email).filter(|other| *other != name) {
                self.person(other, false);
            }
        }
    }

    /// Requires control of deleted Users. `named` is the name that the request contains.
    fn deleted<'b>(&mut self, named: &str, tombstones: impl Iterator<Item = &'b Tombstone>) {
        for tombstone in tombstones {
            let Tombstone { user, is_admin, deleted, .. } = tombstone;
            let (deleted, expires) = (deleted.strftime("%F"), tombstone.expires().strftime("%F"));
            for username in tombstone.usernames() {
                let text = format!("User {user} (deleted on {deleted}, its name is protected until {expires})");
                self.identity(&Identity {
                    who: AffectedIdentity { text, is_named: user == named },
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
                    self.person(other, false);
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
            self.group_identity(&above, &AffectedIdentity::named(format!("Group {name}")));
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
            self.person_without_groups(&user, false);
        }
        for group in groups {
            self.group_identity(&group, &AffectedIdentity::other("a User whose membership changes"));
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
                    &AffectedIdentity::other(format!("{:?} {}", subject.kind, subject.name)),
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
        // The requester may not be able to read who owned the Namespace before.
        let is_named = |user: &str| after == Some(user) || by == Some(user);
        for user in after.filter(|after| by != Some(after)).into_iter().chain(before) {
            self.person(user, is_named(user));
        }
        for user in before.into_iter().chain(after).filter(|user| by != Some(user)) {
            let identity = AffectedIdentity { text: format!("User {user}"), is_named: is_named(user) };
            let by = format!("metadata.labels[{OWNER_LABEL}]");
            self.found.insert(Requirement::Assign(user.to_owned()), RequirementReason { identity, by });
        }
        for reason in self.found.values_mut() {
            reason.identity.text = format!("{} (metadata.labels[{OWNER_LABEL}])", reason.identity);
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
            let subjects = AffectedIdentity::other(subjects.join(", "));
            self.require(grant, &subjects, &format!("RoleBinding {entered}, which the labels match"));
        }
    }

    /// Requires control of every User that a password Secret names, whether or not the User refers to the Secret yet:
    /// it may do so later. A deleted User may refer to it when it comes back.
    fn credential(&mut self, users: &BTreeSet<&str>) {
        for user in users {
            self.person(user, true);
            if self.directory.user(user).is_none() {
                self.deleted(user, self.directory.tombstones.of(user));
            }
        }
    }

    /// Requires control of a User by name. If it does not exist yet, its username will most likely be its name.
    fn person(&mut self, name: &str, is_named: bool) {
        let who = AffectedIdentity { text: format!("User {name}"), is_named };
        for group in self.directory.memberships.claims(name) {
            self.group_identity(&group, &who);
        }
        self.person_without_groups(name, is_named);
    }

    fn person_without_groups(&mut self, name: &str, is_named: bool) {
        let person = self.directory.user(name);
        let username = person.map_or(name, |person| &person.username);
        let is_admin = person.is_some_and(|person| person.is_admin);
        let who = AffectedIdentity { text: format!("User {name}"), is_named };
        self.identity(&Identity { who, name, username, is_admin, groups: BTreeSet::new() });
    }

    fn identity(&mut self, identity: &Identity<'_>) {
        let who = &identity.who;
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

    fn group_identity(&mut self, group: &str, who: &AffectedIdentity) {
        self.native(&Holder::Group(group.to_owned()), who);
        self.bindings(SubjectKind::Group, group, who);
    }

    /// Requires what native RBAC grants, regardless of who wrote it.
    fn native(&mut self, holder: &Holder, who: &AffectedIdentity) {
        let directory = self.directory;
        for (grant, mut by) in directory.natives.grants_of(holder) {
            if self.extent == Extent::BeyondNamespaces && grant.namespace.is_some() {
                continue;
            }
            if let Some(native) = by.next() {
                self.require(grant.clone(), who, &format!("{holder}, native {}", native.key));
            }
        }
    }

    /// Requires what Roster's bindings grant, regardless of validity: anyone who extends one acts on the person who had
    /// it.
    fn bindings(&mut self, kind: SubjectKind, name: &str, who: &AffectedIdentity) {
        let subject = Subject { kind, name: name.to_owned() };
        let directory = self.directory;
        for binding in directory.bindings.of_subject(&subject) {
            self.grants(binding, who, &format!("{kind:?} {name}, RoleBinding {}", binding.name));
        }
    }

    fn grants(&mut self, binding: &Binding, who: &AffectedIdentity, by: &str) {
        let role = || binding.role.clone();
        match &binding.scope {
            // A selector also matches future namespaces.
            Scope::Cluster | Scope::Selector(_) => self.require(Grant { role: role(), namespace: None }, who, by),
            Scope::Namespaces(_) if self.extent == Extent::BeyondNamespaces && binding.role.kind == RoleKind::Role => {}
            Scope::Namespaces(namespaces) => {
                for namespace in namespaces {
                    self.require(Grant { role: role(), namespace: Some(namespace.clone()) }, who, by);
                }
            }
        }
    }

    fn require(&mut self, grant: Grant, identity: &AffectedIdentity, by: &str) {
        self.found
            .entry(Requirement::Bind(grant))
            .or_insert_with(|| RequirementReason { identity: identity.clone(), by: by.to_owned() });
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

#[cfg(test)]
#[path = "guard_sequence_tests.rs"]
mod sequence_tests;
#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
