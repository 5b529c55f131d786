//! Attempts to have a pipeline lift restrictions: with its next apply it would remove the fields that it seems to own, or
//! prune the object.

use super::{Attempt, attempt};

/// The boss is banned.
const BANNED: &str = "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss'}, spec: {groups: ['{n}-power'], state: Banned}}";

/// The binding of the group has ended.
const ENDED: &str = "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-power'}, spec: {subjects: [{kind: Group, name: '{n}-power'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}']}, validity: {notAfter: '2020-01-01T00:00:00Z'}}}";

/// A patch of `managedFields`: the pipeline owns this field.
macro_rules! owned {
    ($operation:literal, $fields:literal) => {
        concat!(
            r#"[{"op": "add", "path": "/metadata/managedFields/-", "value": {"manager": "pipeline", "operation": ""#,
            $operation,
            r#"", "apiVersion": "roster.dev/v1alpha1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": "#,
            $fields,
            "}}]"
        )
    };
}

/// A patch of the manifest that `kubectl apply` stores.
macro_rules! applied {
    ($manifest:literal) => {
        concat!(r#"kubectl.kubernetes.io/last-applied-configuration="#, $manifest)
    };
}

/// The arguments of a JSON patch.
macro_rules! json_patch {
    ($kind:literal, $name:literal, $patch:expr) => {
        &["patch", $kind, $name, "--type=json", "-p", $patch]
    };
}

/// The arguments that set an annotation.
macro_rules! annotate {
    ($kind:literal, $name:literal, $annotation:expr) => {
        &["annotate", $kind, $name, "--overwrite", $annotation]
    };
}

/// A manager that updates owns the annotation of `kubectl apply`, so that `kubectl apply --server-side` adopts its fields.
const ADOPTED: &str = owned!(
    "Update",
    r#"{"f:metadata": {"f:annotations": {"f:kubectl.kubernetes.io/last-applied-configuration": {}}}}"#
);

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt(
        "a ban as a field of the pipeline",
        BANNED,
        json_patch!("users.roster.dev", "{n}-boss", owned!("Apply", r#"{"f:spec": {"f:state": {}}}"#)),
        "",
    ),
    attempt(
        "a ban as a field of a client that is about to apply server-side",
        BANNED,
        json_patch!("users.roster.dev", "{n}-boss", owned!("Update", r#"{"f:spec": {"f:state": {}}}"#)),
        "",
    ),
    attempt(
        "a ban in a manifest that names it, applied server-side by the same manager",
        BANNED,
        &["apply", "--server-side", "--field-manager=pipeline", "-f", "-"],
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss'}, spec: {state: Banned}}",
    ),
    attempt(
        "a ban that may come, in the manifest that kubectl applied last",
        "",
        annotate!(
            "users.roster.dev",
            "{n}-boss",
            applied!(
                r#"{"spec": {"groups": [], "state": "Active", "passwordSecretRef": {"name": "boss", "namespace": "x"}}}"#
            )
        ),
        "",
    ),
    attempt(
        "no field of the pipeline any more, so that it does not remove one",
        "",
        &[
            "patch",
            "users.roster.dev",
            "{n}-boss",
            "--type=merge",
            "-p",
            r#"{"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": null}}}"#,
        ],
        "",
    ),
    attempt(
        "a user that Argo CD prunes",
        "",
        annotate!("users.roster.dev", "{n}-boss", "argocd.argoproj.io/tracking-id=roster:roster.dev/User:/{n}-boss"),
        "",
    ),
    attempt(
        "a user that kubectl prunes",
        "",
        &["label", "users.roster.dev", "{n}-boss", "--overwrite", "applyset.kubernetes.io/part-of=x"],
        "",
    ),
    attempt(
        "members as a field of the pipeline",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {acceptDeclaredMembers: true, members: ['{n}-boss']}}",
        json_patch!("groups.roster.dev", "{n}-power", owned!("Apply", r#"{"f:spec": {"f:members": {}}}"#)),
        "",
    ),
    attempt(
        "a group that an application of Argo CD prunes",
        "",
        &["label", "groups.roster.dev", "{n}-power", "--overwrite", "app.kubernetes.io/instance=roster"],
        "",
    ),
    attempt(
        "a group for another group of a source",
        "",
        annotate!("groups.roster.dev", "{n}-power", "roster.dev/source-id=ldap:cn=power,ou=interns,dc=x"),
        "",
    ),
    attempt(
        "a group with the name of a group of a source",
        "",
        &["patch", "groups.roster.dev", "{n}-power", "--type=merge", "-p", r#"{"spec": {"displayName": "Power*"}}"#],
        "",
    ),
    attempt(
        "an end of a binding as a field of the pipeline",
        ENDED,
        json_patch!(
            "rolebindings.roster.dev",
            "{n}-power",
            owned!("Apply", r#"{"f:spec": {"f:validity": {"f:notAfter": {}}}}"#)
        ),
        "",
    ),
    attempt(
        "an end of a binding in the manifest that kubectl applied last",
        ENDED,
        annotate!(
            "rolebindings.roster.dev",
            "{n}-power",
            applied!(r#"{"spec": {"validity": {"notAfter": "2020-01-01T00:00:00Z"}, "delegatedBy": "x"}}"#)
        ),
        "",
    ),
    attempt(
        "a binding that Argo CD prunes",
        "",
        annotate!(
            "rolebindings.roster.dev",
            "{n}-power",
            "argocd.argoproj.io/tracking-id=roster:roster.dev/RoleBinding:/{n}-power"
        ),
        "",
    ),
    attempt(
        "a password Secret that keeps its password",
        "",
        &["patch", "secret", "boss", "-n", "{n}", "--type=merge", "-p", r#"{"immutable": true}"#],
        "",
    ),
    attempt("a ban of a manager that kubectl adopts", BANNED, json_patch!("users.roster.dev", "{n}-boss", ADOPTED), ""),
    attempt(
        "a field of the pipeline moved to a subresource, so that it stays",
        "",
        json_patch!(
            "users.roster.dev",
            "{n}-boss",
            r#"[{"op": "add", "path": "/metadata/managedFields/0/subresource", "value": "status"}]"#
        ),
        "",
    ),
    attempt(
        "no conflict with the manager that banned",
        BANNED,
        json_patch!(
            "users.roster.dev",
            "{n}-boss",
            r#"[{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]"#
        ),
        "",
    ),
    attempt(
        "a user that Helm keeps",
        "",
        annotate!("users.roster.dev", "{n}-boss", "helm.sh/resource-policy=keep"),
        "",
    ),
    attempt("a binding that kubectl adopts", ENDED, json_patch!("rolebindings.roster.dev", "{n}-power", ADOPTED), ""),
    attempt(
        "a binding that Flux does not prune",
        "",
        annotate!("rolebindings.roster.dev", "{n}-power", "kustomize.toolkit.fluxcd.io/prune=disabled"),
        "",
    ),
];
