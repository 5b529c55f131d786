//! The guard: no requester gains a right through Roster that they could not have granted directly.
//!
//! One rule applies to all writes: *to control an identity, a requester must be able to bind every role that the
//! identity holds before the write or would hold after it*. This module derives the requirements of a change.
//! `roster_server::admission::access` asks kube-apiserver whether the requester meets them. Identities count by name,
//! whether or not they exist, so that two racing writes cannot achieve together what neither may do alone.

use std::collections::BTreeSet;

use kube::{Resource, ResourceExt};
use roster_api::role_binding::{RoleKind, RoleRef, Subject, SubjectKind};
use roster_api::{Group, OWNER_LABEL, RoleBinding, SOURCE_ID_ANNOTATION, User};

use super::Policy;
use super::control::{self, controls, is_reduction};
use super::ownership::{self, Ownership};
use super::requirement::{AffectedIdentity, Requirement, RequirementReason, Requirements};
use crate::directory::bindings::{Binding, Scope};
use crate::directory::labels::{Effect, LabelChange, Labels};
use crate::directory::membership::DeclaredMembers;
use crate::directory::native::{Grant, Holder};
use crate::directory::{Directory, declared_members};

mod names;

/// The label that kube-apiserver sets on every Namespace.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Reason for the denial of a restriction that would not last.
const UNDONE: &str =
    "a tool would lift this restriction with its next apply; use kubectl patch with a new name as --field-manager";

/// Reason for the denial of a restriction that would not last, because no field manager is recorded for it.
const UNTRACKED: &str = "a tool would lift this restriction with its next apply, because metadata.managedFields was \
                         reset; first remove the annotation kubectl.kubernetes.io/last-applied-configuration, if there is \
                         one, and use kubectl apply --server-side --field-manager=restrict with a manifest that has only \
                         metadata.name";

/// A write that the guard checks: the old and the new object. The old one is `None` on create, the new one on delete.
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
        /// Those that a tool may remove after the change.
        removable: &'a BTreeSet<String>,
        /// The User who makes the change; `None` if the requester is not a User.
        by: Option<&'a str>,
    },
    /// The credentials of these Users, or a password Secret that names them.
    Credential(BTreeSet<&'a str>),
}

impl GuardedChange<'_> {
    /// Compares who owns the fields of the object. For large objects, this takes time. It needs no directory, which is
    /// locked while it is used.
    pub fn ownership(&self) -> Ownership<'_> {
        match self {
            Self::User(old, new) => Ownership::between(old.map(Resource::meta), new.map(Resource::meta)),
            Self::Group(old, new) => Ownership::between(old.map(Resource::meta), new.map(Resource::meta)),
            Self::RoleBinding(..) | Self::Namespace { .. } | Self::Credential(_) => Ownership::default(),
        }
    }
}

/// Returns what a requester must be allowed to do to make this change, with its [`GuardedChange::ownership`].
pub fn requirements(
    change: &GuardedChange<'_>,
    ownership: &Ownership<'_>,
    directory: &Directory,
    policy: &Policy,
) -> Requirements {
    let mut collector =
        RequirementCollector { directory, policy, ownership, extent: Extent::Everything, found: Requirements::new() };
    match change {
        GuardedChange::User(old, new) => collector.user(*old, *new),
        GuardedChange::Group(old, new) => collector.group(*old, *new),
        GuardedChange::RoleBinding(old, new) => collector.role_binding(*old, *new),
        GuardedChange::Namespace { name, old, new, removable, by } => {
            collector.owner(*old, new, *by);
            collector.namespace(*name, *old, new, removable);
        }
        GuardedChange::Credential(users) => collector.credential(users),
    }
    collector.found
}

/// Returns the groups along the cycle of `memberGroups` that the change would close, if any.
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
    affected: AffectedIdentity,
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
    /// Roles of a namespace. Otherwise, such an administrator could prevent any User from being disabled, by granting
    /// it a role that no one else may bind.
    BeyondNamespaces,
}

struct RequirementCollector<'a> {
    directory: &'a Directory,
    policy: &'a Policy,
    ownership: &'a Ownership<'a>,
    extent: Extent,
    found: Requirements,
}

impl RequirementCollector<'_> {
    /// Deleting a User counts as taking control of it: it could be recreated with another password before an
    /// administrator restores its groups.
    fn user(&mut self, old: Option<&User>, new: Option<&User>) {
        if may_be_garbage_collected(old, new) {
            self.user(old, None);
        }
        if let Some(field) = self.ownership.changed_field(old, new, control::is_descriptive) {
            self.user(old, None);
            self.note_field(&field);
        }
        if let Some(old) = old {
            self.successors(old, new);
        }
        let Some(name) = new.or(old).map(ResourceExt::name_any) else { return };
        let versions = || old.into_iter().chain(new);
        let of_version: Vec<BTreeSet<String>> = versions().map(|user| self.groups_of(user)).collect();
        let decided = self.decided_by_labels(old, new);
        // An import gives control of the User to the person with this identifier in the source.
        let source_id = |user: &User| user.annotations().get(SOURCE_ID_ANNOTATION).cloned();
        let is_kept = |(old, new): &(&User, &User)| {
            of_version[0] == of_version[1] && decided.is_empty() && source_id(old) == source_id(new)
        };
        let kept = old.zip(new).filter(is_kept);
        if kept.is_some_and(|(old, new)| controls(&old.spec) == controls(&new.spec)) {
            return;
        }
        let reduced = kept.is_some_and(|(old, new)| is_reduction(&old.spec, &new.spec));
        // A manager that applies would lift the restriction again with its next apply.
        let restricts = |field: &str| old.is_some_and(|old| control::restricts(&old.spec, field));
        let is_given = || self.ownership.is_given_to_applier(control::is_descriptive, restricts).then_some(UNDONE);
        let undone = self.ownership.is_untracked().then_some(UNTRACKED).or_else(is_given).filter(|_| reduced);
        if reduced && undone.is_none() {
            self.extent = Extent::BeyondNamespaces;
        }
        let groups: BTreeSet<String> = of_version.into_iter().flatten().chain(decided).collect();
        // A rename gives up what the old username holds and takes over what the new one holds.
        let usernames: BTreeSet<String> = versions().map(User::username).collect();
        for username in &usernames {
            self.identity(&Identity {
                affected: AffectedIdentity::named(format!("User {name}")),
                name: &name,
                username,
                is_admin: versions().any(|user| user.spec.admin),
                groups: groups.clone(),
            });
        }
        if let Some(reason) = undone {
            self.note_field(reason);
        }
        if let Some(new) = new {
            if old.is_none() {
                self.takes_name(&name, new);
            }
            self.takes_emails(&name, old, new);
        }
        for username in usernames.iter().filter(|username| old.is_none_or(|old| old.username() != **username)) {
            self.takes_username(&name, username);
        }
    }

    fn groups_of(&self, user: &User) -> BTreeSet<String> {
        let (name, labels) = (user.name_any(), user.labels());
        self.directory.memberships.would_claim(&name, labels, &user.spec.groups)
    }

    /// Returns the groups of whose `memberSelector` the change of labels affects a condition, and the groups above them.
    /// Each condition counts by itself. Otherwise, a requester could change one label while another keeps the User out of
    /// the group, and have a tool change the other one.
    fn decided_by_labels(&self, old: Option<&User>, new: Option<&User>) -> BTreeSet<String> {
        let bare = Labels::new();
        let before = old.map_or(&bare, ResourceExt::labels);
        match new {
            Some(new) => {
                let removable = self.ownership.removable_labels();
                self.affected(&LabelChange { before, after: new.labels(), removable: &removable }, Effect::Any)
            }
            // The tombstone keeps the conditions that hold now.
            None => self.affected(&LabelChange { before, after: &bare, removable: &BTreeSet::new() }, Effect::Holds),
        }
    }

    fn affected(&self, change: &LabelChange<'_>, counts: Effect) -> BTreeSet<String> {
        self.directory.memberships.affected(change, counts)
    }

    fn group(&mut self, old: Option<&Group>, new: Option<&Group>) {
        if may_be_garbage_collected(old, new) {
            self.group(old, None);
        }
        if let Some(field) = self.ownership.changed_field(old, new, is_descriptive_of_group) {
            self.group(old, None);
            self.note_field(&field);
        }
        let Some(name) = new.or(old).map(ResourceExt::name_any) else { return };
        let (before, after) = (old.map(declared_members), new.map(declared_members));
        if before == after && old.map(origin) == new.map(origin) {
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
            // Users that name the group or that it selects join or leave it.
            touched.extend(memberships.claimants(&name).map(str::to_owned));
        }
        let mut groups = BTreeSet::new();
        for user in touched {
            groups.extend(memberships.claims(&user));
            self.user_by_name_without_groups(&user, false);
        }
        for group in groups {
            self.group_identity(&group, &AffectedIdentity::other("a User whose membership changes"));
        }
    }

    /// The binding before the change counts as well as the one after it, because an identity that loses its roles for a
    /// moment would be easy to take over. Validity does not matter, as in the admission policies that enforce the rule.
    fn role_binding(&mut self, old: Option<&RoleBinding>, new: Option<&RoleBinding>) {
        // As in the admission policies that enforce the rule, any change of labels and annotations counts.
        let is_kept = !may_be_garbage_collected(old, new)
            && !ownership::differs(old.map(Resource::meta), new.map(Resource::meta));
        if is_kept && old.map(|old| &old.spec) == new.map(|new| &new.spec) {
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

    /// A namespace counts towards its owner's quota. Changing the owner therefore requires control of the old and the
    /// new owner, and the verb `assign` on each of them other than the requester. Owners may not simply give a
    /// namespace up, because it would no longer count towards any quota.
    fn owner(&mut self, old: Option<&Labels>, new: &Labels, by: Option<&str>) {
        let (before, after) = (old.and_then(owner), owner(new));
        if before == after {
            return;
        }
        // The requester may not be able to read who owned the Namespace before.
        let is_named = |user: &str| after == Some(user) || by == Some(user);
        for user in after.filter(|after| by != Some(after)).into_iter().chain(before) {
            self.user_by_name(user, is_named(user));
        }
        for user in before.into_iter().chain(after).filter(|user| by != Some(user)) {
            let identity = AffectedIdentity { text: format!("User {user}"), is_named: is_named(user) };
            let by = format!("metadata.labels[{OWNER_LABEL}]");
            self.found.insert(Requirement::Assign(user.to_owned()), RequirementReason { identity, by });
        }
        self.note_field(&format!("metadata.labels[{OWNER_LABEL}]"));
    }

    /// Notes which field of the request the requirements found so far come from.
    fn note_field(&mut self, field: &str) {
        for reason in self.found.values_mut() {
            reason.identity.text = format!("{} ({field})", reason.identity);
        }
    }

    fn namespace(&mut self, name: Option<&str>, old: Option<&Labels>, new: &Labels, removable: &BTreeSet<String>) {
        // If a selector matches a new Namespace that has no labels of its own, the author of the binding has granted
        // that. Requirements arise only from labels, because a requester can choose them in order to match. Each condition
        // counts by itself, because a tool may set or remove the other labels.
        let bare = Labels::from([(NAMESPACE_NAME_LABEL.to_owned(), name.unwrap_or_default().to_owned())]);
        let bindings = &self.directory.bindings;
        // kube-apiserver sets this label again, so no tool can remove it.
        let removable = removable.iter().filter(|label| *label != NAMESPACE_NAME_LABEL).cloned().collect();
        let change = LabelChange { before: old.unwrap_or(&bare), after: new, removable: &removable };
        for entered in bindings.affected(&change, Effect::Holds) {
            let Some(binding) = bindings.get(&entered) else { continue };
            let grant = Grant { role: binding.role.clone(), namespace: name.map(str::to_owned) };
            let subjects: Vec<String> =
                binding.subjects.iter().take(3).map(|subject| format!("{:?} {}", subject.kind, subject.name)).collect();
            let subjects = AffectedIdentity::other(subjects.join(", "));
            self.require(
                grant,
                &subjects,
                &format!("RoleBinding {entered}, whose namespaceSelector mentions the labels"),
            );
        }
    }

    /// Requires control of every User that a password Secret names, whether or not the User refers to the Secret yet:
    /// it may do so later. A deleted User may refer to the Secret when it is restored.
    fn credential(&mut self, users: &BTreeSet<&str>) {
        for user in users {
            self.user_by_name(user, true);
            if self.directory.user(user).is_none() {
                self.deleted(user, self.directory.tombstones.of(user));
            }
        }
    }

    /// Requires control of a User by name. If it does not exist yet, its username is assumed to be its name, the
    /// default.
    fn user_by_name(&mut self, name: &str, is_named: bool) {
        let affected = AffectedIdentity { text: format!("User {name}"), is_named };
        for group in self.directory.memberships.claims(name) {
            self.group_identity(&group, &affected);
        }
        self.user_by_name_without_groups(name, is_named);
    }

    fn user_by_name_without_groups(&mut self, name: &str, is_named: bool) {
        let person = self.directory.user(name);
        let username = person.map_or(name, |person| &person.username);
        let is_admin = person.is_some_and(|person| person.is_admin);
        let affected = AffectedIdentity { text: format!("User {name}"), is_named };
        self.identity(&Identity { affected, name, username, is_admin, groups: BTreeSet::new() });
    }

    fn identity(&mut self, identity: &Identity<'_>) {
        let affected = &identity.affected;
        self.native(&Holder::User(identity.username.to_owned()), affected);
        self.bindings(SubjectKind::User, identity.name, affected);
        if identity.is_admin {
            let role = RoleRef::cluster_role(&self.policy.administrator_role);
            self.require(Grant { role, namespace: None }, affected, "spec.admin");
        }
        self.group_identities(&identity.groups, affected);
    }

    fn group_identities(&mut self, groups: &BTreeSet<String>, affected: &AffectedIdentity) {
        for group in groups {
            self.group_identity(group, affected);
        }
    }

    fn group_identity(&mut self, group: &str, affected: &AffectedIdentity) {
        self.native(&Holder::Group(group.to_owned()), affected);
        self.bindings(SubjectKind::Group, group, affected);
    }

    /// Requires what native bindings grant, whether or not Roster wrote them.
    fn native(&mut self, holder: &Holder, affected: &AffectedIdentity) {
        let directory = self.directory;
        for (grant, mut by) in directory.natives.grants_of(holder) {
            if self.extent == Extent::BeyondNamespaces && grant.namespace.is_some() {
                continue;
            }
            if let Some(native) = by.next() {
                self.require(grant.clone(), affected, &format!("{holder}, native {}", native.key));
            }
        }
    }

    /// Requires what Roster's bindings grant, regardless of validity: extending the validity of a binding grants its
    /// role to the same subject again.
    fn bindings(&mut self, kind: SubjectKind, name: &str, affected: &AffectedIdentity) {
        let subject = Subject { kind, name: name.to_owned() };
        let directory = self.directory;
        for binding in directory.bindings.of_subject(&subject) {
            self.grants(binding, affected, &format!("{kind:?} {name}, RoleBinding {}", binding.name));
        }
    }

    fn grants(&mut self, binding: &Binding, affected: &AffectedIdentity, by: &str) {
        let role = || binding.role.clone();
        match &binding.scope {
            // A selector also matches future namespaces.
            Scope::Cluster | Scope::Selector(_) => self.require(Grant { role: role(), namespace: None }, affected, by),
            Scope::Namespaces(_) if self.extent == Extent::BeyondNamespaces && binding.role.kind == RoleKind::Role => {}
            Scope::Namespaces(namespaces) => {
                for namespace in namespaces {
                    self.require(Grant { role: role(), namespace: Some(namespace.clone()) }, affected, by);
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

/// Whether a field of `Group.spec`, by its JSON name, says nothing about which group it is and who is in it.
fn is_descriptive_of_group(field: &str) -> bool {
    matches!(field, "description" | "domain" | "quota")
}

/// Returns what an import goes by to recognize the Group of a group in the source, and to put users into it.
fn origin(group: &Group) -> (Option<&String>, Option<&String>) {
    (group.annotations().get(SOURCE_ID_ANNOTATION), group.spec.display_name.as_ref())
}

fn may_be_garbage_collected<K: Resource>(old: Option<&K>, new: Option<&K>) -> bool {
    old.zip(new).is_some_and(|(old, new)| ownership::may_be_garbage_collected(Some(old.meta()), new.meta()))
}

#[cfg(test)]
#[path = "guard_sequence_tests.rs"]
mod sequence_tests;
#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
