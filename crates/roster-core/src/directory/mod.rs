//! In-memory index of everything that authorization depends on: users, groups, bindings, namespaces and native RBAC.
//!
//! Every replica keeps one up to date from watches. All functions are synchronous and have no side effects outside the
//! index. Functions that apply a change return the objects that it affects ([`Affected`]). These are found by index
//! lookups, never by a scan.
//!
//! ```text
//!  User ─▶ users ──┐
//!  Group ─▶ memberships ──┐
//!  RoleBinding, Namespace ─▶ bindings ──▶ rbac::compile ─▶ desired native bindings
//!  ClusterRole, Role ─▶ roles ──┤          rbac::guard  ─▶ what a requester must be able to bind
//!  ClusterRoleBinding, RoleBinding ─▶ natives
//! ```

pub mod bindings;
pub mod callers;
pub mod compact_user;
mod deleted;
pub mod entries;
pub mod index;
pub mod labels;
mod lookup;
pub mod membership;
mod names;
pub mod native;
mod nodes;
pub mod owner_quota;
pub mod quotas;
mod timeline;
pub mod tombstones;
pub(crate) mod tracking;
mod user_table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::ResourceExt;
use roster_api::role_binding::{RoleRef, Subject, SubjectKind};
use roster_api::{Group, RoleBinding, User};

use crate::quota::allotment::Allotment;
use crate::quota::amount::Amounts;
use crate::quota::limits;
use bindings::{Binding, Bindings, NamespaceState};
use compact_user::CompactUser;
use labels::Labels;
use membership::{DeclaredMembers, MembershipChanges, Memberships};
use native::{Holder, Native, NativeKey, Natives};
use quotas::{Quotas, UNOWNED};
use timeline::Timeline;
use tombstones::Tombstones;
use user_table::UserTable;

/// Objects affected by a change, by `metadata.name`.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Affected {
    /// Users whose status or administrator binding may have to change.
    pub users: BTreeSet<String>,
    /// Groups whose status may have to change.
    pub groups: BTreeSet<String>,
    /// RoleBindings that may compile to a different result.
    pub bindings: BTreeSet<String>,
    /// UIDs of Users and RoleBindings that do not exist but still own native bindings.
    pub orphaned: BTreeSet<String>,
    /// Names of Users that own namespaces and whose limits or use may have changed.
    pub owners: BTreeSet<String>,
    /// Names of deleted Users whose tombstone may have to be stored or removed.
    pub tombstones: BTreeSet<String>,
}

impl Affected {
    fn add_memberships(&mut self, changes: MembershipChanges) {
        self.users.extend(changes.users);
        self.groups.extend(changes.groups);
    }
}

/// A native role: kind and name, and the namespace if it is a Role.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct RoleKey {
    /// Kind and name.
    pub role: RoleRef,
    /// Namespace of a Role; `None` for a ClusterRole.
    pub namespace: Option<String>,
}

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Transition {
    User(String),
    Binding(String),
}

/// The in-memory index. See the [module documentation](self).
#[derive(Debug, Default)]
pub struct Directory {
    /// Whether Group subjects compile to their members. If so, bindings depend on memberships.
    expand_groups: bool,
    users: UserTable,
    administrators: BTreeSet<String>,
    /// UID and generation of each Group, by name.
    groups: HashMap<String, (String, Option<i64>)>,
    /// Memberships of users in groups.
    pub memberships: Memberships,
    /// Roster's RoleBindings and all namespaces.
    pub bindings: Bindings,
    /// Rules of each native role.
    roles: HashMap<RoleKey, Arc<[PolicyRule]>>,
    /// Native bindings.
    pub natives: Natives,
    /// Declared limits and the allotment of each owned namespace.
    pub quotas: Quotas,
    /// Tombstones: deleted Users whose names are protected.
    pub tombstones: Tombstones,
    /// Next instant at which the passing of time alone changes a User or RoleBinding.
    transitions: Timeline<Transition>,
}

impl Directory {
    /// Returns an empty directory.
    pub fn new(expand_groups: bool) -> Self {
        Self { expand_groups, ..Self::default() }
    }

    /// Adds or updates a User.
    pub fn set_user(&mut self, user: &User, now: Timestamp) -> Affected {
        let name = user.name_any();
        let was_known = self.users.get(&name).is_some();
        let person = CompactUser::of(user);
        let labels: Labels = user.labels().clone();
        let mut affected = Affected::default();
        if self.tombstones.note_user_exists(&name) {
            affected.tombstones.insert(name.clone());
        }
        affected.add_memberships(self.memberships.set_user(&name, Some((labels, &user.spec.groups))));
        let before = self.users.get(&name);
        if before != Some(&person) {
            // Skipped if nothing changed, because a due transition that the clock has not processed yet would be lost.
            self.transitions.set(Transition::User(name.clone()), person.next_transition(now));
            let is_new = before.is_none();
            let uid_before = before.map(|person| person.uid.clone());
            if person.is_admin {
                self.administrators.insert(name.clone());
            } else {
                self.administrators.remove(&name);
            }
            self.users.insert(&name, person);
            if is_new {
                affected.groups.extend(self.memberships.naming_user(&name).map(str::to_owned));
            }
            self.note_orphans(uid_before.as_ref(), &mut affected);
            self.user_changed(&name, &mut affected);
        }
        if self.quotas.set_user(&name, limits::declared(user.spec.quota.as_ref())) || !was_known {
            affected.users.insert(name.clone());
            affected.owners.insert(name);
        }
        self.follow_groups(&mut affected);
        affected
    }

    /// Removes a User.
    pub fn remove_user(&mut self, name: &str, now: Timestamp) -> Affected {
        let mut affected = Affected::default();
        if let Some(tombstone) = self.tombstone_of(name, now) {
            self.tombstones.note_deletion(tombstone);
            affected.tombstones.insert(name.to_owned());
        }
        self.user_changed(name, &mut affected);
        self.quotas.set_user(name, Amounts::new());
        affected.owners.insert(name.to_owned());
        affected.groups.extend(self.memberships.naming_user(name).map(str::to_owned));
        affected.add_memberships(self.memberships.set_user(name, None));
        self.transitions.set(Transition::User(name.to_owned()), None);
        self.administrators.remove(name);
        let uid = self.users.remove(name).map(|person| person.uid);
        self.note_orphans(uid.as_ref(), &mut affected);
        self.follow_groups(&mut affected);
        affected
    }

    /// Adds what a change to the User itself (name, state, flags) affects.
    fn user_changed(&self, name: &str, affected: &mut Affected) {
        affected.users.insert(name.to_owned());
        let subject = Subject { kind: SubjectKind::User, name: name.to_owned() };
        affected.bindings.extend(self.bindings.of_subject(&subject).map(|binding| binding.name.clone()));
        affected.bindings.extend(self.bindings.of_delegator(name).cloned());
        if self.expand_groups {
            for group in self.memberships.groups_of(name) {
                affected.bindings.extend(self.bindings_of_group(group));
            }
        }
    }

    /// Adds what the changed memberships affect.
    fn follow_groups(&self, affected: &mut Affected) {
        for user in &affected.users {
            affected.bindings.extend(self.bindings.of_delegator(user).cloned());
        }
        if self.expand_groups {
            for group in &affected.groups {
                affected.bindings.extend(self.bindings_of_group(group));
            }
        }
    }

    fn bindings_of_group(&self, group: &str) -> impl Iterator<Item = String> {
        let subject = Subject { kind: SubjectKind::Group, name: group.to_owned() };
        self.bindings.of_subject(&subject).map(|binding| binding.name.clone()).collect::<Vec<_>>().into_iter()
    }

    /// Adds or updates a Group.
    pub fn set_group(&mut self, group: &Group, now: Timestamp) -> Affected {
        let name = group.name_any();
        if group.metadata.deletion_timestamp.is_some() {
            return self.remove_group(&name, now);
        }
        let limits_changed = self.quotas.set_group(&name, limits::declared(group.spec.quota.as_ref()));
        let declared = declared_members(group);
        let identity = (group.uid().unwrap_or_default(), group.metadata.generation);
        let is_new = self.groups.insert(name.clone(), identity).is_none();
        let mut affected = self.group_changed(&name, Some(declared), is_new, now);
        if limits_changed {
            affected.users.extend(self.memberships.members_of(&name).map(str::to_owned));
            affected.owners.extend(self.memberships.members_of(&name).map(str::to_owned));
        }
        affected
    }

    /// Removes a Group.
    pub fn remove_group(&mut self, name: &str, now: Timestamp) -> Affected {
        let existed = self.groups.remove(name).is_some();
        let had_limits = self.quotas.set_group(name, Amounts::new());
        let members: BTreeSet<String> = self.memberships.members_of(name).map(str::to_owned).collect();
        let mut affected = self.group_changed(name, None, existed, now);
        if had_limits {
            affected.owners.extend(members);
        }
        affected
    }

    fn group_changed(
        &mut self,
        name: &str,
        declared: Option<DeclaredMembers>,
        existence_changed: bool,
        now: Timestamp,
    ) -> Affected {
        let mut affected = Affected::default();
        affected.groups.insert(name.to_owned());
        let (below, cycle) = (self.memberships.descendants_of(name), self.cycle_of(name));
        affected.add_memberships(self.memberships.set_group(name, declared, now));
        // Groups that are nested in this one hold its roles.
        let moved: BTreeSet<String> =
            below.symmetric_difference(&self.memberships.descendants_of(name)).cloned().collect();
        self.update_deleted_groups(&moved.iter().cloned().chain([name.to_owned()]).collect());
        affected.groups.extend(moved);
        let cycle_now = self.cycle_of(name);
        if cycle != cycle_now {
            for group in cycle.union(&cycle_now) {
                affected.groups.extend(self.memberships.descendants_of(group));
            }
        }
        if existence_changed {
            affected.bindings.extend(self.bindings_of_group(name));
            affected.groups.extend(self.memberships.naming_group(name).map(str::to_owned));
        }
        self.follow_groups(&mut affected);
        affected
    }

    fn cycle_of(&self, group: &str) -> BTreeSet<String> {
        self.memberships.cycle_of(group).into_iter().map(str::to_owned).collect()
    }

    /// Adds or updates a RoleBinding of Roster.
    pub fn set_binding(&mut self, binding: &RoleBinding, now: Timestamp) -> Affected {
        let name = binding.name_any();
        let binding = Binding::of(binding);
        if self.bindings.get(&name) == Some(&binding) {
            return Affected { bindings: [name].into(), ..Affected::default() };
        }
        self.transitions.set(Transition::Binding(name.clone()), binding.validity.next_transition(now));
        let before = self.bindings.set(binding);
        self.binding_changed(&name, before.as_ref())
    }

    /// Removes a RoleBinding of Roster.
    pub fn remove_binding(&mut self, name: &str) -> Affected {
        self.transitions.set(Transition::Binding(name.to_owned()), None);
        let before = self.bindings.remove(name);
        self.binding_changed(name, before.as_ref())
    }

    fn binding_changed(&mut self, name: &str, before: Option<&Binding>) -> Affected {
        let mut affected = Affected { bindings: [name.to_owned()].into(), ..Affected::default() };
        let groups = before.into_iter().chain(self.bindings.get(name)).flat_map(Binding::groups).cloned().collect();
        self.update_deleted_groups(&groups);
        let now = self.bindings.get(name);
        for subject in before.into_iter().chain(now).flat_map(|binding| &binding.subjects) {
            if subject.kind == SubjectKind::Group {
                self.roles_changed(&subject.name, &mut affected);
            }
        }
        // A delegated role cannot be delegated further, so delegations by the holders may start or cease to apply.
        let is_delegated = |binding: Option<&Binding>| binding.is_some_and(|binding| binding.delegated_by.is_some());
        if is_delegated(before) != is_delegated(now) {
            let uids: BTreeSet<&String> = before.into_iter().chain(now).map(|binding| &binding.uid).collect();
            for native in uids.into_iter().flat_map(|uid| self.natives.owned_by(uid)) {
                native.holders.iter().for_each(|holder| self.holder_changed(holder, &mut affected));
            }
        }
        self.note_orphans(before.map(|binding| &binding.uid), &mut affected);
        affected
    }

    /// Adds the group and the groups nested in it, whose roles have changed.
    fn roles_changed(&self, group: &str, affected: &mut Affected) {
        if self.groups.contains_key(group) {
            affected.groups.extend(self.memberships.descendants_of(group));
            affected.groups.insert(group.to_owned());
        }
    }

    /// Adds or updates a Namespace; `None` removes it.
    pub fn set_namespace(&mut self, name: &str, state: Option<NamespaceState>) -> Affected {
        let mut owners: BTreeSet<String> = self.owner_of(name).map(str::to_owned).into_iter().collect();
        let bindings = self.bindings.set_namespace(name, state);
        owners.extend(self.owner_of(name).map(str::to_owned));
        if self.owner_of(name).is_none() && self.quotas.allotment(name).is_some() {
            owners.insert(UNOWNED.to_owned());
        }
        Affected { bindings, owners, ..Affected::default() }
    }

    /// Sets the allotment of a namespace; `None` if its ResourceQuota was deleted.
    pub fn set_allotment(&mut self, namespace: &str, allotment: Option<Allotment>) -> Affected {
        if !self.quotas.set_allotment(namespace, allotment) {
            return Affected::default();
        }
        let owner = self.owner_of(namespace).unwrap_or(UNOWNED).to_owned();
        Affected { owners: [owner].into(), ..Affected::default() }
    }

    /// Sets a LimitRange and the defaults that it provides, or that Roster recorded on it; `None` if it was deleted.
    pub fn set_limit_range(&mut self, namespace: &str, name: &str, defaults: Option<String>) -> Affected {
        self.quotas.set_limit_range(namespace, name, defaults);
        Affected { owners: self.owner_of(namespace).map(str::to_owned).into_iter().collect(), ..Affected::default() }
    }

    /// Sets the rules of a native role; `None` if it was deleted.
    pub fn set_role(&mut self, key: RoleKey, rules: Option<Arc<[PolicyRule]>>) -> Affected {
        let bindings = self.bindings.of_role(&key.role).cloned().collect();
        // The directory does not know which ClusterRole the administrator flag binds. Administrators are few.
        let users = if key.namespace.is_none() { self.administrators.clone() } else { BTreeSet::new() };
        let exists = rules.is_some();
        let existed = match rules {
            Some(rules) => self.roles.insert(key, rules),
            None => self.roles.remove(&key),
        };
        if existed.is_some() == exists {
            return Affected::default();
        }
        Affected { users, bindings, ..Affected::default() }
    }

    /// Adds or updates a native binding.
    pub fn set_native(&mut self, native: Native) -> Affected {
        // This replica records its own writes at once, so the watch may deliver an earlier state afterwards.
        let is_known = |known: &Native| {
            *known == native || known.uid == native.uid && known.resource_version > native.resource_version
        };
        if self.natives.get(&native.key).is_some_and(is_known) {
            return Affected::default();
        }
        let key = native.key.clone();
        let before = self.natives.set(native);
        self.native_changed(&key, before.as_ref())
    }

    /// Removes a native binding. If `uid` is given, a recreated binding of the same name is kept.
    pub fn remove_native(&mut self, key: &NativeKey, uid: Option<&str>) -> Affected {
        if self.natives.get(key).is_none_or(|native| uid.is_some_and(|uid| native.uid != uid)) {
            return Affected::default();
        }
        let before = self.natives.remove(key);
        self.native_changed(key, before.as_ref())
    }

    fn native_changed(&mut self, key: &NativeKey, before: Option<&Native>) -> Affected {
        let mut affected = Affected::default();
        let groups = before.into_iter().chain(self.natives.get(key)).flat_map(Native::groups).cloned().collect();
        self.update_deleted_groups(&groups);
        // The RoleBinding or User that this name belongs to, and the owner of the native binding.
        if let Some(name) = native::binding_of(&key.name) {
            affected.bindings.extend(self.bindings.get(name).map(|binding| binding.name.clone()));
        }
        if let Some(name) = native::administrator_of(&key.name) {
            affected.users.extend(self.users.get(name).map(|_| name.to_owned()));
        }
        for native in before.into_iter().chain(self.natives.get(key)) {
            let owner = native.owner.as_deref().unwrap_or_default();
            if let Some(binding) = self.bindings.by_uid(owner) {
                affected.bindings.insert(binding.name.clone());
                let groups = binding.subjects.iter().filter(|subject| subject.kind == SubjectKind::Group);
                groups.for_each(|group| self.roles_changed(&group.name, &mut affected));
            }
            affected.users.extend(self.users.by_uid(owner).map(str::to_owned));
            for holder in &native.holders {
                self.holder_changed(holder, &mut affected);
            }
        }
        self.note_orphans(self.natives.get(key).and_then(|native| native.owner.as_ref()), &mut affected);
        affected
    }

    fn note_orphans(&self, owner: Option<&String>, affected: &mut Affected) {
        let is_orphan = |uid: &&String| !self.is_owner_known(uid) && self.natives.owned_by(uid).next().is_some();
        affected.orphaned.extend(owner.filter(is_orphan).cloned());
    }

    /// Adds what depends on the roles of the holder, such as bindings that it delegates.
    fn holder_changed(&self, holder: &Holder, affected: &mut Affected) {
        let bindings = &mut affected.bindings;
        let mut delegated = |user: &str| bindings.extend(self.bindings.of_delegator(user).cloned());
        match holder {
            Holder::User(username) => {
                for user in self.users.by_username(username) {
                    delegated(user);
                    // The User may have been waiting until native bindings no longer name the username.
                    if !self.holds_username(user) {
                        affected.users.insert(user.to_owned());
                    }
                }
            }
            Holder::Group(group) => {
                if self.bindings.delegators().len() < self.memberships.count(group) {
                    let members = self.bindings.delegators().filter(|user| self.memberships.is_member(user, group));
                    members.for_each(|user| delegated(user));
                } else {
                    self.memberships.members_of(group).for_each(delegated);
                }
                self.roles_changed(group, affected);
            }
        }
    }

    /// Advances the clock.
    pub fn advance(&mut self, now: Timestamp) -> Affected {
        self.tombstones.advance(now);
        let mut affected = Affected::default();
        affected.add_memberships(self.memberships.advance(now));
        for transition in self.transitions.take_due(now) {
            match &transition {
                Transition::User(name) => {
                    self.user_changed(name, &mut affected);
                    let next = self.users.get(name).and_then(|person| person.next_transition(now));
                    self.transitions.set(transition, next);
                }
                Transition::Binding(name) => {
                    affected.bindings.insert(name.clone());
                    let next = self.bindings.get(name).and_then(|binding| binding.validity.next_transition(now));
                    self.transitions.set(transition, next);
                }
            }
        }
        self.follow_groups(&mut affected);
        affected
    }

    /// Returns when [`Directory::advance`] has something to do next.
    pub fn next_transition(&self) -> Option<Timestamp> {
        [self.transitions.next(), self.memberships.next_transition()].into_iter().flatten().min()
    }
}

/// Returns what a Group declares about its members.
pub fn declared_members(group: &Group) -> DeclaredMembers {
    let spec = &group.spec;
    let timed: BTreeMap<_, _> =
        spec.memberships.iter().map(|membership| (membership.user.clone(), membership.validity.clone())).collect();
    DeclaredMembers {
        users: spec.members.iter().cloned().collect(),
        groups: spec.member_groups.iter().cloned().collect(),
        // The schema rejects selectors that do not convert. One that does not convert matches no User.
        selector: spec.member_selector.clone().and_then(|selector| selector.try_into().ok()),
        timed,
        accepts_declared: spec.accept_declared_members,
    }
}
