//! Identity Secrets: guarded as a whole.

use roster_credentials::claim::{Identifier, IdentifierKind};

use super::{STAGE, guarded, settle};
use crate::support::{eventually, unique, wait_until_can};

/// The whole object is guarded, and its deletion: each of these would end the lockout, or the person's logins.
#[tokio::test(flavor = "multi_thread")]
async fn i4_nothing_of_an_identity_secret_is_changed_by_who_may_write_secrets_alone() {
    let (cluster, n) = (guarded(), unique("i4-identity"));
    cluster.apply(&STAGE.replace("{n}", &n));
    settle(cluster, &n).await;
    let boss = Identifier { kind: IdentifierKind::Username, text: format!("{n}-boss") }.secret_name();
    // All rights on Secrets in Roster's namespace, and no others.
    cluster.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: secrets, namespace: roster-system}\n\
         rules: [{apiGroups: [''], resources: [secrets], verbs: ['*']}]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: secrets, namespace: roster-system}\n\
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: secrets}\n\
         subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: trent}]\n",
    );
    wait_until_can(cluster, "trent", &["patch", "secrets", "-n", "roster-system"], true).await;
    let identity = |args: &[&str]| {
        let args = [&["-n", "roster-system", "--as", "trent"], args].concat();
        cluster.plane.kubectl.run(&args).map_err(|error| format!("{error:#}"))
    };
    for secret in [boss.as_str(), "roster-token-keys"] {
        for patch in [
            r#"{"immutable": true}"#,
            r#"{"immutable": false}"#,
            // Stored although nothing else changes: a stream of these would keep failed logins from being counted.
            r#"{"metadata": {"managedFields": [{}]}}"#,
            r#"{"data": {"failedLogins": null, "more": "eA=="}}"#,
            r#"{"metadata": {"labels": {"roster.dev/identifier": "email"}}}"#,
            r#"{"metadata": {"labels": {"more": "x"}}}"#,
            r#"{"metadata": {"annotations": {"roster.dev/closed": "true"}}}"#,
            r#"{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}]}}"#,
            r#"{"metadata": {"finalizers": ["example.com/stay"]}}"#,
            r#"{"metadata": {"finalizers": ["example.com/stay"], "managedFields": [{}]}}"#,
        ] {
            let refused = identity(&["patch", "secret", secret, "--type=merge", "-p", patch]).unwrap_err();
            assert!(refused.contains("trent may not update them"), "{secret} {patch}: {refused}");
        }
        let refused = identity(&["delete", "secret", secret, "--wait=false"]).unwrap_err();
        assert!(refused.contains("trent may not delete them"), "{secret}: {refused}");
    }
    let refused = identity(&["delete", "secrets", "--field-selector", "type=roster.dev/identity", "--wait=false"]);
    assert!(refused.unwrap_err().contains("trent may not delete them"));
    // kubectl deletes what it has listed one by one; this is one request for all.
    let collection = "/api/v1/namespaces/roster-system/secrets?fieldSelector=type%3Droster.dev/identity";
    let refused = identity(&["delete", "--raw", collection]).unwrap_err();
    assert!(refused.contains("trent may not delete them"), "{refused}");
    // What changes nothing is nobody's business, and neither is any other Secret.
    identity(&["patch", "secret", &boss, "--type=merge", "-p", r#"{"metadata": {"labels": {}}}"#]).unwrap();
    identity(&["create", "secret", "generic", &n]).unwrap();
    identity(&["delete", "secret", &n]).unwrap();
    // The garbage collector takes it with the User.
    cluster.kubectl(&["delete", "users.roster.dev", &format!("{n}-boss")]);
    eventually("the identity Secret goes with its User", || async {
        let kept = cluster.plane.kubectl.run(&["get", "secret", &boss, "-n", "roster-system"]);
        kept.map_or(Ok(()), Err)
    })
    .await;
}
