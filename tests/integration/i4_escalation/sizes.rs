//! Labels and annotations can't make an object too large to be reviewed.

use axum::http::Request;
use kube::Client;
use serde_json::{Value, json};

use super::guarded;
use crate::support::{unique, wait_until_can};

/// A merge patch of an object's metadata by `who`.
async fn patch(client: &Client, who: Option<&str>, path: &str, metadata: &Value) -> Result<String, String> {
    let mut request = Request::patch(path).header("content-type", "application/merge-patch+json");
    if let Some(who) = who {
        request = request.header("impersonate-user", who);
    }
    let body = json!({ "metadata": metadata }).to_string().into_bytes();
    client.request_text(request.body(body).unwrap()).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_labels_and_annotations_are_bounded() {
    let (cluster, n) = (guarded(), unique("i4-size"));
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}}}, spec: {{}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}}}, spec: {{}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {n}}}, spec: {{subjects: [{{kind: Group, name: {n}}}], roleRef: {{kind: ClusterRole, name: view}}, scope: {{namespaces: [default]}}}}}}\n"
    ));
    wait_until_can(cluster, "mallory", &["patch", "users.roster.dev"], true).await;
    let client = cluster.client().await;
    let mallory = Some("mallory");
    let applied = "kubectl.kubernetes.io/last-applied-configuration";
    for kind in ["users", "groups", "rolebindings"] {
        let path = format!("/apis/roster.dev/v1alpha1/{kind}/{n}");
        let large = json!({"annotations": {"a": "x".repeat(40_000), "b": "é".repeat(13_000)}});
        let refused = patch(&client, mallory, &path, &large).await.unwrap_err();
        assert!(refused.contains("and at most 65536 are allowed"), "{kind}: {refused}");
        // What kubectl has applied is counted as well, but not of Groups.
        assert_eq!(refused.contains("metadata.annotations: 66002 bytes"), kind == "groups", "{kind}: {refused}");
        let many: serde_json::Map<String, Value> = (0..20_000).map(|at| (format!("a{at}"), "".into())).collect();
        let refused = patch(&client, mallory, &path, &json!({ "annotations": many })).await.unwrap_err();
        assert!(refused.contains("metadata.annotations: "), "{kind}: {refused}");
        let labels: serde_json::Map<String, Value> = (0..65).map(|at| (format!("l{at}"), "".into())).collect();
        let refused = patch(&client, mallory, &path, &json!({ "labels": labels })).await.unwrap_err();
        assert!(refused.contains("metadata.labels: 65 labels, and at most 64 are allowed"), "{kind}: {refused}");
        patch(&client, mallory, &path, &json!({"annotations": {"a": "x".repeat(60_000)}})).await.unwrap();
        // A Group's manifest may be large.
        let manifest = json!({"annotations": {"a": null, applied: "x".repeat(100_000)}});
        assert_eq!(patch(&client, mallory, &path, &manifest).await.is_ok(), kind == "groups", "{kind}");
        // An administrator may, and everybody may make it smaller again.
        patch(&client, None, &path, &large).await.unwrap();
        patch(&client, mallory, &path, &json!({"annotations": {"a": "x".repeat(39_990)}})).await.unwrap();
        patch(&client, mallory, &path, &json!({"annotations": {"a": null, "b": null}})).await.unwrap();
    }
}
