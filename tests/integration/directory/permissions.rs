//! Permissions of users: the directory's answers compared with kube-apiserver's.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::{BASE, directory, get};
use crate::support::{Cluster, Random, create, eventually, unique, user, wait_until_ready};

const VERBS: &[&str] = &["get", "list", "create", "delete", "*"];
const RESOURCES: &[&str] = &["pods", "pods/log", "*/log", "secrets", "*", "configmaps"];
const GROUPS: &[&str] = &["", "apps", "*"];

/// Returns a random rule for a manifest.
fn random_rule(random: &mut Random) -> Value {
    let mut pick = |from: &[&str]| from[usize::try_from(random.below(from.len() as u64)).unwrap()].to_owned();
    let mut rule = json!({"verbs": [pick(VERBS), pick(VERBS)], "apiGroups": [pick(GROUPS)], "resources": [pick(RESOURCES), pick(RESOURCES)]});
    if pick(&["", "", "named"]) == "named" {
        rule["resourceNames"] = json!(["one"]);
    }
    rule
}

/// Evaluates the rules of a response. Independent of the implementation under test.
fn allowed_by(
    permissions: &Value,
    verb: &str,
    (group, resource, subresource): (&str, &str, &str),
    namespace: &str,
    name: &str,
) -> bool {
    let full = if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
    let has = |rule: &Value, field: &str, wanted: &[&str]| {
        rule[field].as_array().into_iter().flatten().any(|value| wanted.contains(&value.as_str().unwrap()))
    };
    let wildcard = format!("*/{subresource}");
    let mut resources = vec!["*", full.as_str()];
    if !subresource.is_empty() {
        resources.push(&wildcard);
    }
    permissions["status"]["rules"].as_array().unwrap().iter().any(|rule| {
        (rule["namespace"].is_null() || rule["namespace"] == namespace)
            && has(rule, "verbs", &["*", verb])
            && has(rule, "apiGroups", &["*", group])
            && has(rule, "resources", &resources)
            && (rule["resourceNames"].is_null() || has(rule, "resourceNames", &[name]))
    })
}

/// Creates roles, bindings of Roster and of others, nested groups, and an aggregated ClusterRole.
fn random_rbac(cluster: &Cluster, prefix: &str, namespaces: &[String], random: &mut Random) {
    let mut manifests = Vec::new();
    for at in 0..6 {
        let rules: Vec<Value> = (0..2).map(|_| random_rule(random)).collect();
        manifests.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": format!("{prefix}-{at}"), "labels": {"part-of": prefix, "even": (at % 2 == 0).to_string()}}, "rules": rules}));
    }
    manifests.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": format!("{prefix}-all")},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part-of": prefix, "even": "true"}}]}, "rules": []}));
    for namespace in namespaces {
        manifests.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "local", "namespace": namespace}, "rules": [random_rule(random)]}));
    }
    let reference =
        |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    for at in 0..12 {
        let subject = match random.below(4) {
            0 => reference("Group", &format!("{prefix}-inner")),
            1 => reference("Group", &format!("{prefix}-outer")),
            2 => reference("Group", "system:authenticated"),
            _ => reference("User", &format!("{prefix}-u{}", random.below(4))),
        };
        let namespace = &namespaces[usize::try_from(random.below(namespaces.len() as u64)).unwrap()];
        let role = match random.below(8) {
            0 => reference("Role", "local"),
            1 => reference("ClusterRole", &format!("{prefix}-all")),
            _ => reference("ClusterRole", &format!("{prefix}-{}", random.below(6))),
        };
        let is_cluster =
            role["kind"] == "ClusterRole" && random.below(3) == 0 && subject["name"] != "system:authenticated";
        let mut binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": format!("{prefix}-b{at}")},
            "kind": if is_cluster { "ClusterRoleBinding" } else { "RoleBinding" }, "roleRef": role, "subjects": [subject]});
        if !is_cluster {
            binding["metadata"]["namespace"] = namespace.as_str().into();
        }
        manifests.push(binding);
    }
    for (name, spec) in [
        (
            "view",
            json!({"subjects": [{"kind": "Group", "name": format!("{prefix}-outer")}], "scope": {"namespaces": [namespaces[0]]}}),
        ),
        (
            "edit",
            json!({"subjects": [{"kind": "User", "name": format!("{prefix}-u0")}], "scope": {"namespaces": [namespaces[1]]}}),
        ),
    ] {
        let mut spec = spec;
        spec["roleRef"] = json!({"kind": "ClusterRole", "name": name});
        manifests.push(json!({"apiVersion": "roster.dev/v1alpha1", "kind": "RoleBinding", "metadata": {"name": format!("{prefix}-{name}")}, "spec": spec}));
    }
    manifests.push(
        json!({"apiVersion": "roster.dev/v1alpha1", "kind": "Group", "metadata": {"name": format!("{prefix}-inner")},
        "spec": {"members": [format!("{prefix}-u1"), format!("{prefix}-u2")]}}),
    );
    manifests.push(
        json!({"apiVersion": "roster.dev/v1alpha1", "kind": "Group", "metadata": {"name": format!("{prefix}-outer")},
        "spec": {"memberGroups": [format!("{prefix}-inner")], "members": [format!("{prefix}-u3")]}}),
    );
    let list = json!({"apiVersion": "v1", "kind": "List", "items": manifests}).to_string();
    cluster.apply(&list);
}

#[tokio::test]
async fn three_hundred_access_reviews_agree_with_kube_apiserver() {
    let cluster = directory();
    let prefix = unique("asked");
    let users = cluster.users().await;
    for at in 0..4 {
        create(&users, &user(&format!("{prefix}-u{at}"), false)).await;
        wait_until_ready(&users, &format!("{prefix}-u{at}")).await;
    }
    let namespaces: Vec<String> = (0..3).map(|at| format!("{prefix}-n{at}")).collect();
    for namespace in &namespaces {
        cluster.kubectl(&["create", "namespace", namespace]);
    }
    let mut random = Random(20_261_122);
    random_rbac(cluster, &prefix, &namespaces, &mut random);
    for (binding, count) in [("view", "1"), ("edit", "1")] {
        let name = format!("{prefix}-{binding}");
        crate::support::wait_for_text(cluster, &["rolebindings.roster.dev", &name], "{.status.bindings}", count).await;
    }
    let expected_groups = [0, 2, 2, 1];
    for (at, count) in expected_groups.iter().enumerate() {
        eventually("the directory and the aggregated role have settled", || async {
            let status = get(cluster, &format!("users/{prefix}-u{at}/permissions"))["status"].clone();
            let aggregated =
                cluster.kubectl(&["get", "clusterrole", &format!("{prefix}-all"), "-o", "jsonpath={.rules}"]);
            if status["groups"].as_array().unwrap().len() == count + 1 && aggregated.len() > 2 {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })
        .await;
    }
    let permissions: Vec<Value> = (0..4).map(|at| get(cluster, &format!("users/{prefix}-u{at}/permissions"))).collect();
    let reviews: Api<SubjectAccessReview> = Api::all(cluster.client().await);
    let mut yes = 0;
    for question in 0..300 {
        let at = usize::try_from(random.below(4)).unwrap();
        let mut pick = |from: &[&str]| from[usize::try_from(random.below(from.len() as u64)).unwrap()].to_owned();
        let (verb, group) = (pick(&["get", "list", "create", "delete", "watch"]), pick(&["", "apps"]));
        let (resource, subresource) = (pick(&["pods", "secrets", "configmaps", "deployments"]), pick(&["", "", "log"]));
        let name = pick(&["", "one", "two"]);
        let namespace = namespaces[usize::try_from(random.below(3)).unwrap()].clone();
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let attributes = ResourceAttributes {
            verb: some(&verb),
            group: some(&group),
            resource: some(&resource),
            subresource: some(&subresource),
            name: some(&name),
            namespace: some(&namespace),
            ..ResourceAttributes::default()
        };
        let groups: Vec<String> = serde_json::from_value(permissions[at]["status"]["groups"].clone()).unwrap();
        let spec = SubjectAccessReviewSpec {
            user: Some(format!("{prefix}-u{at}")),
            groups: Some(groups),
            resource_attributes: Some(attributes.clone()),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let truth = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed;
        let asked = (group.as_str(), resource.as_str(), subresource.as_str());
        let told = allowed_by(&permissions[at], &verb, asked, &namespace, &name);
        let body = json!({"apiVersion": "directory.roster.dev/v1alpha1", "kind": "AccessReview", "spec": {"resourceAttributes": attributes}});
        let path = format!("{BASE}/users/{prefix}-u{at}/accessreviews");
        let answer =
            cluster.plane.kubectl.run_with_input(&["create", "--raw", &path, "-f", "-"], &body.to_string()).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["status"]["allowed"], json!(truth), "{question}: {attributes:?}");
        assert_eq!(told, truth, "{question}: {attributes:?} {}", permissions[at]);
        assert_eq!(
            answer["status"]["path"].as_array().is_some_and(|path| !path.is_empty()),
            truth,
            "{question}: {answer}"
        );
        yes += usize::from(truth);
    }
    println!("of 300 questions, {yes} are answered with yes");
    assert!((30..270).contains(&yes), "both answers must occur often: {yes} of 300 are yes");
    // Restricted to a namespace, roles of other namespaces are omitted.
    let narrow = get(cluster, &format!("users/{prefix}-u1/permissions?namespace={}", namespaces[0]));
    let rules = narrow["status"]["rules"].as_array().unwrap();
    assert!(rules.iter().all(|rule| rule["namespace"].is_null() || rule["namespace"] == json!(namespaces[0])));
    // Inactive users have no permissions.
    let name = format!("{prefix}-u1");
    cluster.kubectl(&["patch", "users.roster.dev", &name, "--type=merge", "-p", r#"{"spec":{"state":"Disabled"}}"#]);
    eventually("a disabled user may do nothing", || async {
        let status = get(cluster, &format!("users/{name}/permissions"))["status"].clone();
        if status["active"] == false && status["rules"] == json!([]) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let body = json!({"apiVersion": "directory.roster.dev/v1alpha1", "kind": "AccessReview",
        "spec": {"nonResourceAttributes": {"path": "/version", "verb": "get"}}});
    let path = format!("{BASE}/users/{name}/accessreviews");
    let answer =
        cluster.plane.kubectl.run_with_input(&["create", "--raw", &path, "-f", "-"], &body.to_string()).unwrap();
    assert!(answer.contains(r#""allowed":false"#) && answer.contains("not active"), "{answer}");
}
