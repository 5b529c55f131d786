//! Effective permissions of a user in the current native RBAC, and the reasons for them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, ResourceAttributes};
use k8s_openapi::api::rbac::v1::PolicyRule;
use roster_api::directory::{AccessReviewSpec, EffectiveRule, NativeBinding, NativeSubject, Reason};
use roster_api::role_binding::RoleRef;

use super::rules::{allows_path, allows_resource};
use crate::directory::Directory;
use crate::directory::native::{Grant, Holder, Native, NativeKey, binding_of};

/// Group of all authenticated users.
pub const AUTHENTICATED: &str = "system:authenticated";

/// A role that a user holds in a scope, and why.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HeldRole {
    /// The role and its scope.
    pub grant: Grant,
    /// Why the user holds it.
    pub reason: Reason,
}

/// Returns the groups that authenticators report for the User: its effective groups and `system:authenticated`.
pub fn groups_of(directory: &Directory, user: &str) -> Vec<String> {
    let mut groups: Vec<String> = directory.memberships.groups_of(user).map(str::to_owned).collect();
    groups.sort_unstable();
    groups.push(AUTHENTICATED.to_owned());
    groups
}

/// Returns the roles that the User holds, by username and by group; none if it is not active. If a namespace is given,
/// returns only roles that apply there.
pub fn held_by(directory: &Directory, user: &str, namespace: Option<&str>, now: Timestamp) -> Vec<HeldRole> {
    let Some(person) = directory.user(user).filter(|person| person.is_active(now)) else { return Vec::new() };
    let by_username = (Holder::User(person.username.clone()), Vec::new());
    let by_group = groups_of(directory, user).into_iter().map(|group| {
        let path = directory.memberships.path(user, &group).map(|path| path.groups).unwrap_or_default();
        (Holder::Group(group), path)
    });
    let applies = |grant: &Grant| {
        namespace.is_none_or(|wanted| grant.namespace.as_deref().is_none_or(|granted| granted == wanted))
    };
    let mut held = Vec::new();
    for (holder, path) in [by_username].into_iter().chain(by_group) {
        for (grant, natives) in directory.natives.grants_of(&holder).filter(|(grant, _)| applies(grant)) {
            held.extend(
                natives.map(|native| HeldRole { grant: grant.clone(), reason: reason(native, &holder, path.clone()) }),
            );
        }
    }
    held.sort_unstable();
    held
}

/// Returns the distinct roles that the User holds anywhere, sorted.
pub fn roles_of<'a>(directory: &'a Directory, user: &str, now: Timestamp) -> Vec<&'a RoleRef> {
    let Some(person) = directory.user(user).filter(|person| person.is_active(now)) else { return Vec::new() };
    let groups = directory.memberships.groups_of(user).map(Holder::Group);
    let holders = groups.chain([Holder::User(person.username.as_str())]);
    let mut roles: Vec<&RoleRef> = holders.flat_map(|holder| directory.natives.roles_of(holder)).collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}

/// Returns the name of a role as shown in lists.
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

/// Converts the key of a native binding to its API type.
pub fn binding(key: &NativeKey) -> NativeBinding {
    let kind = if key.namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
    NativeBinding { kind: kind.to_owned(), namespace: key.namespace.clone(), name: key.name.clone() }
}

/// Converts a holder to its API type.
pub fn subject(holder: &Holder) -> NativeSubject {
    match holder {
        Holder::User(name) => NativeSubject { kind: "User".to_owned(), name: name.clone() },
        Holder::Group(name) => NativeSubject { kind: "Group".to_owned(), name: name.clone() },
    }
}

/// Returns the name of the Roster RoleBinding that a native binding was compiled from.
pub fn role_binding(native: &Native) -> Option<String> {
    native.owner.as_ref().and_then(|_| binding_of(&native.key.name)).map(str::to_owned)
}

/// Returns the distinct rules of the held roles, each with all reasons why it applies.
pub fn rules(directory: &Directory, held: &[HeldRole]) -> Vec<EffectiveRule> {
    let mut found = BTreeMap::<_, EffectiveRule>::new();
    for HeldRole { grant, reason } in held {
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

/// Returns the complete content of a rule, for comparison.
fn content(rule: &PolicyRule) -> impl Ord + use<'_> {
    (&rule.api_groups, &rule.resources, &rule.resource_names, &rule.non_resource_urls, &rule.verbs)
}

/// Returns the rules of a role that apply in the scope where it is held: rules for non-resource paths do not apply in a
/// namespace.
fn rules_of<'a>(directory: &'a Directory, grant: &'a Grant) -> impl Iterator<Item = &'a PolicyRule> {
    let rules = directory.rules_of(&grant.role, grant.namespace.as_deref());
    let applies = |rule: &&PolicyRule| grant.namespace.is_none() || rule.resources.is_some();
    rules.into_iter().flat_map(|rules| rules.iter()).filter(applies)
}

/// Returns the reasons why the held roles allow the action.
pub fn allowing(directory: &Directory, held: Vec<HeldRole>, asked: &AccessReviewSpec) -> Vec<Reason> {
    let namespace_of_action =
        asked.resource_attributes.as_ref().and_then(|asked| asked.namespace.clone()).unwrap_or_default();
    let allows = |held: &HeldRole| {
        let applies = held.grant.namespace.as_ref().is_none_or(|namespace| *namespace == namespace_of_action);
        applies && rules_of(directory, &held.grant).any(|rule| allows(rule, asked))
    };
    held.into_iter().filter(|held| allows(held)).map(|held| held.reason).collect()
}

/// Returns whether the rule allows the action.
pub fn allows(rule: &PolicyRule, asked: &AccessReviewSpec) -> bool {
    let resource = |asked: &ResourceAttributes| allows_resource(rule, asked);
    let path = |asked: &NonResourceAttributes| allows_path(rule, asked);
    asked.resource_attributes.as_ref().is_some_and(resource) || asked.non_resource_attributes.as_ref().is_some_and(path)
}

/// Returns the names of the held roles by namespace; `None` is the whole cluster.
pub fn roles_by_namespace(held: &[HeldRole]) -> BTreeMap<Option<String>, BTreeSet<String>> {
    let mut roles = BTreeMap::<_, BTreeSet<String>>::new();
    for HeldRole { grant, reason } in held.iter().filter(|held| !is_held_by_all_users(held)) {
        roles.entry(grant.namespace.clone()).or_default().insert(role_name(&reason.role));
    }
    roles
}

/// Returns whether every authenticated user holds the role, such as the right to read the version. Such a role says
/// nothing about this user.
fn is_held_by_all_users(held: &HeldRole) -> bool {
    held.reason.subject.name == AUTHENTICATED
}
