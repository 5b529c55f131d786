//! What a user may do, by native RBAC as it stands, and why.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, ResourceAttributes};
use k8s_openapi::api::rbac::v1::PolicyRule;
use roster_api::directory::{AccessReviewSpec, EffectiveRule, NativeBinding, NativeSubject, Reason};
use roster_api::role_binding::RoleRef;

use super::rules::{allows_path, allows_resource};
use crate::directory::Directory;
use crate::directory::native::{Grant, Holder, Key, Native, binding_of};

/// Group of everybody whom an authenticator has recognised.
pub const AUTHENTICATED: &str = "system:authenticated";

/// A role that a user holds somewhere, and why.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Held {
    /// The role and where.
    pub grant: Grant,
    /// Why.
    pub reason: Reason,
}

/// Names of the groups that an authenticator tells for the User: its effective groups, and the one of everybody.
pub fn groups_of(directory: &Directory, user: &str) -> Vec<String> {
    let mut groups: Vec<String> = directory.memberships.groups_of(user).map(str::to_owned).collect();
    groups.sort_unstable();
    groups.push(AUTHENTICATED.to_owned());
    groups
}

/// The roles that the User holds, by name and by group; none where it is not active. A namespace narrows them to those
/// that apply there.
pub fn held_by(directory: &Directory, user: &str, namespace: Option<&str>, now: Timestamp) -> Vec<Held> {
    let Some(person) = directory.person(user).filter(|person| person.is_active(now)) else { return Vec::new() };
    let by_name = (Holder::User(person.username.clone()), Vec::new());
    let by_group = groups_of(directory, user).into_iter().map(|group| {
        let path = directory.memberships.path(user, &group).map(|path| path.groups).unwrap_or_default();
        (Holder::Group(group), path)
    });
    let applies =
        |grant: &Grant| namespace.is_none_or(|asked| grant.namespace.as_deref().is_none_or(|granted| granted == asked));
    let mut held = Vec::new();
    for (holder, path) in [by_name].into_iter().chain(by_group) {
        for (grant, natives) in directory.natives.grants_of(&holder).filter(|(grant, _)| applies(grant)) {
            held.extend(
                natives.map(|native| Held { grant: grant.clone(), reason: reason(native, &holder, path.clone()) }),
            );
        }
    }
    held.sort_unstable();
    held
}

/// The roles that the User holds anywhere, each once and in order.
pub fn roles_of<'a>(directory: &'a Directory, user: &str, now: Timestamp) -> Vec<&'a RoleRef> {
    let Some(person) = directory.person(user).filter(|person| person.is_active(now)) else { return Vec::new() };
    let groups = directory.memberships.groups_of(user).map(Holder::Group);
    let holders = groups.chain([Holder::User(person.username.as_str())]);
    let mut roles: Vec<&RoleRef> = holders.flat_map(|holder| directory.natives.roles_of(holder)).collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}

/// A role as people see it in a list.
pub fn role_name(role: &RoleRef) -> String {
    format!("{:?}/{}", role.kind, role.name)
}

fn reason(native: &Native, holder: &Holder, groups: Vec<String>) -> Reason {
    Reason {
        role: native.role.clone(),
        binding: binding(&native.key),
        role_binding: role_binding(native),
        subject: subject(holder),
        groups,
    }
}

/// A native binding as answers name it.
pub fn binding(key: &Key) -> NativeBinding {
    let kind = if key.namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
    NativeBinding { kind: kind.to_owned(), namespace: key.namespace.clone(), name: key.name.clone() }
}

/// A subject as answers name it.
pub fn subject(holder: &Holder) -> NativeSubject {
    match holder {
        Holder::User(name) => NativeSubject { kind: "User".to_owned(), name: name.clone() },
        Holder::Group(name) => NativeSubject { kind: "Group".to_owned(), name: name.clone() },
    }
}

/// Name of the RoleBinding of Roster that a native binding was compiled from.
pub fn role_binding(native: &Native) -> Option<String> {
    native.owner.as_ref().and_then(|_| binding_of(&native.key.name)).map(str::to_owned)
}

/// The rules of what is held: each once, with everything that makes it apply.
pub fn rules(directory: &Directory, held: &[Held]) -> Vec<EffectiveRule> {
    let mut found = BTreeMap::<_, EffectiveRule>::new();
    for Held { grant, reason } in held {
        for rule in rules_of(directory, grant) {
            let effective = found.entry((&grant.namespace, content(rule))).or_insert_with(|| EffectiveRule {
                namespace: grant.namespace.clone(),
                rule: rule.clone(),
                reasons: Vec::new(),
            });
            if !effective.reasons.contains(reason) {
                effective.reasons.push(reason.clone());
            }
        }
    }
    found.into_values().collect()
}

/// All that a rule says.
fn content(rule: &PolicyRule) -> impl Ord + use<'_> {
    (&rule.api_groups, &rule.resources, &rule.resource_names, &rule.non_resource_urls, &rule.verbs)
}

/// The rules of a role that apply where it is held: paths belong to no namespace.
fn rules_of<'a>(directory: &'a Directory, grant: &'a Grant) -> impl Iterator<Item = &'a PolicyRule> {
    let rules = directory.rules_of(&grant.role, grant.namespace.as_deref());
    let applies = |rule: &&PolicyRule| grant.namespace.is_none() || rule.resources.is_some();
    rules.into_iter().flat_map(|rules| rules.iter()).filter(applies)
}

/// What of that allows the action.
pub fn allowing(directory: &Directory, held: Vec<Held>, asked: &AccessReviewSpec) -> Vec<Reason> {
    let place = asked.resource_attributes.as_ref().and_then(|asked| asked.namespace.clone()).unwrap_or_default();
    let allows = |held: &Held| {
        let applies = held.grant.namespace.as_ref().is_none_or(|namespace| *namespace == place);
        applies && rules_of(directory, &held.grant).any(|rule| allows(rule, asked))
    };
    held.into_iter().filter(|held| allows(held)).map(|held| held.reason).collect()
}

/// Whether the rule allows the action.
pub fn allows(rule: &PolicyRule, asked: &AccessReviewSpec) -> bool {
    let resource = |asked: &ResourceAttributes| allows_resource(rule, asked);
    let path = |asked: &NonResourceAttributes| allows_path(rule, asked);
    asked.resource_attributes.as_ref().is_some_and(resource) || asked.non_resource_attributes.as_ref().is_some_and(path)
}

/// Namespaces in which the User holds a role, with the names of the roles; those of the whole cluster under `None`.
pub fn roles_by_namespace(held: &[Held]) -> BTreeMap<Option<String>, BTreeSet<String>> {
    let mut roles = BTreeMap::<_, BTreeSet<String>>::new();
    for Held { grant, reason } in held.iter().filter(|held| !is_everybodys(held)) {
        roles.entry(grant.namespace.clone()).or_default().insert(role_name(&reason.role));
    }
    roles
}

/// Whether it is held by every authenticated user, such as the right to look at the version: no mark of this one.
fn is_everybodys(held: &Held) -> bool {
    held.reason.subject.name == AUTHENTICATED
}
