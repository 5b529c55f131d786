//! In-memory index of everything that authorization depends on: users, groups, bindings, namespaces and native RBAC.
//!
//! Fed by watches, on every replica. Every function is synchronous and pure. Functions that apply a change return the
//! objects it affects ([`Concerned`]), found by look-up and never by a scan.
//!
//! ```text
//!  User ─▶ users ──┐
//!  Group ─▶ memberships ──┐
//!  RoleBinding, Namespace ─▶ bindings ──▶ rbac::compile ─▶ desired native bindings
//!  ClusterRole, Role ─▶ roles ──┤          rbac::guard  ─▶ what a requester must be able to bind
//!  ClusterRoleBinding, RoleBinding ─▶ natives
//! ```

pub mod bindings;
mod deleted;
pub mod entries;
pub mod index;
pub mod labels;
mod lookup;
pub mod membership;
mod names;
pub mod native;
mod nodes;
mod people;
pub mod person;
pub mod quotas;
pub mod standing;
mod timeline;
pub mod tombstones;

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
use labels::Labels;
use membership::{DeclaredMembers, Memberships, Touched};
use native::{Holder, Key, Native, Natives};
use people::People;
use person::Person;
use quotas::{NOBODY, Quotas};
use timeline::Timeline;
use tombstones::Tombstones;

/// Objects affected by a change, by `metadata.name`.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Concerned {
    /// Users whose status, or whose administrator binding, may have to change.
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

impl Concerned {
    fn touched(&mut self, touched: Touched) {
        self.users.extend(touched.users);
        self.groups.extend(touched.groups);
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
enum Edge {
    User(String),
    Binding(String),
}

/// The in-memory index. See the [module documentation](self).
#[derive(Debug, Default)]
pub struct Directory {
    /// Whether Group subjects compile to their member users, so that bindings depend on memberships.
    expand_groups: bool,
    users: People,
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
    edges: Timeline<Edge>,
}

impl Directory {
    /// Returns an empty directory.
    pub fn new(expand_groups: bool) -> Self {
        Self { expand_groups, ..Self::default() }
    }

    /// Adds or updates a User.
    pub fn set_user(&mut self, user: &User, now: Timestamp) -> Concerned {
        let name = user.name_any();
        let was_known = self.users.get(&name).is_some();
        let person = Person::of(user);
        let labels: Labels = user.labels().clone();
        let mut concerned = Concerned::default();
        if self.tombstones.revive(&name) {
            concerned.tombstones.insert(name.clone());
        }
        concerned.touched(self.memberships.set_user(&name, Some((labels, &user.spec.groups))));
        let before = self.users.get(&name);
        if before != Some(&person) {
            // Skipped if nothing changed: an edge that is due but not yet processed by the clock would be lost.
            self.edges.set(Edge::User(name.clone()), person.next_edge(now));
            let is_new = before.is_none();
            let uid_before = before.map(|person| person.uid.clone());
            if person.is_admin {
                self.administrators.insert(name.clone());
            } else {
                self.administrators.remove(&name);
            }
            self.users.insert(&name, person);
            if is_new {
                concerned.groups.extend(self.memberships.naming_user(&name).map(str::to_owned));
            }
            self.note_orphans(uid_before.as_ref(), &mut concerned);
            self.person_changed(&name, &mut concerned);
        }
        if self.quotas.set_user(&name, limits::declared(user.spec.quota.as_ref())) || !was_known {
            concerned.users.insert(name.clone());
            concerned.owners.insert(name);
        }
        self.follow_groups(&mut concerned);
        concerned
    }

    /// Removes a User.
    pub fn remove_user(&mut self, name: &str, now: Timestamp) -> Concerned {
        let mut concerned = Concerned::default();
        if let Some(tombstone) = self.tombstone_of(name, now) {
            self.tombstones.note(tombstone);
            concerned.tombstones.insert(name.to_owned());
        }
        self.person_changed(name, &mut concerned);
        self.quotas.set_user(name, Amounts::new());
        concerned.owners.insert(name.to_owned());
        concerned.groups.extend(self.memberships.naming_user(name).map(str::to_owned));
        concerned.touched(self.memberships.set_user(name, None));
        self.edges.set(Edge::User(name.to_owned()), None);
        self.administrators.remove(name);
        let uid = self.users.remove(name).map(|person| person.uid);
        self.note_orphans(uid.as_ref(), &mut concerned);
        self.follow_groups(&mut concerned);
        concerned
    }

    /// Adds what a change to the User itself (name, state, flags) affects.
    fn person_changed(&self, name: &str, concerned: &mut Concerned) {
        concerned.users.insert(name.to_owned());
        let subject = Subject { kind: SubjectKind::User, name: name.to_owned() };
        concerned.bindings.extend(self.bindings.of_subject(&subject).map(|binding| binding.name.clone()));
        concerned.bindings.extend(self.bindings.of_delegator(name).cloned());
        if self.expand_groups {
            for group in self.memberships.groups_of(name) {
                concerned.bindings.extend(self.bindings_of_group(group));
            }
        }
    }

    /// Adds what the changed memberships affect.
    fn follow_groups(&self, concerned: &mut Concerned) {
        for user in &concerned.users {
            concerned.bindings.extend(self.bindings.of_delegator(user).cloned());
        }
        if self.expand_groups {
            for group in &concerned.groups {
                concerned.bindings.extend(self.bindings_of_group(group));
            }
        }
    }

    fn bindings_of_group(&self, group: &str) -> impl Iterator<Item = String> {
        let subject = Subject { kind: SubjectKind::Group, name: group.to_owned() };
        self.bindings.of_subject(&subject).map(|binding| binding.name.clone()).collect::<Vec<_>>().into_iter()
    }

    /// Adds or updates a Group.
    pub fn set_group(&mut self, group: &Group, now: Timestamp) -> Concerned {
        let name = group.name_any();
        if group.metadata.deletion_timestamp.is_some() {
            return self.remove_group(&name, now);
        }
        let limits_changed = self.quotas.set_group(&name, limits::declared(group.spec.quota.as_ref()));
        let declared = declared_members(group);
        let identity = (group.uid().unwrap_or_default(), group.metadata.generation);
        let is_new = self.groups.insert(name.clone(), identity).is_none();
        let mut concerned = self.group_changed(&name, Some(declared), is_new, now);
        if limits_changed {
            concerned.users.extend(self.memberships.members_of(&name).map(str::to_owned));
            concerned.owners.extend(self.memberships.members_of(&name).map(str::to_owned));
        }
        concerned
    }

    /// Removes a Group.
    pub fn remove_group(&mut self, name: &str, now: Timestamp) -> Concerned {
        let existed = self.groups.remove(name).is_some();
        let had_limits = self.quotas.set_group(name, Amounts::new());
        let members: BTreeSet<String> = self.memberships.members_of(name).map(str::to_owned).collect();
        let mut concerned = self.group_changed(name, None, existed, now);
        if had_limits {
            concerned.owners.extend(members);
        }
        concerned
    }

    fn group_changed(
        &mut self,
        name: &str,
        declared: Option<DeclaredMembers>,
        came_or_went: bool,
        now: Timestamp,
    ) -> Concerned {
        let mut concerned = Concerned::default();
        concerned.groups.insert(name.to_owned());
        let (below, cycle) = (self.memberships.below(name), self.cycle_of(name));
        concerned.touched(self.memberships.set_group(name, declared, now));
        // Groups nested in this one hold its roles.
        let moved: BTreeSet<String> = below.symmetric_difference(&self.memberships.below(name)).cloned().collect();
        self.sort_former(&moved.iter().cloned().chain([name.to_owned()]).collect());
        concerned.groups.extend(moved);
        let cycle_now = self.cycle_of(name);
        if cycle != cycle_now {
            for group in cycle.union(&cycle_now) {
                concerned.groups.extend(self.memberships.below(group));
            }
        }
        if came_or_went {
            concerned.bindings.extend(self.bindings_of_group(name));
            concerned.groups.extend(self.memberships.naming_group(name).map(str::to_owned));
        }
        self.follow_groups(&mut concerned);
        concerned
    }

    fn cycle_of(&self, group: &str) -> BTreeSet<String> {
        self.memberships.cycle_of(group).into_iter().map(str::to_owned).collect()
    }

    /// Adds or updates a RoleBinding of Roster.
    pub fn set_binding(&mut self, binding: &RoleBinding, now: Timestamp) -> Concerned {
        let name = binding.name_any();
        let binding = Binding::of(binding);
        if self.bindings.get(&name) == Some(&binding) {
            return Concerned { bindings: [name].into(), ..Concerned::default() };
        }
        self.edges.set(Edge::Binding(name.clone()), binding.validity.next_edge(now));
        let before = self.bindings.set(binding);
        self.binding_changed(&name, before.as_ref())
    }

    /// Removes a RoleBinding of Roster.
    pub fn remove_binding(&mut self, name: &str) -> Concerned {
        self.edges.set(Edge::Binding(name.to_owned()), None);
        let before = self.bindings.remove(name);
        self.binding_changed(name, before.as_ref())
    }

    fn binding_changed(&mut self, name: &str, before: Option<&Binding>) -> Concerned {
        let mut concerned = Concerned { bindings: [name.to_owned()].into(), ..Concerned::default() };
        let groups = before.into_iter().chain(self.bindings.get(name)).flat_map(Binding::groups).cloned().collect();
        self.sort_former(&groups);
        let now = self.bindings.get(name);
        for subject in before.into_iter().chain(now).flat_map(|binding| &binding.subjects) {
            if subject.kind == SubjectKind::Group {
                self.roles_changed(&subject.name, &mut concerned);
            }
        }
        // A delegated role cannot be delegated further, so delegations by the holders may start or cease to apply.
        let is_trust = |binding: Option<&Binding>| binding.is_some_and(|binding| binding.delegated_by.is_some());
        if is_trust(before) != is_trust(now) {
            let uids: BTreeSet<&String> = before.into_iter().chain(now).map(|binding| &binding.uid).collect();
            for native in uids.into_iter().flat_map(|uid| self.natives.owned_by(uid)) {
                native.holders.iter().for_each(|holder| self.holder_changed(holder, &mut concerned));
            }
        }
        self.note_orphans(before.map(|binding| &binding.uid), &mut concerned);
        concerned
    }

    /// Adds the group and the groups nested in it, whose roles have changed.
    fn roles_changed(&self, group: &str, concerned: &mut Concerned) {
        if self.groups.contains_key(group) {
            concerned.groups.extend(self.memberships.below(group));
            concerned.groups.insert(group.to_owned());
        }
    }

    /// Adds or updates a Namespace; `None` removes it.
    pub fn set_namespace(&mut self, name: &str, state: Option<NamespaceState>) -> Concerned {
        let mut owners: BTreeSet<String> = self.owner_of(name).map(str::to_owned).into_iter().collect();
        let bindings = self.bindings.set_namespace(name, state);
        owners.extend(self.owner_of(name).map(str::to_owned));
        if self.owner_of(name).is_none() && self.quotas.allotment(name).is_some() {
            owners.insert(NOBODY.to_owned());
        }
        Concerned { bindings, owners, ..Concerned::default() }
    }

    /// Sets the allotment of a namespace; `None` if its ResourceQuota was deleted.
    pub fn set_allotment(&mut self, namespace: &str, allotment: Option<Allotment>) -> Concerned {
        if !self.quotas.set_allotment(namespace, allotment) {
            return Concerned::default();
        }
        let owner = self.owner_of(namespace).unwrap_or(NOBODY).to_owned();
        Concerned { owners: [owner].into(), ..Concerned::default() }
    }

    /// Sets a LimitRange and the defaults that Roster recorded on it; `None` if it was deleted.
    pub fn set_limit_range(&mut self, namespace: &str, name: &str, defaults: Option<String>) -> Concerned {
        self.quotas.set_limit_range(namespace, name, defaults);
        Concerned { owners: self.owner_of(namespace).map(str::to_owned).into_iter().collect(), ..Concerned::default() }
    }

    /// Sets the rules of a native role; `None` if it was deleted.
    pub fn set_role(&mut self, key: RoleKey, rules: Option<Arc<[PolicyRule]>>) -> Concerned {
        let bindings = self.bindings.of_role(&key.role).cloned().collect();
        // Which ClusterRole the administrator flag binds is not known here, and administrators are few.
        let users = if key.namespace.is_none() { self.administrators.clone() } else { BTreeSet::new() };
        let exists = rules.is_some();
        let existed = match rules {
            Some(rules) => self.roles.insert(key, rules),
            None => self.roles.remove(&key),
        };
        if existed.is_some() == exists {
            return Concerned::default();
        }
        Concerned { users, bindings, ..Concerned::default() }
    }

    /// Adds or updates a native binding.
    pub fn set_native(&mut self, native: Native) -> Concerned {
        // Own writes are recorded at once; the watch may still deliver an earlier state.
        let is_known = |known: &Native| {
            *known == native || known.uid == native.uid && known.resource_version > native.resource_version
        };
        if self.natives.get(&native.key).is_some_and(is_known) {
            return Concerned::default();
        }
        let key = native.key.clone();
        let before = self.natives.set(native);
        self.native_changed(&key, before.as_ref())
    }

    /// Removes a native binding. If `uid` is given, a new binding of the same name is left alone.
    pub fn remove_native(&mut self, key: &Key, uid: Option<&str>) -> Concerned {
        if self.natives.get(key).is_none_or(|native| uid.is_some_and(|uid| native.uid != uid)) {
            return Concerned::default();
        }
        let before = self.natives.remove(key);
        self.native_changed(key, before.as_ref())
    }

    fn native_changed(&mut self, key: &Key, before: Option<&Native>) -> Concerned {
        let mut concerned = Concerned::default();
        let groups = before.into_iter().chain(self.natives.get(key)).flat_map(Native::groups).cloned().collect();
        self.sort_former(&groups);
        // The RoleBinding or User that this name belongs to, and the owner of the native binding.
        if let Some(name) = native::binding_of(&key.name) {
            concerned.bindings.extend(self.bindings.get(name).map(|binding| binding.name.clone()));
        }
        if let Some(name) = native::administrator_of(&key.name) {
            concerned.users.extend(self.users.get(name).map(|_| name.to_owned()));
        }
        for native in before.into_iter().chain(self.natives.get(key)) {
            let owner = native.owner.as_deref().unwrap_or_default();
            if let Some(binding) = self.bindings.by_uid(owner) {
                concerned.bindings.insert(binding.name.clone());
                let groups = binding.subjects.iter().filter(|subject| subject.kind == SubjectKind::Group);
                groups.for_each(|group| self.roles_changed(&group.name, &mut concerned));
            }
            concerned.users.extend(self.users.of_uid(owner).map(str::to_owned));
            for holder in &native.holders {
                self.holder_changed(holder, &mut concerned);
            }
        }
        self.note_orphans(self.natives.get(key).and_then(|native| native.owner.as_ref()), &mut concerned);
        concerned
    }

    fn note_orphans(&self, owner: Option<&String>, concerned: &mut Concerned) {
        let is_orphan = |uid: &&String| !self.is_owner_known(uid) && self.natives.owned_by(uid).next().is_some();
        concerned.orphaned.extend(owner.filter(is_orphan).cloned());
    }

    /// Adds what depends on the roles of the holder, such as bindings that it delegates.
    fn holder_changed(&self, holder: &Holder, concerned: &mut Concerned) {
        let bindings = &mut concerned.bindings;
        let mut delegated = |user: &str| bindings.extend(self.bindings.of_delegator(user).cloned());
        match holder {
            Holder::User(username) => {
                for user in self.users.named(username) {
                    delegated(user);
                    // The User may have been waiting for the username to be free of rights.
                    if !self.holds_username(user) {
                        concerned.users.insert(user.to_owned());
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
                self.roles_changed(group, concerned);
            }
        }
    }

    /// Advances the clock.
    pub fn advance(&mut self, now: Timestamp) -> Concerned {
        self.tombstones.advance(now);
        let mut concerned = Concerned::default();
        concerned.touched(self.memberships.advance(now));
        for edge in self.edges.take_due(now) {
            match &edge {
                Edge::User(name) => {
                    self.person_changed(name, &mut concerned);
                    let next = self.users.get(name).and_then(|person| person.next_edge(now));
                    self.edges.set(edge, next);
                }
                Edge::Binding(name) => {
                    concerned.bindings.insert(name.clone());
                    let next = self.bindings.get(name).and_then(|binding| binding.validity.next_edge(now));
                    self.edges.set(edge, next);
                }
            }
        }
        self.follow_groups(&mut concerned);
        concerned
    }

    /// Returns when [`Directory::advance`] has something to do next.
    pub fn next_edge(&self) -> Option<Timestamp> {
        [self.edges.next(), self.memberships.next_edge()].into_iter().flatten().min()
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
        // The schema rejects selectors that do not convert. One that does not convert matches nobody.
        selector: spec.member_selector.clone().and_then(|selector| selector.try_into().ok()),
        timed,
        accepts_declared: spec.accept_declared_members,
    }
}
