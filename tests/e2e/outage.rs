//! While no operator runs, and after operators have come back.

use anyhow::{Context, Result, ensure};
use roster_harness::Kubectl;
use roster_harness::control_plane::NAMESPACE;
use roster_harness::kubectl::eventually;
use serde_json::json;

use crate::shared::{Shared, TIMEOUT};
use crate::workload::{apply, cpu_of, create_owner, delete_owner, deployment, scale, wait_for_pods, wait_for_use};

const OWNER: &str = "otto";
const APOLLO: &str = "otto-apollo";
const GEMINI: &str = "otto-gemini";

const APISERVICE: &str = "v1alpha1.directory.roster.dev";

/// User that is created while no operator runs.
const LATE: &str = "late";

const PASSWORD_SECRET: &str = "{apiVersion: v1, kind: Secret, metadata: {name: late, namespace: default}, \
                               type: roster.dev/password, stringData: {password: late}}";

/// A namespace that is deleted while no operator runs is gone when one runs again, and its quota is free. Meanwhile,
/// writes succeed or fail as documented.
pub(crate) fn deleted_namespace(shared: &Shared) -> Result<()> {
    let shared = shared.get()?;
    let installed = shared.as_ref().context("the cluster runs")?;
    let kubectl = &installed.cluster.kubectl;
    installed.wait_for_guard()?;
    create_owner(kubectl, OWNER, &json!({"requests.cpu": "200m", "namespaces": "2"}), &[APOLLO, GEMINI])?;
    apply(kubectl, &[deployment(APOLLO, 3), deployment(GEMINI, 1)])?;
    wait_for_pods(kubectl, APOLLO, 3)?;
    wait_for_pods(kubectl, GEMINI, 1)?;
    wait_for_use(kubectl, OWNER, "requests.cpu", "200m")?;

    kubectl.run(&["create", "clusterrole", "desk", "--verb=create", "--resource=users.roster.dev,namespaces"])?;
    kubectl.run(&["create", "clusterrolebinding", "desk", "--clusterrole=desk", "--user=desk"])?;
    let scale_roster = |replicas: &str| {
        kubectl.run(&["scale", "deployment/roster", "-n", NAMESPACE, &format!("--replicas={replicas}")])
    };
    scale_roster("0")?;
    let pods = ["pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=roster"];
    kubectl.run(&[&["wait", "--for=delete", "--timeout=60s"], &pods[..]].concat())?;
    let outage = while_absent(kubectl);
    scale_roster("2")?;
    installed.wait_for_rollout()?;
    outage?;
    installed.check_spread()?;

    kubectl.run(&["wait", "--for=delete", "namespace", APOLLO, "--timeout=60s"])?;
    wait_for_use(kubectl, OWNER, "namespaces", "1")?;
    scale(kubectl, GEMINI, 4)?;
    wait_for_pods(kubectl, GEMINI, 4)?;
    wait_for_use(kubectl, OWNER, "requests.cpu", "200m")?;
    let (allotted, requested) = cpu_of(kubectl, &[APOLLO, GEMINI])?;
    ensure!((allotted, requested) == (200, 200), "{requested}m of {allotted}m, which should be all");
    kubectl.run(&["wait", "--for=condition=Ready", "users.roster.dev", LATE, "--timeout=60s"])?;
    delete_owner(kubectl, OWNER, &[GEMINI])?;
    kubectl.run(&["delete", "users.roster.dev", LATE])?;
    kubectl.run(&["delete", "clusterrole/desk", "clusterrolebinding/desk"]).map(drop)
}

/// Deletes a namespace and tries to write, while no operator answers.
fn while_absent(kubectl: &Kubectl) -> Result<()> {
    // kube-apiserver asks for the resources of an aggregated API every minute, and when its APIService changes. Until it has
    // noticed that no operator answers, namespaces are deleted as usual.
    kubectl.run(&["annotate", "apiservice", APISERVICE, "e2e=outage"])?;
    eventually("kube-apiserver does not know the directory's resources", TIMEOUT, || {
        let resources = kubectl.run(&["api-resources", "--api-group=directory.roster.dev", "--no-headers"])?;
        ensure!(resources.is_empty(), "{resources}");
        Ok(())
    })?;
    kubectl.run(&["annotate", "apiservice", APISERVICE, "e2e-"])?;
    kubectl.run(&["delete", "namespace", APOLLO, "--wait=false"])?;
    let message = "jsonpath={.status.conditions[?(@.type==\"NamespaceDeletionDiscoveryFailure\")].message}";
    eventually("the namespace waits for the directory", TIMEOUT, || {
        let message = kubectl.run(&["get", "namespace", APOLLO, "-o", message])?;
        ensure!(message.contains("directory.roster.dev/v1alpha1"), "the namespace says {message:?}");
        Ok(())
    })?;
    let create =
        |user: &[&str], manifest: &str| kubectl.run_with_input(&[&["create", "-f", "-"], user].concat(), manifest);
    let user = format!("{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {LATE}}}, spec: {{}}}}");
    let owned =
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: late, labels: {{roster.dev/owner: {OWNER}}}}}}}");
    for (webhook, as_user, manifest) in [
        ("users.guard.roster.dev", &["--as=desk"][..], &*user),
        ("namespaces.guard.roster.dev", &["--as=desk"], "{apiVersion: v1, kind: Namespace, metadata: {name: late}}"),
        // These hold for administrators as well.
        ("namespaces.quota.roster.dev", &[], &owned),
        ("password-secrets.roster.dev", &[], PASSWORD_SECRET),
    ] {
        let refused = create(as_user, manifest).err().with_context(|| format!("{webhook} should refuse {manifest}"))?;
        ensure!(refused.to_string().contains(&format!("failed calling webhook \"{webhook}\"")), "{refused:#}");
    }
    // Administrators can write what the guard protects, because it is not called for them.
    create(&[], &user)?;
    // Native quota admits what it has room for.
    kubectl.run(&["delete", "pods", "-n", GEMINI, "--all", "--timeout=60s"])?;
    wait_for_pods(kubectl, GEMINI, 1)
}
