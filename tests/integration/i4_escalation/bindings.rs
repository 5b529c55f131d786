//! Attempts to bind a role, by a RoleBinding or by adding a namespace to its scope.

use super::{APPLY, Attempt, CREATE, OWNED, SERVER_SIDE, attempt};

/// An existing binding of `view` in `{n}` to mallory's own user.
const MY_VIEW: &str = "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: view}, scope: {namespaces: ['{n}']}}}\n";

/// An expired binding of `edit` in `{n}` to the boss.
const EXPIRED_EDIT: &str = "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}']}, validity: {notAfter: '2020-01-01T00:00:00Z'}}}\n";

/// A binding of `edit` to mallory's own user with the boss as delegator. It has no effect, because the boss does not
/// hold the role in that namespace.
const DELEGATED: &str = "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}-other']}, delegatedBy: '{n}-boss'}}\n";

/// A binding of `edit` to mallory's own user in every namespace with a label, and in a domain.
const BY_LABEL: &str = "
---
{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-l'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaceSelector: {matchLabels: {project: '{n}'}}}}}
---
{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-d'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {domain: '{n}'}}}
";

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt(
        "an owner reference, which would delete the object: rolebindings",
        "",
        &["patch", "rolebindings.roster.dev", "{n}-power", "--type=merge", "--dry-run=server", "-p", OWNED],
        "",
    ),
    // Binding a role.
    attempt(
        "a binding in the whole cluster",
        "",
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {cluster: {}}}}",
    ),
    attempt(
        "a binding in a namespace",
        "",
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}']}}}",
    ),
    attempt(
        "the last of sixteen namespaces",
        "",
        APPLY,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: [mallorys, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12, n13, n14, '{n}']}}}",
    ),
    attempt(
        "a binding by selector, with bind in one namespace",
        "",
        APPLY,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: mallorys}}}}}",
    ),
    attempt(
        "a binding in a domain",
        "",
        APPLY,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {domain: default}}}",
    ),
    attempt(
        "a Role of a namespace",
        "",
        APPLY,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: Role, name: deployer}, scope: {namespaces: ['{n}']}}}",
    ),
    attempt(
        "a group as the subject",
        "",
        SERVER_SIDE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: Group, name: '{n}-mine'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}']}}}",
    ),
    attempt(
        "one more subject",
        "",
        &[
            "patch",
            "rolebindings.roster.dev",
            "{n}-power",
            "--type=json",
            "-p",
            r#"[{"op": "add", "path": "/spec/subjects/-", "value": {"kind": "User", "name": "{n}-me"}}]"#,
        ],
        "",
    ),
    attempt(
        "a wider scope",
        "",
        &[
            "patch",
            "rolebindings.roster.dev",
            "{n}-power",
            "--type=merge",
            "-p",
            r#"{"spec": {"scope": {"namespaces": null, "cluster": {}}}}"#,
        ],
        "",
    ),
    attempt(
        "one more namespace",
        "",
        &[
            "patch",
            "rolebindings.roster.dev",
            "{n}-power",
            "--type=json",
            "-p",
            r#"[{"op": "add", "path": "/spec/scope/namespaces/-", "value": "{n}-other"}]"#,
        ],
        "",
    ),
    attempt(
        "another role",
        MY_VIEW,
        SERVER_SIDE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}']}}}",
    ),
    attempt(
        "an expired binding, extended",
        EXPIRED_EDIT,
        &[
            "patch",
            "rolebindings.roster.dev",
            "{n}-b",
            "--type=json",
            "-p",
            r#"[{"op": "remove", "path": "/spec/validity"}]"#,
        ],
        "",
    ),
    attempt(
        "a delegated binding, without its delegator",
        DELEGATED,
        &[
            "patch",
            "rolebindings.roster.dev",
            "{n}-b",
            "--type=json",
            "-p",
            r#"[{"op": "remove", "path": "/spec/delegatedBy"}]"#,
        ],
        "",
    ),
    attempt(
        "a binding delegated on behalf of another user",
        "",
        APPLY,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}']}, delegatedBy: '{n}-boss'}}",
    ),
    attempt(
        "a delegate of a delegate",
        DELEGATED,
        APPLY,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-c'}, spec: {subjects: [{kind: Group, name: '{n}-mine'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}-other']}, delegatedBy: '{n}-me'}}",
    ),
    // Revoking a role temporarily: its holder would be easy to take over until the binding is restored.
    attempt(
        "a lesser role in place of the bound one",
        "",
        &[
            "patch",
            "rolebindings.roster.dev",
            "{n}-power",
            "--type=merge",
            "-p",
            r#"{"spec": {"roleRef": {"name": "view"}}}"#,
        ],
        "",
    ),
    attempt(
        "a scope narrowed to a namespace where mallory may bind",
        "",
        &[
            "patch",
            "rolebindings.roster.dev",
            "{n}-power",
            "--type=merge",
            "-p",
            r#"{"spec": {"scope": {"namespaces": ["mallorys"]}}}"#,
        ],
        "",
    ),
    attempt(
        "a cluster-wide binding moved to a namespace where mallory may bind",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-boss'}], roleRef: {kind: ClusterRole, name: edit}, scope: {cluster: {}}}}\n",
        SERVER_SIDE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-me'}], roleRef: {kind: ClusterRole, name: edit}, scope: {cluster: null, namespaces: [mallorys]}}}\n",
    ),
    attempt(
        "a binding ended by its validity and a lesser role",
        "",
        &[
            "patch",
            "rolebindings.roster.dev",
            "{n}-power",
            "--type=merge",
            "-p",
            r#"{"spec": {"roleRef": {"name": "view"}, "validity": {"notAfter": "2020-01-01T00:00:00Z"}}}"#,
        ],
        "",
    ),
    // Adding a namespace to a binding.
    attempt("a namespace with the label", BY_LABEL, &["label", "namespace", "{n}-other", "project={n}"], ""),
    attempt("a namespace in the domain", BY_LABEL, &["label", "namespace", "{n}-other", "roster.dev/domain={n}"], ""),
    attempt(
        "a new namespace with the label",
        BY_LABEL,
        CREATE,
        "---\n{apiVersion: v1, kind: Namespace, metadata: {name: '{n}-new', labels: {project: '{n}'}}}",
    ),
    attempt(
        "a new namespace with a generated name",
        BY_LABEL,
        CREATE,
        "---\n{apiVersion: v1, kind: Namespace, metadata: {generateName: mallorys, labels: {project: '{n}'}}}",
    ),
    attempt(
        "a namespace's label, through the status subresource",
        BY_LABEL,
        &[
            "patch",
            "namespace",
            "{n}-other",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"metadata": {"labels": {"project": "{n}"}}}"#,
        ],
        "",
    ),
    attempt(
        "a namespace's label, through the finalize subresource",
        BY_LABEL,
        &["replace", "--raw", "/api/v1/namespaces/{n}-other/finalize", "-f", "-"],
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "{n}-other", "labels": {"project": "{n}"}}, "spec": {"finalizers": ["kubernetes"]}}"#,
    ),
];
