//! Lists with and without streaming, and what objects can contain.

use serde_json::{Value, json};

use crate::support::{
    Cluster, WITHOUT_STREAMING_LISTS, audit_position, create, eventually, has_streamed, operator_requests, user,
    wait_until_ready,
};

/// Waits until a query finds the User.
async fn wait_until_found(cluster: &Cluster, name: &str) {
    let path = format!("/apis/directory.roster.dev/v1alpha1/users/{name}");
    eventually("a query finds the User", || async {
        cluster.plane.kubectl.run(&["get", "--raw", &path]).map_err(|error| error.to_string())
    })
    .await;
}

/// People who may create Users, and bind nothing.
const WRITERS: &str = "
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: writers}, rules: [{apiGroups: [roster.dev], resources: [users], verbs: [create, get, patch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: writers}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: writers}, subjects: [{kind: Group, name: writers, apiGroup: rbac.authorization.k8s.io}]}
";

/// Creates native RoleBindings whose field managers have names of fields that are nested too deeply, or not UTF-8.
async fn create_odd_bindings(cluster: &Cluster) {
    let client = cluster.client().await;
    let deep = format!("{}{{}}{}", r#"{"f:a":"#.repeat(150), "}".repeat(150));
    for (name, fields) in [("deep", deep.as_bytes()), ("not-utf8", b"{\"f:\xff\":{}}")] {
        let entry = json!({
            "manager": "m", "operation": "Update", "apiVersion": "rbac.authorization.k8s.io/v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:annotations": "FIELDS"}},
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name, "managedFields": [entry]}, "subjects": [],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        });
        let binding = binding.to_string();
        let (before, after) = binding.split_once(r#""FIELDS""#).unwrap();
        let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
        let request = axum::http::Request::post(bindings).header("content-type", "application/json");
        let request = request.body([before.as_bytes(), fields, after.as_bytes()].concat()).unwrap();
        // kube's client cannot read the response, either.
        let _ = client.request_text(request).await;
        cluster.kubectl(&["get", "rolebinding", name, "-n", "default", "-o", "name"]);
    }
}

/// Any writer of an object chooses its field managers: times that Roster cannot represent, and names of fields that are
/// nested too deeply or not UTF-8. One object must not stop a watch.
#[tokio::test(flavor = "multi_thread")]
async fn objects_with_odd_field_managers_are_read() {
    let cluster = Cluster::create("odd-managers", &[]);
    cluster.start_operator(&[]);
    let users = cluster.users().await;
    let late = |time: &str, api: &str, fields: Value| {
        let entry = json!({
            "manager": "late", "operation": "Update", "apiVersion": api, "time": time, "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        });
        json!({"metadata": {"managedFields": [entry]}}).to_string()
    };
    let gone = json!({"f:metadata": {"f:annotations": {"f:gone": {}}}});
    cluster.apply(WRITERS);
    cluster.kubectl(&["create", "rolebinding", "late", "--clusterrole=view", "--user=jane", "-n", "default"]);
    let (rbac, roster) = ("rbac.authorization.k8s.io/v1", "roster.dev/v1alpha1");
    let patch =
        |args: &[&str], patch: &str| cluster.kubectl(&[&["patch"], args, &["--type=merge", "-p", patch]].concat());
    create(&users, &user("late", false)).await;
    patch(&["rolebinding", "late", "-n", "default"], &late("9999-12-31T23:59:59Z", rbac, gone.clone()));
    patch(&["namespace", "default"], &late("9999-12-31T23:59:59-14:00", "v1", gone.clone()));
    patch(&["namespace", "kube-public"], &late("0000-01-01T00:00:00+14:00", "v1", gone.clone()));
    patch(&["users.roster.dev", "late"], &late("9999-12-31T23:59:59Z", roster, json!({"f:spec": {"f:state": {}}})));
    let stored =
        cluster.kubectl(&["get", "rolebinding", "late", "-n", "default", "-o", "yaml", "--show-managed-fields"]);
    assert!(stored.contains("9999-12-31T23:59:59Z"), "{stored}");
    create_odd_bindings(&cluster).await;

    for restarts in 0..2 {
        // The guard answers only while all watches work.
        let name = format!("guarded-{restarts}");
        eventually("the guard answers", || async {
            let manifest = format!("{{apiVersion: {roster}, kind: User, metadata: {{name: {name}}}, spec: {{}}}}");
            let args = ["create", "-f", "-", "--as=writer", "--as-group=writers"];
            cluster.plane.kubectl.run_with_input(&args, &manifest).map_err(|error| format!("{error:#}"))
        })
        .await;
        wait_until_ready(&users, &name).await;
        let binding = cluster.kubectl(&["get", "users.directory.roster.dev", "late", "-o", "name"]);
        assert!(binding.contains("late"), "{binding}");
        let log = std::fs::read_to_string(cluster.operators()[0].log()).unwrap();
        assert!(!log.contains("watch failed"), "{log}");
        let operator = cluster.operators().remove(0);
        operator.stop().unwrap();
        cluster.start_operator(&[]);
    }
}

/// Otherwise lists are streamed, which `i6_restart_leader_change_and_relist_write_nothing` tests.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_where_streaming_lists_are_disabled() {
    let cluster = Cluster::create_with("pages", &[], WITHOUT_STREAMING_LISTS);
    cluster.start_operator(&[]);
    let users = cluster.users().await;
    create(&users, &user("known", false)).await;
    wait_until_ready(&users, "known").await;

    let from = audit_position(&cluster);
    let operator = cluster.operators().remove(0);
    operator.stop().unwrap();
    cluster.start_operator(&[]);
    wait_until_found(&cluster, "known").await;
    create(&users, &user("later", false)).await;
    wait_until_ready(&users, "later").await;
    wait_until_found(&cluster, "later").await;

    let requests = operator_requests(&cluster, from);
    for resource in ["users", "groups", "rolebindings"] {
        assert!(!has_streamed(&cluster, from, &format!("/{resource}?")), "{resource}");
        let list = format!("list /apis/roster.dev/v1alpha1/{resource}?");
        assert!(requests.iter().any(|request| request.starts_with(&list)), "{resource}: {requests:?}");
    }
    let log = std::fs::read_to_string(cluster.operators()[0].log()).unwrap();
    assert!(!log.contains("watch failed"), "paged lists must not be logged as a failure: {log}");
}
