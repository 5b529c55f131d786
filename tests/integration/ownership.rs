//! Ownership of namespaces: nobody can take another user's namespace or charge one to another user, and users with a
//! quota create none outside it. Every denial has a legitimate counterpart.

use roster_harness::Operator;

use crate::fixtures::Fixtures;
use crate::i4_escalation::wait_until_processed;
use crate::support::{Cluster, eventually, rbac, unique};

/// `{n}-boss` holds `edit` in `{n}-power` by a group. Everybody may write namespaces. `{n}-alice` and `{n}-lead`, who
/// has a quota, may bind the roles at stake, but not every role, and may assign namespaces to Users. The others may bind
/// only `view`. `{n}-eve` and `{n}-alice` are not Users.
const FIXTURES: &str = "
---
{apiVersion: v1, kind: Namespace, metadata: {name: '{n}-power'}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: '{n}-desk'}, rules: [{apiGroups: [''], resources: [namespaces, namespaces/status, namespaces/finalize], verbs: ['*']}, {apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], resourceNames: [view], verbs: [bind]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: '{n}-binder'}, rules: [{apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], resourceNames: [edit, '{n}-desk'], verbs: [bind]}, {apiGroups: [roster.dev], resources: [users], verbs: [assign]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: '{n}-desk'}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: '{n}-desk'}, subjects: [{kind: User, name: '{n}-eve'}, {kind: User, name: '{n}-alice'}, {kind: User, name: '{n}-boss'}, {kind: User, name: '{n}-me-by-name'}, {kind: User, name: '{n}-limited'}, {kind: User, name: '{n}-grouped'}, {kind: User, name: '{n}-lead'}, {kind: ServiceAccount, name: robot, namespace: '{n}-power'}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: '{n}-binder'}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: '{n}-binder'}, subjects: [{kind: User, name: '{n}-alice'}, {kind: User, name: '{n}-lead'}]}
---
{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {members: ['{n}-boss']}}
---
{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-power'}, spec: {subjects: [{kind: Group, name: '{n}-power'}, {kind: User, name: '{n}-late'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}-power']}}}
---
{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-outer'}, spec: {memberGroups: ['{n}-inner'], quota: {hard: {pods: '9'}}}}
---
{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-inner'}, spec: {members: ['{n}-grouped']}}
---
{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss'}, spec: {}}
---
{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-me'}, spec: {username: '{n}-me-by-name'}}
---
{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-plain'}, spec: {}}
---
{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-grouped'}, spec: {}}
---
{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-limited'}, spec: {quota: {hard: {namespaces: '5'}}}}
---
{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-lead'}, spec: {quota: {hard: {namespaces: '5'}}}}
";

async fn set(prefix: &str) -> Fixtures<'static> {
    let (cluster, n) = (rbac(), unique(prefix));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    wait_until_processed(cluster, &n).await;
    Fixtures { cluster, n, refuser: "the guard: " }
}

impl Fixtures<'_> {
    /// Creates a namespace of that owner as administrator; `none`: without an owner.
    fn namespace(&self, owner: &str) -> String {
        let name = unique(&self.n);
        self.cluster.kubectl(&["create", "namespace", &name]);
        if owner != "none" {
            let label = format!("roster.dev/owner={}-{owner}", self.n);
            self.cluster.kubectl(&["label", "namespace", &name, &label]);
        }
        name
    }

    /// Returns the manifest of a new namespace of that owner.
    fn manifest(&self, owner: &str) -> String {
        format!(
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {}, labels: {{roster.dev/owner: '{{n}}-{owner}'}}}}}}",
            unique(&self.n)
        )
    }
}

const CREATE: &[&str] = &["create", "-f", "-"];

/// Adds an annotation with the manifest.
const APPLY: &[&str] = &["apply", "-f", "-"];

/// The three ways to change the owner of a namespace.
fn give<'a>(namespace: &'a str, label: &'a str, object: &'a str) -> [(Vec<&'a str>, &'a str); 3] {
    let status = vec!["patch", "namespace", namespace, "--subresource=status", "--type=merge", "-p", label];
    [
        (vec!["patch", "namespace", namespace, "--type=merge", "-p", label], ""),
        (status, ""),
        (vec!["replace", "--raw", object, "-f", "-"], label),
    ]
}

/// Denial of a change that takes a namespace from an owner that the request does not name.
const TAKES_AWAY: &str = "may not take a namespace from its owner: this requires the verb assign on the owner";

#[tokio::test(flavor = "multi_thread")]
async fn giving_ownership_requires_control_of_the_owner() {
    let fixtures = set("own-give").await;
    let boss = "User {n}-boss (metadata.labels[roster.dev/owner]) holds or would hold a role that";
    fixtures.refused("eve", CREATE, &fixtures.manifest("boss"), boss);
    fixtures.refused("me-by-name", CREATE, &fixtures.manifest("boss"), boss);
    fixtures.passes("alice", CREATE, &fixtures.manifest("boss"));
    fixtures.passes("boss", CREATE, &fixtures.manifest("boss"));
    fixtures.passes("boss", APPLY, &fixtures.manifest("boss"));
    fixtures.refused("eve", APPLY, &fixtures.manifest("boss"), boss);
    // A User that does not exist yet counts by name, and so does one without roles.
    fixtures.refused("eve", CREATE, &fixtures.manifest("late"), "User {n}-late");
    fixtures.passes("alice", CREATE, &fixtures.manifest("late"));
    let plain = "{n}-eve may not give a namespace to User {n}-plain (metadata.labels[roster.dev/owner]) or take one away: this requires the verb assign on users/{n}-plain of roster.dev";
    fixtures.refused("eve", CREATE, &fixtures.manifest("plain"), plain);
    fixtures.passes("alice", CREATE, &fixtures.manifest("plain"));
    let owned = fixtures.namespace("plain");
    let take = ["label", "namespace", &owned, "roster.dev/owner-"];
    // The request does not name the owner, so the denial does not either.
    fixtures.refused("eve", &take, "", TAKES_AWAY);
    fixtures.passes("alice", &take, "");
    // Requesters are identified by username, not by name.
    fixtures.passes("me-by-name", CREATE, &fixtures.manifest("me"));
    fixtures.refused("eve", CREATE, &fixtures.manifest("me"), "User {n}-me (");
    // An existing namespace, by every way to write its labels.
    for who in ["eve", "alice", "boss"] {
        for way in 0..3 {
            let namespace = fixtures.namespace("none");
            let (path, label) = (
                format!("/api/v1/namespaces/{namespace}/finalize"),
                format!(
                    r#"{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "{namespace}", "labels": {{"roster.dev/owner": "{{n}}-boss"}}}}, "spec": {{"finalizers": ["kubernetes"]}}}}"#
                ),
            );
            let (args, input) = &give(&namespace, &label, &path)[way];
            if who == "eve" {
                fixtures.refused(who, args, input, boss);
            } else {
                fixtures.passes(who, args, input);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_alone_cannot_give_up_ownership() {
    let fixtures = set("own-take").await;
    let namespace = fixtures.namespace("me");
    let label = |value: &str| ["label", "namespace", &namespace, "--overwrite", value].map(str::to_owned).to_vec();
    let me = "User {n}-me (metadata.labels[roster.dev/owner]) holds or would hold a role that";
    let unnamed = "an identity that this write takes control of holds or would hold a role that";
    for change in ["roster.dev/owner-", "roster.dev/owner=", "roster.dev/owner={n}-plain", "roster.dev/owner={n}-boss"]
    {
        let change = label(change);
        let change: Vec<&str> = change.iter().map(String::as_str).collect();
        // Only the denial for the owner names the owner, who is not in the request.
        for (who, owner) in [("me-by-name", me), ("eve", unnamed)] {
            let because = if change[4].ends_with("boss") { "metadata.labels[roster.dev/owner]" } else { owner };
            fixtures.refused(who, &change, "", because);
        }
        fixtures.passes("alice", &change, "");
        // Giving it back requires control of the current owner.
        let back = label("roster.dev/owner={n}-me");
        let back: Vec<&str> = back.iter().map(String::as_str).collect();
        match ["boss", "plain"].into_iter().find(|owner| change[4].ends_with(owner)) {
            Some(owner) => {
                let because = if owner == "boss" { unnamed } else { TAKES_AWAY };
                fixtures.refused("me-by-name", &back, "", because);
                fixtures.passes("alice", &back, "");
            }
            None => fixtures.passes("me-by-name", &back, ""),
        }
    }
    // A tool that seems to own the label would remove it with its next apply.
    let managed = r#"[{"op": "add", "path": "/metadata/managedFields/-", "value": {"manager": "pipeline", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {"f:roster.dev/owner": {}}}}}}]"#;
    let adopted = r#"[{"op": "add", "path": "/metadata/managedFields/0/fieldsV1/f:metadata/f:annotations", "value": {"f:kubectl.kubernetes.io/last-applied-configuration": {}}}]"#;
    let manifest =
        r#"kubectl.kubernetes.io/last-applied-configuration={"metadata": {"labels": {"roster.dev/owner": "x"}}}"#;
    for plant in [
        ["patch", "namespace", &namespace, "--type=json", "-p", managed].as_slice(),
        &["patch", "namespace", &namespace, "--type=json", "-p", adopted],
        &["annotate", "namespace", &namespace, "--overwrite", manifest],
    ] {
        fixtures.refused("me-by-name", plant, "", me);
        fixtures.passes("alice", plant, "");
    }
    // The same for the lock, before or while it is held.
    let locking = r#"kubectl.kubernetes.io/last-applied-configuration={"metadata": {"annotations": {"roster.dev/locked-by": "x"}, "labels": {"roster.dev/owner": "x"}}}"#;
    let lock = "a tool would remove the annotation roster.dev/locked-by";
    for who in ["me-by-name", "eve", "alice"] {
        fixtures.refused(who, &["annotate", "namespace", &namespace, "--overwrite", locking], "", lock);
    }
    // Other writes are allowed, and so is deletion.
    let other = label("floor=3");
    fixtures.passes("eve", &other.iter().map(String::as_str).collect::<Vec<_>>(), "");
    fixtures.passes("eve", &["delete", "namespace", &namespace, "--wait=false"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_with_a_quota_must_declare_an_owner() {
    let fixtures = set("own-quota").await;
    // They also cannot have a tool remove the owner.
    let namespace = fixtures.namespace("limited");
    let manifest =
        r#"kubectl.kubernetes.io/last-applied-configuration={"metadata": {"labels": {"roster.dev/owner": "x"}}}"#;
    let plant = ["annotate", "namespace", &namespace, "--overwrite", manifest];
    fixtures.refused(
        "limited",
        &plant,
        "",
        "metadata.labels[roster.dev/owner]: is required: User {n}-limited has a quota",
    );
    let bare = || {
        let name = unique(&fixtures.n);
        format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}")
    };
    for who in ["limited", "grouped", "lead"] {
        let because = format!(
            "metadata.labels[roster.dev/owner]: is required: User {{n}}-{who} has a quota, and a Namespace without an \
             owner would not count towards any quota; set it to {{n}}-{who}"
        );
        fixtures.refused(who, CREATE, &bare(), &because);
        let generated =
            "---\n{apiVersion: v1, kind: Namespace, metadata: {generateName: '{n}-x', labels: {floor: '3'}}}";
        fixtures.refused(who, CREATE, generated, &because);
        fixtures.passes(who, CREATE, &fixtures.manifest(who));
        // With an owner that does not exist, or that has neither quota nor role, it would also escape the quota.
        fixtures.refused(
            who,
            CREATE,
            &fixtures.manifest("nobody"),
            "the Namespace would not count towards it; set it to",
        );
        fixtures.refused(
            who,
            CREATE,
            &fixtures.manifest("plain"),
            "the Namespace would not count towards it; set it to",
        );
    }
    fixtures.refused("limited", CREATE, &fixtures.manifest("boss"), "User {n}-boss (");
    fixtures.passes("lead", CREATE, &fixtures.manifest("boss"));
    // Requesters without a quota, or that are not Users, need no owner.
    for who in ["eve", "boss", "me-by-name", "system:serviceaccount:{n}-power:robot"] {
        fixtures.passes(who, CREATE, &bare());
    }
    let limited = format!("{}-limited", fixtures.n);
    let patch = r#"{"spec": {"quota": null}}"#;
    fixtures.cluster.kubectl(&["patch", "users.roster.dev", &limited, "--type=merge", "-p", patch]);
    eventually("no quota, no owner", || async { fixtures.run("limited", CREATE, &bare()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ownership_is_explained_by_guard_explain() {
    let fixtures = set("own-explain").await;
    let explain = |who: &str, owner: &str| {
        let file = fixtures.cluster.plane.dir.join(unique("explain"));
        std::fs::write(&file, fixtures.manifest(owner).replace("{n}", &fixtures.n)).unwrap();
        let mut command = std::process::Command::new(crate::support::binary());
        command.args(["guard", "explain", "--as", &format!("{}-{who}", fixtures.n), "-f"]).arg(&file);
        let output = command.env("KUBECONFIG", &fixtures.cluster.plane.kubectl.kubeconfig).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    for (who, owner, passes) in [
        ("eve", "boss", false),
        ("alice", "boss", true),
        ("boss", "boss", true),
        ("me-by-name", "me", true),
        ("eve", "plain", false),
        ("alice", "plain", true),
        ("limited", "nobody", false),
        ("limited", "limited", true),
    ] {
        let (found, text) = explain(who, owner);
        assert_eq!(found, passes, "{who} {owner}: {text}");
    }
}

/// Namespaces can't be created while no operator answers. Called by [`crate::locks`], where none runs.
pub(crate) fn fails_closed_without_an_operator(cluster: &Cluster) {
    assert!(cluster.operators().is_empty());
    let n = unique("own-down");
    cluster.apply(&format!(
        "---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {{name: {n}}}, rules: [{{apiGroups: [''], resources: [namespaces], verbs: ['*']}}]}}\n\
         ---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {{name: {n}}}, roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {n}}}, subjects: [{{kind: User, name: {n}}}, {{kind: ServiceAccount, name: robot, namespace: {n}}}]}}\n"
    ));
    let create = |who: &str| cluster.plane.kubectl.run(&["create", "namespace", &unique(&n), "--as", who]);
    let error = create(&n).unwrap_err().to_string();
    assert!(error.contains("namespaces.guard.roster.dev"), "{error}");
    create(&format!("system:serviceaccount:{n}:robot")).expect("no User has such a name");
    cluster.kubectl(&["create", "namespace", &unique(&n)]);
}

/// Kills every operator of a cluster.
pub(crate) fn kill_operators(cluster: &Cluster) {
    cluster.operators().drain(..).for_each(Operator::kill);
}

#[tokio::test(flavor = "multi_thread")]
async fn system_namespaces_have_no_owner() {
    let cluster = rbac();
    let label = |namespace: &str, label: &str| {
        cluster.plane.kubectl.run(&["label", "namespace", namespace, label, "--overwrite", "--dry-run=server"])
    };
    for namespace in ["roster-system", "kube-system", "kube-public", "kube-node-lease"] {
        let refused = format!("{:#}", label(namespace, "roster.dev/owner=jane").unwrap_err());
        assert!(refused.contains("roster.dev/owner") && refused.contains("cannot have an owner"), "{refused}");
        label(namespace, "team=apollo").unwrap();
    }
    let anonymous = "apiVersion: v1\nkind: Namespace\nmetadata: {generateName: anybodys-, labels: {team: apollo}}\n";
    cluster.plane.kubectl.run_with_input(&["create", "--dry-run=server", "-f", "-"], anonymous).unwrap();
}
