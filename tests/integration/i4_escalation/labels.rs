//! Attempts to have a pipeline remove a label: one that keeps a User in a group or out of one, or a Namespace out of a
//! binding.

use roster_harness::kubectl::Kubectl;
use serde_json::json;

use super::{Attempt, CREATE, FIXTURES, attempt, guarded_cluster, wait_until_processed};
use crate::support::unique;

/// Group `{n}-staff` holds `edit` and selects Users with the label `{n}`, unless they have the label `contractor`. Carl
/// is in it. Developers hold `edit` in namespaces with the label `{n}`, unless these have the label `restricted`.
const LABELLED: &str = "
---
{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-staff'}, spec: {acceptDeclaredMembers: true, memberSelector: {matchExpressions: [{key: '{n}', operator: Exists}, {key: contractor, operator: DoesNotExist}]}}}
---
{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-staff'}, spec: {subjects: [{kind: Group, name: '{n}-staff'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}']}}}
---
{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-carl', labels: {'{n}': a}}, spec: {}}
---
{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-eve', labels: {'{n}': a, contractor: 'true'}}, spec: {}}
---
{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-developers'}, spec: {subjects: [{kind: Group, name: '{n}-mine'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaceSelector: {matchExpressions: [{key: '{n}', operator: Exists}, {key: restricted, operator: DoesNotExist}]}}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: '{n}-tier', labels: {'{n}': app, restricted: 'true'}}}
";

/// A patch of `managedFields`: the pipeline owns these fields.
macro_rules! owned {
    ($version:literal, $fields:literal) => {
        concat!(
            r#"[{"op": "add", "path": "/metadata/managedFields/-", "value": {"manager": "flux", "operation": "Apply", "apiVersion": ""#,
            $version,
            r#"", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": "#,
            $fields,
            "}}}}]"
        )
    };
}

const BY_PIPELINE: &[&str] = &["apply", "--server-side", "--force-conflicts", "--field-manager=flux", "-f", "-"];

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt(
        "another value of a label, as a field of the pipeline",
        LABELLED,
        BY_PIPELINE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-carl', labels: {'{n}': b}}}",
    ),
    attempt(
        "a label that excludes from a group, as a field of the pipeline",
        LABELLED,
        BY_PIPELINE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-eve', labels: {contractor: 'yes'}}}",
    ),
    attempt(
        "a label that excludes from a group, planted as a field of the pipeline",
        LABELLED,
        &[
            "patch",
            "users.roster.dev",
            "{n}-eve",
            "--type=json",
            "-p",
            owned!("roster.dev/v1alpha1", r#"{"f:contractor": {}}"#),
        ],
        "",
    ),
    attempt(
        "a label that excludes from a group, no longer in the manifest that kubectl applied last",
        LABELLED,
        &[
            "annotate",
            "users.roster.dev",
            "{n}-eve",
            "--overwrite",
            r#"kubectl.kubernetes.io/last-applied-configuration={"metadata": {"labels": {"{n}": "a"}}}"#,
        ],
        "",
    ),
    attempt(
        "no labels in the manifest that kubectl applied last, so that it removes all",
        LABELLED,
        &[
            "annotate",
            "users.roster.dev",
            "{n}-eve",
            "--overwrite",
            r#"kubectl.kubernetes.io/last-applied-configuration={"metadata": {"labels": {}}}"#,
        ],
        "",
    ),
    attempt(
        "a label that the pipeline sets again, while another one excludes from the group",
        LABELLED,
        &["label", "users.roster.dev", "{n}-eve", "{n}-"],
        "",
    ),
    attempt(
        "a label that excludes from a group, before the pipeline sets the one that includes",
        LABELLED,
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-new', labels: {contractor: 'true'}}, spec: {}}",
    ),
    attempt(
        "all labels as a field of the pipeline",
        LABELLED,
        &["patch", "users.roster.dev", "{n}-carl", "--type=json", "-p", owned!("roster.dev/v1alpha1", "{}")],
        "",
    ),
    attempt(
        "a contractor who is created again by the pipeline",
        LABELLED,
        &["delete", "users.roster.dev", "{n}-eve", "--wait=false", "--dry-run=server"],
        "",
    ),
    attempt(
        "a new contractor, before the pipeline creates the User",
        LABELLED,
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-new', labels: {'{n}': a, contractor: 'true'}}, spec: {}}",
    ),
    attempt(
        "a label that excludes a namespace, in the manifest that kubectl applied last",
        LABELLED,
        &[
            "annotate",
            "namespace",
            "{n}-tier",
            "--overwrite",
            r#"kubectl.kubernetes.io/last-applied-configuration={"metadata": {"labels": {"restricted": "x"}}}"#,
        ],
        "",
    ),
    attempt(
        "a label that excludes a namespace, as a field of the pipeline",
        LABELLED,
        &["patch", "namespace", "{n}-tier", "--type=json", "-p", owned!("v1", r#"{"f:restricted": {}}"#)],
        "",
    ),
    attempt(
        "a restricted namespace, before the pipeline creates it",
        LABELLED,
        CREATE,
        "---\n{apiVersion: v1, kind: Namespace, metadata: {name: '{n}-new', labels: {'{n}': app, restricted: 'true'}}}",
    ),
];

/// Changes of a label on which no membership depends, and of a label by the manager that owns it, need no rights.
#[tokio::test(flavor = "multi_thread")]
async fn i4_labels_without_consequences_are_free() {
    let (cluster, n) = (guarded_cluster(), unique("i4-labels"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    cluster.apply(&LABELLED.replace("{n}", &n));
    wait_until_processed(cluster, &n).await;
    let run = |args: &[&str]| as_mallory(&cluster.plane.kubectl, &n, args);
    for (args, expected) in [
        (&["label", "users.roster.dev", "{n}-carl", "floor=3"][..], true),
        (&["label", "users.roster.dev", "{n}-carl", "floor=4", "--overwrite", "--field-manager=other"], true),
        (&["label", "users.roster.dev", "{n}-eve", "{n}-more=x"], true),
        // The manager that set the label changes it.
        (
            &[
                "label",
                "users.roster.dev",
                "{n}-carl",
                "{n}=b",
                "--overwrite",
                "--field-manager=kubectl-client-side-apply",
            ],
            true,
        ),
        (&["label", "users.roster.dev", "{n}-carl", "{n}-"], false),
        (&["label", "users.roster.dev", "{n}-eve", "contractor-"], false),
        (&["label", "namespace", "{n}-tier", "floor=3"], true),
        (&["label", "namespace", "{n}-tier", "restricted-"], false),
    ] {
        let outcome = run(args);
        assert_eq!(outcome.is_ok(), expected, "{args:?}: {outcome:?}");
    }
}

fn as_mallory(kubectl: &Kubectl, n: &str, args: &[&str]) -> Result<String, String> {
    let args: Vec<String> = args.iter().map(|arg| arg.replace("{n}", n)).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--as", "mallory"]).collect();
    kubectl.run(&args).map_err(|error| format!("{error:#}"))
}

/// A tool that prunes a Namespace ends the bindings in it.
#[tokio::test(flavor = "multi_thread")]
async fn i4_prune_marks_on_a_namespace_require_its_deletion() {
    let (cluster, n) = (guarded_cluster(), unique("i4-prune"));
    cluster.kubectl(&["create", "namespace", &n]);
    let (labeller, admin) = (format!("{n}-labeller"), format!("{n}-admin"));
    for (who, verbs) in [(&labeller, "--verb=get,create,patch"), (&admin, "--verb=get,create,patch,delete")] {
        cluster.kubectl(&["create", "clusterrole", who, "--resource=namespaces", verbs]);
        cluster.kubectl(&["create", "clusterrolebinding", who, "--clusterrole", who, "--user", who]);
    }
    wait_until_processed(cluster, &n).await;
    let run = |who: &str, args: &[&str]| {
        let args = [args, &["--overwrite", "--as", who]].concat();
        cluster.plane.kubectl.run(&args).map_err(|error| format!("{error:#}"))
    };
    // As kube-apiserver does for the deletion itself, a RoleBinding in the Namespace counts.
    let editor = format!("{n}-editor");
    cluster.kubectl(&["create", "clusterrolebinding", &editor, "--clusterrole", &labeller, "--user", &editor]);
    cluster.kubectl(&["create", "rolebinding", &editor, "-n", &n, "--clusterrole", &admin, "--user", &editor]);
    for mark in [
        ["label", "namespace", &n, "applyset.kubernetes.io/part-of=x"],
        ["label", "namespace", &n, "app.kubernetes.io/instance=x"],
        ["annotate", "namespace", &n, "argocd.argoproj.io/tracking-id=x"],
    ] {
        let refused = run(&labeller, &mark).expect_err("it could not delete the namespace");
        let because = format!("may delete Namespace {n}, and {labeller} may not: this requires the verb delete");
        assert!(refused.contains("the guard: metadata.") && refused.contains(&because), "{refused}");
        run(&editor, &mark).unwrap_or_else(|refused| panic!("{mark:?}: {refused}"));
        run(&admin, &mark).unwrap_or_else(|refused| panic!("{mark:?}: {refused}"));
    }
    // The garbage collector deletes a Namespace whose owner does not exist.
    let owners =
        r#"{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Namespace", "name": "x", "uid": "x"}]}}"#;
    let patch = |who: &str| {
        let args = ["patch", "namespace", &n, "--type=merge", "-p", owners, "--dry-run=server", "--as", who];
        cluster.plane.kubectl.run(&args).map_err(|error| format!("{error:#}"))
    };
    let refused = patch(&labeller).expect_err("it could not delete the namespace");
    // By the admission plugin OwnerReferencesPermissionEnforcement, if it is enabled, or by the guard.
    let by_kubernetes = refused.contains("cannot set an ownerRef on a resource you can't delete");
    assert!(by_kubernetes || refused.contains("the guard: metadata.ownerReferences"), "{refused}");
    patch(&admin).unwrap();
    let create = |who: &str| {
        let owned = format!(
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {n}-new, ownerReferences: [{{apiVersion: v1, kind: Namespace, name: x, uid: x}}]}}}}"
        );
        let args = ["create", "--dry-run=server", "-f", "-", "--as", who];
        cluster.plane.kubectl.run_with_input(&args, &owned).map_err(|error| format!("{error:#}"))
    };
    let refused = create(&labeller).expect_err("it could not delete the namespace");
    let by_kubernetes = refused.contains("cannot set an ownerRef on a resource you can't delete");
    assert!(by_kubernetes || refused.contains("the guard: metadata.ownerReferences"), "{refused}");
    create(&admin).unwrap();
    run(&labeller, &["label", "namespace", &n, "floor=3"]).unwrap();
    run(&labeller, &["annotate", "namespace", &n, "floor=3"]).unwrap();
}

/// kubectl reads this manifest. serde_json does not, so it is unknown what the next apply removes.
#[tokio::test(flavor = "multi_thread")]
async fn i4_an_unreadable_manifest_requires_every_role() {
    let (cluster, n) = (guarded_cluster(), unique("i4-unreadable"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    cluster.apply(&LABELLED.replace("{n}", &n));
    let plain = format!("{n}-plain");
    cluster
        .apply(&format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {plain}, labels: {{{n}: app}}}}}}"));
    cluster.kubectl(&["label", "namespace", &plain, "restricted=true"]);
    wait_until_processed(cluster, &n).await;
    let manifest = format!(
        r#"kubectl.kubernetes.io/last-applied-configuration={{"metadata": {{"annotations": {{"z": "\ud800"}}, "labels": {{"{n}": "app", "restricted": "true"}}}}}}"#
    );
    let annotate =
        ["annotate", "namespace", &plain, "--overwrite", "--field-manager=kubectl-client-side-apply", &manifest];
    let refused = as_mallory(&cluster.plane.kubectl, &n, &annotate).expect_err("it could name any label");
    assert!(refused.contains("last-applied-configuration]: is not a JSON object that can be read"), "{refused}");
    cluster.kubectl(&annotate);
}

/// A tool would remove a later lock.
#[tokio::test(flavor = "multi_thread")]
async fn i4_a_new_namespace_names_no_lock_that_it_lacks() {
    let (cluster, n) = (guarded_cluster(), unique("i4-new-lock"));
    let create = |manifest: &str| {
        let metadata = json!({
            "name": n, "annotations": {"kubectl.kubernetes.io/last-applied-configuration": manifest},
        });
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}).to_string();
        // Without --raw, kubectl would replace the annotation by the manifest itself.
        let args = ["create", "--raw", "/api/v1/namespaces?dryRun=All", "-f", "-", "--as", "mallory"];
        cluster.plane.kubectl.run_with_input(&args, &namespace).map_err(|error| format!("{error:#}"))
    };
    let refused =
        create(r#"{"metadata": {"annotations": {"roster.dev/locked-by": "x"}}}"#).expect_err("it names a lock");
    assert!(refused.contains("only the holder of the lock or an administrator"), "{refused}");
    create(r#"{"metadata": {"annotations": {"floor": "3"}}}"#).unwrap();
}
