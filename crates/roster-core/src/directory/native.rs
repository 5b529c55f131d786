//! Index of native RBAC bindings, whether or not Roster created them: who holds which role in which scope, and which
//! bindings belong to a given User or RoleBinding of Roster.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;
use std::iter::successors;
use std::ops::Bound;

use k8s_openapi::api::rbac::v1 as rbac;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use roster_api::role_binding::{RoleKind, RoleRef};
use roster_api::{API_GROUP, FIELD_MANAGER, OWNER_UID_LABEL};

/// Subject of a native binding: a user or a group. ServiceAccounts are not tracked.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Holder<T = String> {
    /// A user, by username.
    User(T),
    /// A group, by name.
    Group(T),
}

impl Holder {
    /// Returns the same holder with a borrowed name.
    pub fn as_deref(&self) -> Holder<&str> {
        match self {
            Self::User(name) => Holder::User(name),
            Self::Group(name) => Holder::Group(name),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "User {name}"),
            Self::Group(name) => write!(f, "Group {name}"),
        }
    }
}

/// A role and the scope in which it is held.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Grant {
    /// The role that is held.
    pub role: RoleRef,
    /// Namespace; `None` for the whole cluster.
    pub namespace: Option<String>,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} in namespace {namespace}", self.role),
            None => write!(f, "{} in the whole cluster", self.role),
        }
    }
}

/// Key of a native binding: a RoleBinding in a namespace, or a ClusterRoleBinding.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NativeKey {
    /// Namespace; `None` for a ClusterRoleBinding.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for NativeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "RoleBinding {namespace}/{}", self.name),
            None => write!(f, "ClusterRoleBinding {}", self.name),
        }
    }
}

/// Returns the name of the native bindings of a RoleBinding of Roster. `part` counts from 0 if one scope has several.
/// Names of Roster's own objects contain no colon, so the resulting names cannot collide.
pub fn binding_name(binding: &str, part: usize) -> String {
    if part == 0 { format!("{BINDING_PREFIX}{binding}") } else { format!("{BINDING_PREFIX}{binding}:{part}") }
}

/// Returns the name of the ClusterRoleBinding for a User's administrator flag.
pub fn administrator_name(user: &str) -> String {
    format!("{ADMINISTRATOR_PREFIX}{user}")
}

/// Returns the RoleBinding of Roster that a native binding of this name belongs to.
pub fn binding_of(native: &str) -> Option<&str> {
    native.strip_prefix(BINDING_PREFIX).map(|rest| rest.split(':').next().unwrap_or(rest))
}

/// Returns the User that a native binding of this name belongs to.
pub fn administrator_of(native: &str) -> Option<&str> {
    native.strip_prefix(ADMINISTRATOR_PREFIX)
}

const BINDING_PREFIX: &str = "roster:";
const ADMINISTRATOR_PREFIX: &str = "roster-administrator:";

/// A native binding as it exists in the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Native {
    /// Namespace and name.
    pub key: NativeKey,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`: of two states of the same object, the higher one is newer.
    pub resource_version: u64,
    /// The bound role.
    pub role: RoleRef,
    /// Users and groups that hold the role.
    pub holders: BTreeSet<Holder>,
    /// Whether it has other or malformed subjects, which Roster's own bindings never have.
    pub has_others: bool,
    /// UID of the owning User or RoleBinding of Roster. Empty if Roster created the binding but both marks (label and
    /// owner reference) were removed. `None` if Roster did not create it.
    pub owner: Option<String>,
    /// Whether both marks, the owner label and the owner reference, are as Roster writes them.
    pub is_marked: bool,
}

impl Native {
    /// Returns the names of the groups among the holders.
    pub(super) fn groups(&self) -> impl Iterator<Item = &String> {
        self.holders.iter().filter_map(|holder| match holder {
            Holder::Group(name) => Some(name),
            Holder::User(_) => None,
        })
    }

    /// Reads a ClusterRoleBinding.
    pub fn of_cluster(binding: &rbac::ClusterRoleBinding) -> Self {
        Self::read(&binding.metadata, &binding.role_ref, binding.subjects.as_deref().unwrap_or_default())
    }

    /// Reads a RoleBinding.
    pub fn of_namespace(binding: &rbac::RoleBinding) -> Self {
        Self::read(&binding.metadata, &binding.role_ref, binding.subjects.as_deref().unwrap_or_default())
    }

    fn read(metadata: &ObjectMeta, role: &rbac::RoleRef, subjects: &[rbac::Subject]) -> Self {
        let kind = if role.kind == "Role" { RoleKind::Role } else { RoleKind::ClusterRole };
        let holders: BTreeSet<Holder> = subjects.iter().filter_map(holder).collect();
        let labelled = metadata.labels.as_ref().and_then(|labels| labels.get(OWNER_UID_LABEL));
        let references = metadata.owner_references.iter().flatten();
        let referred = references
            .filter(|reference| reference.api_version.split('/').next() == Some(API_GROUP))
            .map(|reference| &reference.uid)
            .collect::<Vec<_>>();
        // Either mark is enough to identify a binding of Roster, so that the other one is restored if it was removed. A
        // binding with another kind of name was created by another client, which uses the owner reference to have it
        // deleted with its owner.
        let name = metadata.name.as_deref().unwrap_or_default();
        let is_own_name = binding_of(name).is_some() || administrator_of(name).is_some();
        let owner = labelled.or(referred.first().copied()).cloned();
        let owner = owner.or_else(|| applied_by_roster(metadata).then(String::new)).filter(|_| is_own_name);
        Self {
            key: key(metadata),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0),
            role: RoleRef { kind, name: role.name.clone() },
            has_others: holders.len() != subjects.len(),
            holders,
            is_marked: labelled.is_some() && referred == labelled.into_iter().collect::<Vec<_>>(),
            owner,
        }
    }

    /// Returns the role and its scope.
    pub fn grant(&self) -> Grant {
        Grant { role: self.role.clone(), namespace: self.key.namespace.clone() }
    }
}

/// Returns the key of an object with this metadata.
pub fn key(metadata: &ObjectMeta) -> NativeKey {
    NativeKey { namespace: metadata.namespace.clone(), name: metadata.name.clone().unwrap_or_default() }
}

/// Returns whether Roster has applied the object, even if its marks have been removed since.
fn applied_by_roster(metadata: &ObjectMeta) -> bool {
    let entries = metadata.managed_fields.iter().flatten();
    entries
        .into_iter()
        .any(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply"))
}

fn holder(subject: &rbac::Subject) -> Option<Holder> {
    // In RBAC, an absent or empty API group of a user or group subject means the RBAC group.
    let is_rbac =
        subject.api_group.as_deref().is_none_or(|group| group.is_empty() || group == "rbac.authorization.k8s.io");
    match subject.kind.as_str() {
        "User" if is_rbac => Some(Holder::User(subject.name.clone())),
        "Group" if is_rbac => Some(Holder::Group(subject.name.clone())),
        _ => None,
    }
}

/// Grants of a holder, each with the native bindings that give it.
type Grants = BTreeMap<Grant, BTreeSet<NativeKey>>;

/// All native bindings.
#[derive(Debug, Default)]
pub struct Natives {
    all: BTreeMap<NativeKey, Native>,
    by_role: HashMap<RoleRef, BTreeSet<NativeKey>>,
    by_owner: HashMap<String, BTreeSet<NativeKey>>,
    /// Grants by username.
    of_users: HashMap<String, Grants>,
    /// Grants by group name.
    of_groups: HashMap<String, Grants>,
}

impl Natives {
    /// Adds or replaces a binding. Returns the previous one.
    pub fn set(&mut self, mut native: Native) -> Option<Native> {
        let before = self.remove(&native.key);
        // A binding that has lost both marks keeps its owner.
        if native.owner.as_deref().is_none_or(str::is_empty)
            && let Some(before) = before.as_ref().filter(|before| before.uid == native.uid)
        {
            native.owner.clone_from(&before.owner);
        }
        for holder in &native.holders {
            let (by_name, name) = self.by_name(holder);
            let grants = by_name.entry(name.clone()).or_default();
            grants.entry(native.grant()).or_default().insert(native.key.clone());
        }
        self.by_role.entry(native.role.clone()).or_default().insert(native.key.clone());
        if let Some(owner) = &native.owner {
            self.by_owner.entry(owner.clone()).or_default().insert(native.key.clone());
        }
        self.all.insert(native.key.clone(), native);
        before
    }

    /// Removes and returns a binding.
    pub fn remove(&mut self, key: &NativeKey) -> Option<Native> {
        let native = self.all.remove(key)?;
        let grant = native.grant();
        for holder in &native.holders {
            let (by_name, name) = self.by_name(holder);
            let Some(grants) = by_name.get_mut(name) else { continue };
            if let Some(keys) = grants.get_mut(&grant) {
                keys.remove(key);
                if keys.is_empty() {
                    grants.remove(&grant);
                }
            }
            if grants.is_empty() {
                by_name.remove(name);
            }
        }
        forget(&mut self.by_role, &native.role, key);
        if let Some(owner) = &native.owner {
            forget(&mut self.by_owner, owner, key);
        }
        Some(native)
    }

    /// Returns the binding with that key.
    pub fn get(&self, key: &NativeKey) -> Option<&Native> {
        self.all.get(key)
    }

    /// Returns all bindings from a key on, in key order. ClusterRoleBindings come first.
    pub fn from<'a>(&'a self, key: &NativeKey) -> impl Iterator<Item = &'a Native> + use<'a> {
        self.all.range(key..).map(|(_, native)| native)
    }

    /// Returns the bindings to a role.
    pub fn of_role<'a>(&'a self, role: &RoleRef) -> impl Iterator<Item = &'a Native> + use<'a> {
        self.by_role.get(role).into_iter().flatten().filter_map(|key| self.all.get(key))
    }

    /// Returns all bindings in key order.
    pub fn all(&self) -> impl Iterator<Item = &Native> {
        self.all.values()
    }

    /// Returns all keys.
    pub fn keys(&self) -> impl Iterator<Item = &NativeKey> {
        self.all.keys()
    }

    /// Returns the bindings that belong to the User or RoleBinding with that UID.
    pub fn owned_by(&self, uid: &str) -> impl Iterator<Item = &Native> {
        self.by_owner.get(uid).into_iter().flatten().filter_map(|key| self.all.get(key))
    }

    /// Returns how many of the owner's bindings are in that namespace; `None` counts ClusterRoleBindings.
    pub fn count_owned_in(&self, uid: &str, namespace: Option<&str>) -> usize {
        let first = NativeKey { namespace: namespace.map(str::to_owned), name: String::new() };
        let keys = self.by_owner.get(uid).into_iter().flat_map(|keys| keys.range(first.clone()..));
        keys.take_while(|key| key.namespace.as_deref() == namespace).count()
    }

    /// Returns the UIDs of all owners.
    pub fn owners(&self) -> impl Iterator<Item = &String> {
        self.by_owner.keys()
    }

    /// Returns the grants of a holder, with the bindings that give each.
    pub fn grants_of(&self, holder: &Holder) -> impl Iterator<Item = (&Grant, impl Iterator<Item = &Native>)> {
        let grants = self.grants(holder.as_deref()).into_iter().flatten();
        grants.map(|(grant, keys)| (grant, keys.iter().filter_map(|key| self.all.get(key))))
    }

    /// Returns the distinct roles of a holder, regardless of scope.
    pub fn roles_of(&self, holder: Holder<&str>) -> impl Iterator<Item = &RoleRef> {
        let grants = self.grants(holder);
        let first = grants.and_then(|grants| grants.keys().next());
        let last = grants.and_then(|grants| grants.keys().next_back());
        successors(first, move |grant| {
            if last.is_some_and(|last| last.role == grant.role) {
                return None;
            }
            // Names of namespaces are ASCII, so this sorts after all of them.
            let last = Grant { role: grant.role.clone(), namespace: Some("\u{7f}".to_owned()) };
            grants?.range((Bound::Excluded(last), Bound::Unbounded)).next().map(|(grant, _)| grant)
        })
        .map(|grant| &grant.role)
    }

    /// Returns the bindings that give a holder exactly this grant.
    pub fn granting(&self, holder: &Holder, grant: &Grant) -> impl Iterator<Item = &Native> {
        let keys = self.grants(holder.as_deref()).and_then(|grants| grants.get(grant));
        keys.into_iter().flatten().filter_map(|key| self.all.get(key))
    }

    fn grants(&self, holder: Holder<&str>) -> Option<&Grants> {
        match holder {
            Holder::User(name) => self.of_users.get(name),
            Holder::Group(name) => self.of_groups.get(name),
        }
    }

    /// Returns the map for this kind of holder, and the holder's name.
    fn by_name<'a>(&mut self, holder: &'a Holder) -> (&mut HashMap<String, Grants>, &'a String) {
        match holder {
            Holder::User(name) => (&mut self.of_users, name),
            Holder::Group(name) => (&mut self.of_groups, name),
        }
    }
}

fn forget<K: Eq + Hash>(keys_by: &mut HashMap<K, BTreeSet<NativeKey>>, by: &K, key: &NativeKey) {
    if let Some(keys) = keys_by.get_mut(by) {
        keys.remove(key);
        if keys.is_empty() {
            keys_by.remove(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(name: &str, namespace: Option<&str>, holder: &str, owner: Option<&str>) -> Native {
        Native {
            key: NativeKey { namespace: namespace.map(str::to_owned), name: name.to_owned() },
            uid: format!("{name} of {holder}"),
            resource_version: 1,
            role: RoleRef::cluster_role("edit"),
            holders: [Holder::User(holder.to_owned())].into(),
            has_others: false,
            owner: owner.map(str::to_owned),
            is_marked: true,
        }
    }

    #[test]
    fn indexes_follow_every_change() {
        let mut natives = Natives::default();
        let jane = Holder::User("jane".into());
        natives.set(native("a", Some("x"), "jane", Some("u-1")));
        natives.set(native("b", Some("x"), "jane", None));
        assert_eq!(natives.grants_of(&jane).map(|(_, by)| by.count()).collect::<Vec<_>>(), [2]);
        assert_eq!(natives.owned_by("u-1").count(), 1);
        natives.set(native("a", Some("x"), "john", None));
        assert_eq!(natives.owned_by("u-1").count(), 0);
        natives.remove(&NativeKey { namespace: Some("x".into()), name: "b".into() });
        assert_eq!(natives.grants_of(&jane).count(), 0);
        natives.remove(&NativeKey { namespace: Some("x".into()), name: "a".into() });
        assert!(natives.all.is_empty() && natives.of_users.is_empty() && natives.by_owner.is_empty());
    }

    #[test]
    fn one_mark_is_enough_to_recognize_a_managed_binding() {
        let read = |metadata: &str| {
            let text = format!(
                r#"{{"metadata": {metadata}, "roleRef": {{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}},
                "subjects": [{{"kind": "User", "name": "jane"}}, {{"kind": "ServiceAccount", "name": "x", "namespace": "y"}}]}}"#
            );
            Native::of_cluster(&serde_json::from_str(&text).unwrap())
        };
        let reference = r#"[{"apiVersion": "roster.dev/v1alpha1", "kind": "RoleBinding", "name": "x", "uid": "u-1"}]"#;
        let label = r#"{"roster.dev/owner-uid": "u-1"}"#;
        let both = read(&format!(r#"{{"name": "roster:n", "labels": {label}, "ownerReferences": {reference}}}"#));
        assert_eq!((both.owner.as_deref(), both.is_marked, both.has_others), (Some("u-1"), true, true));
        for one in [
            format!(r#"{{"name": "roster:n", "labels": {label}}}"#),
            format!(r#"{{"name": "roster:n", "ownerReferences": {reference}}}"#),
        ] {
            let one = read(&one);
            assert_eq!((one.owner.as_deref(), one.is_marked), (Some("u-1"), false));
        }
        assert_eq!(read("{}").owner, None);
        let bare = r#"{"name": "roster:n", "managedFields": [{"manager": "roster", "operation": "Apply"}]}"#;
        assert_eq!(read(bare).owner.as_deref(), Some(""), "without marks, but applied by Roster");
        let other = read(&format!(r#"{{"name": "hers", "ownerReferences": {reference}}}"#));
        assert_eq!(other.owner, None, "created by another client, to be deleted with its owner");
    }
}
