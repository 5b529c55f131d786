//! Locked namespaces: only the holder, administrators, cluster components and the namespace's own ServiceAccounts can
//! write in them, even when no operator runs.

use serde_json::{Value, json};

use crate::directory::{BASE, wait_until_served};
use crate::fixtures::Fixtures;
use crate::ownership::{fails_closed_without_an_operator, kill_operators};
use crate::support::{Cluster, FAST_LEASE, eventually, rbac, unique, wait_for_text};

/// A namespace with objects, and another one. Jane, john, a node, a ServiceAccount of each namespace and one of
/// kube-system may write whatever the tests write; none of them may bind a role.
const FIXTURES: &str = "
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

async fn set<'a>(cluster: &'a Cluster, prefix: &str) -> Fixtures<'a> {
    let fixtures = Fixtures { cluster, n: unique(prefix), refuser: "the lock: " };
    // The pod needs the ServiceAccount default, which Kubernetes creates in every namespace.
    eventually("the fixtures are created", || async {
        let set = cluster.plane.kubectl.apply(&FIXTURES.replace("{n}", &fixtures.n));
        set.map_err(|error| error.to_string())
    })
    .await;
    fixtures
}

impl Fixtures<'_> {
    fn run_as_administrator(&self, args: &[&str]) -> Result<String, String> {
        let args: Vec<String> = args.iter().map(|arg| arg.replace("{n}", &self.n)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.cluster.plane.kubectl.run(&args).map_err(|error| format!("{error:#}"))
    }

    /// Locks the namespace as jane, and waits until kube-apiserver enforces it.
    async fn lock(&self) {
        self.passes("jane", &["annotate", "namespace", "{n}", "roster.dev/locked-by={n}-jane"], "");
        eventually("the lock is enforced", || async {
            match self.run("john", &["create", "configmap", "probe", "-n", "{n}", "--dry-run=server"], "") {
                Ok(printed) => Err(printed),
                Err(refusal) if refusal.contains("the lock: ") => Ok(()),
                Err(refusal) => Err(refusal),
            }
        })
        .await;
    }

    fn assert_enforced(&self) {
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

/// Writes that only the holder may make.
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
async fn locks_deny_writes_by_others() {
    let fixtures = set(rbac(), "lock").await;
    let annotate = |value| ["annotate", "namespace", "{n}", "--overwrite", value];
    fixtures.cluster.kubectl(&["create", "secret", "generic", "s", "-n", &fixtures.n]);
    fixtures.lock().await;
    fixtures.assert_enforced();
    let message = "Namespace {n} is locked by {n}-jane, and {n}-john can write nothing in it until {n}-jane or an administrator removes the annotation: kubectl annotate namespace {n} roster.dev/locked-by-";
    fixtures.refused("john", WRITES[0].0, "", message);
    // Connections are denied as well. Jane's fail only because the pod does not run.
    for connect in [
        &["exec", "pod", "-n", "{n}", "--", "true"][..],
        &["create", "--raw", "/api/v1/namespaces/{n}/pods/pod/portforward?ports=1", "-f", "-"],
        &["get", "--raw", "/api/v1/namespaces/{n}/pods/pod/proxy/"],
    ] {
        fixtures.refused("john", connect, "", "is locked by");
        let refusal = fixtures.run("jane", connect, "").unwrap_err();
        assert!(!refusal.contains("the lock: "), "{refusal}");
    }
    // John may write elsewhere, read, and write Events and Leases.
    fixtures.passes("john", &["create", "configmap", "new", "-n", "{n}-other"], "");
    fixtures.passes("john", &["get", "configmap", "there", "-n", "{n}"], "");
    for free in [
        "---\n{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: john, namespace: '{n}'}}",
        "---\n{apiVersion: v1, kind: Event, metadata: {name: john, namespace: '{n}'}, involvedObject: {kind: Namespace, name: '{n}', namespace: '{n}'}}",
        "---\n{apiVersion: authorization.k8s.io/v1, kind: LocalSubjectAccessReview, metadata: {namespace: '{n}'}, spec: {user: john, resourceAttributes: {namespace: '{n}', verb: get, resource: pods}}}",
    ] {
        fixtures.passes("john", &["create", "--validate=false", "-f", "-"], free);
    }
    // The namespace's own ServiceAccounts, the control plane and administrators may write.
    for (i, who) in ["system:serviceaccount:{n}:robot", "system:node:{n}", "system:serviceaccount:kube-system:{n}"]
        .iter()
        .enumerate()
    {
        fixtures.passes(who, &["create", "configmap", &format!("of-{i}"), "-n", "{n}"], "");
        fixtures.passes(who, &["label", "namespace", "{n}", &format!("of-{i}=x")], "");
        fixtures.refused(
            who,
            &annotate("roster.dev/locked-by-"),
            "",
            "only {n}-jane or an administrator can change or remove the lock",
        );
    }
    fixtures.refused("system:serviceaccount:{n}-other:robot", WRITES[0].0, "", "is locked by");
    fixtures.cluster.kubectl(&["create", "configmap", "admins", "-n", &fixtures.n]);
    // So may jane, with her compiled bindings, and Roster.
    for (args, input) in WRITES.iter().take(WRITES.len() - 1) {
        fixtures.passes("jane", args, input);
    }
    wait_for_text(fixtures.cluster, &["replicaset", "new", "-n", &fixtures.n], "{.status.replicas}", "1").await;
    fixtures.cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {0}}}, spec: {{}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {0}}}, spec: {{subjects: [{{kind: Group, name: {0}}}], roleRef: {{kind: ClusterRole, name: view}}, scope: {{namespaces: [{0}]}}}}}}\n",
        fixtures.n
    ));
    wait_for_text(fixtures.cluster, &["rolebindings.roster.dev", &fixtures.n], "{.status.bindings}", "1").await;
    // Unlock it again.
    fixtures.passes("jane", &annotate("roster.dev/locked-by-"), "");
    eventually("the lock is removed", || async {
        fixtures.run("john", &["create", "configmap", "later", "-n", "{n}"], "")
    })
    .await;
    fixtures.lock().await;
    fixtures.passes("jane", &["delete", "namespace", "{n}", "--timeout=60s"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_name_the_user_that_sets_them() {
    let fixtures = set(rbac(), "lock-set").await;
    let annotate = |value| ["annotate", "namespace", "{n}", "--overwrite", value];
    let new = |name: &str, holder: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: '{{n}}-{name}', annotations: {{roster.dev/locked-by: '{{n}}-{holder}'}}}}}}"
        )
    };
    let alone = "{n}-john may set it only to {n}-john, not to {n}-jane";
    fixtures.refused("john", &annotate("roster.dev/locked-by={n}-jane"), "", alone);
    fixtures.refused("john", &["create", "-f", "-"], &new("a", "jane"), alone);
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
        fixtures.refused("john", args, input, alone);
    }
    let system = "system:serviceaccount:kube-system:{n}";
    fixtures.refused(system, &annotate("roster.dev/locked-by={n}-jane"), "", ", not to {n}-jane");
    // Users may set a lock only in their own name, on existing and new namespaces.
    fixtures.passes("john", &["create", "-f", "-"], &new("b", "john"));
    fixtures.passes("john", &annotate("roster.dev/locked-by={n}-john"), "");
    fixtures.refused("john", &annotate("roster.dev/locked-by={n}-jane"), "", alone);
    fixtures.refused("jane", &annotate("roster.dev/locked-by={n}-jane"), "", "is locked by {n}-john");
    // An empty value is not a lock.
    fixtures.passes("john", &annotate("roster.dev/locked-by="), "");
    fixtures.passes("jane", &annotate("a=b"), "");
    // Administrators set and remove any lock.
    for holder in ["jane", "john", "jane"] {
        let value = format!("roster.dev/locked-by={}-{holder}", fixtures.n);
        fixtures.cluster.kubectl(&["annotate", "namespace", &fixtures.n, "--overwrite", &value]);
    }
    fixtures.refused("john", &annotate("a=c"), "", "is locked by {n}-jane");
    fixtures.cluster.kubectl(&["annotate", "namespace", &fixtures.n, "roster.dev/locked-by-"]);
    fixtures.passes("john", &annotate("a=c"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_listed_by_username() {
    let cluster = rbac();
    wait_until_served(cluster);
    let fixtures = set(cluster, "lock-told").await;
    // The User's name differs from the username, and no user has it as username.
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {0}-user}}, spec: {{username: {0}-jane}}}}\n",
        fixtures.n
    ));
    let owner = format!("roster.dev/owner={}-user", fixtures.n);
    cluster.kubectl(&["label", "namespace", &fixtures.n, &owner]);
    fixtures.lock().await;
    let other = format!("{}-other", fixtures.n);
    cluster.kubectl(&["annotate", "namespace", &other, &format!("roster.dev/locked-by={}-user", fixtures.n)]);
    let get = |path: &str| -> Result<Value, String> {
        let path = format!("{BASE}/users/{}-user/{path}", fixtures.n);
        let text = cluster.plane.kubectl.run(&["get", "--raw", &path]).map_err(|error| error.to_string())?;
        Ok(serde_json::from_str(&text).unwrap())
    };
    eventually("the lock is reported", || async {
        let status = get("locks")?["status"].clone();
        let expected = json!({"held": [fixtures.n], "blockingDeletion": [fixtures.n]});
        if status == expected { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let namespaces = get("namespaces").unwrap()["items"].as_array().unwrap().clone();
    let own =
        namespaces.iter().find(|namespace| namespace["name"] == fixtures.n).expect("an owned namespace is listed");
    assert_eq!((&own["lockedBy"], &own["owned"]), (&json!(format!("{}-jane", fixtures.n)), &json!(true)));
}

/// A tool that applies a manifest without the lock removes what its manager, or the manifest before, contains.
#[tokio::test(flavor = "multi_thread")]
async fn locks_cannot_be_removed_by_a_tool_that_does_not_know_them() {
    let fixtures = set(rbac(), "lock-tools").await;
    let lock = "roster.dev/locked-by={n}-jane";
    let manifest = "kubectl.kubernetes.io/last-applied-configuration";
    // `kubectl apply --server-side` adopts a manager that owns the manifest of `kubectl apply`.
    let adopted = format!("{manifest}={{}}");
    fixtures.passes("john", &["annotate", "namespace", "{n}", "--overwrite", &adopted], "");
    let set = ["annotate", "namespace", "{n}", lock];
    fixtures.refused("jane", &set, "", "set it with another one, such as --field-manager=lock");
    fixtures.passes("jane", &[&set[..], &["--field-manager=lock"]].concat(), "");
    let remove = ["annotate", "namespace", "{n}", "roster.dev/locked-by-"];
    fixtures.passes("jane", &remove, "");
    // A manifest that names a lock removes the locks of others later.
    for name in
        ["roster.dev/locked-by", r"roster.dev\u002Flocked-by", r"roster.dev\/locked-by", r"\u0072oster.dev/locked-by"]
    {
        let planted = format!(r#"{manifest}={{"metadata": {{"annotations": {{"{name}": "x"}}}}}}"#);
        let own = ["annotate", "namespace", "{n}", "roster.dev/locked-by={n}-john", "--field-manager=lock"];
        fixtures.passes("john", &own, "");
        fixtures.cluster.kubectl(&["annotate", "namespace", &fixtures.n, "--overwrite", &planted]);
        for remove in [&remove[..], &["annotate", "namespace", "{n}", "--overwrite", "roster.dev/locked-by="]] {
            fixtures.refused("john", remove, "", "a manifest in the annotations still names it");
        }
        let forgotten = format!("{manifest}-");
        fixtures.passes("john", &[&remove[..], &[&forgotten]].concat(), "");
    }
    // What Go escapes is no part of the name.
    let harmless =
        format!(r#"{manifest}={{"metadata": {{"annotations": {{"a": "\u003cb\u003e \u0026 \\/ \\u0041"}}}}}}"#);
    fixtures.passes("john", &["annotate", "namespace", "{n}", "--overwrite", &harmless], "");
    fixtures.passes("jane", &[&set[..], &["--field-manager=lock"]].concat(), "");
    fixtures.passes("jane", &remove, "");
    // Declared locks are set and removed with their manifest.
    let declared =
        "{apiVersion: v1, kind: Namespace, metadata: {name: '{n}', annotations: {roster.dev/locked-by: '{n}-jane'}}}";
    fixtures.passes("jane", &["apply", "-f", "-"], declared);
    fixtures.passes("jane", &["apply", "-f", "-"], "{apiVersion: v1, kind: Namespace, metadata: {name: '{n}'}}");
}

const MANIFEST: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn annotate_by<'a>(manager: &'a str, values: &[&'a str]) -> Vec<&'a str> {
    [&["annotate", "namespace", "{n}", "--overwrite", manager], values].concat()
}

/// The same applies to administrators, and to a lock that the change keeps.
#[tokio::test(flavor = "multi_thread")]
async fn locks_have_a_field_manager_that_no_tool_adopts() {
    let fixtures = set(rbac(), "lock-owner").await;
    let (lock, adopted) = ("roster.dev/locked-by={n}-jane", format!("{MANIFEST}={{}}"));
    let as_admin = |args: &[&str]| fixtures.run_as_administrator(args);
    let locked = annotate_by("--field-manager=lock", &[lock]);
    fixtures.passes("john", &annotate_by("--field-manager=kubectl-annotate", &[&adopted]), "");
    let refused = as_admin(&annotate_by("--field-manager=kubectl-annotate", &[lock])).expect_err("it would be adopted");
    assert!(refused.contains("the lock: ") && refused.contains("--field-manager=lock"), "{refused}");
    as_admin(&locked).unwrap();
    // The manager of the lock must not come to own a manifest.
    let changed = format!(r#"{MANIFEST}={{"a": 1}}"#);
    let gains = annotate_by("--field-manager=lock", &[&changed]);
    let robot = "system:serviceaccount:{n}:robot";
    for who in ["jane", robot] {
        fixtures.refused(who, &gains, "", "would remove the lock");
    }
    let refused = as_admin(&gains).expect_err("the lock would be adopted");
    assert!(refused.contains("the lock: "), "{refused}");
    for who in ["jane", robot] {
        fixtures.passes(who, &annotate_by("--field-manager=other", &["floor=3"]), "");
        fixtures.passes(who, &annotate_by("--field-manager=other", &["floor-"]), "");
    }
    as_admin(&annotate_by("--field-manager=lock", &["roster.dev/locked-by-"])).unwrap();
    // Without managers, the next server-side apply would adopt the lock.
    let reset = ["patch", "namespace", "{n}", "--type=merge", "-p", r#"{"metadata": {"managedFields": [{}]}}"#];
    let refused = fixtures.run("john", &reset, "").expect_err("it ends every manager");
    assert!(refused.contains("the guard: ") && refused.contains("only the holder of the lock"), "{refused}");
    as_admin(&["label", "namespace", "{n}", "kept=yes"]).unwrap();
    as_admin(&reset).unwrap();
    fixtures.refused("jane", &locked, "", "kubectl apply --server-side");
    let refused = as_admin(&locked).expect_err("it has no manager");
    assert!(refused.contains(&format!("remove the annotation {MANIFEST}, and set the lock with")), "{refused}");
    // As the denial says. With the annotation, kubectl would adopt and remove the label.
    fixtures.passes("jane", &annotate_by("--field-manager=other", &[&format!("{MANIFEST}-")]), "");
    let manifest =
        "{apiVersion: v1, kind: Namespace, metadata: {name: '{n}', annotations: {roster.dev/locked-by: '{n}-jane'}}}";
    fixtures.passes("jane", &["apply", "--server-side", "--field-manager=lock", "-f", "-"], manifest);
    let pipeline =
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: '{}', labels: {{a: b}}}}}}", fixtures.n);
    fixtures.cluster.plane.kubectl.run_with_input(&["apply", "--server-side", "-f", "-"], &pipeline).unwrap();
    let found = r"jsonpath={.metadata.annotations.roster\.dev/locked-by} {.metadata.labels.kept}";
    assert_eq!(as_admin(&["get", "namespace", "{n}", "-o", found]).unwrap(), format!("{}-jane yes", fixtures.n));
}

/// A backup contains the annotations, and its tool owns all of them.
#[tokio::test(flavor = "multi_thread")]
async fn administrators_restore_locked_namespaces_from_a_backup() {
    let fixtures = set(rbac(), "lock-backup").await;
    let restored = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "{n}-restored", "annotations": {MANIFEST: "{}", "roster.dev/locked-by": "{n}-jane"}},
    });
    // Otherwise kubectl would write a manifest that declares the lock.
    let create = ["create", "--raw", "/api/v1/namespaces", "-f", "-"];
    fixtures.refused("jane", &create, &restored.to_string(), "would remove the lock");
    let restored = restored.to_string().replace("{n}", &fixtures.n);
    fixtures.cluster.plane.kubectl.run_with_input(&create, &restored).unwrap();
}

/// Otherwise, the next `kubectl apply` would remove the lock of the next holder.
#[tokio::test(flavor = "multi_thread")]
async fn locks_are_not_set_while_an_earlier_manifest_names_one() {
    let fixtures = set(rbac(), "lock-stale").await;
    let as_admin = |args: &[&str]| fixtures.run_as_administrator(args);
    let declared =
        "{apiVersion: v1, kind: Namespace, metadata: {name: '{n}', annotations: {roster.dev/locked-by: '{n}-john'}}}";
    fixtures.passes("john", &["apply", "-f", "-"], declared);
    let forgotten = format!("{MANIFEST}-");
    for change in ["roster.dev/locked-by-", "roster.dev/locked-by={n}-jane"] {
        let refused = as_admin(&annotate_by("--field-manager=lock", &[change])).expect_err("a manifest names it");
        assert!(refused.contains("a manifest in the annotations still names it"), "{refused}");
    }
    as_admin(&annotate_by("--field-manager=lock", &["roster.dev/locked-by={n}-jane", &forgotten])).unwrap();
    as_admin(&annotate_by("--field-manager=lock", &["roster.dev/locked-by-"])).unwrap();
    // Administrators declare the lock of another holder, and remove it with the manifest.
    for holder in ["john", "jane"] {
        let manifest = declared.replace("{n}-john", &format!("{{n}}-{holder}")).replace("{n}", &fixtures.n);
        fixtures.cluster.plane.kubectl.run_with_input(&["apply", "-f", "-"], &manifest).unwrap();
    }
    let bare = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {}}}}}", fixtures.n);
    fixtures.cluster.plane.kubectl.run_with_input(&["apply", "-f", "-"], &bare).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_hold_while_no_operator_runs() {
    let cluster = Cluster::create("locks-down", &[]);
    cluster.start_operator(FAST_LEASE);
    let fixtures = set(&cluster, "lock-down").await;
    cluster.kubectl(&["create", "secret", "generic", "s", "-n", &fixtures.n]);
    kill_operators(&cluster);
    fixtures.lock().await;
    fixtures.assert_enforced();
    for (args, input) in &WRITES[..5] {
        fixtures.passes("jane", args, input);
    }
    wait_for_text(&cluster, &["replicaset", "new", "-n", &fixtures.n], "{.status.replicas}", "1").await;
    fixtures.passes("jane", &["annotate", "namespace", "{n}", "roster.dev/locked-by-"], "");
    eventually("the lock is removed", || async {
        fixtures.run("john", &["create", "configmap", "later", "-n", "{n}"], "")
    })
    .await;
    fails_closed_without_an_operator(&cluster);
}
