//! Compiles a RoleBinding, or the administrator flag of a User, to native RBAC.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use roster_api::role_binding::{PendingTarget, RoleKind, RoleRef, Subject, SubjectKind};
use sha2::{Digest, Sha256};

use super::Policy;
use crate::directory::Directory;
use crate::directory::bindings::Binding;
use crate::directory::compact_user::CompactUser;
use crate::directory::native::{Grant, Holder, NativeKey, administrator_name, binding_name};

/// Holders per native binding above which the number of native bindings doubles. A binding of this size stays far below
/// the 1.5 MiB that etcd accepts in one request.
const MAX_HOLDERS: usize = 2000;

/// Holders per native binding below which the number of native bindings halves.
const MIN_HOLDERS: usize = 500;

/// Owner of a native binding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BindingOwner {
    /// `User` or `RoleBinding`.
    pub kind: &'static str,
    /// `metadata.name` of the owner.
    pub name: String,
    /// `metadata.uid` of the owner.
    pub uid: String,
}

/// Desired state of a native binding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DesiredBinding {
    /// The role to bind.
    pub role: RoleRef,
    /// Users and groups to bind it to.
    pub holders: Arc<BTreeSet<Holder>>,
    /// The User or RoleBinding that it is compiled from.
    pub owner: BindingOwner,
}

/// Phase of a binding's validity.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// The validity has not begun.
    NotYetValid,
    /// The binding is within its validity.
    InForce,
    /// The validity has ended.
    Expired,
}

/// Result of compiling a binding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Compiled {
    /// Native bindings by key.
    pub desired: BTreeMap<NativeKey, DesiredBinding>,
    /// Targets and subjects that do not take effect, with the reason.
    pub pending: Vec<PendingTarget>,
    /// Phase of the binding's validity.
    pub phase: Phase,
}

/// Reasons why a target, or a subject, is pending.
pub mod reason {
    /// The User does not exist.
    pub const USER_NOT_FOUND: &str = "UserNotFound";
    /// The Group does not exist.
    pub const GROUP_NOT_FOUND: &str = "GroupNotFound";
    /// The subject is disabled, banned, outside its validity, being deleted, or does not hold its username.
    pub const USER_INACTIVE: &str = "UserInactive";
    /// The namespace does not exist.
    pub const NAMESPACE_NOT_FOUND: &str = "NamespaceNotFound";
    /// The namespace is being deleted.
    pub const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";
    /// The role does not exist.
    pub const ROLE_NOT_FOUND: &str = "RoleNotFound";
    /// This installation does not allow Roster to bind the role.
    pub const ROLE_NOT_BINDABLE: &str = "RoleNotBindable";
    /// The User in `delegatedBy` does not exist.
    pub const DELEGATOR_NOT_FOUND: &str = "DelegatorNotFound";
    /// The delegator is not active.
    pub const DELEGATOR_INACTIVE: &str = "DelegatorInactive";
    /// The delegator does not hold the role in this scope, or only by delegation.
    pub const DELEGATOR_LACKS_ROLE: &str = "DelegatorLacksRole";
    /// The name that this native binding needs is taken by one that belongs to another owner or that Roster did not
    /// create.
    pub const NAME_TAKEN: &str = "NameTaken";
}

/// Compiles a RoleBinding.
pub fn compile(binding: &Binding, directory: &Directory, policy: &Policy, now: Timestamp) -> Compiled {
    let phase = match &binding.validity {
        validity if validity.is_over(now) => Phase::Expired,
        validity if !validity.contains(now) => Phase::NotYetValid,
        _ => Phase::InForce,
    };
    let mut compiled = Compiled { desired: BTreeMap::new(), pending: Vec::new(), phase };
    if binding.is_deleted || phase != Phase::InForce {
        return compiled;
    }
    if !policy.is_bindable(&binding.role) {
        compiled.pending.push(pending(None, None, reason::ROLE_NOT_BINDABLE));
        return compiled;
    }
    let holders;
    (holders, compiled.pending) = resolve_holders(binding, directory, policy, now);
    // Most targets share the distribution, so it is computed once for each number of parts.
    let mut spreads = HashMap::<usize, Spread>::new();
    let owner = BindingOwner { kind: "RoleBinding", name: binding.name.clone(), uid: binding.uid.clone() };
    for target in directory.bindings.targets(binding) {
        if let Err(reason) = check_target(binding, target.as_deref(), directory, now) {
            compiled.pending.push(pending(target, None, reason));
            continue;
        }
        let parts = directory.natives.count_owned_in(&binding.uid, target.as_deref()).next_power_of_two();
        for (part, holders) in spreads.entry(parts).or_insert_with(|| spread(&holders, parts)) {
            let key = NativeKey { namespace: target.clone(), name: binding_name(&binding.name, *part) };
            if is_taken(&key, &binding.uid, directory) {
                compiled.pending.push(pending(target.clone(), None, reason::NAME_TAKEN));
                continue;
            }
            let desired =
                DesiredBinding { role: binding.role.clone(), holders: Arc::clone(holders), owner: owner.clone() };
            compiled.desired.insert(key, desired);
        }
    }
    compiled
}

/// Compiles the administrator flag of a User.
///
/// # Errors
/// If the flag is set but does not take effect. The error is the reason.
pub fn administrator(
    name: &str,
    person: &CompactUser,
    directory: &Directory,
    policy: &Policy,
    now: Timestamp,
) -> Result<BTreeMap<NativeKey, DesiredBinding>, &'static str> {
    if !person.is_admin {
        return Ok(BTreeMap::new());
    }
    let role = RoleRef::cluster_role(&policy.administrator_role);
    let key = NativeKey { namespace: None, name: administrator_name(name) };
    if !policy.is_bindable(&role) {
        return Err(reason::ROLE_NOT_BINDABLE);
    }
    if !directory.has_role(&role, None) {
        return Err(reason::ROLE_NOT_FOUND);
    }
    if is_taken(&key, &person.uid, directory) {
        return Err(reason::NAME_TAKEN);
    }
    if !person.is_active(now) {
        return Err(reason::USER_INACTIVE);
    }
    let owner = BindingOwner { kind: "User", name: name.to_owned(), uid: person.uid.clone() };
    let holders = Arc::new([Holder::User(person.username.clone())].into());
    Ok([(key, DesiredBinding { role, holders, owner })].into())
}

/// Returns whether an earlier result may still be granted: the binding is unchanged and within its validity, its
/// delegator and the Users among the holders are active, and the Groups among them exist.
pub fn still_holds(binding: &Binding, desired: &DesiredBinding, directory: &Directory, now: Timestamp) -> bool {
    let is_active = |name: &str| directory.user(name).is_some_and(|person| person.is_active(now));
    let is_valid = |holder: &Holder| match holder {
        Holder::User(username) => directory.users_with_username(username).any(is_active),
        Holder::Group(group) => directory.memberships.has_group(group),
    };
    directory.bindings.get(&binding.name) == Some(binding)
        && binding.validity.contains(now)
        && binding.delegated_by.as_deref().is_none_or(is_active)
        && desired.holders.iter().all(is_valid)
}

/// Resolves the subjects to holders. Also returns the subjects that do not resolve, with the reason.
fn resolve_holders(
    binding: &Binding,
    directory: &Directory,
    policy: &Policy,
    now: Timestamp,
) -> (BTreeSet<Holder>, Vec<PendingTarget>) {
    let (mut holders, mut unresolved) = (BTreeSet::new(), Vec::new());
    for subject in &binding.subjects {
        match resolve(subject, directory, policy, now) {
            Ok(found) => holders.extend(found),
            Err(reason) => unresolved.push(pending(None, Some(subject), reason)),
        }
    }
    (holders, unresolved)
}

fn pending(namespace: Option<String>, subject: Option<&Subject>, reason: &str) -> PendingTarget {
    let subject = subject.map(|subject| format!("{:?}/{}", subject.kind, subject.name));
    PendingTarget { namespace, subject, reason: reason.to_owned() }
}

fn resolve(
    subject: &Subject,
    directory: &Directory,
    policy: &Policy,
    now: Timestamp,
) -> Result<Vec<Holder>, &'static str> {
    match subject.kind {
        SubjectKind::User => {
            let person = directory.user(&subject.name).ok_or(reason::USER_NOT_FOUND)?;
            if !person.is_active(now) {
                return Err(reason::USER_INACTIVE);
            }
            Ok(vec![Holder::User(person.username.clone())])
        }
        SubjectKind::Group if !directory.memberships.has_group(&subject.name) => Err(reason::GROUP_NOT_FOUND),
        SubjectKind::Group if policy.expand_groups => {
            let people = directory.memberships.members_of(&subject.name).filter_map(|user| directory.user(user));
            let active = people.filter(|person| person.is_active(now));
            Ok(active.map(|person| Holder::User(person.username.clone())).collect())
        }
        SubjectKind::Group => Ok(vec![Holder::Group(subject.name.clone())]),
    }
}

fn check_target(
    binding: &Binding,
    target: Option<&str>,
    directory: &Directory,
    now: Timestamp,
) -> Result<(), &'static str> {
    if let Some(namespace) = target {
        if !directory.bindings.has_namespace(namespace) {
            return Err(reason::NAMESPACE_NOT_FOUND);
        }
        if directory.bindings.is_terminating(namespace) {
            return Err(reason::NAMESPACE_TERMINATING);
        }
    }
    if !directory.has_role(&binding.role, target) {
        return Err(reason::ROLE_NOT_FOUND);
    }
    let Some(delegator) = &binding.delegated_by else { return Ok(()) };
    let person = directory.user(delegator).ok_or(reason::DELEGATOR_NOT_FOUND)?;
    if !person.is_active(now) {
        return Err(reason::DELEGATOR_INACTIVE);
    }
    if holds(delegator, person, &binding.role, target, directory) { Ok(()) } else { Err(reason::DELEGATOR_LACKS_ROLE) }
}

/// Returns whether the User holds the role in this scope other than by delegation. A delegated role cannot be delegated
/// further.
fn holds(name: &str, person: &CompactUser, role: &RoleRef, target: Option<&str>, directory: &Directory) -> bool {
    let groups = directory.memberships.groups_of(name).map(|group| Holder::Group(group.to_owned()));
    let mut holders = groups.chain([Holder::User(person.username.clone())]);
    let cluster_wide = (role.kind == RoleKind::ClusterRole).then_some(None);
    let in_target = target.map(|namespace| Some(namespace.to_owned()));
    let grants: Vec<Grant> =
        cluster_wide.into_iter().chain(in_target).map(|namespace| Grant { role: role.clone(), namespace }).collect();
    let is_own = |owner: &String| match directory.bindings.by_uid(owner) {
        Some(binding) => binding.delegated_by.is_none(),
        // Either a User's, for its administrator flag, or left over from a deleted binding. The latter does not count.
        None => directory.is_owner_known(owner),
    };
    holders.any(|holder| {
        grants.iter().any(|grant| {
            directory.natives.granting(&holder, grant).any(|native| native.owner.as_ref().is_none_or(is_own))
        })
    })
}

/// Returns whether a native binding of another owner, or one that Roster did not create, has this name. A leftover of
/// an owner that no longer exists does not count.
fn is_taken(key: &NativeKey, uid: &str, directory: &Directory) -> bool {
    directory.natives.get(key).is_some_and(|native| match &native.owner {
        None => true,
        Some(owner) => owner != uid && directory.is_owner_known(owner),
    })
}

/// Holders of each part: of each native binding that a binding is distributed over.
type Spread = BTreeMap<usize, Arc<BTreeSet<Holder>>>;

/// Distributes the holders over native bindings. The number of native bindings starts from the current one and changes
/// only by factors of two, so that a membership change usually writes one native binding instead of all of them.
fn spread(holders: &BTreeSet<Holder>, parts: usize) -> Spread {
    let mut count = parts;
    while holders.len() > count * MAX_HOLDERS {
        count *= 2;
    }
    while count > 1 && holders.len() < count * MIN_HOLDERS {
        count /= 2;
    }
    let mut parts = BTreeMap::<usize, BTreeSet<Holder>>::new();
    for holder in holders {
        let part = if count == 1 { 0 } else { digest(holder) % count };
        parts.entry(part).or_default().insert(holder.clone());
    }
    parts.into_iter().map(|(part, holders)| (part, Arc::new(holders))).collect()
}

/// Returns a hash of the holder that is stable across replicas and releases.
fn digest(holder: &Holder) -> usize {
    let digest = Sha256::digest(holder.to_string());
    usize::from(u16::from_be_bytes([digest[0], digest[1]]))
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
