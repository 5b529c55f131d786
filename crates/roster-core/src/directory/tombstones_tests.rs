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
fn a_tombstone_is_read_only_from_its_own_secret() {
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
fn tombstones_of_earlier_versions_have_no_labels() {
    let mut secret = tombstone("u-1", 0).secret();
    let text = r#"{"user": "alice", "uid": "u-1", "username": "Alice.Smith", "isAdmin": false, "groups": ["sre"], "deleted": "1970-01-01T00:00:00Z"}"#;
    secret.data.as_mut().unwrap().insert(KEY.to_owned(), ByteString(text.into()));
    assert_eq!(Tombstone::read(&secret), Some(Tombstone { labels: StoredLabels::default(), ..tombstone("u-1", 0) }));
}

#[test]
fn expired_tombstones_do_not_count_on_followers() {
    let mut tombstones = Tombstones::default();
    tombstones.note_deletion(tombstone("u-1", 0));
    tombstones.advance(at(89));
    assert_eq!((tombstones.of("alice").count(), tombstones.known_as("alice").count()), (1, 1));
    tombstones.advance(at(90));
    assert_eq!((tombstones.of("alice").count(), tombstones.known_as("alice").count()), (0, 0));
    assert_eq!(tombstones.users().count(), 1, "it is kept until the leader removes it");
}

#[test]
fn a_tombstone_is_stored_once_and_removed_on_expiry() {
    let mut tombstones = Tombstones::default();
    tombstones.note_deletion(tombstone("u-1", 0));
    assert_eq!(tombstones.next_step("alice", None, at(1)), TombstoneStep::Store(tombstone("u-1", 0)));
    tombstones.set_stored(tombstone("u-1", 0), "s-1".to_owned());
    assert_eq!(tombstones.next_step("alice", None, at(89)), TombstoneStep::Wait(at(90)));
    assert_eq!(tombstones.next_step("alice", None, at(90)), TombstoneStep::Remove("s-1".to_owned()));
    tombstones.remove_stored("alice", Some("s-2"));
    assert_eq!(tombstones.of("alice").count(), 1, "a Secret with another UID was deleted");
    tombstones.remove_stored("alice", Some("s-1"));
    assert_eq!(tombstones.next_step("alice", None, at(90)), TombstoneStep::Nothing);
    assert_eq!((tombstones.of("alice").count(), tombstones.known_as("alice.smith").count()), (0, 0));
}

#[test]
fn unstored_tombstones_are_forgotten_on_expiry() {
    let mut tombstones = Tombstones::default();
    tombstones.note_deletion(tombstone("u-1", 0));
    assert_eq!(tombstones.next_step("alice", None, at(90)), TombstoneStep::Forget);
    tombstones.forget_expired("alice", at(89));
    assert_eq!(tombstones.users().count(), 1);
    tombstones.forget_expired("alice", at(90));
    assert_eq!(tombstones.users().count(), 0);
}

#[test]
fn a_tombstone_ends_when_the_name_is_used_again() {
    let mut tombstones = Tombstones::default();
    tombstones.note_deletion(tombstone("u-1", 0));
    assert!(!tombstones.note_user_exists("alice"), "nothing is stored");
    assert_eq!(tombstones.next_step("alice", Some("u-2"), at(1)), TombstoneStep::Nothing);
    tombstones.set_stored(tombstone("u-1", 0), "s-1".to_owned());
    assert!(tombstones.note_user_exists("alice"));
    assert_eq!(tombstones.next_step("alice", Some("u-2"), at(1)), TombstoneStep::Remove("s-1".to_owned()));
    assert_eq!(
        tombstones.next_step("alice", Some("u-1"), at(1)),
        TombstoneStep::Nothing,
        "this replica has not seen the deletion yet"
    );
}

#[test]
fn the_latest_deletion_replaces_the_stored_one() {
    let mut tombstones = Tombstones::default();
    tombstones.set_stored(tombstone("u-1", 0), "s-1".to_owned());
    tombstones.note_deletion(tombstone("u-2", 5));
    assert_eq!(uids(tombstones.of("alice")), ["u-1", "u-2"], "both count until it is stored");
    assert_eq!(tombstones.next_step("alice", None, at(6)), TombstoneStep::Store(tombstone("u-2", 5)));
    tombstones.set_stored(tombstone("u-2", 5), "s-1".to_owned());
    assert_eq!(uids(tombstones.of("alice")), ["u-2"]);
    assert_eq!(tombstones.next_step("alice", None, at(6)), TombstoneStep::Wait(at(95)));
}

#[test]
fn tombstones_are_found_by_the_whole_username_in_any_case() {
    let mut tombstones = Tombstones::default();
    tombstones.set_stored(tombstone("u-1", 0), "s-1".to_owned());
    tombstones.note_deletion(Tombstone {
        user: "alice2".to_owned(),
        username: "alice.smith2".to_owned(),
        ..tombstone("u-2", 0)
    });
    assert_eq!(uids(tombstones.known_as("ALICE.smith")), ["u-1"]);
    assert_eq!(uids(tombstones.of("alice")), ["u-1"]);
    assert_eq!(uids(tombstones.known_as("Alice")), ["u-1"], "by its name, which differs from its username");
    assert_eq!(tombstones.of("alic").chain(tombstones.known_as("alic")).chain(tombstones.of("alice.smith")).count(), 0);
    assert_eq!(tombstones.stored().collect::<Vec<_>>(), ["alice"]);
}

#[test]
fn followers_store_missing_tombstones_but_do_not_remove_any() {
    let mut tombstones = Tombstones::default();
    tombstones.note_deletion(tombstone("u-1", 0));
    let step = |tombstones: &Tombstones, now| tombstones.next_step("alice", None, now).for_follower(now);
    assert_eq!(step(&tombstones, at(0)), TombstoneStep::Wait(at(0) + FOLLOWER_DELAY));
    assert_eq!(step(&tombstones, at(0) + FOLLOWER_DELAY), TombstoneStep::Store(tombstone("u-1", 0)));
    assert_eq!(step(&tombstones, at(90)), TombstoneStep::Forget);
    tombstones.set_stored(tombstone("u-1", 0), "s-1".to_owned());
    assert_eq!(step(&tombstones, at(1)), TombstoneStep::Nothing);
    assert_eq!(step(&tombstones, at(90)), TombstoneStep::Nothing);
}

#[test]
fn tombstones_of_the_same_user_from_two_replicas_are_merged() {
    let own = Tombstone {
        username: "alice".to_owned(),
        groups: vec!["web".to_owned()],
        is_admin: true,
        labels: StoredLabels::All([("floor".to_owned(), "3".to_owned())].into()),
        ..tombstone("u-1", 1)
    };
    let stored = tombstone("u-1", 0);
    let mut tombstones = Tombstones::default();
    tombstones.note_deletion(own.clone());
    tombstones.set_stored(stored.clone(), "s-1".to_owned());
    let TombstoneStep::Store(merged) = tombstones.next_step("alice", None, at(1)) else { panic!("{tombstones:?}") };
    assert_eq!((merged.groups.as_slice(), merged.is_admin), (&["sre".to_owned(), "web".to_owned()][..], true));
    let labels = [("floor", "3"), ("team", "a")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(merged.labels, StoredLabels::All(labels.into()));
    assert_eq!(merged.usernames().collect::<Vec<_>>(), ["alice", "Alice.Smith"]);
    assert_eq!(merged.deleted, stored.deleted, "a merge keeps the stored time, to save a write per replica");
    assert_eq!(merged.replacement_for(&stored), Some(merged.clone()));
    tombstones.set_stored(merged.clone(), "s-1".to_owned());
    assert_eq!(tombstones.next_step("alice", None, at(1)), TombstoneStep::Wait(at(90)));
    // The other replica stores nothing more, regardless of the order in which it sees the two.
    let mut others = Tombstones::default();
    others.note_deletion(stored.clone());
    others.set_stored(merged.clone(), "s-1".to_owned());
    assert_eq!(
        (others.next_step("alice", None, at(1)), own.replacement_for(&merged)),
        (TombstoneStep::Wait(at(90)), None)
    );
    assert_eq!(uids(others.known_as("alice.smith")), ["u-1"]);
    // Once the Secret is deleted, the name and all usernames are free.
    others.remove_stored("alice", Some("s-1"));
    assert_eq!(others.known_as("alice").chain(others.known_as("alice.smith")).count(), 0);
    assert!(others.known_as.is_empty());
    let differs = Tombstone { labels: StoredLabels::All([("team".to_owned(), "b".to_owned())].into()), ..own };
    assert_eq!(
        differs.replacement_for(&stored).unwrap().labels,
        StoredLabels::TooLarge,
        "either value may be the right one"
    );
}

#[test]
fn the_later_of_two_users_counts_despite_clock_skew() {
    let created = |uid, created, deleted| Tombstone { created: Some(at(created)), ..tombstone(uid, deleted) };
    let (first, second) = (created("u-1", 0, 9), created("u-2", 1, 5));
    assert_eq!(second.replacement_for(&first), Some(second.clone()));
    assert_eq!(first.replacement_for(&second), None);
    let mut tombstones = Tombstones::default();
    tombstones.set_stored(first, "s-1".to_owned());
    tombstones.note_deletion(second.clone());
    assert_eq!(tombstones.next_step("alice", None, at(6)), TombstoneStep::Store(second));
    // Without a creation time, as stored by earlier versions, the deletion time decides.
    assert_eq!(tombstone("u-1", 3).replacement_for(&tombstone("u-2", 4)), None);
}

#[test]
fn a_username_of_too_many_deleted_users_is_exhausted() {
    let mut tombstones = Tombstones::default();
    for i in 0..=MAX_TOMBSTONES_PER_USERNAME {
        assert!(!tombstones.is_username_exhausted("ALICE.smith", "bob"), "{i}");
        tombstones.note_deletion(Tombstone { user: format!("u{i}"), ..tombstone(&format!("u-{i}"), 0) });
    }
    assert!(tombstones.is_username_exhausted("ALICE.smith", "bob"));
    assert!(!tombstones.is_username_exhausted("alice.smith", "u7"), "a deleted User itself may be restored");
    assert!(!tombstones.is_username_exhausted("u7", "bob"));
}

#[test]
fn the_uid_of_a_deleted_user_is_known_while_a_tombstone_has_it() {
    let mut tombstones = Tombstones::default();
    tombstones.note_deletion(tombstone("u-1", 0));
    tombstones.set_stored(tombstone("u-2", 1), "s-1".to_owned());
    for (uid, expected) in [("u-1", true), ("u-2", true), ("u", false), ("u-3", false), ("", false)] {
        assert_eq!(tombstones.has_uid(uid), expected, "{uid}");
    }
    tombstones.note_user_exists("alice");
    assert_eq!((tombstones.has_uid("u-1"), tombstones.has_uid("u-2")), (false, true), "it is stored");
    tombstones.remove_stored("alice", Some("s-1"));
    assert!(!tombstones.has_uid("u-2") && tombstones.uids.is_empty());
}
