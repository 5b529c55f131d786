//! I3: disabling, banning, expiring or deleting a user ends its compiled bindings within a second; so does the end of
//! the binding itself. The tests assert that kube-apiserver denies access, and print how long that took.

use std::time::Instant;

use jiff::{Timestamp, ToSpan};

use serde_json::json;

use crate::directory::{BASE, Direct};
use crate::logins::body;
use crate::support::{Cluster, audit_position, can, operator_writes, rbac, unique, wait_for_text, wait_until_can};

const EVERYWHERE: &[&str] = &["create", "pods", "-A"];

fn manifest(name: &str, user: &str, binding: &str) -> String {
    format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {name}}}, spec: {{{user}}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {name}}}, spec: {{{binding}subjects: [{{kind: User, name: {name}}}], roleRef: {{kind: ClusterRole, name: edit}}, scope: {{cluster: {{}}}}}}}}\n"
    )
}

async fn bound(cluster: &Cluster, name: &str) {
    cluster.apply(&manifest(name, "", ""));
    wait_until_can(cluster, name, EVERYWHERE, true).await;
}

/// Makes the change and waits until access is denied.
async fn ends(cluster: &Cluster, name: &str, change: &[&str]) {
    cluster.kubectl(change);
    let started = Instant::now();
    wait_until_can(cluster, name, EVERYWHERE, false).await;
    println!("{}: denied after {:?}", change.join(" "), started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_every_way_to_end_a_user_ends_its_bindings() {
    let cluster = rbac();
    for change in [
        r#"{"spec": {"state": "Disabled"}}"#,
        r#"{"spec": {"state": "Banned"}}"#,
        r#"{"spec": {"validity": {"notAfter": "2020-01-01T00:00:00Z"}}}"#,
    ] {
        let jane = unique("i3");
        bound(cluster, &jane).await;
        ends(cluster, &jane, &["patch", "users.roster.dev", &jane, "--type=merge", "-p", change]).await;
        // After reverting, the access returns.
        let back = r#"{"spec": {"state": "Active", "validity": null}}"#;
        cluster.kubectl(&["patch", "users.roster.dev", &jane, "--type=merge", "-p", back]);
        wait_until_can(cluster, &jane, EVERYWHERE, true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_lockout_ends_no_binding_and_writes_none() {
    let (cluster, jane) = (rbac(), unique("i3-locked"));
    bound(cluster, &jane).await;
    let before = audit_position(cluster);
    // As many failures as the threshold allows, from several addresses.
    let direct = Direct::new(cluster, 0, None).await;
    let body = body("Login", &json!({"username": jane, "password": "wrong"}));
    for attempt in 0..6 {
        let address = format!("203.0.113.{}", attempt / 2);
        let headers = [("X-Forwarded-For", address.as_str())];
        let answer = direct.send("POST", &format!("{BASE}/logins"), &headers, &body).await.unwrap();
        assert_eq!(answer.status, 401);
    }
    let reason = "{.status.conditions[?(@.type=='LockedOut')].reason}";
    wait_for_text(cluster, &["users.roster.dev", &jane], reason, "TooManyFailedLogins").await;
    assert!(can(cluster, &jane, EVERYWHERE), "wrong passwords do not end bindings");
    // The lockout expires.
    wait_for_text(cluster, &["users.roster.dev", &jane], reason, "").await;
    assert!(can(cluster, &jane, EVERYWHERE));
    let written = operator_writes(cluster, before);
    let binding = format!("/clusterrolebindings/roster:{jane}");
    assert!(!written.iter().any(|write| write.contains(&binding)), "nothing is compiled again: {written:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_deleted_users_and_bindings_grant_nothing() {
    let (cluster, jane) = (rbac(), unique("i3-deleted"));
    bound(cluster, &jane).await;
    ends(cluster, &jane, &["delete", "users.roster.dev", &jane]).await;
    wait_for_text(cluster, &["rolebindings.roster.dev", &jane], "{.status.pending[*].reason}", "UserNotFound").await;
    // Recreated, she is the subject that the binding names.
    cluster.apply(&manifest(&jane, "", ""));
    wait_until_can(cluster, &jane, EVERYWHERE, true).await;
    ends(cluster, &jane, &["delete", "rolebindings.roster.dev", &jane]).await;
    // A binding recreated under the same name is a new one.
    cluster.apply(&manifest(&jane, "", ""));
    wait_until_can(cluster, &jane, EVERYWHERE, true).await;
    ends(cluster, &jane, &["delete", "rolebindings.roster.dev", &jane, "--cascade=orphan"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_validity_of_user_and_binding_is_exact_to_the_second() {
    let cluster = rbac();
    let begin = Timestamp::now().checked_add(4.seconds()).unwrap();
    let end = begin.checked_add(4.seconds()).unwrap();
    let validity = format!("validity: {{notBefore: '{begin:.0}', notAfter: '{end:.0}'}}");
    let (by_user, by_binding) = (unique("i3-user"), unique("i3-binding"));
    cluster.apply(&manifest(&by_user, &validity, ""));
    cluster.apply(&manifest(&by_binding, "", &format!("{validity}, ")));
    wait_for_text(
        cluster,
        &["rolebindings.roster.dev", &by_binding],
        "{.status.conditions[?(@.type=='Ready')].reason}",
        "NotYetValid",
    )
    .await;
    if Timestamp::now() < begin.checked_sub(1.seconds()).unwrap() {
        assert!(!can(cluster, &by_user, EVERYWHERE) && !can(cluster, &by_binding, EVERYWHERE), "before it begins");
    }
    for name in [&by_user, &by_binding] {
        wait_until_can(cluster, name, EVERYWHERE, true).await;
    }
    println!("allowed {} after the beginning", Timestamp::now().duration_since(begin));
    for name in [&by_user, &by_binding] {
        wait_until_can(cluster, name, EVERYWHERE, false).await;
    }
    println!("denied {} after the end", Timestamp::now().duration_since(end));
    assert!(Timestamp::now() >= end.checked_sub(1.seconds()).unwrap());
    wait_for_text(
        cluster,
        &["rolebindings.roster.dev", &by_binding],
        "{.status.conditions[?(@.type=='Ready')].reason}",
        "Expired",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_losing_the_username_ends_its_bindings() {
    let (cluster, n) = (rbac(), unique("i3-name"));
    bound(cluster, &n).await;
    // Another User claims the same username and has a binding, which has no effect.
    let other = format!("{n}-other");
    cluster.apply(&manifest(&other, &format!("username: {n}"), "").replace("name: edit", "name: view"));
    wait_for_text(cluster, &["rolebindings.roster.dev", &other], "{.status.pending[*].reason}", "UserInactive").await;
    wait_for_text(cluster, &["rolebindings.roster.dev", &other], "{.status.bindings}", "0").await;
    // When the holder is deleted, its role ends, and the other User's binding takes effect.
    cluster.kubectl(&["delete", "users.roster.dev", &n]);
    wait_until_can(cluster, &n, &["list", "pods", "-A"], true).await;
    assert!(!can(cluster, &n, EVERYWHERE));
}
