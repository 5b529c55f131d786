//! Disabling a User must stay possible, whatever administrators of single namespaces bind.

use roster_api::user::DesiredState;

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

fn in_state(mut user: User, state: DesiredState) -> User {
    user.spec.state = state;
    user
}

/// A directory in which an administrator of namespace `a` has bound roles to `jane` and to her group, in every way that
/// takes no right elsewhere.
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
        let mut user = jane.clone();
        user.spec.validity = end.map(|end| Validity { not_before: None, not_after: Some(at(end)) });
        user
    };
    let (disabled, banned) =
        (in_state(jane.clone(), DesiredState::Disabled), in_state(jane.clone(), DesiredState::Banned));
    for (old, new) in [(&jane, &disabled), (&jane, &banned), (&disabled, &banned), (&jane, &expired(Some(5)))] {
        let required = required(&GuardedChange::User(Some(old), Some(new)), &directory);
        assert!(required.is_empty(), "{required:?}: {:?}", new.spec);
    }
    // To give back what was taken, or to change anything else at the same time, takes every role.
    let mut moved = in_state(jane.clone(), DesiredState::Disabled);
    moved.spec.groups = Vec::new();
    let mut labelled = in_state(jane.clone(), DesiredState::Disabled);
    labelled.metadata.owner_references =
        Some(vec![OwnerReference { uid: "x".to_owned(), ..OwnerReference::default() }]);
    for (old, new) in
        [(&disabled, &jane), (&banned, &disabled), (&expired(Some(5)), &jane), (&jane, &moved), (&jane, &labelled)]
    {
        let required = required(&GuardedChange::User(Some(old), Some(new)), &directory);
        let expected = ["ClusterRole system:aggregate-to-view in namespace a", "Role shield in namespace a"];
        assert_eq!(required, expected, "{:?}", new.spec);
    }
    assert!(!required(&GuardedChange::User(Some(&jane), None), &directory).is_empty(), "deletion is control");
    assert!(!required(&GuardedChange::Credential(["jane"].into()), &directory).is_empty(), "so is a password");
}

/// Otherwise an intern could put an administrator out of work.
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
    // Declaring a RoleBinding takes `bind` on the ClusterRole, which an administrator of the cluster has granted.
    let mut narrow = binding("b", SubjectKind::User, "jane");
    narrow.spec.scope = DeclaredScope { namespaces: Some(vec!["a".to_owned()]), ..DeclaredScope::default() };
    check(&|directory| drop(directory.set_binding(&narrow, NOW)), "ClusterRole edit in namespace a");
    // So does a Role in every namespace.
    let mut everywhere = binding("b", SubjectKind::User, "jane");
    everywhere.spec.role_ref = role(RoleKind::Role, "deployer");
    check(&|directory| drop(directory.set_binding(&everywhere, NOW)), "Role deployer in the whole cluster");
    let root = user("root", UserSpec { admin: true, ..UserSpec::default() });
    let required = required(&GuardedChange::User(Some(&root), Some(&disable(&root))), &shielded());
    assert_eq!(required, ["ClusterRole admin in the whole cluster"]);
}

/// Disabling a user is not a step towards taking over its identity.
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
