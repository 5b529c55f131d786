//! Attempts to control a User: its roles, memberships and password.

use super::{Attempt, CREATE, NATIVE, OWNED, SERVER_SIDE, attempt};

pub(super) const ATTEMPTS: &[Attempt] = &[
    // The administrator flag stands for ClusterRole admin, which alice may bind as well.
    attempt(
        "an administrator",
        "",
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-new'}, spec: {admin: true}}",
    ),
    attempt(
        "myself as administrator",
        "",
        &["patch", "users.roster.dev", "{n}-me", "--type=merge", "-p", r#"{"spec": {"admin": true}}"#],
        "",
    ),
    attempt(
        "a disabled administrator, enabled",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-root'}, spec: {admin: true, state: Disabled}}",
        &["patch", "users.roster.dev", "{n}-root", "--type=merge", "-p", r#"{"spec": {"state": "Active"}}"#],
        "",
    ),
    attempt(
        "an owner reference, which would delete the object: users",
        "",
        &["patch", "users.roster.dev", "{n}-boss", "--type=merge", "--dry-run=server", "-p", OWNED],
        "",
    ),
    // Membership, declared by the User.
    attempt(
        "a new user in the group",
        "",
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-new'}, spec: {groups: ['{n}-power']}}",
    ),
    attempt(
        "myself in the group",
        "",
        &["patch", "users.roster.dev", "{n}-me", "--type=merge", "-p", r#"{"spec": {"groups": ["{n}-power"]}}"#],
        "",
    ),
    attempt(
        "myself in the group, server-side",
        "",
        SERVER_SIDE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-me'}, spec: {groups: ['{n}-power']}}",
    ),
    attempt(
        "myself in a group nested in it",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-deep'}, spec: {acceptDeclaredMembers: true}}\n---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {memberGroups: ['{n}-deep']}}",
        &["patch", "users.roster.dev", "{n}-me", "--type=merge", "-p", r#"{"spec": {"groups": ["{n}-deep"]}}"#],
        "",
    ),
    attempt(
        "myself in the group, before it accepts declared members",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {}}",
        &["patch", "users.roster.dev", "{n}-me", "--type=merge", "-p", r#"{"spec": {"groups": ["{n}-power"]}}"#],
        "",
    ),
    attempt("a label that the group selects", "", &["label", "users.roster.dev", "{n}-me", "power={n}"], ""),
    attempt(
        "a new user with that label",
        "",
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {generateName: '{n}-new-', labels: {power: '{n}'}}, spec: {}}",
    ),
    attempt(
        "a user by the name that a binding waits for",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: User, name: '{n}-awaited'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}']}}}",
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-awaited'}, spec: {}}",
    ),
    attempt(
        "a user by the name that a group waits for",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {members: ['{n}-awaited']}}",
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-awaited'}, spec: {}}",
    ),
    attempt(
        "a username that a native binding names",
        NATIVE,
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-new'}, spec: {username: '{n}-native'}}",
    ),
    attempt(
        "a membership that has not begun yet",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {memberships: [{user: '{n}-awaited', validity: {notBefore: '2090-01-01T00:00:00Z'}}]}}",
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-awaited'}, spec: {}}",
    ),
    // Fields that control an identity.
    attempt(
        "another password for the boss, by the reference",
        "---\n{apiVersion: v1, kind: Secret, metadata: {name: mine, namespace: '{n}', annotations: {roster.dev/user: '{n}-boss'}}, type: roster.dev/password, stringData: {password: battery staple}}",
        &[
            "patch",
            "users.roster.dev",
            "{n}-boss",
            "--type=merge",
            "-p",
            r#"{"spec": {"passwordSecretRef": {"namespace": "{n}", "name": "mine"}}}"#,
        ],
        "",
    ),
    attempt(
        "another password for the boss, by the Secret",
        "",
        &[
            "patch",
            "secret",
            "boss",
            "-n",
            "{n}",
            "--type=merge",
            "-p",
            r#"{"stringData": {"password": "battery staple"}}"#,
        ],
        "",
    ),
    attempt(
        "another password for the boss, server-side",
        "",
        SERVER_SIDE,
        "---\n{apiVersion: v1, kind: Secret, metadata: {name: boss, namespace: '{n}', annotations: {roster.dev/user: '{n}-boss'}}, type: roster.dev/password, stringData: {password: battery staple}}",
    ),
    attempt(
        "a password that the boss waits for",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss'}, spec: {groups: ['{n}-power'], passwordSecretRef: {namespace: '{n}', name: awaited}}}",
        CREATE,
        "---\n{apiVersion: v1, kind: Secret, metadata: {name: awaited, namespace: '{n}', annotations: {roster.dev/user: '{n}-boss'}}, type: roster.dev/password, stringData: {password: battery staple}}",
    ),
    attempt(
        "my Secret, annotated for the boss",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss'}, spec: {groups: ['{n}-power'], passwordSecretRef: {namespace: '{n}', name: mine}}}\n---\n{apiVersion: v1, kind: Secret, metadata: {name: mine, namespace: '{n}', annotations: {roster.dev/user: '{n}-me'}}, type: roster.dev/password, stringData: {password: battery staple}}",
        &["annotate", "--overwrite", "secret", "mine", "-n", "{n}", "roster.dev/user={n}-boss"],
        "",
    ),
    attempt(
        "a disabled boss, enabled",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss'}, spec: {groups: ['{n}-power'], state: Disabled}}",
        &["patch", "users.roster.dev", "{n}-boss", "--type=merge", "-p", r#"{"spec": {"state": "Active"}}"#],
        "",
    ),
    attempt(
        "the boss disabled",
        "",
        &["patch", "users.roster.dev", "{n}-boss", "--type=merge", "-p", r#"{"spec": {"state": "Disabled"}}"#],
        "",
    ),
    attempt("the boss deleted", "", &["delete", "users.roster.dev", "{n}-boss", "--wait=false"], ""),
    attempt(
        "an administrator deleted",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-root'}, spec: {admin: true}}",
        &["delete", "users.roster.dev", "{n}-root", "--wait=false"],
        "",
    ),
    attempt(
        "the boss deleted as part of a collection",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss', labels: {'{n}': 'yes'}}, spec: {groups: ['{n}-power']}}",
        &["delete", "--raw", "/apis/roster.dev/v1alpha1/users?labelSelector={n}%3Dyes"],
        "",
    ),
    attempt(
        "a username of a deleted user that a native binding names",
        NATIVE,
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-native'}, spec: {}}",
    ),
    attempt(
        "an expired boss, extended",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss'}, spec: {groups: ['{n}-power'], validity: {notAfter: '2020-01-01T00:00:00Z'}}}",
        &[
            "patch",
            "users.roster.dev",
            "{n}-boss",
            "--type=json",
            "-p",
            r#"[{"op": "remove", "path": "/spec/validity"}]"#,
        ],
        "",
    ),
    attempt(
        "an external identity for the boss",
        "",
        &[
            "patch",
            "users.roster.dev",
            "{n}-boss",
            "--type=merge",
            "-p",
            r#"{"spec": {"identities": [{"type": "ldap", "id": "uid=mallory"}]}}"#,
        ],
        "",
    ),
    attempt(
        "a second factor no longer required for the boss",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss'}, spec: {groups: ['{n}-power'], secondFactor: Required}}",
        &["patch", "users.roster.dev", "{n}-boss", "--type=merge", "-p", r#"{"spec": {"secondFactor": "Optional"}}"#],
        "",
    ),
    attempt(
        "the boss deleted, so that a waiting User gets the username",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-waiting'}, spec: {username: '{n}-boss'}}\n---\n{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: foreign, namespace: '{n}'}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: '{n}-boss'}]}",
        &["delete", "users.roster.dev", "{n}-boss"],
        "",
    ),
    // What an identity would hold once a missing object is created.
    attempt(
        "myself in a group that a binding waits for",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: Group, name: '{n}-awaited'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}']}}}",
        &["patch", "users.roster.dev", "{n}-me", "--type=merge", "-p", r#"{"spec": {"groups": ["{n}-awaited"]}}"#],
        "",
    ),
    attempt(
        "a password for a User that does not refer to it yet",
        "",
        CREATE,
        "---\n{apiVersion: v1, kind: Secret, metadata: {name: planted, namespace: '{n}', annotations: {roster.dev/user: '{n}-boss'}}, type: roster.dev/password, stringData: {password: battery staple}}",
    ),
    attempt(
        "the binding deleted, so that the boss looks harmless",
        "",
        &["delete", "rolebindings.roster.dev", "{n}-power"],
        "",
    ),
    attempt(
        "the group deleted, so that its name is free to join",
        "",
        &["delete", "groups.roster.dev", "{n}-power"],
        "",
    ),
];
