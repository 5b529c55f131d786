//! Metadata can't make an object too large for admission reviews.

use axum::http::Request;
use kube::Client;
use serde_json::{Value, json};

use roster_core::directory::tombstones::{MAX_LABEL_BYTES, StoredLabels, Tombstone};

use super::guarded_cluster;
use crate::support::{Cluster, eventually, unique, wait_until_can};

/// Sends a merge patch of an object's metadata as `who`.
async fn patch(client: &Client, who: Option<&str>, path: &str, metadata: &Value) -> Result<String, String> {
    let mut request = Request::patch(path).header("content-type", "application/merge-patch+json");
    if let Some(who) = who {
        request = request.header("impersonate-user", who);
    }
    let body = json!({ "metadata": metadata }).to_string().into_bytes();
    client.request_text(request.body(body).unwrap()).await.map_err(|error| error.to_string())
}

/// Waits until mallory may patch the User, and kube-apiserver enforces the policy: it loads policies some seconds after they
/// are created.
async fn wait_until_bounded(cluster: &Cluster, n: &str) {
    wait_until_can(cluster, "mallory", &["patch", "users.roster.dev"], true).await;
    let client = cluster.client().await;
    let path = format!("/apis/roster.dev/v1alpha1/users/{n}?dryRun=All");
    let labels: serde_json::Map<String, Value> = (0..65).map(|at| (format!("l{at}"), "".into())).collect();
    eventually("the policy roster-metadata-size is enforced", || async {
        match patch(&client, Some("mallory"), &path, &json!({ "labels": labels })).await {
            Err(refused) if refused.contains("at most 64 are allowed") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_labels_and_annotations_are_limited() {
    let (cluster, n) = (guarded_cluster(), unique("i4-size"));
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}}}, spec: {{}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}}}, spec: {{}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {n}}}, spec: {{subjects: [{{kind: Group, name: {n}}}], roleRef: {{kind: ClusterRole, name: view}}, scope: {{namespaces: [default]}}}}}}\n"
    ));
    wait_until_bounded(cluster, &n).await;
    let client = cluster.client().await;
    let mallory = Some("mallory");
    let (applied, original) = ("kubectl.kubernetes.io/last-applied-configuration", "kapp.k14s.io/original");
    for kind in ["users", "groups", "rolebindings"] {
        let path = format!("/apis/roster.dev/v1alpha1/{kind}/{n}");
        let large = json!({"annotations": {"a": "x".repeat(40_000), "b": "é".repeat(13_000)}});
        let refused = patch(&client, mallory, &path, &large).await.unwrap_err();
        assert!(refused.contains("and at most 65536 are allowed"), "{kind}: {refused}");
        // The last-applied annotation counts as well, except for Groups.
        assert_eq!(refused.contains("metadata.annotations: 66002 bytes"), kind == "groups", "{kind}: {refused}");
        let many: serde_json::Map<String, Value> = (0..20_000).map(|at| (format!("a{at}"), "".into())).collect();
        let refused = patch(&client, mallory, &path, &json!({ "annotations": many })).await.unwrap_err();
        assert!(refused.contains("metadata.annotations: "), "{kind}: {refused}");
        let labels: serde_json::Map<String, Value> = (0..65).map(|at| (format!("l{at}"), "".into())).collect();
        let refused = patch(&client, mallory, &path, &json!({ "labels": labels })).await.unwrap_err();
        assert!(refused.contains("metadata.labels: 65 labels, and at most 64 are allowed"), "{kind}: {refused}");
        patch(&client, mallory, &path, &json!({"annotations": {"a": "x".repeat(60_000)}})).await.unwrap();
        // A Group's manifest may be large.
        for copy in [applied, original] {
            let mut annotations = json!({"a": null, applied: null, original: null});
            annotations[copy] = json!({"x": "x".repeat(100_000)}).to_string().into();
            let outcome = patch(&client, mallory, &path, &json!({ "annotations": annotations })).await;
            assert_eq!(outcome.is_ok(), kind == "groups", "{kind}: {outcome:?}");
        }
        // Administrators may exceed the limits, and everybody may reduce the size.
        patch(&client, None, &path, &large).await.unwrap();
        patch(&client, mallory, &path, &json!({"annotations": {"a": "x".repeat(39_990)}})).await.unwrap();
        patch(&client, mallory, &path, &json!({"annotations": {"a": null, "b": null}})).await.unwrap();
    }
}

/// Returns labels of that many bytes, keys and values together, in as few labels as possible.
fn labels_of(bytes: usize) -> serde_json::Map<String, Value> {
    const LARGEST: usize = 253 + 1 + 63 + 63;
    let prefix = (0..4).map(|_| "p".repeat(62)).collect::<Vec<_>>().join(".");
    let large = |at: usize| (format!("{prefix}pp/{at:063}"), Value::from("v".repeat(63)));
    let mut labels: serde_json::Map<String, Value> = (0..bytes / LARGEST).map(large).collect();
    let rest = bytes % LARGEST;
    labels.extend([("l".repeat(rest.min(63)), "v".repeat(rest.saturating_sub(63)).into())]);
    labels
}

/// Creates a User that mallory may patch. Returns the cluster, the User's name and its path.
async fn user_without_roles() -> (&'static Cluster, String, String) {
    let (cluster, n) = (guarded_cluster(), unique("i4-size"));
    cluster
        .apply(&format!("---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}}}, spec: {{}}}}\n"));
    wait_until_bounded(cluster, &n).await;
    let path = format!("/apis/roster.dev/v1alpha1/users/{n}");
    (cluster, n, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_allowed_labels_always_fit_into_a_tombstone() {
    let (cluster, n, path) = user_without_roles().await;
    let (client, mallory) = (cluster.client().await, Some("mallory"));
    let refused = patch(&client, mallory, &path, &json!({"labels": labels_of(MAX_LABEL_BYTES + 1)})).await.unwrap_err();
    assert!(
        refused
            .contains(&format!("{} bytes of names and values, and at most {MAX_LABEL_BYTES} are", MAX_LABEL_BYTES + 1))
    );
    patch(&client, mallory, &path, &json!({"labels": labels_of(MAX_LABEL_BYTES)})).await.unwrap();
    cluster.kubectl(&["delete", "users.roster.dev", &n, "--as", "mallory"]);
    let secrets = cluster.secrets("roster-system").await;
    eventually("all of its labels are kept", || async {
        let secret = secrets.get_opt(&Tombstone::secret_name(&n)).await.map_err(|error| error.to_string())?;
        match secret.as_ref().and_then(Tombstone::read).map(|tombstone| tombstone.labels) {
            Some(StoredLabels::All(labels)) if labels.len() == labels_of(MAX_LABEL_BYTES).len() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_owners_and_field_managers_are_limited() {
    let (cluster, n, path) = user_without_roles().await;
    let (client, mallory) = (cluster.client().await, Some("mallory"));
    let owners = |count: usize, name: &str| {
        let owner = |at| json!({"apiVersion": "v1", "kind": "Namespace", "name": name, "uid": format!("{at}")});
        json!({"ownerReferences": (0..count).map(owner).collect::<Vec<_>>()})
    };
    // These owners do not exist: the garbage collector would delete the User.
    let dry_run = format!("{path}?dryRun=All");
    patch(&client, mallory, &dry_run, &owners(64, "x")).await.unwrap();
    let refused = patch(&client, mallory, &dry_run, &owners(65, "x")).await.unwrap_err();
    assert!(refused.contains("metadata.ownerReferences: 65 owners, and at most 64 are allowed"), "{refused}");
    let refused = patch(&client, mallory, &dry_run, &owners(1, &"x".repeat(20_000))).await.unwrap_err();
    assert!(refused.contains("metadata.ownerReferences: 20012 bytes, and at most 16384 are allowed"), "{refused}");

    let names = |count: usize| (0..count).map(|at| (format!("{}/{at}", "a".repeat(60)), Value::from(""))).collect();
    let annotations: serde_json::Map<String, Value> = names(200);
    let apply = async |manager: usize| {
        let metadata = json!({"name": n, "annotations": annotations});
        let object = json!({"apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": metadata});
        let request = Request::patch(format!("{path}?fieldManager=m{manager}"))
            .header("content-type", "application/apply-patch+yaml")
            .header("impersonate-user", "mallory");
        let request = request.body(object.to_string().into_bytes()).unwrap();
        client.request_text(request).await.map_err(|error| error.to_string())
    };
    let mut manager = 0;
    let refused = loop {
        match apply(manager).await {
            Ok(_) => manager += 1,
            Err(refused) => break refused,
        }
        assert!(manager < 20);
    };
    assert!(manager >= 8 && refused.contains("bytes of field names, and at most 131072 are allowed"), "{refused}");
    // Roster can still write the object.
    let operator = Some("system:serviceaccount:roster-system:roster");
    let as_another_manager = format!("{path}?fieldManager=operator");
    let annotation = json!({"annotations": {"example.com/x": "y"}});
    patch(&client, operator, &as_another_manager, &annotation).await.unwrap();
    apply(3).await.expect("manager 3 has an entry already");
    patch(&client, mallory, &path, &json!({"managedFields": [{}]})).await.unwrap();
    apply(16).await.expect("the entries were removed");
    // Arbitrary names chosen by a client.
    let fields = names(3000).into_iter().map(|(name, _): (String, Value)| (format!("f:{name}"), json!({})));
    let fields: serde_json::Map<String, Value> = fields.collect();
    for made_up in [json!({"f:spec": {"f:extra": fields}}), json!({"f:a": {"f:b": {"f:c": {"f:d": {"f:e": {}}}}}})] {
        let entry = json!({
            "manager": "m", "operation": "Apply", "apiVersion": "roster.dev/v1alpha1", "fieldsType": "FieldsV1",
            "fieldsV1": made_up,
        });
        let refused = patch(&client, mallory, &path, &json!({"managedFields": [entry]})).await.unwrap_err();
        assert!(refused.contains("metadata.managedFields: "), "{refused}");
    }
}

/// Each update of a Namespace visits every field manager, and must stay within the cost limit of CEL.
#[tokio::test(flavor = "multi_thread")]
async fn i4_field_managers_of_a_namespace_are_limited() {
    let (cluster, n) = (guarded_cluster(), unique("i4-entries"));
    cluster.kubectl(&["create", "namespace", &n]);
    wait_until_can(cluster, "mallory", &["patch", "namespaces"], true).await;
    let (client, mallory) = (cluster.client().await, Some("mallory"));
    let path = format!("/api/v1/namespaces/{n}");
    let found = cluster.kubectl(&["get", "namespace", &n, "-o", "json", "--show-managed-fields"]);
    let found: Value = serde_json::from_str(&found).unwrap();
    let forged = |count: usize, labels: usize| {
        let names = |at: usize| -> serde_json::Map<String, Value> {
            (0..labels).map(|label| (format!("f:{at}-{label}"), json!({}))).collect()
        };
        let entry = |at: usize| {
            json!({
                "manager": format!("m{at}"), "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": names(at)}},
            })
        };
        let mut managed = found["metadata"]["managedFields"].as_array().cloned().unwrap();
        managed.extend((managed.len()..count).map(entry));
        json!({ "managedFields": managed })
    };
    eventually("the policy roster-namespace-size is enforced", || async {
        match patch(&client, mallory, &path, &forged(257, 1)).await {
            Err(refused) if refused.contains("257 entries, and at most 256 are allowed") => Ok(()),
            other => Err(format!("{:?}", other.is_ok())),
        }
    })
    .await;
    patch(&client, mallory, &path, &forged(256, 1)).await.unwrap();
    // One more manager does not fit.
    patch(&client, mallory, &path, &json!({"annotations": {"a": "b"}})).await.unwrap_err();
    patch(&client, mallory, &path, &forged(200, 40)).await.unwrap();
    patch(&client, mallory, &path, &json!({"annotations": {"a": "b"}})).await.unwrap();
    let refused = patch(&client, mallory, &path, &forged(200, 100)).await.unwrap_err();
    assert!(refused.contains("bytes of field names, and at most 131072 are allowed"), "{refused}");
    let nested = json!({"f:spec": {"f:a": {"f:b": {"f:c": {"f:d": {}}}}}});
    let nested = json!({"managedFields": [{
        "manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": nested,
    }]});
    let refused = patch(&client, mallory, &path, &nested).await.unwrap_err();
    assert!(refused.contains("bytes of field names"), "{refused}");
    patch(&client, None, &path, &forged(200, 100)).await.unwrap();
    patch(&client, None, &path, &forged(300, 1)).await.unwrap();
    patch(&client, mallory, &path, &forged(299, 1)).await.unwrap();
    cluster.kubectl(&["delete", "namespace", &n, "--timeout=60s"]);
}
