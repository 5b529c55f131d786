//! The garbage collector deletes objects whose owners are gone, so adding an owner requires what deletion requires.

use super::{FIXTURES, guarded_cluster, wait_until_processed};
use crate::support::{Cluster, unique, wait_for_text, wait_until_can};

#[tokio::test(flavor = "multi_thread")]
async fn i4_the_garbage_collector_removes_absent_owners() {
    let (cluster, n) = (guarded_cluster(), unique("i4-owner"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    let owner = |name: &str| {
        let group = format!("{n}-{name}");
        cluster.apply(&format!(
            "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {group}}}, spec: {{}}}}\n"
        ));
        let uid = cluster.kubectl(&["get", "groups.roster.dev", &group, "-o", "jsonpath={.metadata.uid}"]);
        format!(r#"{{"apiVersion": "roster.dev/v1alpha1", "kind": "Group", "name": "{group}", "uid": "{uid}"}}"#)
    };
    let patch = format!(r#"{{"metadata": {{"ownerReferences": [{}, {}]}}}}"#, owner("first"), owner("second"));
    wait_until_processed(cluster, &n).await;
    let boss = format!("{n}-boss");
    let object = ["users.roster.dev", boss.as_str()];
    let give = |who: &str| {
        let args = ["patch", object[0], object[1], "--type=merge", "-p", &patch, "--as", who];
        cluster.plane.kubectl.run(&args).map_err(|error| format!("{error:#}"))
    };
    let refused = give("mallory").unwrap_err();
    assert!(refused.contains(&format!("the guard: User {boss} holds or would hold ClusterRole edit")), "{refused}");
    give("alice").unwrap();
    // The garbage collector may not bind the roles of the boss. It removes the absent owner and keeps the other.
    cluster.kubectl(&["delete", "groups.roster.dev", &format!("{n}-first")]);
    wait_for_text(cluster, &object, "{.metadata.ownerReferences[*].name}", &format!("{n}-second")).await;
    // Removing the owner needs no permission.
    let none = r#"{"metadata": {"ownerReferences": null}}"#;
    cluster.kubectl(&["patch", object[0], object[1], "--type=merge", "-p", none, "--as", "mallory"]);
}

/// Checks both usernames that the garbage collector of kube-controller-manager may have.
pub(super) async fn the_garbage_collector_removes_owners_of_compiled_bindings(cluster: &Cluster, n: &str, name: &str) {
    let collectors = ["system:serviceaccount:kube-system:generic-garbage-collector", "system:kube-controller-manager"];
    for (at, collector) in collectors.into_iter().enumerate() {
        let user = format!("--user={collector}");
        let own = format!("{n}-gc-{at}");
        cluster.kubectl(&["create", "rolebinding", &own, "-n", n, "--clusterrole=admin", &user]);
        let question = ["patch", "rolebindings.rbac.authorization.k8s.io", "-n", n];
        wait_until_can(cluster, collector, &question, true).await;
        let patch = |patch: &str| {
            let binding =
                ["patch", "rolebindings.rbac.authorization.k8s.io", name, "-n", n, "--type=merge", "-p", patch];
            let args = [&binding[..], &["--as", collector, "--dry-run=server"]].concat();
            cluster.plane.kubectl.run(&args).map_err(|error| format!("{error:#}"))
        };
        patch(r#"{"metadata": {"ownerReferences": null}}"#).unwrap_or_else(|refused| panic!("{collector}: {refused}"));
        for more in [r#"{"metadata": {"labels": null}}"#, r#"{"metadata": {"annotations": {"x": "y"}}}"#] {
            let refused = patch(more).unwrap_err();
            assert!(refused.contains("are compiled from RoleBindings of roster.dev"), "{collector} {more}: {refused}");
        }
    }
}
