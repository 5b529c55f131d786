use super::*;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(day * 86_400).unwrap()
}

fn tombstone(uid: &str, day: i64) -> Tombstone {
    Tombstone {
        user: "alice".to_owned(),
        uid: uid.to_owned(),
        username: "Alice.Smith".to_owned(),
        other_usernames: BTreeSet::new(),
        emails: BTreeSet::new(),
        created: None,
        is_admin: false,
        groups: vec!["sre".to_owned()],
        labels: StoredLabels::All([("team".to_owned(), "a".to_owned())].into()),
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
fn one_that_an_earlier_version_has_stored_has_no_labels() {
    let mut secret = tombstone("u-1", 0).secret();
    let text = r#"{"user": "alice", "uid": "u-1", "username": "Alice.Smith", "isAdmin": false, "groups": ["sre"], "deleted": "1970-01-01T00:00:00Z"}"#;
    secret.data.as_mut().unwrap().insert(KEY.to_owned(), ByteString(text.into()));
    assert_eq!(Tombstone::read(&secret), Some(Tombstone { labels: StoredLabels::default(), ..tombstone("u-1", 0) }));
}

#[test]
fn one_that_has_expired_does_not_count_on_a_replica_that_may_not_remove_it() {
    let mut tombstones = Tombstones::default();
    tombstones.note(tombstone("u-1", 0));
    tombstones.advance(at(89));
    assert_eq!((tombstones.of("alice").count(), tombstones.known_as("alice").count()), (1, 1));
    tombstones.advance(at(90));
    assert_eq!((tombstones.of("alice").count(), tombstones.known_as("alice").count()), (0, 0));
    assert_eq!(tombstones.users().count(), 1, "the leader finds it");
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
    assert_eq!((tombstones.of("alice").count(), tombstones.known_as("alice.smith").count()), (0, 0));
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
    assert_eq!(uids(tombstones.known_as("ALICE.smith")), ["u-1"]);
    assert_eq!(uids(tombstones.of("alice")), ["u-1"]);
    assert_eq!(uids(tombstones.known_as("Alice")), ["u-1"], "by its name, which is no username of its own");
    assert_eq!(tombstones.of("alic").chain(tombstones.known_as("alic")).chain(tombstones.of("alice.smith")).count(), 0);
    assert_eq!(tombstones.stored().collect::<Vec<_>>(), ["alice"]);
}

#[test]
fn a_follower_stores_what_the_leader_has_not_and_removes_nothing() {
    let mut tombstones = Tombstones::default();
    tombstones.note(tombstone("u-1", 0));
    let step = |tombstones: &Tombstones, now| tombstones.next_step("alice", None, now).of_follower(now);
    assert_eq!(step(&tombstones, at(0)), Step::Wait(at(0) + PATIENCE));
    assert_eq!(step(&tombstones, at(0) + PATIENCE), Step::Store(tombstone("u-1", 0)));
    assert_eq!(step(&tombstones, at(90)), Step::Forget);
    tombstones.set_stored(tombstone("u-1", 0), "s-1".to_owned());
    assert_eq!(step(&tombstones, at(1)), Step::Nothing);
    assert_eq!(step(&tombstones, at(90)), Step::Nothing);
}

#[test]
fn what_two_replicas_knew_of_the_same_user_counts_together() {
    let own = Tombstone {
        username: "alice".to_owned(),
        groups: vec!["web".to_owned()],
        is_admin: true,
        labels: StoredLabels::All([("floor".to_owned(), "3".to_owned())].into()),
        ..tombstone("u-1", 1)
    };
    let stored = tombstone("u-1", 0);
    let mut tombstones = Tombstones::default();
    tombstones.note(own.clone());
    tombstones.set_stored(stored.clone(), "s-1".to_owned());
    let Step::Store(merged) = tombstones.next_step("alice", None, at(1)) else { panic!("{tombstones:?}") };
    assert_eq!((merged.groups.as_slice(), merged.is_admin), (&["sre".to_owned(), "web".to_owned()][..], true));
    let labels = [("floor", "3"), ("team", "a")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(merged.labels, StoredLabels::All(labels.into()));
    assert_eq!(merged.usernames().collect::<Vec<_>>(), ["alice", "Alice.Smith"]);
    assert_eq!(merged.deleted, stored.deleted, "a time of its own for each replica would be a write for each");
    assert_eq!(merged.in_place_of(&stored), Some(merged.clone()));
    tombstones.set_stored(merged.clone(), "s-1".to_owned());
    assert_eq!(tombstones.next_step("alice", None, at(1)), Step::Wait(at(90)));
    // The other replica stores nothing more, regardless of the order in which it sees the two.
    let mut others = Tombstones::default();
    others.note(stored.clone());
    others.set_stored(merged.clone(), "s-1".to_owned());
    assert_eq!((others.next_step("alice", None, at(1)), own.in_place_of(&merged)), (Step::Wait(at(90)), None));
    assert_eq!(uids(others.known_as("alice.smith")), ["u-1"]);
    // Once the Secret is gone, the name is free under each of its usernames.
    others.remove_stored("alice", Some("s-1"));
    assert_eq!(others.known_as("alice").chain(others.known_as("alice.smith")).count(), 0);
    assert!(others.known_as.is_empty());
    let differs = Tombstone { labels: StoredLabels::All([("team".to_owned(), "b".to_owned())].into()), ..own };
    assert_eq!(differs.in_place_of(&stored).unwrap().labels, StoredLabels::TooLarge, "either may be the right one");
}

#[test]
fn of_two_users_of_a_name_the_later_one_counts_whatever_the_clocks_of_replicas_say() {
    let created = |uid, created, deleted| Tombstone { created: Some(at(created)), ..tombstone(uid, deleted) };
    let (first, second) = (created("u-1", 0, 9), created("u-2", 1, 5));
    assert_eq!(second.in_place_of(&first), Some(second.clone()));
    assert_eq!(first.in_place_of(&second), None);
    let mut tombstones = Tombstones::default();
    tombstones.set_stored(first, "s-1".to_owned());
    tombstones.note(second.clone());
    assert_eq!(tombstones.next_step("alice", None, at(6)), Step::Store(second));
    // Without a creation time, as stored by earlier versions, the deletion time decides.
    assert_eq!(tombstone("u-1", 3).in_place_of(&tombstone("u-2", 4)), None);
}

#[test]
fn a_username_that_many_deleted_users_had_is_worn_out() {
    let mut tombstones = Tombstones::default();
    for i in 0..=MOST_NAMESAKES {
        assert!(!tombstones.is_worn_out("ALICE.smith", "bob"), "{i}");
        tombstones.note(Tombstone { user: format!("u{i}"), ..tombstone(&format!("u-{i}"), 0) });
    }
    assert!(tombstones.is_worn_out("ALICE.smith", "bob"));
    assert!(!tombstones.is_worn_out("alice.smith", "u7"), "one of these may have its own again");
    assert!(!tombstones.is_worn_out("u7", "bob"));
}
