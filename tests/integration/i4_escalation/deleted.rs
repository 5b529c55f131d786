//! The name of a deleted User is protected from requesters that could not control what the User declared.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use roster_core::directory::tombstones::{RETENTION, StoredLabels, Tombstone};
use roster_harness::Operator;

use super::{FIXTURES, guarded_cluster, wait_until_processed};
use crate::support::{Cluster, FAST_LEASE, create, eventually, unique, wait_for_text};

fn manifest(name: &str, rest: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {name}{rest}}}, spec: {{{spec}}}}}\n"
    )
}

fn create_as(cluster: &Cluster, who: &str, manifest: &str) -> Result<String, String> {
    let created = cluster.plane.kubectl.run_with_input(&["create", "--as", who, "-f", "-"], manifest);
    created.map_err(|error| format!("{error:#}"))
}

fn delete(cluster: &Cluster, name: &str) {
    cluster.kubectl(&["delete", "users.roster.dev", name]);
}

async fn wait_until_stored(secrets: &Api<Secret>, user: &str, is_stored: bool) {
    eventually(&format!("the tombstone of {user} is stored: {is_stored}"), || async {
        let found = secrets.get_opt(&Tombstone::secret_name(user)).await.map_err(|error| error.to_string())?;
        if found.is_some() == is_stored { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_taking_a_deleted_users_name_requires_control_of_it() {
    let (cluster, n) = (guarded_cluster(), unique("i4-deleted"));
    let secrets = cluster.secrets("roster-system").await;
    let boss = manifest(&format!("{n}-boss"), "", &format!("groups: [{n}-power]"));
    let smith = format!("username: {n}-smith, groups: [{n}-power, {n}-waiting]");
    let gone = [
        (manifest(&format!("{n}-boss"), "", ""), "edit in namespace"),
        (manifest(&format!("{n}-label"), "", ""), "edit in namespace"),
        (manifest(&format!("{n}-root"), "", ""), "admin in the whole cluster"),
        (manifest(&format!("{n}-alice"), "", ""), "edit in namespace"),
        (manifest(&format!("{n}-other"), "", &format!("username: {n}-smith")), "edit in namespace"),
    ];
    cluster.apply(&FIXTURES.replace("{n}", &n));
    cluster.apply(&manifest(&format!("{n}-label"), &format!(", labels: {{power: {n}}}"), ""));
    cluster.apply(&manifest(&format!("{n}-root"), "", "admin: true"));
    cluster.apply(&manifest(&format!("{n}-alice"), "", &smith));
    wait_until_processed(cluster, &n).await;
    for user in ["boss", "label", "root", "alice"] {
        delete(cluster, &format!("{n}-{user}"));
    }
    // Immediately, and after the tombstone is stored.
    for round in 0..2 {
        for (manifest, role) in &gone {
            let refused = create_as(cluster, "mallory", manifest).unwrap_err();
            assert!(refused.contains("the guard: User ") && refused.contains(role), "{round} {manifest}: {refused}");
            assert!(refused.contains("mallory may not bind it: this requires the verb bind on"), "{refused}");
        }
        for user in ["boss", "label", "root", "alice"] {
            wait_until_stored(&secrets, &format!("{n}-{user}"), true).await;
        }
    }
    let refused = create_as(cluster, "mallory", &gone[0].0).unwrap_err();
    for part in [
        format!("User {n}-boss (deleted on 2"),
        "its name is protected until 2".to_owned(),
        format!("(by Group {n}-power, "),
    ] {
        assert!(refused.contains(&part), "{part}: {refused}");
    }
    // A password for when the User is recreated.
    let password = format!(
        "---\n{{apiVersion: v1, kind: Secret, metadata: {{name: mine, namespace: {n}, annotations: {{roster.dev/user: {n}-boss}}}}, type: roster.dev/password, stringData: {{password: battery staple}}}}\n"
    );
    let refused = create_as(cluster, "mallory", &password).unwrap_err();
    assert!(refused.contains("deleted on"), "{refused}");
    let tombstone = Tombstone::secret_name(&format!("{n}-boss"));
    let remove = ["delete", "secret", &tombstone, "-n", "roster-system", "--as", "mallory"];
    let refused = cluster.plane.kubectl.run(&remove).unwrap_err().to_string();
    assert!(refused.contains("mallory may not delete them"), "{refused}");
    let squat = format!(
        "---\n{{apiVersion: v1, kind: Secret, metadata: {{name: deleted-user-{n}, namespace: roster-system}}}}\n"
    );
    let refused = create_as(cluster, "mallory", &squat).unwrap_err();
    assert!(refused.contains("mallory may not create them"), "{refused}");

    // Requesters that may bind the roles may, and so may administrators. That ends the tombstone.
    create_as(cluster, "alice", &gone[0].0).unwrap();
    wait_until_stored(&secrets, &format!("{n}-boss"), false).await;
    cluster.apply(&boss);
    let groups = "{.status.groups[*]}";
    wait_for_text(cluster, &["users.roster.dev", &format!("{n}-boss")], groups, &format!("{n}-power")).await;
    cluster.apply(&manifest(&format!("{n}-alice"), "", &smith));
    wait_for_text(cluster, &["users.roster.dev", &format!("{n}-alice")], groups, &format!("{n}-power")).await;
    wait_until_stored(&secrets, &format!("{n}-alice"), false).await;
    // Users without declarations leave no tombstone.
    delete(cluster, &format!("{n}-me"));
    create_as(cluster, "mallory", &manifest(&format!("{n}-me"), "", "")).unwrap();
    assert!(secrets.get_opt(&Tombstone::secret_name(&format!("{n}-me"))).await.unwrap().is_none());
}

/// Applications identify people by email.
#[tokio::test(flavor = "multi_thread")]
async fn i4_taking_a_deleted_users_email_requires_control_of_it() {
    let (cluster, n) = (guarded_cluster(), unique("i4-email"));
    let secrets = cluster.secrets("roster-system").await;
    cluster.apply(&FIXTURES.replace("{n}", &n));
    // A member by the Group's list: the User itself declares nothing but the email.
    let (name, email) = (format!("{n}-bound"), format!("email: {n}@example.com"));
    cluster.apply(&manifest(&name, "", &email));
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {n}-b}}, spec: {{subjects: [{{kind: User, name: {name}}}], roleRef: {{kind: ClusterRole, name: edit}}, scope: {{namespaces: [{n}]}}}}}}\n"
    ));
    wait_until_processed(cluster, &n).await;
    let taker = manifest(&format!("{n}-taker"), "", &format!("email: {}@example.com", n.to_uppercase()));
    let waits = create_as(cluster, "mallory", &taker).unwrap_err();
    assert!(waits.contains(&format!("the guard: User {name} holds or would hold ClusterRole edit")), "{waits}");
    delete(cluster, &name);
    // At once, and again when the tombstone is stored.
    for round in 0..2 {
        let refused = create_as(cluster, "mallory", &taker).unwrap_err();
        assert!(refused.contains(&format!("the guard: User {name} (deleted on 2")), "{round}: {refused}");
        wait_until_stored(&secrets, &name, true).await;
    }
    let patch = format!("{{\"spec\": {{\"email\": \"{n}@example.com\"}}}}");
    let args = ["patch", "users.roster.dev", &format!("{n}-me"), "--as", "mallory", "--type=merge", "-p", &patch];
    let refused = format!("{:#}", cluster.plane.kubectl.run(&args).unwrap_err());
    assert!(refused.contains("deleted on 2"), "{refused}");
    create_as(cluster, "alice", &taker).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_a_name_stays_protected_when_the_group_that_selected_it_is_deleted_first() {
    let (cluster, n) = (guarded_cluster(), unique("i4-bundle"));
    let secrets = cluster.secrets("roster-system").await;
    let user = manifest(&format!("{n}-label"), &format!(", labels: {{power: {n}}}"), "");
    let (taken, name) = (manifest(&format!("{n}-label"), "", ""), format!("{n}-label"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    cluster.apply(&user);
    wait_until_processed(cluster, &n).await;
    cluster.kubectl(&["delete", "groups.roster.dev", &format!("{n}-power")]);
    delete(cluster, &name);
    wait_until_stored(&secrets, &name, true).await;
    let refused = create_as(cluster, "mallory", &taken).unwrap_err();
    assert!(refused.contains("edit in namespace") && refused.contains(&format!("by Group {n}-power, ")), "{refused}");
    // Nor as a username: the deleted User could not be recreated.
    let other = manifest(&format!("{n}-x"), "", &format!("username: {n}-label"));
    let refused = create_as(cluster, "mallory", &other).unwrap_err();
    assert!(refused.contains(&format!("the guard: User {n}-label (deleted on")), "{refused}");
    cluster.apply(&FIXTURES.replace("{n}", &n));
    cluster.apply(&user);
    wait_for_text(cluster, &["users.roster.dev", &name], "{.status.groups[*]}", &format!("{n}-power")).await;
    wait_until_stored(&secrets, &name, false).await;
}

/// A timer until then would exceed the maximum duration.
#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_from_the_future_does_not_end_the_leader() {
    let (cluster, n) = (guarded_cluster(), unique("i4-future"));
    let secrets = cluster.secrets("roster-system").await;
    let future = Tombstone {
        user: format!("{n}-late"),
        uid: n.clone(),
        username: format!("{n}-late"),
        other_usernames: BTreeSet::new(),
        emails: BTreeSet::new(),
        created: None,
        is_admin: true,
        groups: Vec::new(),
        labels: StoredLabels::default(),
        deleted: Timestamp::now() + SignedDuration::from_hours(24 * 365 * 5),
    };
    create(&secrets, &future.secret()).await;
    eventually("the name is protected", || async {
        let create = ["create", "--as", "mallory", "--dry-run=server", "-f", "-"];
        match cluster.plane.kubectl.run_with_input(&create, &manifest(&future.user, "", "")) {
            Err(refused) if format!("{refused:#}").contains("its name is protected until") => Ok(()),
            outcome => Err(format!("{outcome:?}")),
        }
    })
    .await;
    cluster.apply(&manifest(&future.user, "", ""));
    wait_until_stored(&secrets, &future.user, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_is_removed_when_it_expires() {
    let (cluster, n) = (guarded_cluster(), unique("i4-expired"));
    let secrets = cluster.secrets("roster-system").await;
    let deleted_ago = |name: &str, ago: SignedDuration| Tombstone {
        user: format!("{n}-{name}"),
        uid: n.clone(),
        username: format!("{n}-{name}"),
        other_usernames: BTreeSet::new(),
        emails: BTreeSet::new(),
        created: None,
        is_admin: true,
        groups: Vec::new(),
        labels: StoredLabels::default(),
        deleted: Timestamp::now() - ago,
    };
    let (old, young) = (deleted_ago("old", RETENTION), deleted_ago("young", RETENTION - SignedDuration::from_hours(1)));
    create(&secrets, &young.secret()).await;
    create(&secrets, &old.secret()).await;
    wait_until_stored(&secrets, &old.user, false).await;
    let refused = create_as(cluster, "mallory", &manifest(&young.user, "", "")).unwrap_err();
    assert!(refused.contains("its name is protected until"), "{refused}");
    create_as(cluster, "mallory", &manifest(&old.user, "", "")).unwrap();
}

/// Any replica that has observed the deletion can store it.
pub(super) async fn names_stay_protected_across_crashes(cluster: &Cluster) {
    let secrets = cluster.secrets("roster-system").await;
    for _ in 0..2 {
        cluster.start_operator(FAST_LEASE);
    }
    cluster.apply(&manifest("crash-gone", "", "groups: [down-0-power]"));
    wait_until_processed(cluster, "crash").await;
    delete(cluster, "crash-gone");
    cluster.operators().remove(0).kill();
    wait_until_stored(&secrets, "crash-gone", true).await;
    cluster.operators().drain(..).for_each(Operator::kill);
    cluster.start_operator(FAST_LEASE);
    eventually("the name is protected", || async {
        match create_as(cluster, "mallory", &manifest("crash-gone", "", "")) {
            Ok(printed) => panic!("mallory was allowed: {printed}"),
            Err(refused) if refused.contains("its name is protected until") => Ok(()),
            Err(error) => Err(error),
        }
    })
    .await;
    cluster.apply(&manifest("crash-gone", "", "groups: [down-0-power]"));
    wait_until_stored(&secrets, "crash-gone", false).await;
    a_follower_stores_what_no_leader_has_seen(cluster, &secrets).await;
}

/// The leader crashes, a follower observes the deletion, and the next leader is a replica that starts afterwards.
async fn a_follower_stores_what_no_leader_has_seen(cluster: &Cluster, secrets: &Api<Secret>) {
    // It tries to acquire the lease once, while another replica holds it.
    cluster.start_operator(&["--lease-duration", "3h", "--renew-deadline", "2h", "--retry-period", "1h"]);
    cluster.operators().remove(0).kill();
    delete(cluster, "crash-gone");
    cluster.start_operator(FAST_LEASE);
    wait_until_stored(secrets, "crash-gone", true).await;
    let refused = create_as(cluster, "mallory", &manifest("crash-gone", "", "")).unwrap_err();
    assert!(refused.contains("its name is protected until"), "{refused}");
    cluster.apply(&manifest("crash-gone", "", "groups: [down-0-power]"));
    wait_until_stored(secrets, "crash-gone", false).await;
}
