//! The operator has exactly the permissions that it needs.
//!
//! Every test runs operators with the chart's ServiceAccount. Here, one of them does everything that needs a
//! permission, and the audit log shows which were used: a permission missing from the chart shows as a denied request,
//! and an unneeded one as unused.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::directory::Direct;
use crate::quota::wait_until_enforced;
use crate::support::{
    Cluster, WITHOUT_STREAMING_LISTS, audit_position, condition, create, eventually, operator_events, password_secret,
    user, user_where, wait_for_reason, wait_for_text, wait_until_can, wait_until_ready,
};

const NAMESPACE: &str = "roster-system";

/// One verb on one resource.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Permission {
    /// Namespace; `None` for the whole cluster.
    namespace: Option<String>,
    group: String,
    /// Resource, with the subresource after a slash.
    resource: String,
    verb: String,
    /// Object names that it is restricted to; empty for all.
    names: Vec<String>,
}

impl Permission {
    /// Returns whether this request needed the permission.
    fn was_needed_by(&self, event: &Value) -> bool {
        let object = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = match object["subresource"].as_str() {
            Some(subresource) => format!("{}/{subresource}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        self.group == text(&object["apiGroup"])
            && self.resource == resource
            && self.verb == text(&event["verb"])
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == text(&object["namespace"]))
            && (self.names.is_empty() || self.names.contains(&text(&object["name"])))
    }
}

fn permissions_of(rules: Option<Vec<PolicyRule>>, namespace: Option<&str>) -> Vec<Permission> {
    let mut permissions = Vec::new();
    for rule in rules.unwrap_or_default() {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                permissions.extend(rule.verbs.iter().map(|verb| Permission {
                    namespace: namespace.map(str::to_owned),
                    group: group.clone(),
                    resource: resource.clone(),
                    verb: verb.clone(),
                    names: rule.resource_names.clone().unwrap_or_default(),
                }));
            }
        }
    }
    permissions
}

/// Returns the operator's denied requests.
fn refused(events: &[Value]) -> BTreeSet<String> {
    let refused = events.iter().filter(|event| event["annotations"]["authorization.k8s.io/decision"] == "forbid");
    refused.map(|event| format!("{} {}", event["verb"], event["requestURI"])).collect()
}

/// Returns all permissions that the chart grants to the operator.
async fn granted(cluster: &Cluster) -> Vec<Permission> {
    let client = cluster.client().await;
    let roles = |namespace: &str| Api::<Role>::namespaced(client.clone(), namespace);
    let clusterwide = Api::<ClusterRole>::all(client.clone()).get("roster").await.unwrap().rules;
    let own = roles(NAMESPACE).get("roster").await.unwrap().rules;
    let mut permissions = [permissions_of(clusterwide, None), permissions_of(own, Some(NAMESPACE))].concat();
    for name in ["roster-events", "roster-kube-apiserver"] {
        permissions.extend(permissions_of(roles("default").get(name).await.unwrap().rules, Some("default")));
    }
    permissions
}

/// Some permissions are checked within another request and do not appear in the audit log: binding a role, and creating
/// by patch. A separate test removes these.
fn is_checked_implicitly(permission: &Permission) -> bool {
    let is_binding = ["clusterrolebindings", "rolebindings"].contains(&permission.resource.as_str());
    permission.verb == "bind" || (is_binding && permission.verb == "create")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_permission_of_the_chart_is_used_and_none_is_missing() {
    // Elsewhere, `watch` is enough, because of streaming lists.
    let cluster = Cluster::create_with("rights", &[], WITHOUT_STREAMING_LISTS);
    cluster.start_operator(&[]);
    use_everything(&cluster).await;

    let events = operator_events(&cluster, 0);
    let refused = refused(&events);
    assert!(refused.is_empty(), "the operator lacks permissions: {refused:#?}");
    let permissions = granted(&cluster).await;
    assert!(permissions.len() > 50, "{permissions:#?}");
    let wildcards: Vec<&Permission> = permissions
        .iter()
        .filter(|permission| {
            [&permission.group, &permission.resource, &permission.verb].into_iter().any(|part| part.contains('*'))
        })
        .collect();
    assert!(wildcards.is_empty(), "{wildcards:#?}");
    let unused: Vec<&Permission> = permissions
        .iter()
        .filter(|permission| {
            !is_checked_implicitly(permission) && !events.iter().any(|event| permission.was_needed_by(event))
        })
        .collect();
    assert!(unused.is_empty(), "the operator has permissions that it does not use: {unused:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_limited_to_namespaces_reads_secrets_only_there() {
    let values = ["passwordSecretNamespaces={default}"];
    let cluster = Cluster::create_with("rights-namespaces", &values, WITHOUT_STREAMING_LISTS);
    cluster.kubectl(&["create", "namespace", "team-a"]);
    // One namespace was deleted with its Role, which does not affect the others.
    cluster.start_operator(&["--password-secret-namespaces", "default,gone"]);
    let users = cluster.users().await;
    create(&cluster.secrets("default").await, &password_secret("joan", "password", "correct horse")).await;
    create(&users, &user("joan", true)).await;
    wait_until_ready(&users, "joan").await;

    let mut secret = password_secret("jill", "password", "correct horse");
    secret.metadata.namespace = Some("team-a".into());
    create(&cluster.secrets("team-a").await, &secret).await;
    let mut jill = user("jill", true);
    jill.spec.password_secret_ref.as_mut().unwrap().namespace = "team-a".into();
    create(&users, &jill).await;
    let jill = wait_for_reason(&users, "jill", "CredentialReady", "SecretNamespaceNotAllowed").await;
    let message = &condition(&jill, "CredentialReady").unwrap().message;
    assert!(
        message.contains("team-a/jill") && message.contains("passwordSecretNamespaces (default, gone)"),
        "{message}"
    );
    let mut jack = user("jack", true);
    jack.spec.password_secret_ref.as_mut().unwrap().namespace = "gone".into();
    create(&users, &jack).await;
    wait_for_reason(&users, "jack", "CredentialReady", "NamespaceNotFound").await;

    // Move the Secret to a namespace that is read, and change it there.
    create(&cluster.secrets("default").await, &password_secret("jill", "password", "correct horse")).await;
    let reference = json!({"spec": {"passwordSecretRef": {"namespace": "default", "name": "jill"}}});
    users.patch("jill", &PatchParams::default(), &Patch::Merge(reference)).await.unwrap();
    wait_until_ready(&users, "jill").await;
    cluster.kubectl(&["delete", "secret", "jill"]);
    wait_for_reason(&users, "jill", "CredentialReady", "SecretNotFound").await;

    // Quotas work without permission to list all Secrets.
    let limits = json!({"spec": {"quota": {"hard": {"secrets": "20", "configmaps": "20"}}}});
    users.patch("joan", &PatchParams::default(), &Patch::Merge(limits)).await.unwrap();
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: hers, labels: {roster.dev/owner: joan}}\n");
    wait_until_enforced(&cluster.client().await, "hers", "roster").await;

    let events = operator_events(&cluster, 0);
    let elsewhere = |request: &&String| !request.contains("/namespaces/gone/");
    let refused: Vec<String> = refused(&events).iter().filter(elsewhere).cloned().collect();
    assert!(refused.is_empty(), "the operator lacks permissions: {refused:#?}");
    let of_secrets = events.iter().filter(|event| event["objectRef"]["resource"] == "secrets");
    let asked: BTreeSet<&str> =
        of_secrets.map(|event| event["objectRef"]["namespace"].as_str().unwrap_or("all namespaces")).collect();
    assert_eq!(asked, ["default", "gone", NAMESPACE].into());
    let client = cluster.client().await;
    let clusterwide = Api::<ClusterRole>::all(client.clone()).get("roster").await.unwrap().rules;
    assert!(permissions_of(clusterwide, None).iter().all(|permission| permission.resource != "secrets"));
    let here = Api::<Role>::namespaced(client.clone(), "default").get("roster-password-secrets").await.unwrap().rules;
    let own = Api::<Role>::namespaced(client, NAMESPACE).get("roster").await.unwrap().rules;
    let permissions = [permissions_of(here, Some("default")), permissions_of(own, Some(NAMESPACE))].concat();
    let of_secrets =
        permissions.iter().filter(|permission| permission.resource == "secrets" && permission.verb != "delete");
    let unused: Vec<&Permission> =
        of_secrets.filter(|permission| !events.iter().any(|event| permission.was_needed_by(event))).collect();
    assert!(unused.is_empty(), "the operator has permissions that it does not use: {unused:#?}");
}

/// Does everything that needs a permission of the operator.
async fn use_everything(cluster: &Cluster) {
    people(cluster).await;
    bindings(cluster).await;
    use_owned_namespace(cluster).await;
    use_namespace_of_absent_owner(cluster).await;
    delete_user(cluster).await;
}

/// The leader asks kube-apiserver whether the owner exists before it admits what no quota limits.
async fn use_namespace_of_absent_owner(cluster: &Cluster) {
    cluster.apply(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: early, labels: {roster.dev/owner: not-yet-applied}}\n",
    );
    wait_until_enforced(&cluster.client().await, "early", "roster").await;
}

/// Credentials, Events, callers with tokens, and callers that need a TokenReview.
async fn people(cluster: &Cluster) {
    cluster.kubectl(&["apply", "-f", "examples/user-with-password.yaml"]);
    let users = cluster.users().await;
    wait_until_ready(&users, "jane").await;
    // Changing the password Secret writes the identity Secret.
    cluster.kubectl(&["delete", "secret", "jane-password"]);
    user_where(&users, "jane", "reports the missing Secret", |user| {
        condition(user, "Ready").is_some_and(|ready| ready.reason == "SecretNotFound")
    })
    .await;
    cluster.kubectl(&["apply", "-f", "examples/user-with-password.yaml"]);
    wait_until_ready(&users, "jane").await;

    cluster.kubectl(&["create", "serviceaccount", "asker"]);
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "asker",
        "--clusterrole=roster-directory-reader",
        "--serviceaccount=default:asker",
    ]);
    let token = cluster.kubectl(&["create", "token", "asker"]);
    let direct = Direct::new(cluster, 0, None).await;
    let bearer = format!("Bearer {}", token.trim());
    eventually("a ServiceAccount may read", || async {
        let answer = direct.get("/apis/directory.roster.dev/v1alpha1/users/jane", &[("authorization", &bearer)]).await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{}: {}", answer.status, answer.body)) }
    })
    .await;
}

/// Creates, changes and deletes native bindings of both kinds.
async fn bindings(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "apollo"]);
    for (name, scope) in [("everywhere", "{cluster: {}}"), ("somewhere", "{namespaces: [apollo]}")] {
        cluster.apply(&format!(
            "apiVersion: roster.dev/v1alpha1\nkind: RoleBinding\nmetadata: {{name: {name}}}\nspec: {{subjects: \
             [{{kind: User, name: jane}}], roleRef: {{kind: ClusterRole, name: view}}, scope: {scope}}}\n"
        ));
    }
    cluster
        .apply("apiVersion: roster.dev/v1alpha1\nkind: Group\nmetadata: {name: engineers}\nspec: {members: [jane]}\n");
    wait_until_can(cluster, "jane", &["list", "pods", "-A"], true).await;
    wait_until_can(cluster, "jane", &["list", "pods", "-n", "apollo"], true).await;
    wait_for_text(cluster, &["groups.roster.dev", "engineers"], "{.status.members}", "1").await;
    // An orphan of a deleted RoleBinding.
    cluster.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: 'roster:gone', namespace: apollo, labels: \
         {app.kubernetes.io/managed-by: roster, roster.dev/owner-uid: 00000000-0000-4000-8000-000000000000}}\n\
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}\n\
         subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: jane}]\n",
    );
    eventually("the orphan is gone", || async {
        let left = cluster.kubectl(&["get", "rolebindings.rbac.authorization.k8s.io", "-n", "apollo", "-o", "name"]);
        if left.contains("roster:gone") { Err(left) } else { Ok(()) }
    })
    .await;
    // Drift is repaired.
    cluster.kubectl(&["delete", "rolebindings.rbac.authorization.k8s.io", "-n", "apollo", "--all"]);
    wait_until_can(cluster, "jane", &["list", "pods", "-n", "apollo"], true).await;
    cluster.kubectl(&["patch", "users.roster.dev", "jane", "--type=merge", "-p", r#"{"spec": {"state": "Disabled"}}"#]);
    wait_until_can(cluster, "jane", &["list", "pods", "-A"], false).await;
    wait_until_can(cluster, "jane", &["list", "pods", "-n", "apollo"], false).await;
    cluster.kubectl(&["patch", "users.roster.dev", "jane", "--type=merge", "-p", r#"{"spec": {"state": "Active"}}"#]);
}

/// Uses a namespace whose owner has limits on everything countable, and then none.
async fn use_owned_namespace(cluster: &Cluster) {
    let limits: serde_json::Map<String, Value> = [
        "namespaces",
        "pods",
        "requests.cpu",
        "persistentvolumeclaims",
        "services",
        "configmaps",
        "secrets",
        "replicationcontrollers",
        "count/daemonsets.apps",
        "count/deployments.apps",
        "count/replicasets.apps",
        "count/statefulsets.apps",
        "count/cronjobs.batch",
        "count/jobs.batch",
        "count/ingresses.networking.k8s.io",
    ]
    .into_iter()
    .map(|name| (name.to_owned(), Value::from("20")))
    .collect();
    let patch = |hard: Value| Patch::Merge(json!({"spec": {"quota": hard}}));
    let users = cluster.users().await;
    users.patch("jane", &PatchParams::default(), &patch(json!({"hard": limits}))).await.unwrap();
    for name in ["hers", "hers-too"] {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{roster.dev/owner: jane}}}}\n"
        ));
        wait_until_enforced(&cluster.client().await, name, "roster").await;
    }
    // More than an even share: quota moves between the namespaces.
    for at in 0..12 {
        eventually("quota is moved", || async {
            let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(cluster.client().await, "hers");
            let pod = crate::quota::pod(&format!("pod-{at}"), Some("1"));
            pods.create(&PostParams::default(), &pod).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
    user_where(&users, "jane", "uses twelve", |user| {
        let quota = user.status.as_ref().and_then(|status| status.quota.as_ref());
        quota.and_then(|quota| quota.used.get("requests.cpu")).is_some_and(|used| used == "12")
    })
    .await;
    // A new limit adds a default.
    let memory = json!({"spec": {"quota": {"hard": {"limits.memory": "8Gi"}}}});
    users.patch("jane", &PatchParams::default(), &Patch::Merge(memory)).await.unwrap();
    eventually("the LimitRange has a default for memory", || async {
        let ranges = cluster.kubectl(&["get", "limitrange", "-n", "hers", "-o", "json"]);
        let ranges: Value = serde_json::from_str(&ranges).unwrap();
        let given = &ranges["items"][0]["spec"]["limits"][0]["default"]["memory"];
        if given.is_string() { Ok(()) } else { Err(ranges.to_string()) }
    })
    .await;
    // Without an owner, there is neither an allotment nor a default.
    cluster.kubectl(&["label", "namespace", "hers-too", "roster.dev/owner-"]);
    for kind in ["resourcequota", "limitrange"] {
        eventually(&format!("the {kind} is gone"), || async {
            match cluster.kubectl(&["get", kind, "-n", "hers-too", "-o", "name"]) {
                none if none.is_empty() => Ok(()),
                some => Err(some),
            }
        })
        .await;
    }
}

/// Deletes the User and everything that belongs to it.
async fn delete_user(cluster: &Cluster) {
    cluster.kubectl(&["label", "namespace", "hers", "roster.dev/owner-"]);
    // The released name is free. The garbage collector also removes orphans, so repeat until Roster was faster at least
    // once.
    let (users, from) = (cluster.users().await, audit_position(cluster));
    eventually("the operator takes a name over", || async {
        cluster.kubectl(&["delete", "users.roster.dev", "jane", "--timeout=60s"]);
        create(&users, &user("jane", false)).await;
        wait_until_ready(&users, "jane").await;
        let takes_over = |event: &Value| event["verb"] == "delete" && event["objectRef"]["resource"] == "secrets";
        let is_taken_over = operator_events(cluster, from).iter().any(takes_over);
        if is_taken_over { Ok(()) } else { Err("the garbage collector came first".to_owned()) }
    })
    .await;
    cluster.kubectl(&["delete", "rolebindings.roster.dev", "--all", "--timeout=60s"]);
}

/// Removes a verb on a resource from the operator's ClusterRole. Returns the previous role.
async fn remove_verb(cluster: &Cluster, resource: &str, verb: &str) -> ClusterRole {
    let roles = Api::<ClusterRole>::all(cluster.client().await);
    let before = roles.get("roster").await.unwrap();
    let mut role = before.clone();
    let is_it = |rule: &&mut PolicyRule| rule.resources.iter().flatten().any(|other| other == resource);
    for rule in role.rules.iter_mut().flatten().filter(is_it) {
        rule.verbs.retain(|other| other != verb);
    }
    // Rules without verbs are invalid.
    role.rules.iter_mut().for_each(|rules| rules.retain(|rule| !rule.verbs.is_empty()));
    assert_ne!(role.rules, before.rules, "the role has this permission");
    roles.replace("roster", &PostParams::default(), &role).await.unwrap();
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn without_bind_or_create_nothing_is_bound() {
    let cluster = Cluster::create("rights-behind", &[]);
    cluster.start_operator(&[]);
    let users = cluster.users().await;
    create(&users, &user("jane", false)).await;
    wait_until_ready(&users, "jane").await;
    let roles = Api::<ClusterRole>::all(cluster.client().await);
    for (name, resource, verb) in
        [("unbound", "clusterroles", "bind"), ("uncreated", "clusterrolebindings", "create"), ("bound", "", "")]
    {
        let before = if verb.is_empty() { None } else { Some(remove_verb(&cluster, resource, verb).await) };
        cluster.apply(&format!(
            "apiVersion: roster.dev/v1alpha1\nkind: RoleBinding\nmetadata: {{name: {name}}}\nspec: {{subjects: \
             [{{kind: User, name: jane}}], roleRef: {{kind: ClusterRole, name: edit}}, scope: {{cluster: {{}}}}}}\n"
        ));
        let path = "{.status.conditions[?(@.type=='Ready')].status}";
        let expected = if before.is_some() { "False" } else { "True" };
        wait_for_text(&cluster, &["rolebindings.roster.dev", name], path, expected).await;
        if let Some(before) = before {
            let mut role = roles.get("roster").await.unwrap();
            role.rules = before.rules;
            roles.replace("roster", &PostParams::default(), &role).await.unwrap();
        }
    }
}
