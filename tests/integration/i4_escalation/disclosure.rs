//! Denials reveal nothing that the requester cannot read.

use super::{FIXTURES, guarded_cluster, wait_until_processed};
use crate::support::{Cluster, unique, wait_until_can};

/// Gives `who` these verbs on a resource of roster.dev in the whole cluster, and nothing else.
async fn allow(cluster: &Cluster, name: &str, who: &str, resource: &str, verbs: &str) {
    cluster.apply(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: {name}}}\n\
         rules: [{{apiGroups: [roster.dev], resources: [{resource}], verbs: [{verbs}]}}]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: {name}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}\n\
         subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: '{who}'}}]\n"
    ));
    let last = verbs.rsplit(", ").next().unwrap();
    wait_until_can(cluster, who, &[last, &format!("{resource}.roster.dev")], true).await;
}

/// Returns kubectl's error for a request that must be denied to `who`.
fn refused(cluster: &Cluster, who: &str, args: &[&str], input: &str) -> String {
    let args = [args, &["--as", who]].concat();
    format!("{:#}", cluster.plane.kubectl.run_with_input(&args, input).expect_err("a refusal"))
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_conflicts_name_the_holder_only_for_callers_that_may_list_users() {
    let (cluster, n) = (guarded_cluster(), unique("i4-clerk"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-kim}}, spec: {{username: {n}-login}}}}\n"
    ));
    wait_until_processed(cluster, &n).await;
    let (clerk, kim) = (format!("{n}-clerk"), format!("{n}-kim"));
    allow(cluster, &n, &clerk, "users", "create").await;
    let manifests = [
        (format!("name: {n}-x}}, spec: {{username: {n}-LOGIN}}"), "spec.username: "),
        (format!("name: {n}-login}}, spec: {{username: {n}-x}}"), "metadata.name: "),
    ];
    let denials = || {
        manifests.iter().map(|(rest, field)| {
            let manifest = format!("---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{{rest}}}\n");
            (refused(cluster, &clerk, &["create", "-f", "-"], &manifest), *field)
        })
    };
    for (denial, field) in denials() {
        assert!(denial.contains(&format!("the guard: {field}")) && denial.contains("another User"), "{denial}");
        assert!(!denial.contains(&kim), "{denial}");
    }
    let listing = format!("{n}-listing");
    allow(cluster, &listing, &clerk, "users", "create, list").await;
    for (denial, _) in denials() {
        assert!(denial.contains(&format!("User {kim}")), "{denial}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_denials_name_only_users_in_the_request() {
    let (cluster, n) = (guarded_cluster(), unique("i4-named"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-kim}}, spec: {{username: {n}-login, email: {n}@example.com, groups: [{n}-power]}}}}\n"
    ));
    wait_until_processed(cluster, &n).await;
    let (clerk, kim) = (format!("{n}-clerk"), format!("{n}-kim"));
    allow(cluster, &n, &clerk, "users", "create").await;
    let create = |spec: &str| {
        let manifest = format!(
            "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-x}}, spec: {{{spec}}}}}\n"
        );
        refused(cluster, &clerk, &["create", "-f", "-"], &manifest)
    };
    let email = format!("email: {n}@EXAMPLE.com");
    let waiting = create(&email);
    assert!(waiting.contains("an identity that this write takes control of holds or would hold a role"), "{waiting}");
    let own = create(&format!("groups: [{n}-power]"));
    assert!(own.contains(&format!("User {n}-x holds or would hold a role")), "{own}");
    cluster.kubectl(&["delete", "users.roster.dev", &kim]);
    // A deleted User is protected without being named.
    for spec in [email, format!("username: {n}-login")] {
        let deleted = create(&spec);
        assert!(deleted.contains("the guard: ") && !deleted.contains(&kim), "{spec}: {deleted}");
    }
}

/// Callers that may delete or replace a RoleBinding may be unable to read it.
#[tokio::test(flavor = "multi_thread")]
async fn i4_denied_changes_of_a_binding_do_not_reveal_its_role() {
    let (cluster, n) = (guarded_cluster(), unique("i4-unbind"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    wait_until_processed(cluster, &n).await;
    let (clerk, power) = (format!("{n}-clerk"), format!("{n}-power"));
    allow(cluster, &n, &clerk, "rolebindings", "update, delete").await;
    let path = format!("/apis/roster.dev/v1alpha1/rolebindings/{power}");
    let stored: serde_json::Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", &path])).unwrap();
    let other = serde_json::json!({
        "apiVersion": "roster.dev/v1alpha1",
        "kind": "RoleBinding",
        "metadata": {"name": power, "resourceVersion": stored["metadata"]["resourceVersion"]},
        "spec": {"subjects": [{"kind": "User", "name": "x"}], "roleRef": {"kind": "ClusterRole", "name": "view"}, "scope": {"namespaces": ["default"]}},
    });
    let view = format!("{n}-view");
    let bind = ["--verb=bind", "--resource=clusterroles", "--resource-name=view"];
    cluster.kubectl(&[&["create", "clusterrole", &view], &bind[..]].concat());
    cluster.kubectl(&["create", "clusterrolebinding", &view, "--clusterrole", &view, "--user", &clerk]);
    wait_until_can(cluster, &clerk, &["bind", "clusterroles/view"], true).await;
    for (args, input) in
        [(&["delete", "--raw", &path][..], String::new()), (&["replace", "--raw", &path, "-f", "-"], other.to_string())]
    {
        let denial = refused(cluster, &clerk, args, &input);
        let expected = format!(
            "{clerk} may not change or delete RoleBinding {power}: this requires the verb bind on its role before"
        );
        assert!(denial.contains(&expected), "{denial}");
        assert!(!denial.contains("edit") && !denial.contains(&format!("namespace {n}")), "{denial}");
    }
}
