//! RoleBindings compiled to native RBAC, checked by asking kube-apiserver who may do what.

use kube::ResourceExt;
use kube::api::{Api, ListParams};
use roster_api::RoleBinding;

use crate::support::{
    Cluster, audit_position, can, eventually, operator_writes, rbac, unique, wait_for_text, wait_until_can,
};

/// Creates a User and a RoleBinding of `edit` with the given scope.
fn bound(name: &str, scope: &str) -> String {
    format!(
        "apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {name}}}\nspec: {{}}\n---\n\
         apiVersion: roster.dev/v1alpha1\nkind: RoleBinding\nmetadata: {{name: {name}}}\n\
         spec: {{subjects: [{{kind: User, name: {name}}}], roleRef: {{kind: ClusterRole, name: edit}}, scope: {scope}}}\n"
    )
}

fn namespace(cluster: &Cluster, name: &str, labels: &[&str]) {
    cluster.kubectl(&["create", "namespace", name]);
    if !labels.is_empty() {
        cluster.kubectl(&[&["label", "namespace", name], labels].concat());
    }
}

/// Number of users in the expansion test: more than fit into one native binding.
const USERS: usize = 2100;

async fn wait_until_ready(cluster: &Cluster, name: &str) {
    wait_for_text(
        cluster,
        &["rolebindings.roster.dev", name],
        "{.status.conditions[?(@.type=='Ready')].status}",
        "True",
    )
    .await;
}

async fn wait_for_reason(cluster: &Cluster, name: &str, reason: &str) {
    wait_for_text(
        cluster,
        &["rolebindings.roster.dev", name],
        "{.status.conditions[?(@.type=='Ready')].reason}",
        reason,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_cluster_applies_everywhere() {
    let (cluster, jane) = (rbac(), unique("scope-cluster"));
    cluster.apply(&bound(&jane, "{cluster: {}}"));
    wait_until_can(cluster, &jane, &["create", "pods", "-A"], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_namespaces_applies_to_listed_namespaces_and_waits_for_missing_ones() {
    let (cluster, jane) = (rbac(), unique("scope-list"));
    let (here, later, other) = (unique("here"), unique("later"), unique("other"));
    namespace(cluster, &here, &[]);
    namespace(cluster, &other, &[]);
    cluster.apply(&bound(&jane, &format!("{{namespaces: [{here}, {later}]}}")));
    wait_until_can(cluster, &jane, &["create", "pods", "-n", &here], true).await;
    wait_for_reason(cluster, &jane, "NamespaceNotFound").await;
    wait_for_text(cluster, &["rolebindings.roster.dev", &jane], "{.status.pending[*].namespace}", &later).await;
    namespace(cluster, &later, &[]);
    wait_until_can(cluster, &jane, &["create", "pods", "-n", &later], true).await;
    wait_until_ready(cluster, &jane).await;
    assert!(!can(cluster, &jane, &["create", "pods", "-n", &other]));
    assert!(!can(cluster, &jane, &["create", "pods", "-A"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_selector_and_domain_follow_labels() {
    let cluster = rbac();
    let project = unique("apollo");
    let (by_label, by_domain) = (unique("scope-selector"), unique("scope-domain"));
    let ns = unique("labelled");
    namespace(cluster, &ns, &[]);
    cluster.apply(&bound(
        &by_label,
        &format!("{{namespaceSelector: {{matchLabels: {{roster.dev/project: {project}}}}}}}"),
    ));
    cluster.apply(&bound(&by_domain, &format!("{{domain: {project}}}")));
    wait_until_ready(cluster, &by_label).await;
    wait_until_ready(cluster, &by_domain).await;
    let question = ["create", "pods", "-n", &ns];
    assert!(!can(cluster, &by_label, &question) && !can(cluster, &by_domain, &question));
    cluster.kubectl(&["label", "namespace", &ns, &format!("roster.dev/project={project}")]);
    wait_until_can(cluster, &by_label, &question, true).await;
    cluster.kubectl(&["label", "namespace", &ns, &format!("roster.dev/domain={project}"), "roster.dev/project-"]);
    wait_until_can(cluster, &by_domain, &question, true).await;
    wait_until_can(cluster, &by_label, &question, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_nested_groups_hold_roles() {
    let (cluster, n) = (rbac(), unique("nested"));
    namespace(cluster, &n, &[]);
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {n}}}, spec: {{subjects: [{{kind: Group, name: {n}-outer}}], roleRef: {{kind: ClusterRole, name: edit}}, scope: {{namespaces: [{n}]}}}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-direct}}, spec: {{groups: [{n}-outer]}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-deep}}, spec: {{}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}-inner}}, spec: {{members: [{n}-deep]}}}}\n"
    ));
    wait_for_reason(cluster, &n, "GroupNotFound").await;
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}-outer}}, spec: {{memberGroups: [{n}-inner], acceptDeclaredMembers: true}}}}\n"
    ));
    for user in ["direct", "deep"] {
        wait_until_can(cluster, &format!("{n}-{user}"), &["create", "pods", "-n", &n], true).await;
    }
    wait_for_text(cluster, &["groups.roster.dev", &format!("{n}-outer")], "{.status.members} {.status.roles}", "2 1")
        .await;
    wait_for_text(cluster, &["groups.roster.dev", &format!("{n}-inner")], "{.status.members} {.status.roles}", "1 1")
        .await;
    cluster.kubectl(&[
        "patch",
        "groups.roster.dev",
        &format!("{n}-outer"),
        "--type=merge",
        "-p",
        r#"{"spec": {"memberGroups": []}}"#,
    ]);
    wait_until_can(cluster, &format!("{n}-deep"), &["create", "pods", "-n", &n], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespaced_role_is_bound_where_it_exists_and_is_allowed() {
    let (cluster, jane) = (rbac(), unique("role"));
    namespace(cluster, &jane, &[]);
    let binding = |name: &str, role: &str| {
        bound(name, &format!("{{namespaces: [{jane}]}}"))
            .replace("kind: ClusterRole, name: edit", &format!("kind: Role, name: {role}"))
    };
    cluster.apply(&binding(&jane, "deployer"));
    wait_for_reason(cluster, &jane, "RoleNotFound").await;
    cluster.kubectl(&["create", "role", "deployer", "-n", &jane, "--verb=create", "--resource=pods"]);
    wait_until_can(cluster, &jane, &["create", "pods", "-n", &jane], true).await;
    let other = unique("role-other");
    cluster.apply(&binding(&other, "unlisted"));
    wait_for_reason(cluster, &other, "RoleNotBindable").await;
    wait_for_text(
        cluster,
        &["rolebindings.roster.dev", &other],
        "{.status.conditions[?(@.type=='Stalled')].status}",
        "True",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_can_bind_only_the_listed_roles() {
    let cluster = rbac();
    let may = |role: &str| {
        let question = format!("clusterroles.rbac.authorization.k8s.io/{role}");
        let args = ["auth", "can-i", "bind", &question, "--as", "system:serviceaccount:roster-system:roster"];
        String::from_utf8_lossy(&cluster.plane.kubectl.output(&args, "").unwrap().stdout).trim() == "yes"
    };
    assert_eq!(["view", "edit", "admin", "cluster-admin", "system:node"].map(may), [true, true, true, false, false]);
    let jane = unique("cluster-admin");
    cluster.apply(&bound(&jane, "{cluster: {}}").replace("name: edit", "name: cluster-admin"));
    wait_for_reason(cluster, &jane, "RoleNotBindable").await;
    assert!(!can(cluster, &jane, &["create", "pods", "-A"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_administrator_flag_binds_the_configured_role() {
    let (cluster, root) = (rbac(), unique("root"));
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {root}}}, spec: {{admin: true}}}}\n"
    ));
    wait_until_can(cluster, &root, &["delete", "pods", "-A"], true).await;
    let bound = "{.status.conditions[?(@.type=='AdministratorBound')].reason}";
    wait_for_text(cluster, &["users.roster.dev", &root], bound, "Bound").await;
    cluster.kubectl(&["patch", "users.roster.dev", &root, "--type=merge", "-p", r#"{"spec": {"state": "Disabled"}}"#]);
    wait_until_can(cluster, &root, &["delete", "pods", "-A"], false).await;
    wait_for_text(cluster, &["users.roster.dev", &root], bound, "UserInactive").await;
    cluster.kubectl(&[
        "patch",
        "users.roster.dev",
        &root,
        "--type=merge",
        "-p",
        r#"{"spec": {"admin": false, "state": "Active"}}"#,
    ]);
    wait_for_text(cluster, &["users.roster.dev", &root], bound, "").await;
    assert!(!can(cluster, &root, &["delete", "pods", "-A"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_repaired() {
    let (cluster, jane) = (rbac(), unique("drift"));
    namespace(cluster, &jane, &[]);
    cluster.apply(&bound(&jane, &format!("{{namespaces: [{jane}]}}")));
    wait_until_ready(cluster, &jane).await;
    let native = format!("rolebinding.rbac.authorization.k8s.io/roster:{jane}");
    let question = ["create", "pods", "-n", &jane];
    // Delete it, empty it, add a subject, or remove the label and owner reference.
    cluster.kubectl(&["delete", "-n", &jane, &native]);
    wait_until_can(cluster, &jane, &question, true).await;
    cluster.kubectl(&[
        "patch",
        "-n",
        &jane,
        &native,
        "--type=json",
        "-p",
        r#"[{"op": "remove", "path": "/subjects"}]"#,
    ]);
    wait_until_can(cluster, &jane, &question, true).await;
    let stranger = r#"[{"op": "add", "path": "/subjects/-", "value": {"kind": "User", "name": "stranger", "apiGroup": "rbac.authorization.k8s.io"}}]"#;
    cluster.kubectl(&["patch", "-n", &jane, &native, "--type=json", "-p", stranger]);
    wait_for_text(cluster, &["-n", &jane, &native], "{.subjects[*].name}", &jane).await;
    cluster.kubectl(&["label", "-n", &jane, &native, "roster.dev/owner-uid-"]);
    let marked = "{.metadata.labels.app\\.kubernetes\\.io/managed-by} {.metadata.ownerReferences[*].name}";
    wait_for_text(cluster, &["-n", &jane, &native], marked, &format!("roster {jane}")).await;
    eventually("the label is back", || async {
        let label =
            cluster.kubectl(&["get", "-n", &jane, &native, "-o", "jsonpath={.metadata.labels.roster\\.dev/owner-uid}"]);
        if label.is_empty() { Err("it is not".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalizer_does_not_keep_a_role_granted() {
    let (cluster, jane) = (rbac(), unique("finalizer"));
    namespace(cluster, &jane, &[]);
    cluster.apply(&bound(&jane, &format!("{{namespaces: [{jane}]}}")));
    wait_until_ready(cluster, &jane).await;
    let native = format!("rolebinding.rbac.authorization.k8s.io/roster:{jane}");
    wait_until_can(cluster, &jane, &["create", "pods", "-n", &jane], true).await;
    cluster.kubectl(&[
        "patch",
        "-n",
        &jane,
        &native,
        "--type=merge",
        "-p",
        r#"{"metadata": {"finalizers": ["example.com/stay"]}}"#,
    ]);
    cluster.kubectl(&["patch", "users.roster.dev", &jane, "--type=merge", "-p", r#"{"spec": {"state": "Banned"}}"#]);
    wait_until_can(cluster, &jane, &["create", "pods", "-n", &jane], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_native_bindings_are_left_alone() {
    let (cluster, jane) = (rbac(), unique("taken"));
    namespace(cluster, &jane, &[]);
    let name = format!("roster:{jane}");
    cluster.kubectl(&["create", "rolebinding", &name, "-n", &jane, "--clusterrole=view", "--user=somebody"]);
    cluster.apply(&bound(&jane, &format!("{{namespaces: [{jane}]}}")));
    wait_for_reason(cluster, &jane, "NameTaken").await;
    wait_for_text(
        cluster,
        &["rolebinding.rbac.authorization.k8s.io", "-n", &jane, &name],
        "{.subjects[*].name}",
        "somebody",
    )
    .await;
    cluster.kubectl(&["delete", "rolebinding.rbac.authorization.k8s.io", "-n", &jane, &name]);
    wait_until_can(cluster, &jane, &["create", "pods", "-n", &jane], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_role_replaces_the_native_binding() {
    let (cluster, jane) = (rbac(), unique("rerole"));
    namespace(cluster, &jane, &[]);
    let scope = format!("{{namespaces: [{jane}]}}");
    cluster.apply(&bound(&jane, &scope));
    wait_until_can(cluster, &jane, &["create", "pods", "-n", &jane], true).await;
    cluster.apply(&bound(&jane, &scope).replace("name: edit", "name: view"));
    wait_until_can(cluster, &jane, &["create", "pods", "-n", &jane], false).await;
    wait_until_can(cluster, &jane, &["list", "pods", "-n", &jane], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_lasts_while_the_delegator_holds_the_role() {
    let (cluster, n) = (rbac(), unique("trust"));
    namespace(cluster, &n, &[]);
    let scope = format!("{{namespaces: [{n}]}}");
    let (jane, john, eve) = (format!("{n}-jane"), format!("{n}-john"), format!("{n}-eve"));
    let trust = |from: &str, to: &str| bound(to, &scope).replace("roleRef", &format!("delegatedBy: {from}, roleRef"));
    let question = ["create", "pods", "-n", &n];
    cluster.apply(&trust(&jane, &john));
    wait_for_reason(cluster, &john, "DelegatorNotFound").await;
    cluster.apply(&bound(&jane, &scope));
    wait_until_can(cluster, &john, &question, true).await;
    // John cannot delegate a role that was delegated to him.
    cluster.apply(&trust(&john, &eve));
    wait_for_reason(cluster, &eve, "DelegatorLacksRole").await;
    assert!(!can(cluster, &eve, &question));
    // The delegator is banned, reactivated, and loses the role.
    cluster.kubectl(&["patch", "users.roster.dev", &jane, "--type=merge", "-p", r#"{"spec": {"state": "Banned"}}"#]);
    wait_until_can(cluster, &john, &question, false).await;
    cluster.kubectl(&["patch", "users.roster.dev", &jane, "--type=merge", "-p", r#"{"spec": {"state": "Active"}}"#]);
    wait_until_can(cluster, &john, &question, true).await;
    cluster.kubectl(&["delete", "rolebindings.roster.dev", &jane]);
    wait_until_can(cluster, &john, &question, false).await;
    // The delegator holds the role by a foreign native binding, then by a group, and is then deleted.
    cluster.kubectl(&["create", "rolebinding", &jane, "-n", &n, "--clusterrole=edit", &format!("--user={jane}")]);
    wait_until_can(cluster, &john, &question, true).await;
    cluster.kubectl(&["delete", "rolebinding.rbac.authorization.k8s.io", &jane, "-n", &n]);
    wait_until_can(cluster, &john, &question, false).await;
    cluster.apply(&format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}}}, spec: {{members: [{jane}]}}}}\n"
    ));
    cluster.kubectl(&["create", "clusterrolebinding", &n, "--clusterrole=edit", &format!("--group={n}")]);
    wait_until_can(cluster, &john, &question, true).await;
    cluster.kubectl(&["delete", "users.roster.dev", &jane]);
    wait_until_can(cluster, &john, &question, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaned_bindings_are_removed_after_a_restart_and_others_are_kept() {
    let cluster = Cluster::create("sweep", &[]);
    cluster.start_operator(&[]);
    for name in ["kept", "orphaned", "recreated", "stripped"] {
        cluster.apply(&bound(name, "{cluster: {}}"));
        wait_until_can(&cluster, name, &["create", "pods", "-A"], true).await;
        wait_for_text(&cluster, &["rolebindings.roster.dev", name], "{.status.bindings} {.status.pending}", "1 ").await;
    }
    // Remove both marks. Roster still recognizes its binding by the field manager.
    let bare = r#"{"metadata": {"labels": null, "ownerReferences": null}}"#;
    let operator = cluster.operators().remove(0);
    operator.stop().unwrap();
    cluster.kubectl(&["patch", "clusterrolebinding", "roster:stripped", "--type=merge", "-p", bare]);
    cluster.kubectl(&["delete", "rolebindings.roster.dev", "stripped"]);
    // Remove the owner references of the orphans, so that the garbage collector does not help.
    cluster.kubectl(&["delete", "rolebindings.roster.dev", "orphaned", "recreated", "--cascade=orphan"]);
    cluster.apply(&bound("recreated", "{cluster: {}}").replace("name: edit", "name: view"));
    assert!(can(&cluster, "orphaned", &["create", "pods", "-A"]));
    let position = audit_position(&cluster);
    cluster.start_operator(&[]);
    wait_until_can(&cluster, "orphaned", &["create", "pods", "-A"], false).await;
    wait_until_can(&cluster, "stripped", &["create", "pods", "-A"], false).await;
    wait_until_can(&cluster, "recreated", &["list", "pods", "-A"], true).await;
    wait_until_can(&cluster, "recreated", &["create", "pods", "-A"], false).await;
    assert!(can(&cluster, "kept", &["create", "pods", "-A"]));
    let writes = operator_writes(&cluster, position);
    assert!(writes.iter().all(|write| !write.contains("kept")), "{writes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expanded_groups_are_split_over_native_bindings_and_a_change_writes_one() {
    let cluster = Cluster::create("expand", &["expandGroups=true"]);
    cluster.start_operator(&["--expand-groups"]);
    let mut manifest = String::from(
        "---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: all}, spec: {subjects: [{kind: Group, name: all}], roleRef: {kind: ClusterRole, name: edit}, scope: {cluster: {}}}}\n\
         ---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: all}, spec: {memberSelector: {}, acceptDeclaredMembers: true}}\n",
    );
    for i in 0..USERS {
        let user =
            format!("---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: user-{i}}}, spec: {{}}}}\n");
        manifest.push_str(&user);
    }
    cluster.plane.kubectl.run_with_input(&["create", "-f", "-"], &manifest).unwrap();
    eventually("every user is a subject", || async {
        let names = cluster.kubectl(&[
            "get",
            "clusterrolebindings",
            "-l",
            "app.kubernetes.io/managed-by=roster",
            "-o",
            "jsonpath={.items[*].subjects[*].name}",
        ]);
        let count = names.split_whitespace().filter(|name| name.starts_with("user-")).count();
        if count == USERS { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    let listed =
        cluster.kubectl(&["get", "clusterrolebindings", "-l", "app.kubernetes.io/managed-by=roster", "-o", "name"]);
    assert_eq!(listed.lines().filter(|name| name.contains("roster:all")).count(), 2, "{listed}");
    wait_until_can(&cluster, "user-7", &["create", "pods", "-A"], true).await;
    let position = audit_position(&cluster);
    cluster.kubectl(&["patch", "users.roster.dev", "user-7", "--type=merge", "-p", r#"{"spec": {"state": "Banned"}}"#]);
    wait_until_can(&cluster, "user-7", &["create", "pods", "-A"], false).await;
    let natives: Vec<String> =
        operator_writes(&cluster, position).into_iter().filter(|write| write.contains("clusterrolebindings")).collect();
    assert_eq!(natives.len(), 1, "{natives:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_bindings_in_steady_state_are_not_written() {
    let cluster = Cluster::create("i6-bindings", &[]);
    cluster.start_operator(&[]);
    for i in 0..20 {
        cluster.apply(&bound(
            &format!("steady-{i}"),
            if i % 2 == 0 { "{cluster: {}}" } else { "{namespaceSelector: {}}" },
        ));
    }
    cluster.apply(&bound("trouble", "{namespaces: [nowhere]}"));
    cluster.apply("---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: waiting}, spec: {members: [nobody, steady-1]}}\n");
    cluster.apply(
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: closed}, spec: {memberSelector: {}}}\n\
         ---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: pending}, spec: {groups: [closed]}}\n",
    );
    for i in 0..20 {
        wait_until_ready(&cluster, &format!("steady-{i}")).await;
        wait_for_text(&cluster, &["rolebindings.roster.dev", &format!("steady-{i}")], "{.status.pending}", "").await;
    }
    wait_for_reason(&cluster, "trouble", "NamespaceNotFound").await;
    wait_for_text(&cluster, &["groups.roster.dev", "waiting"], "{.status.members}", "1").await;
    wait_for_text(&cluster, &["users.roster.dev", "steady-1"], "{.status.groups[*]}", "waiting").await;
    wait_for_text(&cluster, &["users.roster.dev", "pending"], "{.status.pendingGroups[*]}", "closed").await;
    let everybody = cluster.users().await.list(&ListParams::default()).await.unwrap().items.len().to_string();
    wait_for_text(&cluster, &["groups.roster.dev", "closed"], "{.status.waitingMembers}", &everybody).await;
    let bindings: Api<RoleBinding> = Api::all(cluster.client().await);
    let versions = || async {
        let list = bindings.list(&ListParams::default()).await.unwrap();
        list.items.iter().map(|binding| binding.resource_version().unwrap()).collect::<Vec<_>>()
    };
    let before = versions().await;
    let position = audit_position(&cluster);
    let operator = cluster.operators().remove(0);
    operator.stop().unwrap();
    cluster.start_operator(&[]);
    eventually("every RoleBinding has been reconciled", || async {
        let metrics = cluster.operators()[0].probe("/metrics").map_err(|error| error.to_string())?;
        let looked = metrics
            .lines()
            .find_map(|line| line.strip_prefix("roster_role_binding_reconciliations_total{outcome=\"ok\"} "))
            .and_then(|count| count.parse::<usize>().ok())
            .unwrap_or_default();
        if looked >= 21 { Ok(()) } else { Err(format!("{looked}")) }
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let writes = operator_writes(&cluster, position);
    let others: Vec<&String> = writes.iter().filter(|write| !write.contains("/leases/roster")).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(versions().await, before);
}
