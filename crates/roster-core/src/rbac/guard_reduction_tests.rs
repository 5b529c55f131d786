//! Administrators of single namespaces must not be able to prevent a User from being disabled.

use roster_api::user::DesiredState;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, OwnerReference};

use super::*;
use crate::directory::native::{Native, NativeKey};

fn native(name: &str, namespace: Option<&str>, role: RoleRef, holder: Holder) -> Native {
    Native {
        key: NativeKey { namespace: namespace.map(str::to_owned), name: name.to_owned() },
        uid: name.to_owned(),
        resource_version: 1,
        role,
        holders: [holder].into(),
        has_others: false,
        owner: None,
        is_marked: false,
    }
}

fn role(kind: RoleKind, name: &str) -> RoleRef {
    RoleRef { kind, name: name.to_owned() }
}

fn in_state(user: User, state: DesiredState) -> User {
    let mut user = managed_by(user, "help-desk", "Update");
    user.spec.state = state;
    user
}

fn managed_by(user: User, manager: &str, operation: &str) -> User {
    owning(user, manager, operation, "f:state")
}

fn owning(mut user: User, manager: &str, operation: &str, field: &str) -> User {
    user.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
        manager: Some(manager.to_owned()),
        operation: Some(operation.to_owned()),
        fields_v1: Some(FieldsV1(serde_json::json!({"f:spec": {field: {}}}))),
        ..ManagedFieldsEntry::default()
    }]);
    user
}

/// A directory in which an administrator of namespace `a` has bound roles to `jane` and to her group, in every way that
/// requires no rights outside the namespace.
fn shielded() -> Directory {
    let mut directory = Directory::new(false);
    let (jane, team) = (|| Holder::User("jane".to_owned()), || Holder::Group("team".to_owned()));
    directory.set_native(native("own", Some("a"), role(RoleKind::Role, "shield"), jane()));
    directory.set_native(native("part", Some("a"), RoleRef::cluster_role("system:aggregate-to-view"), jane()));
    directory.set_native(native("team", Some("a"), role(RoleKind::Role, "shield"), team()));
    let mut bound = binding("shield", SubjectKind::User, "jane");
    bound.spec.role_ref = role(RoleKind::Role, "shield");
    bound.spec.scope = DeclaredScope { namespaces: Some(vec!["a".to_owned()]), ..DeclaredScope::default() };
    directory.set_binding(&bound, NOW);
    directory.set_user(&in_group("jane", "team"), NOW);
    directory
}

#[test]
fn i4_namespace_administrators_cannot_prevent_disabling() {
    let directory = shielded();
    let jane = in_group("jane", "team");
    let expired = |end: Option<i64>| {
        let mut user = owning(jane.clone(), "help-desk", "Update", "f:validity");
        user.spec.validity = end.map(|end| Validity { not_before: None, not_after: Some(at(end)) });
        user
    };
    let (disabled, banned) =
        (in_state(jane.clone(), DesiredState::Disabled), in_state(jane.clone(), DesiredState::Banned));
    for (old, new) in [(&jane, &disabled), (&jane, &banned), (&disabled, &banned), (&jane, &expired(Some(5)))] {
        let required = required(&GuardedChange::User(Some(old), Some(new)), &directory);
        assert!(required.is_empty(), "{required:?}: {:?}", new.spec);
    }
    // Undoing a reduction, or changing anything else at the same time, requires every role.
    let mut moved = in_state(jane.clone(), DesiredState::Disabled);
    moved.spec.groups = Vec::new();
    let mut owned = in_state(jane.clone(), DesiredState::Disabled);
    owned.metadata.owner_references = Some(vec![OwnerReference { uid: "x".to_owned(), ..OwnerReference::default() }]);
    for (old, new) in
        [(&disabled, &jane), (&banned, &disabled), (&expired(Some(5)), &jane), (&jane, &moved), (&jane, &owned)]
    {
        let required = required(&GuardedChange::User(Some(old), Some(new)), &directory);
        let expected = ["ClusterRole system:aggregate-to-view in namespace a", "Role shield in namespace a"];
        assert_eq!(required, expected, "{:?}", new.spec);
    }
    assert!(!required(&GuardedChange::User(Some(&jane), None), &directory).is_empty(), "deletion requires control");
    assert!(!required(&GuardedChange::Credential(["jane"].into()), &directory).is_empty(), "so is a password");
}

/// Otherwise anyone who may write Users could disable a cluster administrator.
#[test]
fn i4_disabling_requires_bind_on_grants_beyond_a_namespace() {
    let disable = |user: &User| in_state(user.clone(), DesiredState::Disabled);
    let jane = in_group("jane", "team");
    let check = |grant: &dyn Fn(&mut Directory), expected: &str| {
        let mut directory = shielded();
        grant(&mut directory);
        assert_eq!(required(&GuardedChange::User(Some(&jane), Some(&disable(&jane))), &directory), [expected]);
    };
    let holder = || Holder::Group("team".to_owned());
    check(&|directory| drop(directory.set_native(native("c", None, RoleRef::cluster_role("edit"), holder()))), EDIT);
    check(&|directory| drop(directory.set_binding(&binding("b", SubjectKind::Group, "team"), NOW)), EDIT);
    // Declaring a RoleBinding requires `bind` on the ClusterRole, which only a cluster administrator can grant.
    let mut narrow = binding("b", SubjectKind::User, "jane");
    narrow.spec.scope = DeclaredScope { namespaces: Some(vec!["a".to_owned()]), ..DeclaredScope::default() };
    check(&|directory| drop(directory.set_binding(&narrow, NOW)), "ClusterRole edit in namespace a");
    // The same is true of a Role in all namespaces.
    let mut everywhere = binding("b", SubjectKind::User, "jane");
    everywhere.spec.role_ref = role(RoleKind::Role, "deployer");
    check(&|directory| drop(directory.set_binding(&everywhere, NOW)), "Role deployer in the whole cluster");
    let root = user("root", UserSpec { admin: true, ..UserSpec::default() });
    let required = required(&GuardedChange::User(Some(&root), Some(&disable(&root))), &shielded());
    assert_eq!(required, ["ClusterRole admin in the whole cluster"]);
}

/// Otherwise, disabling a User first would make it easier to take over.
#[test]
fn i4_an_inactive_user_counts_as_holding_all_its_roles() {
    let mut directory = directory();
    for state in [DesiredState::Active, DesiredState::Disabled, DesiredState::Banned] {
        directory.set_user(&in_state(in_group("jane", "power"), state), NOW);
        assert_eq!(required(&GuardedChange::Credential(["jane"].into()), &directory), [EDIT], "{state:?}");
    }
    let ended = Validity { not_before: None, not_after: Some(at(-100)) };
    let mut jane = in_group("jane", "power");
    jane.spec.validity = Some(ended);
    directory.set_user(&jane, NOW);
    assert_eq!(required(&GuardedChange::Credential(["jane"].into()), &directory), [EDIT], "expired");
}

/// A pipeline that applies would lift the restriction again, because its manifest does not name it. It would also lift a
/// restriction that was there before, and some pipelines adopt managers that update by name.
#[test]
fn i4_a_restriction_given_to_a_pipeline_requires_every_role() {
    let directory = shielded();
    let jane = in_group("jane", "team");
    let disabled = managed_by(in_state(jane.clone(), DesiredState::Disabled), "security", "Update");
    let banned = in_state(jane.clone(), DesiredState::Banned);
    for (old, manager, operation, expected) in [
        (&jane, "help-desk", "Update", true),
        (&jane, "pipeline", "Apply", false),
        (&disabled, "security", "Update", true),
        (&disabled, "kubectl-client-side-apply", "Update", false),
        (&disabled, "pipeline", "Apply", false),
    ] {
        let new = managed_by(banned.clone(), manager, operation);
        let required = required(&GuardedChange::User(Some(old), Some(&new)), &directory);
        assert_eq!(required.is_empty(), expected, "{manager} {operation}: {required:?}");
    }
}

/// kube-apiserver records no manager for a restriction then, and the next server-side apply adopts it.
#[test]
fn i4_a_restriction_without_field_managers_requires_every_role() {
    let directory = shielded();
    let jane = managed_by(in_group("jane", "team"), "kubectl", "Update");
    let without = |mut user: User| {
        user.metadata.managed_fields = None;
        user
    };
    let (untracked, banned) = (without(jane.clone()), without(in_state(jane.clone(), DesiredState::Banned)));
    let required = |old: &User, new: &User| required(&GuardedChange::User(Some(old), Some(new)), &directory);
    assert!(!required(&jane, &untracked).is_empty(), "a reset");
    assert!(!required(&untracked, &banned).is_empty(), "a restriction");
    // The first server-side apply of a tool would do the same.
    assert!(required(&untracked, &managed_by(untracked.clone(), "before-first-apply", "Update")).is_empty());
    assert!(!required(&untracked, &managed_by(untracked.clone(), "before-first-apply", "Apply")).is_empty());
    assert!(!required(&jane, &managed_by(jane.clone(), "before-first-apply", "Update")).is_empty());
}

#[test]
fn i4_removing_all_field_managers_of_a_group_requires_its_roles() {
    let directory = directory();
    let mut old = group("power", GroupSpec::default());
    old.metadata.managed_fields = managed_by(in_group("jane", "team"), "kubectl", "Update").metadata.managed_fields;
    let mut entry = old.metadata.managed_fields.clone().unwrap_or_default();
    entry[0].fields_v1 = None;
    old.metadata.managed_fields = Some(entry);
    let mut new = old.clone();
    new.metadata.managed_fields = None;
    assert_eq!(required(&GuardedChange::Group(Some(&old), Some(&new)), &directory), [EDIT]);
}
