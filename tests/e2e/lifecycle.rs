//! Upgrade, rollback, uninstallation and reinstallation, with the commands of `docs/how-to/install.md`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use roster_harness::Kubectl;
use roster_harness::cluster::documented;
use roster_harness::control_plane::NAMESPACE;
use roster_harness::kubectl::eventually;
use serde_json::{Value, json};

use crate::load;
use crate::login::Client;
use crate::shared::{Installed, Shared, TIMEOUT};
use crate::workload::{apply, create_owner, delete_owner, deployment, wait_for_pods, wait_for_use};

const PAGE: &str = "docs/how-to/install.md";

const PEOPLE: &str = "-f examples/user-with-password.yaml -f examples/group.yaml -f examples/role-binding.yaml";
const USERNAME: &str = "jane";
const PASSWORD: &str = "correct horse battery staple";

/// Owner of a namespace with a pod, and the namespace.
const OWNER: &str = "olga";
const OWNED: &str = "olga-apollo";

/// An upgrade to other values and to CRDs with another field, and a rollback, fail no request and change no identity.
/// There is no earlier release, so the earlier version is this one, without a field.
pub(crate) fn upgrade(shared: &Shared) -> Result<()> {
    let shared = shared.get()?;
    let installed = shared.as_ref().context("the cluster runs")?;
    let kubectl = &installed.cluster.kubectl;
    create_people(kubectl)?;
    remove_field(kubectl)?;
    let before = identities(kubectl)?;
    let commands = documented::commands(PAGE, "helm show crds charts/roster | kubectl apply")?;
    let values = "--reset-then-reuse-values --set hashSlots=3,quota.hints=false";
    let upgrade = commands.replace("--reset-then-reuse-values", values);
    ensure!(upgrade.contains(values), "the documented upgrade has changed: {upgrade}");
    load::during(installed, || {
        kubectl.script(&upgrade)?;
        installed.wait_for_rollout()?;
        ensure!(has_field(kubectl)?, "the CRD is still the earlier one");
        ensure!(settings(kubectl)? == ("3".to_owned(), false), "{:?} after the upgrade", settings(kubectl)?);
        kubectl.script(&documented::commands(PAGE, "helm rollback roster 1")?)?;
        installed.wait_for_rollout()
    })?;
    ensure!(settings(kubectl)? == ("4".to_owned(), true), "{:?} after the rollback", settings(kubectl)?);
    ensure!(has_field(kubectl)?, "a rollback must keep the CRDs");
    installed.check_spread()?;
    check_identities(kubectl, &before)?;
    delete_people(kubectl)
}

/// Uninstalling keeps what the documentation says, and after a reinstallation people log in as before.
pub(crate) fn reinstallation(shared: &Shared) -> Result<()> {
    let mut shared = shared.get()?;
    let installed = shared.as_mut().context("the cluster runs")?;
    let kubectl = installed.cluster.kubectl.clone();
    create_people(&kubectl)?;
    create_owner(&kubectl, OWNER, &json!({"requests.cpu": "200m"}), &[OWNED])?;
    apply(&kubectl, &[deployment(OWNED, 1)])?;
    wait_for_use(&kubectl, OWNER, "requests.cpu", "50m")?;
    let token = Client::new(installed)?.token(USERNAME, PASSWORD)?;
    let before = identities(&kubectl)?;

    kubectl.script(&documented::code_block(PAGE, "helm uninstall roster -n roster-system")?)?;
    check_uninstalled(installed, &before)?;

    installed.output = installed.cluster.install()?;
    // The new Service has another address.
    installed.cluster.accept_tokens()?;
    installed.wait_for_guard()?;
    installed.check_spread()?;
    check_identities(&kubectl, &before)?;
    let client = Client::new(installed)?;
    let earlier = eventually("the session continues", TIMEOUT, || client.who_am_i(&token))?;
    let now = eventually("jane logs in", TIMEOUT, || client.who_am_i(&client.token(USERNAME, PASSWORD)?))?;
    ensure!(earlier["uid"] == now["uid"] && now["username"] == USERNAME, "{earlier} and {now}");
    wait_for_use(&kubectl, OWNER, "requests.cpu", "50m")?;
    delete_owner(&kubectl, OWNER, &[OWNED])?;
    delete_people(&kubectl)
}

/// Checks what is left without operators: people, their permissions and limits, and nothing that waits for an operator.
fn check_uninstalled(installed: &Installed, before: &BTreeMap<String, String>) -> Result<()> {
    let kubectl = &installed.cluster.kubectl;
    let kinds = "deployments,services,apiservices,mutatingwebhookconfigurations,validatingwebhookconfigurations,\
                 validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,networkpolicies";
    let of_chart = ["get", kinds, "-A", "-l", "app.kubernetes.io/instance=roster", "-o", "name"];
    let left = kubectl.run(&of_chart)?;
    ensure!(left.is_empty(), "Helm has left {left}");
    // Otherwise the scheduler would spread new pods over nodes as if these stayed.
    let pods = ["pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=roster"];
    kubectl.run(&[&["wait", "--for=delete", "--timeout=60s"], &pods[..]].concat())?;
    check_identities(kubectl, before)?;
    let edit = ["auth", "can-i", "create", "deployments", "-n", "jane-apollo", "--as=jane", "--as-group=engineers"];
    ensure!(kubectl.run(&edit)?.trim() == "yes", "jane has lost her role");
    kubectl.run(&["patch", "users.roster.dev", USERNAME, "--type=merge", "-p", r#"{"spec": {"language": "fr"}}"#])?;
    let limit = "jsonpath={.spec.hard.requests\\.cpu}";
    let limit = kubectl.run(&["get", "resourcequota", "roster", "-n", OWNED, "-o", limit])?;
    ensure!(!limit.is_empty(), "the limit of {OWNED} is gone");
    wait_for_pods(kubectl, OWNED, 1)?;
    kubectl.run(&["create", "namespace", "short-lived"])?;
    kubectl.run(&["delete", "namespace", "short-lived", "--timeout=60s"]).map(drop)
}

/// Creates a User with a password, in a group with a role in the namespace `jane-apollo`.
fn create_people(kubectl: &Kubectl) -> Result<()> {
    kubectl.script(&format!("kubectl apply {PEOPLE}"))?;
    let metadata = json!({"name": "jane-apollo", "labels": {"roster.dev/project": "apollo"}});
    apply(kubectl, &[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})])?;
    kubectl.run(&["wait", "--for=condition=Ready", "users.roster.dev/jane", "--timeout=60s"])?;
    let edit = ["auth", "can-i", "create", "deployments", "-n", "jane-apollo", "--as=jane", "--as-group=engineers"];
    eventually("jane has her role", TIMEOUT, || kubectl.run(&edit)).map(drop)
}

fn delete_people(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["delete", "namespace", "jane-apollo", "--timeout=60s"])?;
    kubectl.script(&format!("kubectl delete {PEOPLE}")).map(drop)
}

/// Returns the UIDs of Users, Groups and bindings, and of the Secrets with credentials, with the stored hash.
fn identities(kubectl: &Kubectl) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for query in [
        &["users.roster.dev,groups.roster.dev,rolebindings.roster.dev"][..],
        &["clusterrolebindings,rolebindings.rbac.authorization.k8s.io", "-l", "app.kubernetes.io/managed-by=roster"],
        &["secrets", "--field-selector=type=roster.dev/identity"],
    ] {
        let list = kubectl.get(&[query, &["-A"]].concat())?;
        let objects = list["items"].as_array().filter(|items| !items.is_empty());
        for object in objects.with_context(|| format!("there are no {}", query[0]))? {
            let name = format!("{} {}/{}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]);
            found.insert(name, format!("{} {}", object["metadata"]["uid"], object["data"]["passwordHash"]));
        }
    }
    Ok(found)
}

fn check_identities(kubectl: &Kubectl, before: &BTreeMap<String, String>) -> Result<()> {
    let now = identities(kubectl)?;
    let changed: Vec<_> = before.iter().filter(|(name, content)| now.get(*name) != Some(*content)).collect();
    ensure!(changed.is_empty(), "{changed:?} are now {now:?}");
    Ok(())
}

/// Replaces the CRD of Users with that of an earlier version without `spec.language`.
fn remove_field(kubectl: &Kubectl) -> Result<()> {
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/language";
    let patch = json!([{"op": "remove", "path": path}]).to_string();
    kubectl.run(&["patch", "crd", "users.roster.dev", "--type=json", "-p", &patch])?;
    ensure!(!has_field(kubectl)?, "the CRD is not the earlier one");
    Ok(())
}

fn has_field(kubectl: &Kubectl) -> Result<bool> {
    let crd = kubectl.get(&["crd", "users.roster.dev"])?;
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    Ok(schema["properties"]["spec"]["properties"]["language"].is_object())
}

/// Returns what the values of the upgrade change: hashes at a time, and whether the webhook that moves quota exists.
fn settings(kubectl: &Kubectl) -> Result<(String, bool)> {
    let slots = "jsonpath={.spec.template.spec.containers[0].env[?(@.name=='ROSTER_HASH_SLOTS')].value}";
    let slots = kubectl.run(&["get", "deployment", "roster", "-n", NAMESPACE, "-o", slots])?;
    let webhooks = kubectl.get(&["validatingwebhookconfiguration", "roster"])?;
    let webhooks: &Vec<Value> = webhooks["webhooks"].as_array().context("there are webhooks")?;
    Ok((slots, webhooks.iter().any(|webhook| webhook["name"] == "hints.quota.roster.dev")))
}
