//! What deleted Users and Groups held still counts.

use jiff::SignedDuration;

use super::*;
use crate::directory::tombstones::{RETENTION, StoredLabels};

/// A Group `power` with a role, which selects the User `labelled`.
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
fn i4_a_label_protects_a_name_whichever_of_group_and_user_is_deleted_first() {
    let create = user("labelled", UserSpec::default());
    let create = Change::User(None, Some(&create));
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
        assert_eq!(required(&create, &directory), [EDIT], "while both are gone");
        directory.set_group(&power, NOW);
        assert_eq!(required(&create, &directory), [EDIT], "when the Group is back");
    }
    // A Group that this replica has not known before.
    let (mut directory, (labelled, power)) = (directory(), labelled(&mut directory()));
    directory.set_user(&labelled, NOW);
    directory.remove_user("labelled", NOW);
    directory.set_group(&power, NOW);
    assert_eq!(required(&create, &directory), [EDIT], "by the labels alone");
}

#[test]
fn i4_the_selector_of_a_deleted_group_counts_until_it_expires() {
    let mut directory = directory();
    let (labelled, power) = labelled(&mut directory);
    directory.remove_group("power", NOW);
    assert_eq!(required(&Change::Credential(["labelled"].into()), &directory), [EDIT]);
    let mut other = user("other", UserSpec::default());
    assert!(required(&Change::User(None, Some(&other)), &directory).is_empty());
    other.metadata.labels.clone_from(&labelled.metadata.labels);
    assert_eq!(required(&Change::User(None, Some(&other)), &directory), [EDIT]);
    directory.advance(NOW + RETENTION);
    assert!(required(&Change::Credential(["labelled"].into()), &directory).is_empty());
    // A Group that is back counts by what it selects now.
    directory.set_group(&power, NOW);
    directory.remove_group("power", NOW);
    directory.set_group(&group("power", GroupSpec::default()), NOW);
    assert!(required(&Change::Credential(["labelled"].into()), &directory).is_empty());
}

#[test]
fn i4_more_labels_than_are_stored_match_every_selector() {
    let mut directory = directory();
    labelled(&mut directory);
    let mut large = user("large", UserSpec::default());
    let labels = (0..400).map(|i| (format!("{}-{i}", "k".repeat(50)), "v".to_owned()));
    large.metadata.labels = Some(labels.collect());
    directory.set_user(&large, NOW);
    assert!(required(&Change::Credential(["large"].into()), &directory).is_empty());
    directory.remove_user("large", NOW);
    assert_eq!(required(&Change::User(None, Some(&user("large", UserSpec::default()))), &directory), [EDIT]);
    let tombstone = directory.tombstones.of("large").next().unwrap();
    assert_eq!(tombstone.labels, StoredLabels::TooLarge);
    assert!(tombstone.secret().data.unwrap()["tombstone"].0.len() < 500);
}

#[test]
fn i4_name_and_username_of_a_deleted_user_are_protected_as_both() {
    let mut directory = directory();
    let spec = |username: &str| UserSpec { username: Some(username.into()), ..UserSpec::default() };
    directory.set_user(&user("alice", UserSpec { groups: vec!["power".into()], ..spec("al") }), NOW);
    directory.remove_user("alice", NOW);
    let (bob, by_username, by_case) =
        (user("bob", spec("bob")), user("bob", spec("alice")), user("bob", spec("Alice")));
    for taker in [&by_username, &by_case, &user("al", spec("bob")), &user("al", UserSpec::default())] {
        assert_eq!(required(&Change::User(None, Some(taker)), &directory), [EDIT], "{taker:?}");
    }
    for taker in [&by_username, &by_case] {
        assert_eq!(required(&Change::User(Some(&bob), Some(taker)), &directory), [EDIT], "a rename: {taker:?}");
    }
    assert!(required(&Change::User(None, Some(&bob)), &directory).is_empty());
}

#[test]
fn a_name_is_free_after_its_retention_even_if_nobody_removes_the_tombstone() {
    let mut directory = directory();
    let alice = user("alice", UserSpec { groups: vec!["power".into()], ..UserSpec::default() });
    let create = user("alice", UserSpec::default());
    let create = Change::User(None, Some(&create));
    directory.set_user(&alice, NOW);
    directory.remove_user("alice", NOW);
    directory.advance(NOW + RETENTION - SignedDuration::from_secs(1));
    assert_eq!(required(&create, &directory), [EDIT]);
    directory.advance(NOW + RETENTION);
    assert!(required(&create, &directory).is_empty());
}
