//! Disabling a User must stay possible, whatever administrators of single namespaces bind to it.

use super::{FIXTURES, guarded_cluster, wait_until_processed};
use crate::support::{Cluster, eventually, unique};

/// What kubectl prints when mallory, a help desk that may bind `view` alone, changes the spec of a User.
fn patch(cluster: &Cluster, user: &str, spec: &str) -> Result<String, String> {
    let patch = format!(r#"{{"spec": {spec}}}"#);
    let args = ["patch", "users.roster.dev", user, "--type=merge", "--as", "mallory", "-p", &patch];
    cluster.plane.kubectl.run(&args).map_err(|error| format!("{error:#}"))
}

const DISABLED: &str = r#"{"state": "Disabled"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn i4_namespace_administrators_cannot_prevent_disabling() {
    let (cluster, n) = (guarded_cluster(), unique("i4-shield"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    let (me, boss) = (format!("{n}-me"), format!("{n}-boss"));
    cluster.kubectl(&["create", "rolebinding", "eve", "-n", &n, "--clusterrole=admin", "--user=eve"]);
    wait_until_processed(cluster, &n).await;
    // Eve administers the namespace, and binds a Role of her own and a ClusterRole that nobody hands out.
    let create = |args: &[&str]| cluster.kubectl(&[&["-n", &n, "--as", "eve", "create"], args].concat());
    create(&["role", "shield", "--verb=get", "--resource=configmaps"]);
    create(&["rolebinding", "shield", "--role=shield", "--user", &me]);
    create(&["rolebinding", "part", "--clusterrole=system:aggregate-to-view", "--user", &me]);
    eventually("the guard knows the bindings", || async {
        match patch(cluster, &me, r#"{"requirePasswordChange": true}"#) {
            Err(refused) if refused.contains("may not bind it") => Ok(()),
            outcome => Err(format!("{outcome:?}")),
        }
    })
    .await;
    for less in [r#"{"validity": {"notAfter": "2090-01-01T00:00:00Z"}}"#, DISABLED, r#"{"state": "Banned"}"#] {
        patch(cluster, &me, less).unwrap_or_else(|refused| panic!("{less}: {refused}"));
    }
    // Restoring access requires every role that the User holds.
    for more in [r#"{"state": "Active"}"#, r#"{"state": "Disabled"}"#, r#"{"validity": null}"#] {
        let refused = patch(cluster, &me, more).unwrap_err();
        assert!(refused.contains("the guard: ") && refused.contains("may not bind it"), "{more}: {refused}");
    }
    let refused = patch(cluster, &boss, DISABLED).unwrap_err();
    assert!(refused.contains("holds or would hold ClusterRole edit in namespace"), "{refused}");
}
