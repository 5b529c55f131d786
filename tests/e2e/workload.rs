//! Namespaces with an owner, and what runs in them.

use anyhow::{Result, ensure};
use roster_harness::Kubectl;
use roster_harness::kubectl::eventually;
use serde_json::{Value, json};

use crate::shared::TIMEOUT;

/// CPU time that each pod requests.
const REQUEST: &str = "50m";

/// Creates a User with these limits, and namespaces that it owns, and waits until the limits are enforced: until then,
/// pods are rejected for another reason.
pub(crate) fn create_owner(kubectl: &Kubectl, name: &str, hard: &Value, namespaces: &[&str]) -> Result<()> {
    let user = json!({
        "apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {"name": name}, "spec": {"quota": {"hard": hard}},
    });
    let owned = namespaces.iter().map(|namespace| {
        let metadata = json!({"name": namespace, "labels": {"roster.dev/owner": name}});
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    });
    apply(kubectl, &std::iter::once(user).chain(owned).collect::<Vec<_>>())?;
    for namespace in namespaces {
        eventually(&format!("the quota of {namespace} is enforced"), TIMEOUT, || {
            let quota = kubectl.get(&["resourcequota", "roster", "-n", namespace])?;
            ensure!(quota["status"]["hard"]["requests.cpu"].is_string(), "{quota}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Deletes a User and the namespaces that it owns.
pub(crate) fn delete_owner(kubectl: &Kubectl, name: &str, namespaces: &[&str]) -> Result<()> {
    kubectl.run(&[&["delete", "namespace", "--timeout=90s"], namespaces].concat())?;
    kubectl.run(&["delete", "users.roster.dev", name, "--timeout=60s"]).map(drop)
}

/// Applies objects in this order.
pub(crate) fn apply(kubectl: &Kubectl, objects: &[Value]) -> Result<()> {
    kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()).map(drop)
}

/// Returns a Deployment `web` of pods that only wait.
pub(crate) fn deployment(namespace: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod("localhost/pause:1", &[])},
        },
    })
}

/// Returns the specification of a pod that requests [`REQUEST`].
pub(crate) fn pod(image: &str, args: &[&str]) -> Value {
    let requests = json!({"requests": {"cpu": REQUEST}});
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": image, "args": args, "resources": requests}],
    })
}

/// Scales the namespace's Deployment.
pub(crate) fn scale(kubectl: &Kubectl, namespace: &str, replicas: u32) -> Result<()> {
    kubectl.run(&["scale", "deployment/web", "-n", namespace, &format!("--replicas={replicas}")]).map(drop)
}

/// Waits until the namespace's Deployment has this number of pods, and all are ready.
pub(crate) fn wait_for_pods(kubectl: &Kubectl, namespace: &str, count: u64) -> Result<()> {
    eventually(&format!("{namespace} has {count} ready pods"), TIMEOUT, || {
        let status = &kubectl.get(&["deployment", "web", "-n", namespace])?["status"];
        let number = |field: &str| status[field].as_u64().unwrap_or(0);
        ensure!(number("readyReplicas") == count && number("replicas") == count, "{status}");
        Ok(())
    })
}

/// Waits until the User's status reports this use.
pub(crate) fn wait_for_use(kubectl: &Kubectl, user: &str, name: &str, expected: &str) -> Result<()> {
    eventually(&format!("{user} uses {expected} of {name}"), TIMEOUT, || {
        let status = &kubectl.get(&["users.roster.dev", user])?["status"]["quota"];
        ensure!(status["used"][name] == expected, "{status}");
        Ok(())
    })
}

/// Returns how many millicores a user's namespaces may request in total, and how many their pods request, as
/// kube-apiserver stores it. Pods that have ended or are about to be gone do not count.
pub(crate) fn cpu_of(kubectl: &Kubectl, namespaces: &[&str]) -> Result<(u64, u64)> {
    let sum = |list: &[&str], quantity: fn(&Value) -> u64| -> Result<u64> {
        // A list over all namespaces is a consistent state.
        let list = kubectl.get(&[list, &["-A"]].concat())?;
        let is_owned = |item: &&Value| namespaces.iter().any(|namespace| item["metadata"]["namespace"] == *namespace);
        Ok(list["items"].as_array().into_iter().flatten().filter(is_owned).map(quantity).sum())
    };
    let allotted = sum(&["resourcequotas", "--field-selector=metadata.name=roster"], |quota| {
        cpu(&quota["spec"]["hard"]["requests.cpu"])
    })?;
    let requested = sum(&["pods"], |pod| {
        let is_active = pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] != "Succeeded";
        if is_active { cpu(&pod["spec"]["containers"][0]["resources"]["requests"]["cpu"]) } else { 0 }
    })?;
    Ok((allotted, requested))
}

/// Returns a CPU quantity in millicores. A missing quantity counts as 0.
fn cpu(quantity: &Value) -> u64 {
    let text = quantity.as_str().unwrap_or("0");
    let millicores = text.strip_suffix('m').map_or_else(|| text.parse().map(|cores: u64| cores * 1000), str::parse);
    millicores.expect("a CPU quantity is a number of cores or millicores")
}
