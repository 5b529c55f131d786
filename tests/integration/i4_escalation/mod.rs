//! I4: nobody gains a permission through Roster that they could not have granted directly.
//!
//! A matrix: each attempt is made by `mallory`, who may write everything that Roster reads but may bind `view` alone,
//! and is denied by the guard. Its legitimate counterpart, the same command by `alice`, who may also bind `edit`, is
//! allowed.

mod bindings;
mod consent;
mod deleted;
mod disabling;
mod disclosure;
mod fields;
mod finalizers;
mod groups;
mod identity;
mod labels;
mod owners;
mod planted;
mod sizes;
mod users;

use std::sync::OnceLock;

use roster_harness::Operator;

use crate::support::{Cluster, FAST_LEASE, can, eventually, rbac, unique, wait_for_text};

/// Fixtures of every attempt: `{n}` is a unique name. The group holds `edit` in `{n}`, and so does its member,
/// the boss; the boss has a password. `{n}-mine` and `{n}-me` hold nothing.
const FIXTURES: &str = "
---
{apiVersion: v1, kind: Namespace, metadata: {name: '{n}'}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: '{n}-other'}}
---
{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-power'}, spec: {acceptDeclaredMembers: true, memberSelector: {matchLabels: {power: '{n}'}}}}
---
{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: '{n}-power'}, spec: {subjects: [{kind: Group, name: '{n}-power'}], roleRef: {kind: ClusterRole, name: edit}, scope: {namespaces: ['{n}']}}}
---
{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-boss'}, spec: {groups: ['{n}-power'], passwordSecretRef: {namespace: '{n}', name: boss}}}
---
{apiVersion: v1, kind: Secret, metadata: {name: boss, namespace: '{n}', annotations: {roster.dev/user: '{n}-boss'}}, type: roster.dev/password, stringData: {password: correct horse}}
---
{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-me'}, spec: {}}
---
{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: '{n}-mine'}, spec: {members: ['{n}-me']}}
";

/// An attempt to gain a role.
struct Attempt {
    /// Description for messages.
    what: &'static str,
    /// Manifests applied before, in addition to [`FIXTURES`].
    setup: &'static str,
    /// kubectl's arguments.
    command: &'static [&'static str],
    /// Its standard input.
    input: &'static str,
}

const fn attempt(
    what: &'static str,
    setup: &'static str,
    command: &'static [&'static str],
    input: &'static str,
) -> Attempt {
    Attempt { what, setup, command, input }
}

const CREATE: &[&str] = &["create", "-f", "-"];
const APPLY: &[&str] = &["apply", "-f", "-"];
const SERVER_SIDE: &[&str] = &["apply", "--server-side", "--force-conflicts", "-f", "-"];

/// A patch that adds an owner reference to an object.
const OWNED: &str = r#"{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Namespace", "name": "mallorys", "uid": "6f0f2a5e-0000-4000-8000-000000000000"}]}}"#;

/// Native bindings that Roster did not make.
const NATIVE: &str = "
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: foreign, namespace: '{n}'}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: '{n}-native'}, {apiGroup: rbac.authorization.k8s.io, kind: Group, name: '{n}-natives'}]}
";

/// All attempts except those in cycles.
fn matrix() -> impl Iterator<Item = &'static Attempt> {
    [bindings::ATTEMPTS, users::ATTEMPTS, groups::ATTEMPTS, fields::ATTEMPTS, labels::ATTEMPTS].into_iter().flatten()
}

/// Requesters. `mallory` may write everything and bind `view`; `edit` only in her own namespace.
/// `alice` may bind the roles at stake cluster-wide, but not every role, so the webhooks check her requests too.
const REQUESTERS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: delegate}
rules:
- {apiGroups: [roster.dev], resources: ['*'], verbs: ['*']}
- {apiGroups: [''], resources: [secrets, namespaces, namespaces/status, namespaces/finalize], verbs: [get, list, create, update, patch, delete]}
- {apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], resourceNames: [view], verbs: [bind]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: binder}
rules:
- {apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], resourceNames: [edit, admin], verbs: [bind]}
- {apiGroups: [rbac.authorization.k8s.io], resources: [roles], resourceNames: [deployer], verbs: [bind]}
---
{apiVersion: v1, kind: Namespace, metadata: {name: mallorys}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: delegate}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: delegate}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: mallory}, {apiGroup: rbac.authorization.k8s.io, kind: User, name: alice}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: binder}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: binder}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: alice}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: binder, namespace: mallorys}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: binder}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: mallory}]
";

fn create_people(cluster: &Cluster) {
    cluster.apply(REQUESTERS);
}

/// The shared cluster with the requesters, for tests that do not stop the operator.
fn guarded_cluster() -> &'static Cluster {
    static GUARDED: OnceLock<()> = OnceLock::new();
    GUARDED.get_or_init(|| create_people(rbac()));
    rbac()
}

/// Makes the attempt as `who`. Returns kubectl's output, or the API server's error.
fn attempt_as(cluster: &Cluster, attempt: &Attempt, n: &str, who: &str) -> Result<String, String> {
    let args: Vec<String> = attempt.command.iter().map(|arg| arg.replace("{n}", n)).collect();
    let args: Vec<&str> = ["--as", who].into_iter().chain(args.iter().map(String::as_str)).collect();
    let output = cluster.plane.kubectl.output(&args, &attempt.input.replace("{n}", n)).expect("kubectl runs");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Creates the fixtures of each attempt, under unique names.
fn create_fixtures(cluster: &Cluster, attempts: &[&Attempt], prefix: &str) -> Vec<String> {
    let names: Vec<String> = (0..attempts.len()).map(|i| format!("{prefix}-{i}")).collect();
    cluster.apply(&names.iter().map(|name| FIXTURES.replace("{n}", name)).collect::<String>());
    names
}

/// Creates the prerequisites of each attempt.
fn create_prerequisites(cluster: &Cluster, attempts: &[&Attempt], names: &[String]) {
    let setups = names.iter().zip(attempts).map(|(name, attempt)| attempt.setup.replace("{n}", name));
    cluster.apply(&setups.collect::<Vec<_>>().join("\n"));
}

/// Waits until the operator has observed everything so far, by an object that is created last.
pub(crate) async fn wait_until_processed(cluster: &Cluster, prefix: &str) {
    let last = format!("{prefix}-last");
    cluster.apply(&format!(
        "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {last}}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {last}}}, spec: {{}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {last}}}, spec: {{members: [{last}]}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {last}}}, spec: {{subjects: [{{kind: Group, name: {last}}}], roleRef: {{kind: ClusterRole, name: view}}, scope: {{namespaces: [{last}]}}}}}}\n"
    ));
    wait_for_text(cluster, &["groups.roster.dev", &last], "{.status.members} {.status.roles}", "1 1").await;
    wait_for_text(cluster, &["users.roster.dev", &last], "{.status.groups[*]}", &last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_every_attempt_is_refused_and_its_legitimate_counterpart_passes() {
    assert!(matrix().count() >= 30);
    let (cluster, prefix) = (guarded_cluster(), unique("i4"));
    let attempts: Vec<&Attempt> = matrix().collect();
    let cycles: Vec<&Attempt> = groups::IN_CYCLES.iter().collect();
    let names = create_fixtures(cluster, &attempts, &prefix);
    create_prerequisites(cluster, &attempts, &names);
    wait_until_processed(cluster, &prefix).await;
    let mut failures = check_attempts(cluster, &attempts, &names);
    failures.extend(cycles_are_guarded(&cycles).await);
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), attempts.len() + cycles.len(), failures.join("\n"));
}

fn check_attempts(cluster: &Cluster, attempts: &[&Attempt], names: &[String]) -> Vec<String> {
    let mut failures = Vec::new();
    for (attempt, n) in attempts.iter().zip(names) {
        match attempt_as(cluster, attempt, n, "mallory") {
            Ok(printed) => failures.push(format!("{n} {}: mallory was allowed: {printed}", attempt.what)),
            Err(refusal) if !refusal.contains("the guard: ") => {
                failures.push(format!("{n} {}: denied, but not by the guard: {refusal}", attempt.what));
            }
            Err(_) => {}
        }
        if let Err(refusal) = attempt_as(cluster, attempt, n, "alice") {
            failures.push(format!("{n} {}: alice was denied: {refusal}", attempt.what));
        }
    }
    failures
}

/// Cycles can only be created while no operator runs, so these tests have their own control plane.
async fn cycles_are_guarded(attempts: &[&Attempt]) -> Vec<String> {
    let cluster = Cluster::create("i4-cycles", &["bindableRoles={deployer}"]);
    create_people(&cluster);
    cluster.start_operator(FAST_LEASE);
    let names = create_fixtures(&cluster, attempts, "cycle");
    cluster.operators().drain(..).for_each(Operator::kill);
    create_prerequisites(&cluster, attempts, &names);
    cluster.start_operator(FAST_LEASE);
    wait_until_processed(&cluster, "cycle").await;
    check_attempts(&cluster, attempts, &names)
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_waiting_for_a_name_does_not_grant_its_rights() {
    let (cluster, n) = (guarded_cluster(), unique("i4-squat"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    wait_until_processed(cluster, &n).await;
    let waiting = |name: &str| {
        format!(
            "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-{name}}}, spec: {{username: {n}-ME}}}}\n"
        )
    };
    let error = cluster
        .plane
        .kubectl
        .run_with_input(&["create", "--as", "mallory", "-f", "-"], &waiting("squatter"))
        .unwrap_err();
    let error = error.to_string();
    assert!(error.contains("already exists: User") && error.contains("holds or is waiting for it"), "{error}");
    // An administrator may. When the name becomes free, roles meant for the other user are not inherited.
    cluster.apply(&waiting("waiting"));
    let claimed = "{.status.conditions[?(@.type=='NameClaimed')].reason}";
    let waits = format!("{n}-waiting");
    wait_for_text(cluster, &["users.roster.dev", &waits], claimed, "UsernameConflict").await;
    cluster.kubectl(&["create", "clusterrolebinding", &n, "--clusterrole=edit", &format!("--user={n}-ME")]);
    cluster.kubectl(&["delete", "users.roster.dev", &format!("{n}-me")]);
    let message = "{.status.conditions[?(@.type=='NameClaimed')].message}";
    let expected = format!(
        "username {n}-ME already exists: it is held by the native ClusterRoleBinding {n}, which names it: delete that, or recreate this User"
    );
    wait_for_text(cluster, &["users.roster.dev", &waits], message, &expected).await;
    cluster.kubectl(&["delete", "clusterrolebinding", &n]);
    wait_for_text(cluster, &["users.roster.dev", &waits], claimed, "Claimed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_only_roster_writes_credentials() {
    let cluster = guarded_cluster();
    let secret = "---\n{apiVersion: v1, kind: Secret, metadata: {generateName: login-, namespace: roster-system}, type: roster.dev/identity, stringData: {passwordHash: x}}\n";
    for who in ["mallory", "alice"] {
        let error =
            cluster.plane.kubectl.run_with_input(&["create", "--as", who, "-f", "-"], secret).unwrap_err().to_string();
        assert!(error.contains("only Roster writes them"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_names_of_compiled_bindings_are_reserved_for_roster() {
    let (cluster, n) = (guarded_cluster(), unique("i4-names"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    wait_until_processed(cluster, &n).await;
    // Eve is an administrator of the namespace: she may write native bindings there for roles that she holds.
    cluster.kubectl(&["create", "rolebinding", "eve", "-n", &n, "--clusterrole=admin", "--user=eve"]);
    let name = format!("roster:{n}-power");
    wait_for_text(cluster, &["rolebinding.rbac.authorization.k8s.io", &name, "-n", &n], "{.roleRef.name}", "edit")
        .await;
    let stay = r#"{"metadata": {"finalizers": ["example.com/stay"], "labels": null, "managedFields": [{}]}}"#;
    let patch =
        ["patch", "rolebinding.rbac.authorization.k8s.io", &name, "-n", &n, "--as", "eve", "--type=merge", "-p", stay];
    let error = cluster.plane.kubectl.run(&patch).unwrap_err().to_string();
    assert!(error.contains("are compiled from RoleBindings of roster.dev"), "{error}");
    cluster.kubectl(&["create", "rolebinding", "hers", "-n", &n, "--clusterrole=view", "--user=john", "--as", "eve"]);
    owners::the_garbage_collector_removes_owners_of_compiled_bindings(cluster, &n, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_only_roster_writes_status() {
    let (cluster, n) = (guarded_cluster(), unique("i4-status"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    for (object, status) in [
        (format!("users.roster.dev/{n}-me"), r#"{"status": {"conditions": []}}"#),
        (format!("users.roster.dev/{n}-me"), r#"{"status": {"groups": ["system:masters"], "state": "Active"}}"#),
        (format!("groups.roster.dev/{n}-mine"), r#"{"status": {"members": 7}}"#),
        (format!("rolebindings.roster.dev/{n}-power"), r#"{"status": {"bindings": 7}}"#),
    ] {
        let patch = ["patch", &object, "--subresource=status", "--type=merge", "-p", status];
        for who in ["mallory", "alice"] {
            let error = cluster.plane.kubectl.run(&[&["--as", who], &patch[..]].concat()).unwrap_err().to_string();
            assert!(error.contains("only Roster writes the status"), "{error}");
        }
    }
    // A label in the same write as the status.
    let patch = r#"{"metadata": {"labels": {"power": "{n}"}}}"#.replace("{n}", &n);
    let args = [
        "patch",
        "users.roster.dev",
        &format!("{n}-me"),
        "--as",
        "mallory",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    assert!(cluster.plane.kubectl.run(&args).is_err());
    assert!(!can(cluster, &format!("{n}-me"), &["create", "pods", "-n", &n]));
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_holds_while_roster_is_down() {
    let cluster = Cluster::create("i4-down", &["bindableRoles={deployer}"]);
    create_people(&cluster);
    cluster.start_operator(FAST_LEASE);
    let attempts: Vec<&Attempt> = matrix().collect();
    let names = create_fixtures(&cluster, &attempts, "down");
    create_prerequisites(&cluster, &attempts, &names);
    wait_until_processed(&cluster, "down").await;
    cluster.operators().drain(..).for_each(Operator::kill);
    let mut failures = Vec::new();
    for (attempt, n) in attempts.iter().zip(&names) {
        if let Ok(printed) = attempt_as(&cluster, attempt, n, "mallory") {
            failures.push(format!("{n} {}: mallory was allowed: {printed}", attempt.what));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // kube-apiserver alone guards RoleBindings, so permitted requesters can write them.
    let bindings = attempts.iter().zip(&names).filter(|(attempt, _)| {
        attempt.input.contains("kind: RoleBinding") || attempt.command.contains(&"rolebindings.roster.dev")
    });
    for (attempt, n) in bindings {
        attempt_as(&cluster, attempt, n, "alice").unwrap_or_else(|refusal| panic!("{}: {refusal}", attempt.what));
    }
    // Requesters that may bind every role can write everything else, too.
    cluster.apply(
        "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: new}, spec: {groups: [down-0-power]}}\n",
    );
    deleted::names_stay_protected_across_crashes(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_racing_writes_do_not_combine_into_an_escalation() {
    let (cluster, n) = (guarded_cluster(), unique("i4-race"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}-bridge}}, spec: {{}}}}\n"
    ));
    wait_until_processed(cluster, &n).await;
    let me = format!("{n}-me");
    for round in 0..10 {
        // One write nests `bridge` in `power`, the other adds `me` to `bridge`: each alone adds nobody to `power`.
        let nest = format!(r#"{{"spec": {{"memberGroups": ["{n}-bridge"]}}}}"#);
        let join = format!(r#"{{"spec": {{"members": ["{me}"]}}}}"#);
        let patch = |group: String, patch: String| {
            let kubectl = cluster.plane.kubectl.clone();
            tokio::task::spawn_blocking(move || {
                kubectl.run(&["patch", "groups.roster.dev", &group, "--as", "mallory", "--type=merge", "-p", &patch])
            })
        };
        let (nested, joined) = tokio::join!(patch(format!("{n}-power"), nest), patch(format!("{n}-bridge"), join));
        assert!(nested.unwrap().is_err(), "round {round}");
        joined.unwrap().expect("the bridge holds nothing");
        cluster.kubectl(&[
            "patch",
            "groups.roster.dev",
            &format!("{n}-bridge"),
            "--type=merge",
            "-p",
            r#"{"spec": {"members": null}}"#,
        ]);
    }
    assert!(!can(cluster, &me, &["create", "pods", "-n", &n]));
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_ordinary_work_is_not_denied() {
    let (cluster, n) = (guarded_cluster(), unique("i4-work"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    wait_until_processed(cluster, &n).await;
    // Mallory manages Users without roles: creates, deletes and renames. Nobody gains a role.
    let as_mallory = |args: &[&str], input: &str| {
        let args: Vec<&str> = ["--as", "mallory"].into_iter().chain(args.iter().copied()).collect();
        cluster.plane.kubectl.run_with_input(&args, input).unwrap_or_else(|error| panic!("{error:#}"));
    };
    as_mallory(
        APPLY,
        &format!(
            "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-new}}, spec: {{groups: [{n}-mine]}}}}"
        ),
    );
    as_mallory(
        &[
            "patch",
            "users.roster.dev",
            &format!("{n}-boss"),
            "--type=merge",
            "-p",
            r#"{"spec": {"displayName": "The boss", "zone": "eu-west"}}"#,
        ],
        "",
    );
    as_mallory(&["label", "users.roster.dev", &format!("{n}-boss"), "floor=3"], "");
    as_mallory(&["annotate", "users.roster.dev", &format!("{n}-boss"), "example.com/floor=3"], "");
    // A pipeline without `bind` maintains what controls nothing, by either kind of apply.
    let profile = |floor: &str| {
        format!(
            "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-boss, labels: {{floor: '{floor}'}}}}, \
             spec: {{groups: [{n}-power], passwordSecretRef: {{namespace: {n}, name: boss}}, displayName: Floor {floor}}}}}"
        )
    };
    as_mallory(APPLY, &profile("4"));
    as_mallory(APPLY, &profile("5"));
    let descriptive = |floor: &str| {
        format!(
            "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-boss, labels: {{desk: '{floor}'}}}}, \
             spec: {{displayName: Floor {floor}}}}}"
        )
    };
    for floor in ["6", "7"] {
        let server_side = ["apply", "--server-side", "--force-conflicts", "--field-manager=desks", "-f", "-"];
        as_mallory(&server_side, &descriptive(floor));
    }
    as_mallory(&["label", "namespace", &n, "floor=3"], "");
    as_mallory(&["label", "secret", "boss", "-n", &n, "floor=3"], "");
    as_mallory(&["create", "namespace", &format!("{n}-new")], "");
    as_mallory(
        &["patch", "users.roster.dev", &format!("{n}-new"), "--type=merge", "-p", r#"{"spec": {"state": "Disabled"}}"#],
        "",
    );
    as_mallory(&["delete", "users.roster.dev", &format!("{n}-new")], "");
    as_mallory(
        APPLY,
        &format!(
            "---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {n}-view}}, spec: {{subjects: [{{kind: Group, name: {n}-mine}}], roleRef: {{kind: ClusterRole, name: view}}, scope: {{cluster: {{}}}}}}}}"
        ),
    );
    // A binding for all namespaces does not prevent others from creating namespaces.
    cluster.apply(&format!("---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {n}-all}}, spec: {{subjects: [{{kind: User, name: {n}-boss}}], roleRef: {{kind: ClusterRole, name: edit}}, scope: {{namespaceSelector: {{matchExpressions: [{{key: {n}, operator: DoesNotExist}}]}}}}}}}}\n"));
    wait_until_processed(cluster, &format!("{n}-2")).await;
    as_mallory(
        CREATE,
        &format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {n}-labelled, labels: {{floor: '3'}}}}}}"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_guard_explain_matches_the_denial() {
    let (cluster, n) = (guarded_cluster(), unique("i4-explain"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    wait_until_processed(cluster, &n).await;
    let manifest = format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-me}}, spec: {{groups: [{n}-power]}}}}\n"
    );
    let explain = |who: &str, manifest: &str| {
        let mut command = std::process::Command::new(crate::support::binary());
        command.args(["guard", "explain", "--as", who, "-f", "-"]).env("KUBECONFIG", &cluster.plane.kubectl.kubeconfig);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), manifest.as_bytes()).unwrap();
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (passes, text) = explain("alice", &manifest);
    assert!(
        passes && text.contains(&format!("ClusterRole edit in namespace {n}: User {n}-me holds or would hold it")),
        "{text}"
    );
    let lesser = FIXTURES.replace("{n}", &n).replace("name: edit}", "name: view}");
    let lesser = lesser.split("---").find(|document| document.contains("kind: RoleBinding")).unwrap();
    let (passes, text) = explain("mallory", lesser);
    let before = format!("ClusterRole edit in namespace {n}: Group {n}-power holds or would hold it");
    assert!(!passes && text.contains(&before), "{text}");
    assert!(explain("alice", lesser).0);
    let (passes, text) = explain("mallory", &manifest);
    assert!(!passes, "{text}");
    let refusal = text.split("refused: ").nth(1).unwrap().trim().to_owned();
    eventually("the denial says the same", || async {
        match cluster.plane.kubectl.run_with_input(&["apply", "--as", "mallory", "-f", "-"], &manifest) {
            Ok(printed) => Err(printed),
            Err(error) if error.to_string().contains(&refusal) => Ok(()),
            Err(error) => Err(format!("{error:#}\nis not\n{refusal}")),
        }
    })
    .await;
}
