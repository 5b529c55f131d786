//! Conflicts with other Users and with quotas.

use super::*;
use crate::directory::tombstones::MAX_TOMBSTONES_PER_USERNAME;
use crate::rbac::conflict::{Conflict, of_namespace, of_rename, of_user};
use crate::rbac::requirement::Denial;

#[test]
fn users_with_a_quota_cannot_create_namespaces_outside_any_quota() {
    use roster_api::QuotaSpec;
    use roster_api::common::Quantity;
    let mut directory = directory();
    let quota = |names: &[&str]| {
        let hard = names.iter().map(|name| ((*name).to_owned(), Quantity::Text("2".into()))).collect();
        Some(QuotaSpec { hard })
    };
    directory.set_user(&user("free", UserSpec { quota: quota(&[]), ..UserSpec::default() }), NOW);
    directory.set_user(&in_group("boss", "power"), NOW);
    directory.set_user(&user("own", UserSpec { quota: quota(&["namespaces"]), ..UserSpec::default() }), NOW);
    directory.set_user(&in_group("grouped", "inner"), NOW);
    directory.set_group(&group("inner", GroupSpec { accept_declared_members: true, ..GroupSpec::default() }), NOW);
    let member_groups = vec!["inner".to_owned()];
    directory
        .set_group(&group("outer", GroupSpec { member_groups, quota: quota(&["pods"]), ..GroupSpec::default() }), NOW);
    let refusal = |labels: &Labels, by| {
        of_namespace(labels, by, &directory, &Policy::default()).map(|conflict| conflict.to_string())
    };
    for by in ["own", "grouped"] {
        let message =
            refusal(&Labels::new(), Some(by)).expect("a Namespace without an owner would count towards no quota");
        assert!(message.starts_with("metadata.labels[roster.dev/owner]: is required"), "{message}");
        assert!(message.ends_with(&format!("set it to {by}")), "{message}");
        for escape in ["", "nobody", "free"] {
            assert!(refusal(&owned_by(escape), Some(by)).is_some(), "{by} for {escape:?}");
        }
        for counted in [by, "own", "grouped", "boss"] {
            assert_eq!(refusal(&owned_by(counted), Some(by)), None, "{by} for {counted}");
        }
    }
    for by in [None, Some("free"), Some("boss"), Some("nobody")] {
        assert_eq!(refusal(&Labels::new(), by), None, "{by:?}");
    }
}

#[test]
fn i4_names_equal_to_another_users_username_are_rejected() {
    let mut directory = directory();
    let spec = |username: &str| UserSpec { username: Some(username.into()), ..UserSpec::default() };
    directory.set_user(&user("alice", UserSpec { groups: vec!["power".into()], ..spec("a.smith") }), NOW);
    let conflict = |new: &User| of_user(None, new, &directory).map(|conflict| conflict.to_string());
    let by_name = conflict(&user("a.smith", spec("bob"))).unwrap();
    assert!(by_name.starts_with("metadata.name: a.smith is the username of User alice"), "{by_name}");
    let by_username = conflict(&user("bob", spec("Alice"))).unwrap();
    assert!(by_username.starts_with("spec.username: Alice is the name (metadata.name) of User alice"), "{by_username}");
    assert_eq!(conflict(&user("carol", spec("Carol"))), None);
    let renamed = GuardedChange::User(Some(&user("bob", spec("bob"))), Some(&user("bob", spec("alice"))));
    let required = required(&renamed, &directory);
    assert_eq!(required, [EDIT]);
}

#[test]
fn a_username_that_another_user_holds_or_wants_is_taken() {
    let mut directory = directory();
    let spec = |username: &str| UserSpec { username: Some(username.into()), ..UserSpec::default() };
    let (holder, waiting) = (user("holder", spec("Alice")), user("waiting", spec("alice")));
    directory.set_user(&claimed(holder.clone(), "Claimed"), NOW);
    let taken = |conflict: Option<Conflict>| conflict.is_some_and(|found| found.to_string().contains("User holder"));
    assert!(taken(of_user(None, &user("new", spec("ALICE")), &directory)));
    assert_eq!(of_user(Some(&waiting), &waiting, &directory), None, "it keeps waiting");
    let conflict = of_rename(&user("new", spec("new")), &user("new", spec("ALICE")), &directory).unwrap();
    assert_eq!(conflict.to_string(), "spec.username: ALICE already exists: User holder holds or is waiting for it");
    assert_eq!(
        of_rename(&holder, &user("holder", spec("ALICE")), &directory),
        None,
        "only the case of its own username changes"
    );
}

/// Callers that may create Users but not list them learn only that a name exists.
#[test]
fn i4_conflicts_without_details_name_no_other_user() {
    let [username, other, name] = ["x", "kim", "y"].map(str::to_owned);
    for conflict in [
        Conflict::Taken { username: username.clone(), other: other.clone() },
        Conflict::RenameTaken { username, other: other.clone() },
        Conflict::NameIsUsername { name, other },
    ] {
        let (full, short) = (conflict.to_string(), conflict.without_details());
        assert!(full.contains("kim") && !short.contains("kim"), "{full}: {short}");
        let field = full.split(' ').next().unwrap();
        assert!(short.starts_with(field), "{short}");
    }
}

#[test]
fn an_email_of_many_deleted_users_cannot_be_taken() {
    let mut directory = directory();
    let spec = |email: &str| UserSpec { email: Some(email.into()), ..UserSpec::default() };
    for i in 0..=MAX_TOMBSTONES_PER_USERNAME {
        let name = format!("u{i}");
        directory.set_user(&user(&name, UserSpec { groups: vec!["g".into()], ..spec("x@example.com") }), NOW);
        directory.remove_user(&name, NOW);
    }
    let (plain, taker) = (user("bob", UserSpec::default()), user("bob", spec("X@example.com")));
    for old in [None, Some(&plain)] {
        let conflict = of_user(old, &taker, &directory).unwrap().to_string();
        assert!(
            conflict.starts_with("spec.email: more than 32 deleted Users had the email x@example.com"),
            "{conflict}"
        );
    }
    assert_eq!(of_user(Some(&taker), &taker, &directory), None, "it already has the email");
    let more = UserSpec { additional_emails: vec!["x@example.com".into()], ..UserSpec::default() };
    let conflict = of_user(Some(&plain), &user("bob", more), &directory).unwrap().to_string();
    assert!(conflict.starts_with("spec.additionalEmails: "), "{conflict}");
}
