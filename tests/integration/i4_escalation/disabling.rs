//! Disabling a User must stay possible, whatever administrators of single namespaces bind to it.

use super::{FIXTURES, guarded_cluster, wait_until_processed};
use crate::support::{Cluster, eventually, unique};

/// Changes the spec of a User as mallory, who works at a help desk and may bind only `view`. Returns kubectl's output
/// or error.
fn patch(cluster: &Cluster, user: &str, spec: &str) -> Result<String, String> {
    patch_by("kubectl-patch", cluster, user, spec)
}

fn patch_by(manager: &str, cluster: &Cluster, user: &str, spec: &str) -> Result<String, String> {
    let (manager, patch) = (format!("--field-manager={manager}"), format!(r#"{{"spec": {spec}}}"#));
    let args = ["patch", "users.roster.dev", user, "--type=merge", "--as", "mallory", &manager, "-p", &patch];
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
    // Eve administers the namespace. She binds a Role of her own, and a ClusterRole that is normally not bound.
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
    // A tool that adopts the fields of other managers would lift the restriction with its next apply.
    let earlier = r#"{"validity": {"notAfter": "2080-01-01T00:00:00Z"}}"#;
    let refused = patch_by("kubectl-client-side-apply", cluster, &me, earlier).unwrap_err();
    assert!(refused.contains("the guard: ") && refused.contains("may not bind it"), "{refused}");
    patch(cluster, &me, earlier).unwrap();
    // Restoring access requires every role that the User holds.
    for more in [r#"{"state": "Active"}"#, r#"{"state": "Disabled"}"#, r#"{"validity": null}"#] {
        let refused = patch(cluster, &me, more).unwrap_err();
        assert!(refused.contains("the guard: ") && refused.contains("may not bind it"), "{more}: {refused}");
    }
    let refused = patch(cluster, &boss, DISABLED).unwrap_err();
    assert!(refused.contains("holds or would hold ClusterRole edit in namespace"), "{refused}");
}

/// kube-apiserver merges the field managers that update when there are more than ten. Labels that are set under
/// many names must not make it impossible to disable a User.
#[tokio::test(flavor = "multi_thread")]
async fn i4_many_field_managers_cannot_prevent_disabling() {
    let (cluster, n) = (guarded_cluster(), unique("i4-managers"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    let me = format!("{n}-me");
    cluster.kubectl(&["create", "rolebinding", "own", "-n", &n, "--clusterrole=edit", "--user", &me]);
    wait_until_processed(cluster, &n).await;
    eventually("the guard knows the binding", || async {
        match patch(cluster, &me, r#"{"requirePasswordChange": true}"#) {
            Err(refused) if refused.contains("may not bind it") => Ok(()),
            outcome => Err(format!("{outcome:?}")),
        }
    })
    .await;
    for i in 0..12 {
        let (label, manager) = (format!("z{i}=1"), format!("--field-manager=m{i}"));
        cluster.kubectl(&["label", "users.roster.dev", &me, &label, &manager, "--as", "mallory"]);
    }
    let managers =
        cluster.kubectl(&["get", "users.roster.dev", &me, "-o", "jsonpath={.metadata.managedFields[*].manager}"]);
    assert!(managers.contains("ancient-changes"), "{managers}");
    patch(cluster, &me, DISABLED).unwrap();
}
