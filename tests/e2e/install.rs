//! Installation by Helm.

use anyhow::{Context, Result, ensure};
use roster_harness::control_plane::NAMESPACE;
use roster_harness::follow_notes;

use crate::shared::Shared;

/// The chart installs in a namespace that enforces the Pod Security level `restricted`.
pub(crate) fn restricted(shared: &Shared) -> Result<()> {
    let shared = shared.get()?;
    let installed = shared.as_ref().context("the cluster runs")?;
    ensure!(installed.output.contains("STATUS: deployed"), "{}", installed.output);
    let level = r"jsonpath={.metadata.labels.pod-security\.kubernetes\.io/enforce}";
    let enforced = installed.cluster.kubectl.run(&["get", "namespace", NAMESPACE, "-o", level])?;
    ensure!(enforced == "restricted", "the namespace enforces {enforced:?}");
    // A pod that is not restricted is refused, so the level is in force.
    let pod = ["run", "privileged", "-n", NAMESPACE, "--image=localhost/pause:1", "--privileged"];
    let refused = installed.cluster.kubectl.output(&pod, "")?;
    let message = String::from_utf8_lossy(&refused.stderr);
    ensure!(message.contains("violates PodSecurity"), "a privileged pod was admitted: {message}");
    Ok(())
}

/// `helm test --logs` succeeds and prints what the check found.
pub(crate) fn helm_test(shared: &Shared) -> Result<()> {
    let shared = shared.get()?;
    let output = &shared.as_ref().context("the cluster runs")?.output;
    for expected in ["Phase:          Succeeded", "POD LOGS: roster-check", "the directory, through kube-apiserver"] {
        ensure!(output.contains(expected), "{expected:?} is missing in:\n{output}");
    }
    Ok(())
}

/// Each command of Helm's notes works, as they are printed after the installation.
pub(crate) fn notes(shared: &Shared) -> Result<()> {
    let shared = shared.get()?;
    let installed = shared.as_ref().context("the cluster runs")?;
    installed.wait_for_guard()?;
    let kubectl = &installed.cluster.kubectl;
    let output = follow_notes(kubectl)?;
    for expected in
        ["successfully rolled out", "Phase:          Succeeded", "user.roster.dev/jane created", r#""code":""#]
    {
        ensure!(output.contains(expected), "{expected:?} is missing in:\n{output}");
    }
    kubectl.run(&["delete", "users.roster.dev", "jane"]).map(drop)
}

/// Replicas run on different nodes after the installation. Tests that replace them check this again.
pub(crate) fn different_nodes(shared: &Shared) -> Result<()> {
    shared.get()?.as_ref().context("the cluster runs")?.check_spread()
}
