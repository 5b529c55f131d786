use super::*;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(day * 86_400).unwrap()
}

fn tombstone(uid: &str, day: i64) -> Tombstone {
    Tombstone {
        user: "alice".to_owned(),
        uid: uid.to_owned(),
        username: "Alice.Smith".to_owned(),
        is_admin: false,
        groups: vec!["sre".to_owned()],
        deleted: at(day),
    }
}

fn uids<'a>(found: impl Iterator<Item = &'a Tombstone>) -> Vec<&'a str> {
    found.map(|tombstone| tombstone.uid.as_str()).collect()
}

#[test]
fn it_survives_being_stored_under_its_own_name_alone() {
    let tombstone = tombstone("u-1", 0);
    let mut secret = tombstone.secret();
    assert_eq!(Tombstone::read(&secret), Some(tombstone.clone()));
    assert!(secret.metadata.owner_references.is_none(), "it outlives the User");
    secret.metadata.name = Some(Tombstone::secret_name("bob"));
    assert_eq!(Tombstone::read(&secret), None);
    let mut secret = tombstone.secret();
    secret.metadata.annotations.as_mut().unwrap().insert(USER_ANNOTATION.to_owned(), "bob".to_owned());
    assert_eq!(Tombstone::read(&secret), None);
}

#[test]
fn it_is_stored_once_and_removed_when_it_expires() {
    let mut tombstones = Tombstones::default();
    tombstones.note(tombstone("u-1", 0));
    assert_eq!(tombstones.next_step("alice", None, at(1)), Step::Store(tombstone("u-1", 0)));
    tombstones.set_stored(tombstone("u-1", 0), "s-1".to_owned());
    assert_eq!(tombstones.next_step("alice", None, at(89)), Step::Wait(at(90)));
    assert_eq!(tombstones.next_step("alice", None, at(90)), Step::Remove("s-1".to_owned()));
    tombstones.remove_stored("alice", Some("s-2"));
    assert_eq!(tombstones.of("alice").count(), 1, "another Secret is gone");
    tombstones.remove_stored("alice", Some("s-1"));
    assert_eq!(tombstones.next_step("alice", None, at(90)), Step::Nothing);
    assert_eq!((tombstones.of("alice").count(), tombstones.of_username("alice.smith").count()), (0, 0));
}

#[test]
fn what_was_never_stored_is_forgotten_when_it_expires() {
    let mut tombstones = Tombstones::default();
    tombstones.note(tombstone("u-1", 0));
    assert_eq!(tombstones.next_step("alice", None, at(90)), Step::Forget);
    tombstones.forget_expired("alice", at(89));
    assert_eq!(tombstones.users().count(), 1);
    tombstones.forget_expired("alice", at(90));
    assert_eq!(tombstones.users().count(), 0);
}

#[test]
fn it_ends_when_the_name_is_in_use_again() {
    let mut tombstones = Tombstones::default();
    tombstones.note(tombstone("u-1", 0));
    assert!(!tombstones.revive("alice"), "nothing is stored");
    assert_eq!(tombstones.next_step("alice", Some("u-2"), at(1)), Step::Nothing);
    tombstones.set_stored(tombstone("u-1", 0), "s-1".to_owned());
    assert!(tombstones.revive("alice"));
    assert_eq!(tombstones.next_step("alice", Some("u-2"), at(1)), Step::Remove("s-1".to_owned()));
    assert_eq!(tombstones.next_step("alice", Some("u-1"), at(1)), Step::Nothing, "its deletion is yet to be heard of");
}

#[test]
fn the_latest_deletion_takes_the_place_of_the_one_that_is_stored() {
    let mut tombstones = Tombstones::default();
    tombstones.set_stored(tombstone("u-1", 0), "s-1".to_owned());
    tombstones.note(tombstone("u-2", 5));
    assert_eq!(uids(tombstones.of("alice")), ["u-1", "u-2"], "both count until it is stored");
    assert_eq!(tombstones.next_step("alice", None, at(6)), Step::Store(tombstone("u-2", 5)));
    tombstones.set_stored(tombstone("u-2", 5), "s-1".to_owned());
    assert_eq!(uids(tombstones.of("alice")), ["u-2"]);
    assert_eq!(tombstones.next_step("alice", None, at(6)), Step::Wait(at(95)));
}

#[test]
fn it_is_found_by_username_in_any_case_and_by_no_part_of_a_name() {
    let mut tombstones = Tombstones::default();
    tombstones.set_stored(tombstone("u-1", 0), "s-1".to_owned());
    tombstones.note(Tombstone {
        user: "alice2".to_owned(),
        username: "alice.smith2".to_owned(),
        ..tombstone("u-2", 0)
    });
    assert_eq!(uids(tombstones.of_username("ALICE.smith")), ["u-1"]);
    assert_eq!(uids(tombstones.of("alice")), ["u-1"]);
    assert_eq!(tombstones.of("alic").chain(tombstones.of_username("alice")).count(), 0);
    assert_eq!(tombstones.stored().collect::<Vec<_>>(), ["alice"]);
}
