//! Namespaces under lock: nobody writes in them but the holder, administrators, what keeps the cluster running and the
//! namespace's own ServiceAccounts, whether an operator runs or not.

use serde_json::{Value, json};

use crate::directory::{BASE, wait_until_served};
use crate::ownership::{fails_closed_without_an_operator, kill_operators};
use crate::stage::Stage;
use crate::support::{Cluster, FAST_LEASE, eventually, rbac, unique, wait_for_text};

/// A namespace with something in it, and another one. Jane, john, a node, a ServiceAccount of each namespace and one of
/// kube-system may write whatever the tests write; none of them may bind a role.
const STAGE: &str = "
---
{apiVersion: v1, kind: Namespace, metadata: {name: '{n}'}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: '{n}-other'}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot, namespace: '{n}'}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: there, namespace: '{n}'}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pod, namespace: '{n}'}, spec: {automountServiceAccountToken: false, containers: [{name: c, image: none}]}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: '{n}'}, rules: [{apiGroups: ['', apps, coordination.k8s.io, events.k8s.io, authorization.k8s.io], resources: ['*'], verbs: ['*']}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: '{n}'}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: '{n}'}, subjects: [{kind: User, name: '{n}-jane'}, {kind: User, name: '{n}-john'}, {kind: User, name: 'system:node:{n}'}, {kind: ServiceAccount, name: robot, namespace: '{n}'}, {kind: ServiceAccount, name: robot, namespace: '{n}-other'}, {kind: ServiceAccount, name: '{n}', namespace: kube-system}]}
";

async fn set<'a>(cluster: &'a Cluster, prefix: &str) -> Stage<'a> {
    let stage = Stage { cluster, n: unique(prefix), refuser: "the lock: " };
    // The pod needs the ServiceAccount default, which is made for every namespace.
    eventually("the stage is set", || async {
        let set = cluster.plane.kubectl.apply(&STAGE.replace("{n}", &stage.n));
        set.map_err(|error| error.to_string())
    })
    .await;
    stage
}

impl Stage<'_> {
    /// Jane locks the namespace, and the API server has heard of it.
    async fn lock(&self) {
        self.passes("jane", &["annotate", "namespace", "{n}", "roster.dev/locked-by={n}-jane"], "");
        eventually("the lock holds", || async {
            match self.ask("john", &["create", "configmap", "probe", "-n", "{n}", "--dry-run=server"], "") {
                Ok(printed) => Err(printed),
                Err(refusal) if refusal.contains("the lock: ") => Ok(()),
                Err(refusal) => Err(refusal),
            }
        })
        .await;
    }

    fn holds(&self) {
        for (args, input) in WRITES {
            self.refused("john", args, input, "is locked by {n}-jane, and");
        }
        for who in ["system:serviceaccount:{n}-other:robot", "system:serviceaccount:{n}:robot", "john"] {
            for change in ["roster.dev/locked-by-", "roster.dev/locked-by={n}-john"] {
                let annotate = ["annotate", "namespace", "{n}", "--overwrite", change];
                self.refused(who, &annotate, "", "only {n}-jane or an administrator can change or remove the lock");
            }
        }
    }
}

/// What nobody but the holder may do.
const WRITES: &[(&[&str], &str)] = &[
    (&["create", "configmap", "new", "-n", "{n}"], ""),
    (&["label", "configmap", "there", "-n", "{n}", "--overwrite", "a=b"], ""),
    (
        &[
            "patch",
            "pod",
            "pod",
            "-n",
            "{n}",
            "--subresource=status",
            "--type=merge",
            "-p",
            "{\"status\": {\"message\": \"x\"}}",
        ],
        "",
    ),
    (&["create", "token", "robot", "-n", "{n}"], ""),
    (
        &["create", "-f", "-"],
        "---\n{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: new, namespace: '{n}'}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: none}]}}}}",
    ),
    (&["label", "namespace", "{n}", "--overwrite", "a=b"], ""),
    (
        &[
            "patch",
            "namespace",
            "{n}",
            "--subresource=status",
            "--type=merge",
            "-p",
            "{\"metadata\": {\"labels\": {\"a\": \"c\"}}}",
        ],
        "",
    ),
    (
        &["replace", "--raw", "/api/v1/namespaces/{n}/finalize", "-f", "-"],
        "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"{n}\", \"annotations\": {\"roster.dev/locked-by\": \"{n}-jane\", \"a\": \"b\"}}, \"spec\": {\"finalizers\": [\"kubernetes\"]}}",
    ),
    (&["delete", "configmap", "there", "-n", "{n}"], ""),
    (&["delete", "secrets", "--all", "-n", "{n}"], ""),
    (&["delete", "namespace", "{n}", "--wait=false"], ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn locks_keep_everybody_out_but_those_who_may() {
    let stage = set(rbac(), "lock").await;
    let annotate = |value| ["annotate", "namespace", "{n}", "--overwrite", value];
    stage.cluster.kubectl(&["create", "secret", "generic", "s", "-n", &stage.n]);
    stage.lock().await;
    stage.holds();
    let message = "Namespace {n} is locked by {n}-jane, and {n}-john can write nothing in it until {n}-jane or an administrator removes the annotation: kubectl annotate namespace {n} roster.dev/locked-by-";
    stage.refused("john", WRITES[0].0, "", message);
    // Nor does he get in by a connection; jane gets as far as the pod, which runs nowhere.
    for connect in [
        &["exec", "pod", "-n", "{n}", "--", "true"][..],
        &["create", "--raw", "/api/v1/namespaces/{n}/pods/pod/portforward?ports=1", "-f", "-"],
        &["get", "--raw", "/api/v1/namespaces/{n}/pods/pod/proxy/"],
    ] {
        stage.refused("john", connect, "", "is locked by");
        let refusal = stage.ask("jane", connect, "").unwrap_err();
        assert!(!refusal.contains("the lock: "), "{refusal}");
    }
    // What john may: elsewhere, to look, and what is written all the time.
    stage.passes("john", &["create", "configmap", "new", "-n", "{n}-other"], "");
    stage.passes("john", &["get", "configmap", "there", "-n", "{n}"], "");
    for free in [
        "---\n{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: john, namespace: '{n}'}}",
        "---\n{apiVersion: v1, kind: Event, metadata: {name: john, namespace: '{n}'}, involvedObject: {kind: Namespace, name: '{n}', namespace: '{n}'}}",
        "---\n{apiVersion: authorization.k8s.io/v1, kind: LocalSubjectAccessReview, metadata: {namespace: '{n}'}, spec: {user: john, resourceAttributes: {namespace: '{n}', verb: get, resource: pods}}}",
    ] {
        stage.passes("john", &["create", "--validate=false", "-f", "-"], free);
    }
    // The namespace's own ServiceAccounts, the control plane and administrators go on.
    for (i, who) in ["system:serviceaccount:{n}:robot", "system:node:{n}", "system:serviceaccount:kube-system:{n}"]
        .iter()
        .enumerate()
    {
        stage.passes(who, &["create", "configmap", &format!("of-{i}"), "-n", "{n}"], "");
        stage.passes(who, &["label", "namespace", "{n}", &format!("of-{i}=x")], "");
        stage.refused(
            who,
            &annotate("roster.dev/locked-by-"),
            "",
            "only {n}-jane or an administrator can change or remove the lock",
        );
    }
    stage.refused("system:serviceaccount:{n}-other:robot", WRITES[0].0, "", "is locked by");
    stage.cluster.kubectl(&["create", "configmap", "admins", "-n", &stage.n]);
    // So does jane, with what is made for her, and Roster.
    for (args, input) in WRITES.iter().take(WRITES.len() - 1) {
        stage.passes("jane", args, input);
    }
    wait_for_text(stage.cluster, &["replicaset", "new", "-n", &stage.n], "{.status.replicas}", "1").await;
    stage.cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {0}}}, spec: {{}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {0}}}, spec: {{subjects: [{{kind: Group, name: {0}}}], roleRef: {{kind: ClusterRole, name: view}}, scope: {{namespaces: [{0}]}}}}}}\n",
        stage.n
    ));
    wait_for_text(stage.cluster, &["rolebindings.roster.dev", &stage.n], "{.status.bindings}", "1").await;
    // It ends as it began.
    stage.passes("jane", &annotate("roster.dev/locked-by-"), "");
    eventually("the lock is off", || async { stage.ask("john", &["create", "configmap", "later", "-n", "{n}"], "") })
        .await;
    stage.lock().await;
    stage.passes("jane", &["delete", "namespace", "{n}", "--timeout=60s"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_bear_the_name_of_whoever_sets_them() {
    let stage = set(rbac(), "lock-set").await;
    let annotate = |value| ["annotate", "namespace", "{n}", "--overwrite", value];
    let new = |name: &str, holder: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: '{{n}}-{name}', annotations: {{roster.dev/locked-by: '{{n}}-{holder}'}}}}}}"
        )
    };
    let alone = "{n}-john may set it only to {n}-john, not to {n}-jane";
    stage.refused("john", &annotate("roster.dev/locked-by={n}-jane"), "", alone);
    stage.refused("john", &["create", "-f", "-"], &new("a", "jane"), alone);
    for args in [
        &[
            "patch",
            "namespace",
            "{n}",
            "--subresource=status",
            "--type=merge",
            "-p",
            "{\"metadata\": {\"annotations\": {\"roster.dev/locked-by\": \"{n}-jane\"}}}",
        ][..],
        &["replace", "--raw", "/api/v1/namespaces/{n}/finalize", "-f", "-"],
    ] {
        let input = "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"{n}\", \"annotations\": {\"roster.dev/locked-by\": \"{n}-jane\"}}, \"spec\": {\"finalizers\": [\"kubernetes\"]}}";
        stage.refused("john", args, input, alone);
    }
    let system = "system:serviceaccount:kube-system:{n}";
    stage.refused(system, &annotate("roster.dev/locked-by={n}-jane"), "", ", not to {n}-jane");
    // To one's own name, on a namespace that is there and on a new one; and no further.
    stage.passes("john", &["create", "-f", "-"], &new("b", "john"));
    stage.passes("john", &annotate("roster.dev/locked-by={n}-john"), "");
    stage.refused("john", &annotate("roster.dev/locked-by={n}-jane"), "", alone);
    stage.refused("jane", &annotate("roster.dev/locked-by={n}-jane"), "", "is locked by {n}-john");
    // Nobody's is no lock.
    stage.passes("john", &annotate("roster.dev/locked-by="), "");
    stage.passes("jane", &annotate("a=b"), "");
    // Administrators set and take off anybody's.
    for holder in ["jane", "john", "jane"] {
        let value = format!("roster.dev/locked-by={}-{holder}", stage.n);
        stage.cluster.kubectl(&["annotate", "namespace", &stage.n, "--overwrite", &value]);
    }
    stage.refused("john", &annotate("a=c"), "", "is locked by {n}-jane");
    stage.cluster.kubectl(&["annotate", "namespace", &stage.n, "roster.dev/locked-by-"]);
    stage.passes("john", &annotate("a=c"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_told_of_by_username() {
    let cluster = rbac();
    wait_until_served(cluster);
    let stage = set(cluster, "lock-told").await;
    // The User's name is not the username, and is the username of nobody.
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {0}-user}}, spec: {{username: {0}-jane}}}}\n",
        stage.n
    ));
    let owner = format!("roster.dev/owner={}-user", stage.n);
    cluster.kubectl(&["label", "namespace", &stage.n, &owner]);
    stage.lock().await;
    let other = format!("{}-other", stage.n);
    cluster.kubectl(&["annotate", "namespace", &other, &format!("roster.dev/locked-by={}-user", stage.n)]);
    let get = |path: &str| -> Result<Value, String> {
        let path = format!("{BASE}/users/{}-user/{path}", stage.n);
        let text = cluster.plane.kubectl.run(&["get", "--raw", &path]).map_err(|error| error.to_string())?;
        Ok(serde_json::from_str(&text).unwrap())
    };
    eventually("the lock is told of", || async {
        let status = get("locks")?["status"].clone();
        let expected = json!({"held": [stage.n], "blockingDeletion": [stage.n]});
        if status == expected { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let namespaces = get("namespaces").unwrap()["items"].as_array().unwrap().clone();
    let own = namespaces.iter().find(|namespace| namespace["name"] == stage.n).expect("an owned namespace is told of");
    assert_eq!((&own["lockedBy"], &own["owned"]), (&json!(format!("{}-jane", stage.n)), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_hold_while_no_operator_runs() {
    let cluster = Cluster::create("locks-down", &[]);
    cluster.start_operator(FAST_LEASE);
    let stage = set(&cluster, "lock-down").await;
    cluster.kubectl(&["create", "secret", "generic", "s", "-n", &stage.n]);
    kill_operators(&cluster);
    stage.lock().await;
    stage.holds();
    for (args, input) in &WRITES[..5] {
        stage.passes("jane", args, input);
    }
    wait_for_text(&cluster, &["replicaset", "new", "-n", &stage.n], "{.status.replicas}", "1").await;
    stage.passes("jane", &["annotate", "namespace", "{n}", "roster.dev/locked-by-"], "");
    eventually("the lock is off", || async { stage.ask("john", &["create", "configmap", "later", "-n", "{n}"], "") })
        .await;
    fails_closed_without_an_operator(&cluster);
}
