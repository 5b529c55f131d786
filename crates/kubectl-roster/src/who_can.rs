//! `kubectl roster who-can`: finds the roles that allow an action, and the subjects that hold them.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use form_urlencoded::Serializer;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use roster_api::directory::{API_VERSION, AccessReviewSpec, RoleAssignment};
use roster_api::role_binding::{RoleKind, RoleRef};
use roster_core::rbac::permissions::{allows, role_name};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::Action;
use super::client::{DirectoryClient, explain};
use super::global::Global;
use super::output::table;

/// Flags of `kubectl roster who-can`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    action: Action,
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<()> {
    let question = args.action.question()?;
    let namespace = args.action.namespace();
    let directory = global.connection.directory().await?;
    let mut found = Vec::new();
    for role in roles(&directory, namespace, &question).await? {
        found.extend(assignments(&directory, &role, namespace).await?);
    }
    let rows = rows(&found)?;
    let list = json!({"kind": "RoleAssignmentList", "apiVersion": API_VERSION, "items": found});
    global.output.print(&list, || describe(&rows))
}

/// Returns the ClusterRoles, and the Roles of the namespace, that allow the action.
async fn roles(
    directory: &DirectoryClient,
    namespace: Option<&str>,
    question: &AccessReviewSpec,
) -> Result<Vec<RoleRef>> {
    let client = directory.client();
    let everything = ListParams::default();
    let in_cluster = Api::<ClusterRole>::all(client.clone()).list(&everything).await.map_err(explain)?;
    let in_cluster = in_cluster.into_iter().map(|role| (RoleKind::ClusterRole, role.name_any(), role.rules));
    let mut all: Vec<_> = in_cluster.collect();
    if let Some(namespace) = namespace {
        let namespaced = Api::<Role>::namespaced(client.clone(), namespace).list(&everything).await.map_err(explain)?;
        all.extend(namespaced.into_iter().map(|role| (RoleKind::Role, role.name_any(), role.rules)));
    }
    let matching = all.into_iter().filter(|(_, _, rules)| any_allows(rules.as_deref().unwrap_or_default(), question));
    Ok(matching.map(|(kind, name, _)| RoleRef { kind, name }).collect())
}

fn any_allows(rules: &[PolicyRule], question: &AccessReviewSpec) -> bool {
    rules.iter().any(|rule| allows(rule, question))
}

/// Returns the assignments of the role for the whole cluster and, if given, for the namespace.
async fn assignments(directory: &DirectoryClient, role: &RoleRef, namespace: Option<&str>) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let mut page = directory.get(&query(role, namespace, next.as_deref())).await?;
        if let Value::Array(items) = page["items"].take() {
            found.extend(items);
        }
        next = page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()).map(str::to_owned);
        if next.is_none() {
            return Ok(found);
        }
    }
}

fn query(role: &RoleRef, namespace: Option<&str>, next: Option<&str>) -> String {
    let scope = namespace.map_or_else(|| "cluster".to_owned(), |namespace| format!("namespace:{namespace}"));
    let mut query = Serializer::new(String::new());
    query.append_pair("role", &role_name(role)).append_pair("scope", &scope).append_pair("effective", "true");
    if let Some(token) = next {
        query.append_pair("continue", token);
    }
    format!("roleassignments?{}", query.finish())
}

/// Returns table rows of subject, groups, role and namespace. A row that results from several bindings appears once.
fn rows(found: &[Value]) -> Result<BTreeSet<[String; 4]>> {
    let row = |item: &Value| {
        let assignment = RoleAssignment::deserialize(&item["spec"])
            .map_err(|error| anyhow!("this version of the plugin does not understand the response: {error}"))?;
        Ok(row(&assignment))
    };
    found.iter().map(row).collect()
}

fn row(assignment: &RoleAssignment) -> [String; 4] {
    let native = &assignment.subject;
    let who = match &assignment.holder {
        Some(holder) => format!("{:?} {}", holder.kind, holder.name),
        None => format!("{} {}", native.kind, native.name),
    };
    let namespace = assignment.namespace.clone().unwrap_or_else(|| "*".to_owned());
    [who, assignment.groups.join(" → "), assignment.role.to_string(), namespace]
}

fn describe(rows: &BTreeSet<[String; 4]>) -> String {
    if rows.is_empty() {
        return "nobody".to_owned();
    }
    let rows: Vec<_> = rows.iter().cloned().collect();
    table(["SUBJECT", "VIA", "ROLE", "NAMESPACE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_have_role_and_scope() {
        let role = RoleRef::cluster_role("system:a&b");
        assert_eq!(
            query(&role, None, None),
            "roleassignments?role=ClusterRole%2Fsystem%3Aa%26b&scope=cluster&effective=true"
        );
        let role = RoleRef { kind: RoleKind::Role, name: "r".to_owned() };
        assert_eq!(
            query(&role, Some("apollo"), Some("t=")),
            "roleassignments?role=Role%2Fr&scope=namespace%3Aapollo&effective=true&continue=t%3D"
        );
    }

    #[test]
    fn a_subject_is_listed_once_and_by_the_name_of_its_holder() {
        let role = json!({"kind": "ClusterRole", "name": "edit"});
        let item = |binding: &str| {
            json!({"spec": {"subject": {"kind": "Group", "name": "all"}, "holder": {"kind": "User", "name": "jane"},
                "role": role, "namespace": "apollo", "groups": ["engineers", "all"],
                "binding": {"kind": "RoleBinding", "namespace": "apollo", "name": binding}}})
        };
        let masters = json!({"spec": {"subject": {"kind": "Group", "name": "system:masters"}, "role": role,
            "binding": {"kind": "ClusterRoleBinding", "name": "c"}}});
        let text = describe(&rows(&[item("a"), item("b"), masters]).unwrap());
        assert_eq!(
            text,
            "SUBJECT                VIA               ROLE               NAMESPACE\n\
             Group system:masters   <none>            ClusterRole edit   *\n\
             User jane              engineers → all   ClusterRole edit   apollo"
        );
    }

    #[test]
    fn an_empty_result_is_nobody() {
        assert_eq!(describe(&BTreeSet::new()), "nobody");
    }

    #[test]
    fn one_rule_is_enough_to_allow_an_action() {
        let rule = |verb: &str| PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["pods".to_owned()]),
            verbs: vec![verb.to_owned()],
            ..PolicyRule::default()
        };
        let question: AccessReviewSpec =
            serde_json::from_value(json!({"resourceAttributes": {"verb": "list", "resource": "pods"}})).unwrap();
        assert!(any_allows(&[rule("get"), rule("list")], &question));
        assert!(!any_allows(&[rule("get")], &question));
    }
}
