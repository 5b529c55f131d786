//! No sequence of writes that the guard admits, with earlier objects restored in between, leaves the requester in
//! control of an identity that holds, or ever held, a role that the requester may not bind.
//!
//! The requester writes at random. An administrator deletes Users, deletes Groups together with the Users that they
//! select, and restores earlier versions of objects at random. A pipeline sets labels that a User had before, and keeps
//! the others. A naive model, independent of the directory, computes
//! what identities hold: an upper bound that ignores cuts in cycles and the validity of bindings and memberships, and
//! includes groups that do not exist or do not accept declared members.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, Time};
use kube::core::{ObjectMeta, Selector, SelectorExt};
use proptest::prelude::*;
use roster_api::group::Membership;
use roster_api::role_binding::{ClusterScope, RoleBindingSpec, Scope as DeclaredScope};
use roster_api::user::DesiredState;
use roster_api::{GroupSpec, UserSpec, Validity};

#[path = "guard_sequence_strategies.rs"]
mod strategies;

use self::strategies::{bound_selector, label_steps, objects, steps, users};
use super::*;
use crate::directory::native::{Native, NativeKey};
use crate::rbac::conflict::of_user;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const USERS: [&str; 4] = ["u0", "u1", "u2", "u3"];
const GROUPS: [&str; 3] = ["g0", "g1", "g2"];
const BINDINGS: [&str; 3] = ["b0", "b1", "b2"];
const NAMESPACES: [&str; 2] = ["n0", "n1"];

/// A username that a native ClusterRoleBinding binds to `edit`.
const NATIVE_USERNAME: &str = "native";

/// The requester may bind `view` anywhere, and `edit` in one namespace.
fn may_bind(grant: &Grant) -> bool {
    match grant.role.name.as_str() {
        "view" => true,
        "edit" => grant.namespace.as_deref() == Some("n0"),
        _ => false,
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Object {
    User(Box<User>),
    Group(Box<Group>),
    RoleBinding(Box<RoleBinding>),
}

impl Object {
    fn key(&self) -> String {
        match self {
            Self::User(user) => user.name_any(),
            Self::Group(group) => group.name_any(),
            Self::RoleBinding(binding) => binding.name_any(),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The requester creates or updates an object.
    Write(Object),
    /// The requester deletes the object of that name.
    Delete(String),
    /// The requester sets a User's password.
    SetPassword(String),
    /// An administrator deletes a User.
    Offboard(String),
    /// An administrator deletes a Group, and then the Users that it selects.
    Dismantle(String),
    /// An administrator restores an earlier version of an object, by its position in the history.
    Restore(prop::sample::Index),
    /// A pipeline applies the labels of an earlier version of a User, by its position in the history.
    ApplyLabels(prop::sample::Index),
}

/// The cluster and its history.
struct World {
    objects: BTreeMap<String, Object>,
    directory: Directory,
    history: Vec<Object>,
    /// Existing Users that the requester created, or whose password the requester set.
    controlled: BTreeSet<String>,
    /// Everything that each name has ever held.
    ever_held: BTreeMap<String, BTreeSet<Grant>>,
}

impl World {
    fn new(initial: Vec<Object>) -> Self {
        let mut directory = Directory::new(false);
        directory.set_native(Native {
            key: NativeKey { namespace: None, name: "native".to_owned() },
            uid: "native".to_owned(),
            resource_version: 1,
            role: RoleRef::cluster_role("edit"),
            holders: [Holder::User(NATIVE_USERNAME.to_owned())].into(),
            has_others: false,
            owner: None,
            is_marked: false,
        });
        // Bound by an administrator of the namespace: it does not prevent the User from being disabled.
        directory.set_native(Native {
            key: NativeKey { namespace: Some("n1".to_owned()), name: "native".to_owned() },
            uid: "namespaced".to_owned(),
            resource_version: 1,
            role: RoleRef::cluster_role("edit"),
            holders: [Holder::User("u3".to_owned())].into(),
            has_others: false,
            owner: None,
            is_marked: false,
        });
        let mut world = Self {
            objects: BTreeMap::new(),
            directory,
            history: Vec::new(),
            controlled: BTreeSet::new(),
            ever_held: BTreeMap::new(),
        };
        // Only the last object of each name: earlier versions from before the sequence are not part of the history.
        let initial: BTreeMap<String, Object> = initial.into_iter().map(|object| (object.key(), object)).collect();
        for object in initial.into_values() {
            world.put(object);
        }
        world.ever_held.clear();
        world.record_held_roles();
        world
    }

    fn put(&mut self, object: Object) {
        match &object {
            Object::User(user) => drop(self.directory.set_user(user, NOW)),
            Object::Group(group) => drop(self.directory.set_group(group, NOW)),
            Object::RoleBinding(binding) => drop(self.directory.set_binding(binding, NOW)),
        }
        self.objects.insert(object.key(), object.clone());
        self.history.push(object);
        self.record_held_roles();
    }

    fn remove(&mut self, name: &str) {
        match self.objects.remove(name) {
            Some(Object::User(_)) => drop(self.directory.remove_user(name, NOW)),
            Some(Object::Group(_)) => drop(self.directory.remove_group(name, NOW)),
            Some(Object::RoleBinding(_)) => drop(self.directory.remove_binding(name)),
            None => {}
        }
        self.controlled.remove(name);
        self.record_held_roles();
    }

    /// Returns whether the guard admits a change by the requester.
    fn admits(&self, change: &GuardedChange<'_>) -> bool {
        let policy = Policy { administrator_role: "admin".to_owned(), ..Policy::default() };
        let required = requirements(change, &change.ownership(), &self.directory, &policy);
        required.keys().all(|requirement| matches!(requirement, Requirement::Bind(grant) if may_bind(grant)))
    }

    fn admits_write(&self, new: &Object) -> bool {
        let old = self.objects.get(&new.key());
        match (old, new) {
            (None, Object::User(new)) => {
                of_user(None, new, &self.directory).is_none() && self.admits(&GuardedChange::User(None, Some(new)))
            }
            (Some(Object::User(old)), Object::User(new)) => {
                // The requester cannot change the username.
                old.username() == new.username() && self.admits(&GuardedChange::User(Some(old), Some(new)))
            }
            (None, Object::Group(new)) => self.admits(&GuardedChange::Group(None, Some(new))),
            (Some(Object::Group(old)), Object::Group(new)) => self.admits(&GuardedChange::Group(Some(old), Some(new))),
            (None, Object::RoleBinding(new)) => self.admits(&GuardedChange::RoleBinding(None, Some(new))),
            (Some(Object::RoleBinding(old)), Object::RoleBinding(new)) => {
                self.admits(&GuardedChange::RoleBinding(Some(old), Some(new)))
            }
            _ => unreachable!("objects of different kinds have different names"),
        }
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Write(new) => {
                if self.admits_write(&new) {
                    if matches!(new, Object::User(_)) && !self.objects.contains_key(&new.key()) {
                        self.controlled.insert(new.key());
                    }
                    self.put(new);
                }
            }
            Step::Delete(name) => {
                let admitted = match self.objects.get(&name) {
                    Some(Object::User(old)) => self.admits(&GuardedChange::User(Some(old), None)),
                    Some(Object::Group(old)) => self.admits(&GuardedChange::Group(Some(old), None)),
                    Some(Object::RoleBinding(old)) => self.admits(&GuardedChange::RoleBinding(Some(old), None)),
                    None => false,
                };
                if admitted {
                    self.remove(&name);
                }
            }
            Step::SetPassword(name) => {
                if self.objects.contains_key(&name) && self.admits(&GuardedChange::Credential([name.as_str()].into())) {
                    self.controlled.insert(name);
                }
            }
            Step::Offboard(name) => self.remove(&name),
            Step::Dismantle(group) => self.dismantle(&group),
            Step::Restore(position) => {
                if !self.history.is_empty() {
                    self.restore(position.get(&self.history).clone());
                }
            }
            Step::ApplyLabels(position) => {
                if !self.history.is_empty() {
                    self.apply_labels(position.get(&self.history).clone());
                }
            }
        }
    }

    fn apply_labels(&mut self, earlier: Object) {
        let Object::User(earlier) = earlier else { return };
        let Some(Object::User(present)) = self.objects.get(&earlier.name_any()) else { return };
        let mut user = present.clone();
        // What excludes a User from groups is set by others.
        let declared = earlier.labels().iter().filter(|(label, _)| *label != "contractor");
        user.labels_mut().extend(declared.map(|(label, value)| (label.clone(), value.clone())));
        self.put(Object::User(user));
    }

    /// An administrator deletes a Group whose members come from its selector alone, and then the Users that it selects.
    /// Declarations in the Group itself (`members`, `memberships`, `memberGroups`) are deleted with it.
    fn dismantle(&mut self, name: &str) {
        let Some(Object::Group(group)) = self.objects.get(name) else { return };
        let spec = &group.spec;
        if !spec.members.is_empty() || !spec.memberships.is_empty() || !spec.member_groups.is_empty() {
            return;
        }
        let group = group.clone();
        let is_selected =
            |user: &str| matches!(self.objects.get(user), Some(Object::User(user)) if selects(&group, user));
        let selected: Vec<&str> = USERS.into_iter().filter(|user| is_selected(user)).collect();
        self.remove(name);
        for user in selected {
            self.remove(user);
        }
    }

    /// An administrator applies an earlier version of an object. This never changes a username.
    fn restore(&mut self, object: Object) {
        let is_renamed = |user: &User| match self.objects.get(&user.name_any()) {
            Some(Object::User(present)) => present.username() != user.username(),
            _ => false,
        };
        if !matches!(&object, Object::User(user) if is_renamed(user)) {
            self.put(object);
        }
    }

    fn record_held_roles(&mut self) {
        for name in USERS {
            if let Some(Object::User(user)) = self.objects.get(name) {
                let held = self.held_by(user);
                self.ever_held.entry(name.to_owned()).or_default().extend(held);
            }
        }
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.objects
            .values()
            .filter_map(|object| if let Object::Group(group) = object { Some(group.as_ref()) } else { None })
    }

    fn held_by(&self, user: &User) -> BTreeSet<Grant> {
        let name = user.name_any();
        let mut groups: BTreeSet<String> = user.spec.groups.iter().cloned().collect();
        groups.extend(self.groups().filter(|group| group.spec.members.contains(&name)).map(ResourceExt::name_any));
        groups.extend(self.groups().filter(|group| selects(group, user)).map(ResourceExt::name_any));
        let is_timed = |group: &&Group| group.spec.memberships.iter().any(|membership| membership.user == name);
        groups.extend(self.groups().filter(is_timed).map(ResourceExt::name_any));
        loop {
            let is_nested = |group: &&Group| group.spec.member_groups.iter().any(|child| groups.contains(child));
            let above: Vec<String> = self.groups().filter(is_nested).map(ResourceExt::name_any).collect();
            let before = groups.len();
            groups.extend(above);
            if groups.len() == before {
                break;
            }
        }
        let mut grants = BTreeSet::new();
        for object in self.objects.values() {
            let Object::RoleBinding(binding) = object else { continue };
            let names = |subject: &Subject| match subject.kind {
                SubjectKind::User => subject.name == name,
                SubjectKind::Group => groups.contains(&subject.name),
            };
            if !binding.spec.subjects.iter().any(names) {
                continue;
            }
            let role = &binding.spec.role_ref;
            match &binding.spec.scope.namespaces {
                Some(namespaces) => {
                    grants.extend(
                        namespaces.iter().map(|name| Grant { role: role.clone(), namespace: Some(name.clone()) }),
                    );
                }
                None => drop(grants.insert(Grant { role: role.clone(), namespace: None })),
            }
        }
        if user.spec.admin {
            grants.insert(Grant { role: RoleRef::cluster_role("admin"), namespace: None });
        }
        if user.username() == NATIVE_USERNAME {
            grants.insert(Grant { role: RoleRef::cluster_role("edit"), namespace: None });
        }
        if user.username() == "u3" {
            grants.insert(Grant { role: RoleRef::cluster_role("edit"), namespace: Some("n1".to_owned()) });
        }
        grants
    }

    /// Returns an identity that the requester controls, and a role that it holds or held and that the requester may not
    /// bind.
    fn escalation(&self) -> Option<(String, Grant)> {
        let held = |name: &String| self.ever_held.get(name).into_iter().flatten();
        let mut found =
            self.controlled.iter().flat_map(|name| held(name).map(move |grant| (name.clone(), grant.clone())));
        found.find(|(_, grant)| !may_bind(grant))
    }
}

fn selects(group: &Group, user: &User) -> bool {
    let selector = group.spec.member_selector.clone();
    selector.is_some_and(|selector| Selector::try_from(selector).expect("it is valid").matches(user.labels()))
}

fn perform_all(initial: Vec<Object>, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new(initial);
    for step in steps {
        world.perform(step.clone());
        prop_assert_eq!(world.escalation(), None, "after {:?}", step);
    }
    // An administrator may restore anything at the end.
    for object in world.history.clone() {
        world.restore(object.clone());
        prop_assert_eq!(world.escalation(), None, "after the restore of {:?}", object);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn i4_no_sequence_of_admitted_writes_and_restores_gains_an_identity(
        initial in prop::collection::vec(objects(), 0..10),
        steps in prop::collection::vec(steps(), 1..20),
    ) {
        perform_all(initial, steps)?;
    }

    #[test]
    fn i4_no_sequence_of_changed_labels_gains_an_identity(
        others in prop::collection::vec(users(), 1..4),
        bound in bound_selector(),
        steps in prop::collection::vec(label_steps(), 1..20),
    ) {
        perform_all(others.into_iter().chain(bound).collect(), steps)?;
    }
}
