//! I5: a username and an email belong to at most one user, under concurrent creates, leader changes, and after the
//! holder is deleted.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use roster_api::{State, User};

use crate::support::{
    Cluster, FAST_LEASE, condition, create, eventually, unique, user, wait_for_reason, wait_until_ready,
};

const CLAIMANTS: usize = 1000;

/// Creates users that all claim `email`, 64 at a time. Calls `halfway` once half of them exist.
async fn create_claimants(users: &Api<User>, prefix: &str, email: &str, halfway: impl FnOnce()) {
    let some = |range: std::ops::Range<usize>| {
        stream::iter(range)
            .map(|i| {
                let mut claimant = user(&format!("{prefix}-{i}"), false);
                // Case does not matter.
                let email = if i % 2 == 0 { email.to_owned() } else { email.to_uppercase() };
                claimant.spec.email = Some(email);
                async move { users.create(&PostParams::default(), &claimant).await.map(drop) }
            })
            .buffer_unordered(64)
            .try_collect::<()>()
    };
    some(0..CLAIMANTS / 2).await.expect("creates succeed");
    halfway();
    some(CLAIMANTS / 2..CLAIMANTS).await.expect("creates succeed");
}

/// Waits until every claimant has a condition, and returns the holder of the email.
async fn holder(users: &Api<User>, prefix: &str, claimants: usize) -> String {
    eventually("every claimant reports the result, and one of them holds it", || async {
        let all = users.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let mine: Vec<&User> =
            all.items.iter().filter(|user| user.name_any().starts_with(&format!("{prefix}-"))).collect();
        let reason = |user: &&User| condition(user, "NameClaimed").map(|condition| condition.reason.clone());
        let holders: Vec<String> =
            mine.iter().filter(|user| reason(user).as_deref() == Some("Claimed")).map(|user| user.name_any()).collect();
        let losers = mine.iter().filter(|user| reason(user).as_deref() == Some("EmailConflict")).count();
        assert!(holders.len() <= 1, "two hold one email: {holders:?}");
        match &holders[..] {
            [holder] if losers == claimants - 1 => Ok(holder.clone()),
            _ => Err(format!("{} hold it, {losers} of {claimants} do not", holders.len())),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_one_email_has_one_holder_through_races_failover_and_deletion() {
    let cluster = Cluster::create("i5", &[]);
    cluster.start_operator(FAST_LEASE);
    cluster.start_operator(FAST_LEASE);
    let users = cluster.users().await;

    create_claimants(&users, "race", "race@example.com", || {}).await;
    let first = holder(&users, "race", CLAIMANTS).await;

    // The others keep their spec. Their condition says where to look, but does not name the holder.
    let all = users.list(&ListParams::default()).await.unwrap();
    let loser = all.items.iter().find(|user| user.name_any() != first).unwrap();
    let told = condition(loser, "NameClaimed").unwrap();
    assert!(
        told.message.contains("already exists: another User holds it") && !told.message.contains(&first),
        "{}",
        told.message
    );
    assert_eq!(
        loser.status.as_ref().unwrap().state,
        Some(State::Active),
        "the username is held, and is enough to log in"
    );

    // Again, and the leader is killed halfway.
    create_claimants(&users, "failover", "failover@example.com", || cluster.operators().remove(0).kill()).await;
    holder(&users, "failover", CLAIMANTS).await;
    assert_eq!(holder(&users, "race", CLAIMANTS).await, first, "no holder was displaced");

    users.delete(&first, &DeleteParams::default()).await.unwrap();
    let second = holder(&users, "race", CLAIMANTS - 1).await;
    assert_ne!(second, first);

    // The claims agree: one Secret per identifier, each owned by an existing User.
    let uids: BTreeSet<String> =
        users.list(&ListParams::default()).await.unwrap().items.iter().filter_map(ResourceExt::uid).collect();
    let identities = cluster
        .secrets("roster-system")
        .await
        .list(&ListParams::default().labels("roster.dev/identifier=email"))
        .await
        .unwrap();
    assert_eq!(identities.items.len(), 2);
    assert!(identities.items.iter().flat_map(ResourceExt::owner_references).all(|owner| uids.contains(&owner.uid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_usernames_and_emails_share_one_space() {
    let cluster = crate::support::shared();
    let (users, name) = (cluster.users().await, unique("space"));
    let mut first = user(&name, false);
    first.spec.email = Some(format!("{name}@example.com"));
    create(&users, &first).await;
    wait_until_ready(&users, &name).await;

    let impostor = format!("{name}-impostor");
    let mut second = user(&impostor, false);
    second.spec.username = Some(format!("{}@EXAMPLE.com", name.to_uppercase()));
    create(&users, &second).await;
    let second = wait_for_reason(&users, &impostor, "Ready", "UsernameConflict").await;
    assert_eq!(second.status.unwrap().state, Some(State::Pending), "a User without its username can't log in");

    // A released email is free for the next claimant.
    let released = serde_json::json!({"spec": {"email": null}});
    users.patch(&name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(released)).await.unwrap();
    wait_until_ready(&users, &impostor).await;
}
