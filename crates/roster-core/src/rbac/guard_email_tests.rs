//! Applications identify people by email, so the emails of other Users are protected like their names.

use super::*;
use crate::directory::tombstones::RETENTION;

fn mail(email: &str) -> UserSpec {
    UserSpec { email: Some(email.to_owned()), ..UserSpec::default() }
}

#[test]
fn i4_the_emails_of_a_deleted_user_are_protected_like_its_names() {
    let mut directory = directory();
    let emails = UserSpec { additional_emails: vec!["second@example.com".into()], ..mail("Alice@example.com") };
    let bound = user("bound", UserSpec { email: Some("bound@example.com".into()), ..UserSpec::default() });
    directory.set_binding(&binding("bound-edit", SubjectKind::User, "bound"), NOW);
    directory.set_user(&user("alice", UserSpec { groups: vec!["power".into()], ..emails }), NOW);
    directory.set_user(&bound, NOW);
    directory.set_user(&user("plain", mail("plain@example.com")), NOW);
    for name in ["alice", "bound", "plain"] {
        directory.remove_user(name, NOW);
    }
    let plain = user("mallory", UserSpec::default());
    for email in ["alice@example.com", "ALICE@example.com", "second@example.com", "bound@example.com"] {
        let more = UserSpec { additional_emails: vec![email.to_owned()], ..UserSpec::default() };
        let username = UserSpec { username: Some(email.to_owned()), ..UserSpec::default() };
        for taker in [mail(email), more, username] {
            let taker = user("mallory", taker);
            assert_eq!(required(&GuardedChange::User(None, Some(&taker)), &directory), [EDIT], "create {taker:?}");
            assert_eq!(
                required(&GuardedChange::User(Some(&plain), Some(&taker)), &directory),
                [EDIT],
                "update {taker:?}"
            );
            let described = User { spec: UserSpec { zone: Some("eu".into()), ..taker.spec.clone() }, ..taker.clone() };
            assert!(
                required(&GuardedChange::User(Some(&taker), Some(&described)), &directory).is_empty(),
                "the email is unchanged"
            );
        }
    }
    let free = user("mallory", mail("plain@example.com"));
    assert!(required(&GuardedChange::User(None, Some(&free)), &directory).is_empty(), "that User held nothing");
    directory.advance(NOW + RETENTION);
    let late = user("mallory", mail("alice@example.com"));
    assert!(required(&GuardedChange::User(None, Some(&late)), &directory).is_empty(), "after the retention");
}

/// A User that waits for an email gets it when its holder is deleted.
#[test]
fn i4_claiming_another_users_email_requires_control_of_that_user() {
    let mut directory = directory();
    directory.set_user(&user("boss", UserSpec { groups: vec!["power".into()], ..mail("boss@example.com") }), NOW);
    directory.set_user(&user("peer", mail("peer@example.com")), NOW);
    let (plain, waits) = (user("me", UserSpec::default()), user("me", mail("BOSS@example.com")));
    assert_eq!(required(&GuardedChange::User(None, Some(&waits)), &directory), [EDIT]);
    assert_eq!(required(&GuardedChange::User(Some(&plain), Some(&waits)), &directory), [EDIT]);
    assert!(required(&GuardedChange::User(None, Some(&user("me", mail("peer@example.com")))), &directory).is_empty());
    let policy = Policy::default();
    let change = GuardedChange::User(None, Some(&waits));
    let reasons = requirements(&change, &change.ownership(), &directory, &policy);
    assert!(reasons.values().all(|reason| !reason.identity.is_named), "the request does not name the boss");
}
