use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::PartialObjectMetaExt;
use proptest::prelude::*;
use roster_api::UserSpec;

use super::*;

fn user(name: &str, uid: &str, source: Option<&str>) -> User {
    let reference = source.map(|name| PasswordSecretRef { namespace: "team-a".into(), name: name.into() });
    let mut user = User::new(name, UserSpec { password_secret_ref: reference, ..UserSpec::default() });
    user.metadata.uid = Some(uid.to_owned());
    user
}

fn claim(name: &str, uid: &str, version: u64, owner: &str, owner_uid: &str) -> PartialObjectMeta<Secret> {
    let owner =
        OwnerReference { kind: "User".into(), name: owner.into(), uid: owner_uid.into(), ..OwnerReference::default() };
    ObjectMeta {
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        resource_version: Some(version.to_string()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
    .into_response_partial()
}

fn namespace(name: &str, owner: Option<&str>) -> PartialObjectMeta<Namespace> {
    let labels: BTreeMap<String, String> =
        owner.map(|owner| (OWNER_LABEL.to_owned(), owner.to_owned())).into_iter().collect();
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() }.into_response_partial()
}

fn source(name: &str, version: &str) -> PartialObjectMeta<Secret> {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("team-a".into()),
        uid: Some("s".into()),
        resource_version: Some(version.to_owned()),
        ..ObjectMeta::default()
    }
    .into_response_partial()
}

#[test]
fn a_released_claim_wakes_waiting_users_and_its_owner() {
    let mut index = Index::default();
    index.claim_event(Event::Apply(claim("login-x", "c-1", 5, "jane", "u-1")));
    index.wait_for("login-x", "john");
    index.wait_for("login-x", "jim");
    let mut concerned = index.claim_event(Event::Delete(claim("login-x", "c-1", 6, "jane", "u-1")));
    concerned.sort();
    assert_eq!(concerned, ["jane", "jim", "john"]);
    assert!(index.claim("login-x").is_none());
    assert_eq!(index.held_by("u-1").count(), 0);
}

#[test]
fn a_deleted_user_wakes_waiting_users_before_garbage_collection() {
    let mut index = Index::default();
    index.user_event(&Event::Apply(user("jane", "u-1", None)));
    index.claim_event(Event::Apply(claim("login-x", "c-1", 5, "jane", "u-1")));
    index.wait_for("login-x", "john");
    assert_eq!(index.user_event(&Event::Delete(user("jane", "u-1", None))), ["john"]);
    assert!(!index.is_alive("jane", "u-1"));
}

#[test]
fn a_recreated_user_is_a_different_user() {
    let mut index = Index::default();
    index.user_event(&Event::Apply(user("jane", "u-1", None)));
    index.claim_event(Event::Apply(claim("login-x", "c-1", 5, "jane", "u-1")));
    index.wait_for("login-x", "john");
    // The watch may deliver the new User without the deletion of the old one.
    assert_eq!(index.user_event(&Event::Apply(user("jane", "u-2", None))), ["john"]);
    assert!(!index.is_alive("jane", "u-1") && index.is_alive("jane", "u-2"));
}

#[test]
fn a_lagging_watch_does_not_undo_own_writes() {
    let mut index = Index::default();
    index.written_claim("login-x".into(), Claim::read(claim("login-x", "c-2", 9, "john", "u-2").meta()).unwrap());
    index.claim_event(Event::Apply(claim("login-x", "c-1", 5, "jane", "u-1")));
    assert_eq!(index.claim("login-x").unwrap().owner, "john");
    assert!(index.claim_event(Event::Delete(claim("login-x", "c-1", 7, "jane", "u-1"))).is_empty());
    assert_eq!(index.claim("login-x").unwrap().owner, "john");
    assert_eq!(index.held_by("u-2").collect::<Vec<_>>(), ["login-x"]);
}

#[test]
fn a_response_older_than_the_watch_restores_nothing() {
    let mut index = Index::default();
    index.claim_event(Event::Delete(claim("login-x", "c-1", 10, "jane", "u-1")));
    index.written_claim("login-x".into(), Claim::read(claim("login-x", "c-1", 9, "jane", "u-1").meta()).unwrap());
    assert!(index.claim("login-x").is_none());
}

#[test]
fn deleted_users_wait_for_nothing() {
    let mut index = Index::default();
    index.user_event(&Event::Apply(user("john", "u-2", None)));
    index.claim_event(Event::Apply(claim("login-x", "c-1", 5, "jane", "u-1")));
    index.wait_for("login-x", "john");
    index.user_event(&Event::Delete(user("john", "u-2", None)));
    assert!(index.waiting.is_empty() && index.waits_for.is_empty());
}

#[test]
fn a_password_secret_affects_users_that_refer_to_it() {
    let mut index = Index::default();
    index.user_event(&Event::Apply(user("jane", "u-1", Some("pw"))));
    assert_eq!(index.source_event(None, Event::Apply(source("pw", "1"))), ["jane"]);
    assert!(index.source_event(None, Event::Apply(source("other", "1"))).is_empty());
    index.user_event(&Event::Apply(user("jane", "u-1", Some("other"))));
    assert!(index.source_event(None, Event::Apply(source("pw", "2"))).is_empty());
    assert_eq!(index.source_event(None, Event::Delete(source("other", "3"))), ["jane"]);
    index.user_event(&Event::Delete(user("jane", "u-1", None)));
    assert!(index.readers.is_empty() && index.reads.is_empty());
}

#[test]
fn a_namespace_affects_its_old_and_new_owner() {
    let mut index = Index::default();
    assert_eq!(index.namespace_event(Event::Apply(namespace("a", Some("jane")))), ["jane"]);
    assert!(index.namespace_event(Event::Apply(namespace("a", Some("jane")))).is_empty(), "nothing has changed");
    let mut concerned = index.namespace_event(Event::Apply(namespace("a", Some("john"))));
    concerned.sort();
    assert_eq!(concerned, ["jane", "john"]);
    assert_eq!(index.namespaces_of("john").collect::<Vec<_>>(), ["a"]);
    assert_eq!(index.namespace_event(Event::Apply(namespace("a", None))), ["john"]);
    assert!(index.owned.is_empty() && index.owner_of.is_empty());
}

#[test]
fn a_relist_removes_what_was_deleted_while_the_watch_was_down() {
    let mut index = Index::default();
    index.user_event(&Event::Apply(user("jane", "u-1", Some("pw"))));
    index.claim_event(Event::Apply(claim("login-x", "c-1", 5, "jane", "u-1")));
    index.claim_event(Event::Apply(claim("login-y", "c-2", 5, "john", "u-2")));
    index.wait_for("login-y", "jane");
    index.claim_event(Event::Init);
    index.claim_event(Event::InitApply(claim("login-x", "c-1", 5, "jane", "u-1")));
    let mut concerned = index.claim_event(Event::InitDone);
    concerned.sort();
    assert_eq!(concerned, ["jane", "john"]);
    assert!(index.claim("login-y").is_none());

    index.user_event(&Event::Init);
    index.user_event(&Event::InitDone);
    assert!(!index.is_alive("jane", "u-1") && index.reads.is_empty());
}

proptest! {
    /// For any order of events, the index by owner agrees with the claims themselves.
    #[test]
    fn both_directions_of_the_claims_agree(events in prop::collection::vec((0..4_u8, 0..3_u8, 1..40_u64, 0..5_u8), 0..120)) {
        let mut index = Index::default();
        for (name, owner, version, kind) in events {
            let secret = claim(&format!("login-{name}"), &format!("c-{}", version / 8), version, &format!("user-{owner}"), &format!("u-{owner}"));
            index.claim_event(match kind {
                0 => Event::Init,
                1 => Event::InitDone,
                2 => Event::Delete(secret),
                3 => Event::InitApply(secret),
                _ => Event::Apply(secret),
            });
            let mut by_owner: Vec<(String, String)> = index
                .held
                .iter()
                .flat_map(|(uid, names)| names.iter().map(|name| (name.clone(), uid.clone())))
                .collect();
            by_owner.sort();
            let mut by_name: Vec<(String, String)> =
                index.claims.iter().map(|(name, claim)| (name.clone(), claim.owner_uid.clone())).collect();
            by_name.sort();
            prop_assert_eq!(by_owner, by_name);
            prop_assert!(index.held.values().all(|names| !names.is_empty()));
        }
    }
}

#[test]
fn a_relist_of_one_namespace_keeps_those_of_another() {
    let elsewhere = |name: &str| {
        let mut secret = source(name, "1");
        secret.metadata.namespace = Some("team-b".into());
        secret
    };
    let key = |namespace: &str, name: &str| PasswordSecretRef { namespace: namespace.into(), name: name.into() };
    let mut index = Index::default();
    for event in [Event::Init, Event::InitApply(elsewhere("pw")), Event::InitDone] {
        index.source_event(Some("team-b"), event);
    }
    // Two relists at the same time.
    index.source_event(Some("team-a"), Event::Init);
    index.source_event(Some("team-b"), Event::Init);
    index.source_event(Some("team-a"), Event::InitApply(source("pw", "1")));
    index.source_event(Some("team-a"), Event::InitDone);
    assert!(index.source(&key("team-a", "pw")).is_some());
    assert!(index.source(&key("team-b", "pw")).is_some(), "the relist of its own namespace is not complete");
    index.source_event(Some("team-b"), Event::InitDone);
    assert!(index.source(&key("team-a", "pw")).is_some());
    assert!(index.source(&key("team-b", "pw")).is_none());
}
