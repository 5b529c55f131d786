//! The guard still counts what deleted Users and Groups held.

use jiff::SignedDuration;

use super::*;
use crate::directory::native::{Native, NativeKey};
use crate::directory::tombstones::Tombstone;
use crate::directory::tombstones::{RETENTION, StoredLabels};

/// Builds a Group `power` that has a role and selects the User `labelled`.
fn labelled(directory: &mut Directory) -> (User, Group) {
    let mut labelled = user("labelled", UserSpec::default());
    labelled.metadata.labels = Some([("team".to_owned(), "x".to_owned())].into());
    let selector = LabelSelector { match_labels: labelled.metadata.labels.clone(), ..LabelSelector::default() };
    let power = group("power", GroupSpec { member_selector: Some(selector), ..GroupSpec::default() });
    directory.set_group(&power, NOW);
    directory.set_user(&labelled, NOW);
    (labelled, power)
}

#[test]
fn i4_a_label_protects_a_name_in_either_order_of_deletion() {
    let create = user("labelled", UserSpec::default());
    let create = GuardedChange::User(None, Some(&create));
    let deletions: [fn(&mut Directory); 2] = [
        |directory| {
            directory.remove_group("power", NOW);
            directory.remove_user("labelled", NOW);
        },
        |directory| {
            directory.remove_user("labelled", NOW);
            directory.remove_group("power", NOW);
        },
    ];
    for delete in deletions {
        let mut directory = directory();
        let (_, power) = labelled(&mut directory);
        delete(&mut directory);
        assert_eq!(required(&create, &directory), [EDIT], "while both are deleted");
        directory.set_group(&power, NOW);
        assert_eq!(required(&create, &directory), [EDIT], "when the Group is restored");
    }
    // A Group that this replica has never seen.
    let (mut directory, (labelled, power)) = (directory(), labelled(&mut directory()));
    directory.set_user(&labelled, NOW);
    directory.remove_user("labelled", NOW);
    directory.set_group(&power, NOW);
    assert_eq!(required(&create, &directory), [EDIT], "the labels alone match");
}

#[test]
fn i4_the_selector_of_a_deleted_group_counts_until_it_expires() {
    let mut directory = directory();
    let (labelled, power) = labelled(&mut directory);
    directory.remove_group("power", NOW);
    assert_eq!(required(&GuardedChange::Credential(["labelled"].into()), &directory), [EDIT]);
    let mut other = user("other", UserSpec::default());
    assert!(required(&GuardedChange::User(None, Some(&other)), &directory).is_empty());
    other.metadata.labels.clone_from(&labelled.metadata.labels);
    assert_eq!(required(&GuardedChange::User(None, Some(&other)), &directory), [EDIT]);
    directory.advance(NOW + RETENTION);
    assert!(required(&GuardedChange::Credential(["labelled"].into()), &directory).is_empty());
    // A restored Group counts by its current selector.
    directory.set_group(&power, NOW);
    directory.remove_group("power", NOW);
    directory.set_group(&group("power", GroupSpec::default()), NOW);
    assert!(required(&GuardedChange::Credential(["labelled"].into()), &directory).is_empty());
}

#[test]
fn i4_labels_too_large_to_store_match_every_selector() {
    let mut directory = directory();
    labelled(&mut directory);
    let mut large = user("large", UserSpec::default());
    let labels = (0..400).map(|i| (format!("{}-{i}", "k".repeat(50)), "v".to_owned()));
    large.metadata.labels = Some(labels.collect());
    directory.set_user(&large, NOW);
    assert!(required(&GuardedChange::Credential(["large"].into()), &directory).is_empty());
    directory.remove_user("large", NOW);
    assert_eq!(required(&GuardedChange::User(None, Some(&user("large", UserSpec::default()))), &directory), [EDIT]);
    let tombstone = directory.tombstones.of("large").next().unwrap();
    assert_eq!(tombstone.labels, StoredLabels::TooLarge);
    assert!(tombstone.secret().data.unwrap()["tombstone"].0.len() < 500);
}

#[test]
fn i4_name_and_username_of_a_deleted_user_are_each_protected_as_both() {
    let mut directory = directory();
    let spec = |username: &str| UserSpec { username: Some(username.into()), ..UserSpec::default() };
    directory.set_user(&user("alice", UserSpec { groups: vec!["power".into()], ..spec("al") }), NOW);
    directory.remove_user("alice", NOW);
    let (bob, by_username, by_case) =
        (user("bob", spec("bob")), user("bob", spec("alice")), user("bob", spec("Alice")));
    for taker in [&by_username, &by_case, &user("al", spec("bob")), &user("al", UserSpec::default())] {
        assert_eq!(required(&GuardedChange::User(None, Some(taker)), &directory), [EDIT], "{taker:?}");
    }
    for taker in [&by_username, &by_case] {
        assert_eq!(required(&GuardedChange::User(Some(&bob), Some(taker)), &directory), [EDIT], "a rename: {taker:?}");
    }
    assert!(required(&GuardedChange::User(None, Some(&bob)), &directory).is_empty());
}

#[test]
fn a_name_is_free_after_retention_even_if_the_tombstone_remains() {
    let mut directory = directory();
    let alice = user("alice", UserSpec { groups: vec!["power".into()], ..UserSpec::default() });
    let create = user("alice", UserSpec::default());
    let create = GuardedChange::User(None, Some(&create));
    directory.set_user(&alice, NOW);
    directory.remove_user("alice", NOW);
    directory.advance(NOW + RETENTION - SignedDuration::from_secs(1));
    assert_eq!(required(&create, &directory), [EDIT]);
    directory.advance(NOW + RETENTION);
    assert!(required(&create, &directory).is_empty());
}

#[test]
fn i4_many_deleted_groups_do_not_evict_one_that_holds_a_role() {
    let mut directory = directory();
    let (labelled, _) = labelled(&mut directory);
    directory.remove_group("power", NOW);
    let credential = GuardedChange::Credential(["labelled"].into());
    let selector = LabelSelector { match_labels: labelled.metadata.labels.clone(), ..LabelSelector::default() };
    for i in 0..10_010 {
        let name = format!("g{i}");
        let spec = GroupSpec { member_selector: Some(selector.clone()), ..GroupSpec::default() };
        directory.set_group(&group(&name, spec), NOW);
        directory.remove_group(&name, NOW);
    }
    assert_eq!(required(&credential, &directory), [EDIT]);
    assert_eq!(directory.memberships.claims("labelled"), ["power".to_owned()].into(), "the others grant nothing");
}

/// Callers that may write Groups can nest them to any depth, and the lookup runs under the lock of the directory.
#[test]
fn ancestors_of_deleted_groups_are_visited_once() {
    const DEPTH: usize = 500;
    let mut directory = directory();
    let leaves: Vec<String> = (0..100).map(|i| format!("leaf-{i}")).collect();
    for i in 0..DEPTH {
        let children = if i + 1 < DEPTH { vec![format!("g{}", i + 1)] } else { leaves.clone() };
        directory
            .set_group(&group(&format!("g{i}"), GroupSpec { member_groups: children, ..GroupSpec::default() }), NOW);
    }
    let visits = std::cell::Cell::new(0);
    let is_bound = |group: &str| {
        visits.set(visits.get() + 1);
        group == "g7"
    };
    let leaves = leaves.into_iter().collect();
    assert_eq!(directory.memberships.holding(&leaves, is_bound), leaves);
    assert!(visits.get() <= DEPTH + 100, "{}", visits.get());
    assert!(directory.memberships.holding(&leaves, |_| false).is_empty());
    assert!(
        directory.memberships.holding(&["g3".to_owned()].into(), |group| group == "g7").is_empty(),
        "g7 is nested in g3, and not the reverse"
    );
}

#[test]
fn i4_a_deleted_group_counts_while_it_is_named() {
    let credential = GuardedChange::Credential(["labelled"].into());
    let mut directory = Directory::new(false);
    let (_, power) = labelled(&mut directory);
    directory.remove_group("power", NOW);
    assert!(required(&credential, &directory).is_empty());
    // Named by a RoleBinding.
    directory.set_binding(&binding("power-edit", SubjectKind::Group, "power"), NOW);
    assert_eq!(required(&credential, &directory), [EDIT]);
    directory.remove_binding("power-edit");
    assert!(required(&credential, &directory).is_empty());
    // Named by a native binding.
    let native = Native {
        key: NativeKey { namespace: None, name: "power".to_owned() },
        uid: "n".to_owned(),
        resource_version: 1,
        role: RoleRef::cluster_role("edit"),
        holders: [Holder::Group("power".to_owned())].into(),
        has_others: false,
        owner: None,
        is_marked: false,
    };
    directory.set_native(native.clone());
    assert_eq!(required(&credential, &directory), [EDIT]);
    directory.remove_native(&native.key, None);
    assert!(required(&credential, &directory).is_empty());
    // Nested two levels below a Group that a RoleBinding names.
    directory.set_binding(&binding("top-edit", SubjectKind::Group, "top"), NOW);
    let nesting = |child: &str| GroupSpec { member_groups: vec![child.to_owned()], ..GroupSpec::default() };
    directory.set_group(&group("middle", nesting("power")), NOW);
    directory.set_group(&group("top", nesting("middle")), NOW);
    assert_eq!(required(&credential, &directory), [EDIT]);
    directory.remove_group("top", NOW);
    assert!(required(&credential, &directory).is_empty());
    directory.set_group(&group("top", nesting("middle")), NOW);
    assert_eq!(required(&credential, &directory), [EDIT]);
    directory.set_group(&power, NOW);
    directory.remove_user("labelled", NOW);
    assert!(directory.memberships.claims("labelled").is_empty(), "its claims are removed with it");
}

#[test]
fn i4_a_label_that_adds_a_second_path_into_a_deleted_group_counts() {
    let mut directory = directory();
    let (labelled, _) = labelled(&mut directory);
    directory.remove_group("power", NOW);
    let member = in_group("member", "power");
    directory.set_user(&member, NOW);
    let mut twice = member.clone();
    twice.metadata.labels.clone_from(&labelled.metadata.labels);
    assert_eq!(required(&GuardedChange::User(Some(&member), Some(&twice)), &directory), [EDIT]);
    assert_eq!(required(&GuardedChange::User(Some(&twice), Some(&member)), &directory), [EDIT]);
}

#[test]
fn i4_every_username_of_a_deleted_user_counts_as_written() {
    let mut directory = Directory::new(false);
    let native = |name: &str| Native {
        key: NativeKey { namespace: None, name: name.to_owned() },
        uid: name.to_owned(),
        resource_version: 1,
        role: RoleRef::cluster_role(name),
        holders: [Holder::User(name.to_owned())].into(),
        has_others: false,
        owner: None,
        is_marked: false,
    };
    for name in ["Alice", "Smith", "ALICE"] {
        directory.set_native(native(name));
    }
    let alice = Tombstone {
        user: "u".to_owned(),
        uid: "u".to_owned(),
        username: "Alice".to_owned(),
        other_usernames: ["Smith".to_owned()].into(),
        emails: BTreeSet::new(),
        created: None,
        is_admin: false,
        groups: Vec::new(),
        labels: StoredLabels::default(),
        deleted: NOW,
    };
    directory.tombstones.note_deletion(alice);
    let spec = |username: &str| UserSpec { username: Some(username.into()), ..UserSpec::default() };
    let expected = ["ClusterRole Alice in the whole cluster", "ClusterRole Smith in the whole cluster"];
    for taker in [user("u", UserSpec::default()), user("x", spec("alice")), user("x", spec("SMITH"))] {
        assert_eq!(required(&GuardedChange::User(None, Some(&taker)), &directory), expected, "{taker:?}");
    }
}

/// Kubernetes compares subject names exactly, so a native binding applies only to the username with the same spelling.
#[test]
fn usernames_in_native_bindings_are_case_sensitive() {
    let mut directory = Directory::new(false);
    let holders = [Holder::User("Jane".to_owned()), Holder::Group("Power".to_owned())].into();
    directory.set_native(Native {
        key: NativeKey { namespace: None, name: "native".to_owned() },
        uid: "n".to_owned(),
        resource_version: 1,
        role: RoleRef::cluster_role("edit"),
        holders,
        has_others: false,
        owner: None,
        is_marked: false,
    });
    let spec = |username: &str| UserSpec { username: Some(username.into()), ..UserSpec::default() };
    let (same, lower) = (user("jane", spec("Jane")), user("jane", UserSpec::default()));
    assert_eq!(required(&GuardedChange::User(None, Some(&same)), &directory), [EDIT]);
    assert!(required(&GuardedChange::User(None, Some(&lower)), &directory).is_empty());
    assert_eq!(required(&GuardedChange::User(Some(&lower), Some(&same)), &directory), [EDIT], "a rename into it");
    assert_eq!(required(&GuardedChange::User(Some(&same), Some(&lower)), &directory), [EDIT], "a rename out of it");
    assert!(required(&GuardedChange::User(None, Some(&in_group("joe", "power"))), &directory).is_empty());
    for (person, held) in [(&same, &[EDIT][..]), (&lower, &[])] {
        directory.set_user(person, NOW);
        assert_eq!(required(&GuardedChange::Credential(["jane"].into()), &directory), held);
    }
}

/// RoleBindings and Groups can name a User before it exists and after its deletion. Another User with that username
/// would prevent it from being created.
#[test]
fn i4_taking_the_name_of_an_absent_user_as_username_requires_its_roles() {
    let mut directory = directory();
    directory.set_binding(&binding("absent-edit", SubjectKind::User, "absent"), NOW);
    directory.set_group(&group("power", GroupSpec { members: vec!["member".to_owned()], ..GroupSpec::default() }), NOW);
    for username in ["absent", "ABSENT", "member", "Member"] {
        let named =
            |username: &str| user("thief", UserSpec { username: Some(username.to_owned()), ..UserSpec::default() });
        let (before, after) = (named("thief"), named(username));
        assert_eq!(required(&GuardedChange::User(None, Some(&after)), &directory), [EDIT], "create {username}");
        assert_eq!(
            required(&GuardedChange::User(Some(&before), Some(&after)), &directory),
            [EDIT],
            "rename to {username}"
        );
    }
    let free = user("free", UserSpec { username: Some("nobody".to_owned()), ..UserSpec::default() });
    assert!(required(&GuardedChange::User(None, Some(&free)), &directory).is_empty());
}

#[test]
fn names_of_deleted_administrators_and_labelled_users_are_protected() {
    let mut directory = directory();
    let root = user("root", UserSpec { admin: true, ..UserSpec::default() });
    let mut labelled = user("labelled", UserSpec::default());
    labelled.metadata.labels = Some([("team".to_owned(), "x".to_owned())].into());
    let selector = LabelSelector { match_labels: labelled.metadata.labels.clone(), ..LabelSelector::default() };
    directory.set_group(&group("power", GroupSpec { member_selector: Some(selector), ..GroupSpec::default() }), NOW);
    for (deleted, expected) in [(&root, "ClusterRole admin in the whole cluster"), (&labelled, EDIT)] {
        let name = deleted.name_any();
        directory.set_user(deleted, NOW);
        directory.remove_user(&name, NOW);
        assert_eq!(
            required(&GuardedChange::User(None, Some(&user(&name, UserSpec::default()))), &directory),
            [expected]
        );
    }
    let named = user("named", UserSpec { username: Some("power-user".into()), ..UserSpec::default() });
    directory.set_user(&named, NOW);
    assert!(!directory.remove_user("named", NOW).tombstones.is_empty(), "native bindings may name power-user");
    let plain = user("plain", UserSpec::default());
    directory.set_user(&plain, NOW);
    assert!(directory.remove_user("plain", NOW).tombstones.is_empty(), "it held nothing");
}
