//! Finalizers delay deletion, or guarantee cleanup before it, so adding or removing one needs a separate
//! permission.

use super::guarded_cluster;
use crate::support::{Cluster, eventually, unique, wait_for_text};

const DENIAL: &str = "may not add or remove finalizers of";

/// A User with a namespace, a Group and a RoleBinding, all named `n`. Eve may write all three kinds, but not their
/// finalizers; frank may write those as well.
fn create_fixtures(cluster: &Cluster, n: &str) {
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}}}, spec: {{}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}}}, spec: {{}}}}\n\
         ---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {n}, labels: {{roster.dev/owner: {n}}}}}}}\n\
         ---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {{name: {n}}}, rules: [{{apiGroups: [roster.dev], resources: [users, groups, rolebindings], verbs: [get, create, patch, delete]}}, {{apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], resourceNames: [view], verbs: [bind]}}]}}\n\
         ---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {{name: {n}-finalizers}}, rules: [{{apiGroups: [roster.dev], resources: [users/finalizers, groups/finalizers, rolebindings/finalizers], verbs: [update]}}]}}\n\
         ---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {{name: {n}}}, roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {n}}}, subjects: [{{kind: User, name: {n}-eve}}, {{kind: User, name: {n}-frank}}]}}\n\
         ---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {{name: {n}-finalizers}}, roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {n}-finalizers}}, subjects: [{{kind: User, name: {n}-frank}}]}}\n"
    ));
    cluster.apply(&binding(n, ""));
}

fn binding(n: &str, finalizers: &str) -> String {
    format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {n}, finalizers: [{finalizers}]}}, spec: {{subjects: [{{kind: Group, name: {n}}}], roleRef: {{kind: ClusterRole, name: view}}, scope: {{namespaces: [{n}]}}}}}}\n"
    )
}

fn patch(cluster: &Cluster, who: &str, object: &str, patch: &str) -> Result<String, String> {
    let args = ["patch", object, "--as", who, "--type=merge", "-p", patch];
    cluster.plane.kubectl.run(&args).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_finalizers_require_the_permission_to_update_finalizers() {
    let (cluster, n) = (guarded_cluster(), unique("i4-finalizer"));
    create_fixtures(cluster, &n);
    let (eve, frank, user) = (format!("{n}-eve"), format!("{n}-frank"), format!("users.roster.dev/{n}"));
    wait_for_text(cluster, &[&user], "{.metadata.finalizers[*]}", "roster.dev/ownership").await;
    let none = r#"{"metadata": {"finalizers": null}}"#;
    let error = patch(cluster, &eve, &user, none).unwrap_err();
    assert!(error.contains(DENIAL), "{error}");
    patch(cluster, &frank, &user, none).expect("frank may update users/finalizers");

    for kind in ["users", "groups", "rolebindings"] {
        let object = format!("{kind}.roster.dev/{n}");
        for finalizer in ["example.com/stay", "foregroundDeletion", "roster.dev/mine"] {
            let add = format!(r#"{{"metadata": {{"finalizers": ["{finalizer}"]}}}}"#);
            let error = patch(cluster, &eve, &object, &add).unwrap_err();
            assert!(error.contains(&format!("{eve} {DENIAL} {kind}")), "{object} {finalizer}: {error}");
        }
        // Writes that do not change finalizers need nothing more, even if there are some.
        patch(cluster, &frank, &object, r#"{"metadata": {"finalizers": ["example.com/stay"]}}"#).unwrap();
        patch(cluster, &eve, &object, r#"{"metadata": {"labels": {"floor": "3"}}}"#).unwrap();
        let error = patch(cluster, &eve, &object, r#"{"metadata": {"finalizers": []}}"#).unwrap_err();
        assert!(error.contains(DENIAL), "{object}: {error}");
        patch(cluster, &frank, &object, none).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_objects_that_could_not_be_deleted_are_rejected() {
    let (cluster, n) = (guarded_cluster(), unique("i4-finalizer"));
    create_fixtures(cluster, &n);
    let create = |who: &str, manifest: &str| {
        cluster.plane.kubectl.run_with_input(&["create", "--as", who, "-f", "-"], manifest).map_err(|e| e.to_string())
    };
    let (eve, frank) = (format!("{n}-eve"), format!("{n}-frank"));
    let object = |kind: &str, name: &str| {
        format!(
            "---\n{{apiVersion: roster.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}, finalizers: [example.com/stay]}}, spec: {{}}}}\n"
        )
    };
    cluster.kubectl(&["delete", "rolebindings.roster.dev", &n]);
    for manifest in
        [object("User", &format!("{n}-new")), object("Group", &format!("{n}-new")), binding(&n, "example.com/stay")]
    {
        let error = create(&eve, &manifest).unwrap_err();
        assert!(error.contains(DENIAL), "{error}");
        create(&frank, &manifest).unwrap_or_else(|error| panic!("{error}"));
    }
    create(&eve, &object("Group", &format!("{n}-plain")).replace(", finalizers: [example.com/stay]", "")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_the_garbage_collector_completes_foreground_deletion() {
    let (cluster, n) = (guarded_cluster(), unique("i4-finalizer"));
    create_fixtures(cluster, &n);
    for cascade in ["foreground", "orphan"] {
        let object = format!("groups.roster.dev/{n}-{cascade}");
        cluster.apply(&format!(
            "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}-{cascade}}}, spec: {{}}}}\n"
        ));
        let cascade = format!("--cascade={cascade}");
        cluster.kubectl(&["delete", &object, &cascade, "--wait=false", "--as", &format!("{n}-eve")]);
        eventually("the garbage collector has done its work", || async {
            match cluster.plane.kubectl.run(&["get", &object, "--ignore-not-found", "-o", "name"]) {
                Ok(found) if found.is_empty() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}
