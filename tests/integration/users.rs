//! Lifecycle of a User: create, change, disable, expire, delete.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams};
use roster_api::user::{DeletionPolicy, DesiredState};
use roster_api::{OWNER_LABEL, State, Validity};
use serde_json::{Value, json};

use crate::support::{
    Cluster, condition, create, eventually, password_secret, shared, stored_hash, unique, user, user_where,
    wait_for_reason, wait_until_ready,
};

async fn merge(name: &str, patch: Value) {
    let users = shared().users().await;
    users.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_becomes_a_working_credential() {
    let (cluster, name) = (shared(), unique("working"));
    let manifest = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default, annotations: {{roster.dev/user: {name}}}}}\n\
         type: roster.dev/password\nstringData: {{password: correct horse}}\n---\n\
         apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {name}}}\n\
         spec: {{passwordSecretRef: {{namespace: default, name: {name}}}}}\n"
    );
    cluster.apply(&manifest);
    cluster.kubectl(&["wait", "--for=condition=Ready", &format!("users.roster.dev/{name}"), "--timeout=30s"]);
    let user = cluster.users().await.get(&name).await.unwrap();
    let hash = stored_hash(cluster, &user).await.expect("the credential is stored");
    let hash = roster_credentials::hash::PasswordHash::parse(&hash).unwrap();
    let mut memory = roster_credentials::hash::Memory::default();
    assert!(hash.verify("correct horse", &mut memory) && !hash.verify("wrong horse", &mut memory));
    assert_eq!(user.status.as_ref().unwrap().state, Some(State::Active));
    assert!(user.status.unwrap().password_changed_time.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_content_is_a_password_change_and_the_same_again_is_not() {
    let (cluster, name) = (shared(), unique("change"));
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    create(&secrets, &password_secret(&name, "password", "first")).await;
    create(&users, &user(&name, true)).await;
    let before = wait_until_ready(&users, &name).await;
    let first = stored_hash(cluster, &before).await;

    // The same password, and an unrelated label.
    let same = json!({"metadata": {"labels": {"x": "y"}}, "stringData": {"password": "first"}});
    secrets.patch(&name, &PatchParams::default(), &Patch::Merge(same)).await.unwrap();
    let other = json!({"stringData": {"password": "second"}});
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(stored_hash(cluster, &before).await, first, "nothing has changed");
    assert_eq!(users.get(&name).await.unwrap().resource_version(), before.resource_version());

    secrets.patch(&name, &PatchParams::default(), &Patch::Merge(other)).await.unwrap();
    let changed = before.status.as_ref().unwrap().password_changed_time.clone();
    let after = user_where(&users, &name, "the password changes", |user| {
        user.status.as_ref().unwrap().password_changed_time != changed
    })
    .await;
    assert_ne!(stored_hash(cluster, &after).await, first);
    let events = cluster.kubectl(&["get", "events", "--field-selector", &format!("involvedObject.name={name}")]);
    assert!(events.contains("PasswordChanged"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_follows_the_spec() {
    let (users, name) = (shared().users().await, unique("state"));
    create(&users, &user(&name, false)).await;
    wait_until_ready(&users, &name).await;
    for (desired, observed) in [("Disabled", State::Disabled), ("Banned", State::Banned), ("Active", State::Active)] {
        merge(&name, json!({"spec": {"state": desired}})).await;
        let user =
            user_where(&users, &name, desired, |user| user.status.as_ref().unwrap().state == Some(observed)).await;
        assert_eq!(condition(&user, "Ready").unwrap().status, "True", "a disabled user is as declared");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn validity_changes_the_state_at_its_edges_without_a_write() {
    let (users, name) = (shared().users().await, unique("validity"));
    let second = Timestamp::now().as_second();
    let at = |offset| Timestamp::from_second(second + offset).unwrap();
    let mut temporary = user(&name, false);
    temporary.spec.validity = Some(Validity { not_before: Some(Time(at(4))), not_after: Some(Time(at(7))) });
    create(&users, &temporary).await;
    let mut seen = Vec::new();
    for state in [State::Pending, State::Active, State::Expired] {
        let user = user_where(&users, &name, &state.to_string(), |user| {
            user.status.as_ref().is_some_and(|status| status.state == Some(state))
        })
        .await;
        seen.push((Timestamp::now(), user));
    }
    // Never too early. How late depends on the machine; no resync happens within the test's duration.
    assert!(seen[1].0 >= at(4) && seen[2].0 >= at(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_waits_for_owned_namespaces_with_the_policy_block() {
    let (cluster, name) = (shared(), unique("owner"));
    let (users, namespaces): (_, Api<Namespace>) = (cluster.users().await, Api::all(cluster.client().await));
    create(&users, &user(&name, false)).await;
    let owned = Namespace {
        metadata: ObjectMeta {
            name: Some(format!("{name}-space")),
            labels: Some([(OWNER_LABEL.to_owned(), name.clone())].into()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    create(&namespaces, &owned).await;
    user_where(&users, &name, "the finalizer is set", |user| !user.finalizers().is_empty()).await;
    users.delete(&name, &DeleteParams::default()).await.unwrap();
    let blocked = wait_for_reason(&users, &name, "DeletionBlocked", "NamespacesOwned").await;
    assert!(condition(&blocked, "DeletionBlocked").unwrap().message.contains(&format!("{name}-space")));
    assert_eq!(blocked.status.unwrap().state, Some(State::Disabled), "no login while it waits");

    let unowned = json!({"metadata": {"labels": {OWNER_LABEL: null}}});
    namespaces.patch(&format!("{name}-space"), &PatchParams::default(), &Patch::Merge(unowned)).await.unwrap();
    eventually("the user is gone", || async {
        match users.get_opt(&name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_does_not_wait_with_the_policy_orphan() {
    let (cluster, name) = (shared(), unique("orphan"));
    let (users, namespaces): (_, Api<Namespace>) = (cluster.users().await, Api::all(cluster.client().await));
    let mut careless = user(&name, false);
    careless.spec.deletion_policy = DeletionPolicy::Orphan;
    careless.spec.state = DesiredState::Active;
    create(&users, &careless).await;
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(format!("{name}-space"));
    namespace.metadata.labels = Some([(OWNER_LABEL.to_owned(), name.clone())].into());
    create(&namespaces, &namespace).await;
    let user = wait_until_ready(&users, &name).await;
    assert!(user.finalizers().is_empty());
    users.delete(&name, &DeleteParams::default()).await.unwrap();
    eventually("the user is gone", || async {
        users.get_opt(&name).await.map_err(|e| e.to_string())?.map_or(Ok(()), |_| Err("there".into()))
    })
    .await;
    assert!(namespaces.get_opt(&format!("{name}-space")).await.unwrap().is_some(), "namespaces that it owned are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_a_recreated_name_inherits_nothing() {
    let (cluster, name) = (shared(), unique("i9"));
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    create(&secrets, &password_secret(&name, "password", "the first one's")).await;
    create(&users, &user(&name, true)).await;
    let first = wait_until_ready(&users, &name).await;
    assert!(stored_hash(cluster, &first).await.is_some());

    // Deleted and recreated before the garbage collector runs. The new User refers to no password.
    users.delete(&name, &DeleteParams::default()).await.unwrap();
    create(&users, &user(&name, false)).await;
    let second = wait_for_reason(&users, &name, "CredentialReady", "NoPassword").await;
    assert_ne!(second.uid(), first.uid());
    assert_eq!(stored_hash(cluster, &second).await, None);
    assert_eq!(second.status.unwrap().password_changed_time, None);

    // The garbage collector does not delete what the new User holds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let identities = cluster.secrets("roster-system").await;
    let held = identities.list(&kube::api::ListParams::default()).await.unwrap();
    let owners: Vec<String> =
        held.iter().flat_map(|secret| secret.owner_references().to_vec()).map(|owner| owner.uid).collect();
    assert!(owners.contains(&second.metadata.uid.unwrap()) && !owners.contains(&first.metadata.uid.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_does_not_parse_does_not_block_others() {
    let cluster = Cluster::create("unreadable", &[]);
    // As after a downgrade: the API server accepts a value that this version does not know.
    let enumeration = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/state/enum";
    let patch = format!(r#"[{{"op": "remove", "path": "{enumeration}"}}]"#);
    cluster.kubectl(&["patch", "crd", "users.roster.dev", "--type=json", "-p", &patch]);
    let strange =
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: strange}, spec: {state: Asleep}}\n";
    eventually("the rule is gone", || async {
        cluster.plane.kubectl.apply(strange).map_err(|error| error.to_string())
    })
    .await;
    cluster.start_operator(&[]);
    let users = cluster.users().await;
    cluster.apply("---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: jane}, spec: {}}\n");
    cluster.kubectl(&["wait", "--for=condition=Ready", "users.roster.dev/jane", "--timeout=60s"]);
    let metrics = cluster.operators()[0].probe("/metrics").unwrap();
    assert!(metrics.contains("roster_objects_unreadable_total 1"), "{metrics}");
    // Once corrected, the User works normally.
    users.patch("strange", &PatchParams::default(), &Patch::Merge(json!({"spec": {"state": "Active"}}))).await.unwrap();
    wait_until_ready(&users, "strange").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_deleted_without_its_secrets_blocks_nobody_and_leaves_no_hash() {
    let cluster = Cluster::create("cascade", &[]);
    cluster.start_operator(&[]);
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    for name in ["jane", "john"] {
        create(&secrets, &password_secret(name, "password", "the first one's")).await;
        create(&users, &user(name, true)).await;
        wait_until_ready(&users, name).await;
        cluster.kubectl(&["delete", "users.roster.dev", name, "--cascade=orphan"]);
    }
    create(&users, &user("jane", false)).await;
    let second = wait_for_reason(&users, "jane", "CredentialReady", "NoPassword").await;
    assert_eq!(stored_hash(&cluster, &second).await, None);

    // John's hash is orphaned: the next leader removes it.
    let operator = cluster.operators().remove(0);
    operator.stop().unwrap();
    cluster.start_operator(&[]);
    let gone = user("john", false);
    eventually("John's hash is gone", || async { stored_hash(&cluster, &gone).await.map_or(Ok(()), Err) }).await;
}
