//! Disabling a User must stay possible, whatever administrators of single namespaces bind to it.

use serde_json::{Value, json};

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

/// Adds entries to `managedFields` as mallory. Other fields of the patch are `more`.
fn forge(cluster: &Cluster, object: &str, entries: &[Value], more: &Value) -> Result<String, String> {
    let found = cluster.kubectl(&["get", object, "-o", "json", "--show-managed-fields"]);
    let found: Value = serde_json::from_str(&found).unwrap();
    let mut managed = found["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    managed.extend_from_slice(entries);
    let mut patch = more.clone();
    patch["metadata"]["managedFields"] = managed.into();
    let args = ["patch", object, "--type=merge", "--as", "mallory"];
    let file = std::env::temp_dir().join(unique("patch"));
    std::fs::write(&file, patch.to_string()).unwrap();
    let from = format!("--patch-file={}", file.display());
    let outcome = cluster.plane.kubectl.run(&[&args[..], &[&from]].concat());
    std::fs::remove_file(&file).unwrap();
    outcome.map_err(|error| format!("{error:#}"))
}

fn entry(manager: &str, operation: &str, time: &str, fields: &Value) -> Value {
    json!({
        "manager": manager, "operation": operation, "apiVersion": "roster.dev/v1alpha1", "time": time,
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    })
}

/// An object that is full of field managers can still be restricted.
#[tokio::test(flavor = "multi_thread")]
async fn i4_made_up_field_managers_cannot_prevent_disabling() {
    let (cluster, n) = (guarded_cluster(), unique("i4-full"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    let (me, object) = (format!("{n}-me"), format!("users.roster.dev/{n}-me"));
    wait_until_processed(cluster, &n).await;
    let with_padding = |bytes: usize| {
        let own = |at: usize| {
            entry(&format!("m{at}"), "Apply", "2020-01-01T00:00:00Z", &json!({"f:spec": {"f:displayName": {}}}))
        };
        let padding = json!({"f:metadata": {"f:annotations": {format!("f:{}", "a".repeat(bytes)): {}}}});
        let padding = entry("padding", "Apply", "2020-01-01T00:00:00Z", &padding);
        (0..400).map(own).chain([padding]).collect::<Vec<Value>>()
    };
    eventually("the policy roster-metadata-size is enforced", || async {
        match forge(cluster, &object, &with_padding(200_000), &json!({})) {
            Err(refused) if refused.contains("and at most 131072 are allowed") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let refused = forge(cluster, &object, &with_padding(200_000), &json!({})).unwrap_err();
    let bytes = refused.split("metadata.managedFields: ").nth(1).and_then(|text| text.split(' ').next());
    let bytes: usize = bytes.unwrap().parse().unwrap();
    forge(cluster, &object, &with_padding(200_000 - (bytes - 131_072)), &json!({})).unwrap();
    for (manager, spec) in [
        ("desk", r#"{"validity": {"notBefore": "2020-01-01T00:00:00Z", "notAfter": "2090-01-01T00:00:00Z"}}"#),
        ("ban", r#"{"state": "Banned"}"#),
    ] {
        patch_by(manager, cluster, &me, spec).unwrap_or_else(|refused| panic!("{manager} {spec}: {refused}"));
    }
    // Nothing else fits.
    let label = ["label", "users.roster.dev", &me, "floor=3", "--field-manager=another", "--as", "mallory"];
    let refused = cluster.plane.kubectl.run(&label).unwrap_err();
    assert!(format!("{refused:#}").contains("at most 131072 are allowed"), "{refused:#}");
}

/// kube-apiserver merges the managers that update with the oldest times, so times in the future would have it merge the
/// next restriction with the fields of a tool.
#[tokio::test(flavor = "multi_thread")]
async fn i4_field_managers_of_the_future_cannot_prevent_disabling() {
    let (cluster, n) = (guarded_cluster(), unique("i4-future"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    let (me, object) = (format!("{n}-me"), format!("users.roster.dev/{n}-me"));
    wait_until_processed(cluster, &n).await;
    let named = json!({"f:spec": {"f:language": {}}});
    for time in ["2099-01-01T00:00:00Z", "2020-01-01T00:00:00Z"] {
        let forged: Vec<Value> = (0..9).map(|at| entry(&format!("a{at}"), "Update", time, &named)).collect();
        for more in
            [json!({}), json!({"spec": {"displayName": time}}), json!({"metadata": {"annotations": {"a": time}}})]
        {
            let refused = forge(cluster, &object, &forged, &more).expect_err("kube-apiserver did not write these");
            assert!(refused.contains("the guard: metadata.managedFields: "), "{refused}");
        }
    }
    // As if they were merged, with the time of an entry that kube-apiserver does not merge.
    let applied = entry("p", "Apply", "2099-01-01T00:00:00Z", &named);
    forge(cluster, &object, std::slice::from_ref(&applied), &json!({})).expect("it owns nothing that is guarded");
    let merged = (0..9).map(|at| {
        let mut merged = entry("ancient-changes", "Update", "2099-01-01T00:00:00Z", &named);
        merged["subresource"] = format!("s{at}").into();
        merged
    });
    let merged: Vec<Value> = std::iter::once(applied).chain(merged).collect();
    for count in [2, merged.len()] {
        let refused = forge(cluster, &object, &merged[..count], &json!({})).expect_err("nothing was merged");
        assert!(refused.contains("the guard: metadata.managedFields: "), "{refused}");
    }
    // New Users and the times of existing entries.
    let entries: Vec<Value> =
        (0..3).map(|at| entry(&format!("a{at}"), "Update", "2099-01-01T00:00:00Z", &named)).collect();
    let new = json!({
        "apiVersion": "roster.dev/v1alpha1", "kind": "User", "spec": {"displayName": "x"},
        "metadata": {"name": format!("{n}-new"), "managedFields": entries},
    });
    let create = ["create", "--raw", "/apis/roster.dev/v1alpha1/users", "-f", "-", "--as", "mallory"];
    let refused = cluster.plane.kubectl.run_with_input(&create, &new.to_string()).unwrap_err();
    assert!(format!("{refused:#}").contains("the guard: metadata.managedFields: "), "{refused:#}");
    cluster.kubectl(&["annotate", "users.roster.dev", &me, "first=1", "--field-manager=first", "--as", "mallory"]);
    cluster.kubectl(&["annotate", "users.roster.dev", &me, "second=1", "--field-manager=second", "--as", "mallory"]);
    let found = cluster.kubectl(&["get", &object, "-o", "json", "--show-managed-fields"]);
    let mut found: Value = serde_json::from_str(&found).unwrap();
    let managed = found["metadata"]["managedFields"].as_array_mut().unwrap();
    managed.iter_mut().find(|entry| entry["manager"] == "first").unwrap()["time"] = "2099-01-01T00:00:00Z".into();
    found["metadata"]["annotations"]["second"] = "2".into();
    let args = ["replace", "-f", "-", "--as", "mallory", "--field-manager=second"];
    let refused = cluster.plane.kubectl.run_with_input(&args, &found.to_string()).unwrap_err();
    assert!(format!("{refused:#}").contains("the guard: metadata.managedFields: "), "{refused:#}");
    patch(cluster, &me, DISABLED).unwrap();
}

/// Without field managers, kube-apiserver records no manager for later updates, and the next server-side apply adopts
/// everything.
#[tokio::test(flavor = "multi_thread")]
async fn i4_a_restriction_without_a_field_manager_requires_every_role() {
    let (cluster, n) = (guarded_cluster(), unique("i4-reset"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    let (me, object) = (format!("{n}-me"), format!("users.roster.dev/{n}-me"));
    cluster.kubectl(&["create", "rolebinding", "own", "-n", &n, "--clusterrole=edit", "--user", &me]);
    wait_until_processed(cluster, &n).await;
    let reset = ["patch", &object, "--type=merge", "-p", r#"{"metadata": {"managedFields": [{}]}}"#];
    eventually("the guard knows the binding", || async {
        match patch(cluster, &me, r#"{"requirePasswordChange": true}"#) {
            Err(refused) if refused.contains("may not bind it") => Ok(()),
            outcome => Err(format!("{outcome:?}")),
        }
    })
    .await;
    let refused = cluster.plane.kubectl.run(&[&reset[..], &["--as", "mallory"]].concat()).unwrap_err();
    assert!(format!("{refused:#}").contains("(metadata.managedFields)"), "{refused:#}");
    cluster.kubectl(&reset);
    let refused = patch_by("ban", cluster, &me, DISABLED).unwrap_err();
    assert!(refused.contains("kubectl apply --server-side") && refused.contains("may not bind it"), "{refused}");
    // As the denial says: kube-apiserver then records managers again.
    let bare = format!("{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {me}}}}}");
    let apply = ["apply", "--server-side", "--validate=false", "--field-manager=ban", "-f", "-", "--as", "mallory"];
    cluster.plane.kubectl.run_with_input(&apply, &bare).unwrap();
    patch_by("ban", cluster, &me, DISABLED).unwrap();
}
