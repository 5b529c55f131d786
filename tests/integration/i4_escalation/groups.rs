//! Attempts to control a Group: its members, and the groups of a cycle.

use super::{Attempt, CREATE, NATIVE, OWNED, SERVER_SIDE, attempt};

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt(
        "an owner reference, which would delete the object: groups",
        "",
        &["patch", "groups.roster.dev", "{n}-power", "--type=merge", "--dry-run=server", "-p", OWNED],
        "",
    ),
    // Membership, declared by the Group.
    attempt(
        "one more member",
        "",
        &["patch", "groups.roster.dev", "{n}-power", "--type=merge", "-p", r#"{"spec": {"members": ["{n}-me"]}}"#],
        "",
    ),
    attempt(
        "one more member, server-side",
        "",
        SERVER_SIDE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {members: ['{n}-me']}}",
    ),
    attempt(
        "a member who does not exist yet",
        "",
        &["patch", "groups.roster.dev", "{n}-power", "--type=merge", "-p", r#"{"spec": {"members": ["{n}-nobody"]}}"#],
        "",
    ),
    attempt(
        "my group nested in it",
        "",
        &[
            "patch",
            "groups.roster.dev",
            "{n}-power",
            "--type=merge",
            "-p",
            r#"{"spec": {"memberGroups": ["{n}-mine"]}}"#,
        ],
        "",
    ),
    attempt(
        "an empty group nested in it",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-empty'}, spec: {}}",
        &[
            "patch",
            "groups.roster.dev",
            "{n}-power",
            "--type=merge",
            "-p",
            r#"{"spec": {"memberGroups": ["{n}-empty"]}}"#,
        ],
        "",
    ),
    attempt(
        "a selector that matches me",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-me', labels: {me: '{n}'}}, spec: {}}",
        &[
            "patch",
            "groups.roster.dev",
            "{n}-power",
            "--type=merge",
            "-p",
            r#"{"spec": {"memberSelector": {"matchLabels": {"power": null, "me": "{n}"}}}}"#,
        ],
        "",
    ),
    attempt(
        "a temporary membership",
        "",
        &[
            "patch",
            "groups.roster.dev",
            "{n}-power",
            "--type=merge",
            "-p",
            r#"{"spec": {"memberships": [{"user": "{n}-me", "validity": {"notAfter": "2090-01-01T00:00:00Z"}}]}}"#,
        ],
        "",
    ),
    attempt(
        "a group by the name that a binding waits for",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-b'}, spec: {subjects: [{kind: Group, name: '{n}-awaited'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}']}}}",
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-awaited'}, spec: {members: ['{n}-me']}}",
    ),
    attempt(
        "a group by the name that a native binding names",
        NATIVE,
        CREATE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-natives'}, spec: {}}",
    ),
    attempt(
        "a powerful member removed from my group",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-mine'}, spec: {members: ['{n}-me', '{n}-boss']}}",
        &["patch", "groups.roster.dev", "{n}-mine", "--type=merge", "-p", r#"{"spec": {"members": ["{n}-me"]}}"#],
        "",
    ),
    // Consent to memberships that Users declare.
    attempt(
        "consent of the group, which I name",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {}}\n---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-me'}, spec: {groups: ['{n}-power']}}",
        &[
            "patch",
            "groups.roster.dev",
            "{n}-power",
            "--type=merge",
            "-p",
            r#"{"spec": {"acceptDeclaredMembers": true}}"#,
        ],
        "",
    ),
    attempt(
        "the boss removed from the group by withdrawing its consent",
        "",
        &[
            "patch",
            "groups.roster.dev",
            "{n}-power",
            "--type=merge",
            "-p",
            r#"{"spec": {"acceptDeclaredMembers": false}}"#,
        ],
        "",
    ),
    attempt(
        "consent of my group, which the boss names",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss'}, spec: {groups: ['{n}-power', '{n}-mine']}}",
        &[
            "patch",
            "groups.roster.dev",
            "{n}-mine",
            "--type=merge",
            "-p",
            r#"{"spec": {"acceptDeclaredMembers": true}}"#,
        ],
        "",
    ),
    attempt(
        "consent of my group, which selects the boss by a label",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss', labels: {floor: '{n}'}}, spec: {groups: ['{n}-power']}}\n---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-mine'}, spec: {memberSelector: {matchLabels: {floor: '{n}'}}}}",
        SERVER_SIDE,
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-mine'}, spec: {acceptDeclaredMembers: true, memberSelector: {matchLabels: {floor: '{n}'}}}}",
    ),
    attempt(
        "the boss removed from my group by withdrawing its consent",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss'}, spec: {groups: ['{n}-power', '{n}-mine']}}\n---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-mine'}, spec: {acceptDeclaredMembers: true}}",
        &[
            "patch",
            "groups.roster.dev",
            "{n}-mine",
            "--type=json",
            "-p",
            r#"[{"op": "remove", "path": "/spec/acceptDeclaredMembers"}]"#,
        ],
        "",
    ),
];

/// Attempts with Groups in a cycle, which are not members of each other until it is broken. They need setups that the
/// guard denies.
pub(super) const IN_CYCLES: &[Attempt] = &[
    attempt(
        "a cycle broken, so that my group becomes nested",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {memberGroups: ['{n}-middle']}}\n---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-middle'}, spec: {members: ['{n}-me'], memberGroups: ['{n}-power']}}",
        &["patch", "groups.roster.dev", "{n}-middle", "--type=merge", "-p", r#"{"spec": {"memberGroups": []}}"#],
        "",
    ),
    attempt(
        "my group nested below a cycle, until the cycle is broken",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {memberGroups: ['{n}-middle']}}\n---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-middle'}, spec: {memberGroups: ['{n}-power']}}",
        &["patch", "users.roster.dev", "{n}-me", "--type=merge", "-p", r#"{"spec": {"groups": ["{n}-middle"]}}"#],
        "",
    ),
    attempt(
        "a cycle broken by deleting a group in it",
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {memberGroups: ['{n}-middle']}}\n---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-middle'}, spec: {members: ['{n}-me'], memberGroups: ['{n}-last']}}\n---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-last'}, spec: {memberGroups: ['{n}-power']}}",
        &["delete", "groups.roster.dev", "{n}-last"],
        "",
    ),
];
