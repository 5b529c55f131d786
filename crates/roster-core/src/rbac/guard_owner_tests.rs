//! The garbage collector deletes objects whose owners no longer exist, so adding owner references counts as deletion.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::*;

fn owner(uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: "mine".to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }
}

fn owned<K: Resource + Clone>(object: &K, owners: &[OwnerReference]) -> K {
    let mut object = object.clone();
    object.meta_mut().owner_references = Some(owners.to_vec());
    object
}

/// A User, a Group and a RoleBinding, each of which holds or binds `edit`, and a directory of the first two.
fn objects() -> (Directory, User, Group, RoleBinding) {
    let mut directory = directory();
    let (boss, power) = (in_group("boss", "power"), group("power", GroupSpec::default()));
    directory.set_user(&boss, NOW);
    directory.set_group(&power, NOW);
    (directory, boss, power, binding("power-edit", SubjectKind::Group, "power"))
}

#[test]
fn i4_adding_owners_requires_what_deletion_requires() {
    let (directory, boss, power, edit) = objects();
    let required_of = |old: &[OwnerReference], new: &[OwnerReference]| {
        let changes = (
            (owned(&boss, old), owned(&boss, new)),
            (owned(&power, old), owned(&power, new)),
            (owned(&edit, old), owned(&edit, new)),
        );
        [
            required(&GuardedChange::User(Some(&changes.0.0), Some(&changes.0.1)), &directory),
            required(&GuardedChange::Group(Some(&changes.1.0), Some(&changes.1.1)), &directory),
            required(&GuardedChange::RoleBinding(Some(&changes.2.0), Some(&changes.2.1)), &directory),
        ]
    };
    let renamed = OwnerReference { name: "gone".to_owned(), ..owner("a") };
    let (a, b) = (owner("a"), owner("b"));
    for (old, new) in [
        (vec![], vec![a.clone()]),
        (vec![a.clone()], vec![a.clone(), b.clone()]),
        // The remaining owner may be deleted.
        (vec![a.clone(), b.clone()], vec![b.clone()]),
        // An owner that the garbage collector does not find.
        (vec![a.clone()], vec![renamed]),
    ] {
        assert_eq!(required_of(&old, &new), [[EDIT], [EDIT], [EDIT]], "{old:?} -> {new:?}");
    }
    let blocking = OwnerReference { block_owner_deletion: Some(true), ..a.clone() };
    for (old, new) in
        [(vec![a.clone()], vec![]), (vec![blocking], vec![a.clone()]), (vec![a.clone(), b.clone()], vec![b, a])]
    {
        assert!(required_of(&old, &new).iter().all(Vec::is_empty), "{old:?} -> {new:?}");
    }
}

#[test]
fn objects_without_roles_may_have_owners() {
    let directory = directory();
    let plain = user("plain", UserSpec::default());
    let change = owned(&plain, &[owner("a")]);
    assert!(required(&GuardedChange::User(Some(&plain), Some(&change)), &directory).is_empty());
    assert!(required(&GuardedChange::User(None, Some(&change)), &directory).is_empty());
}
