//! Quota of a user whose pods run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roster_harness::Kubectl;
use roster_harness::cluster::ROSTER_IMAGE;
use roster_harness::kubectl::eventually;
use serde_json::{Value, json};

use crate::shared::{Shared, TIMEOUT};
use crate::workload::{apply, cpu_of, create_owner, delete_owner, deployment, pod, scale, wait_for_pods, wait_for_use};

const OWNER: &str = "quinn";
const APOLLO: &str = "quinn-apollo";
const GEMINI: &str = "quinn-gemini";

/// Millicores that the owner may request: four times as many as a pod requests.
const LIMIT: u64 = 200;

/// Deployments of a user get exactly as many pods as the quota allows, quota moves between their namespaces as pods end,
/// a Job's quota is free when its pod has ended, and claims count before they have a volume.
pub(crate) fn running_pods(shared: &Shared) -> Result<()> {
    let shared = shared.get()?;
    let installed = shared.as_ref().context("the cluster runs")?;
    installed.wait_for_guard()?;
    let kubectl = &installed.cluster.kubectl;
    let hard = json!({"pods": "6", "requests.cpu": format!("{LIMIT}m"), "requests.storage": "3Gi"});
    create_owner(kubectl, OWNER, &hard, &[APOLLO, GEMINI])?;
    let is_stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let observer = scope.spawn(|| observe(kubectl, &is_stopped));
        let steps = [fill, move_quota, run_job, claim].iter().try_for_each(|step| step(kubectl));
        is_stopped.store(true, Ordering::Relaxed);
        let observations = observer.join().expect("the observer does not panic")?;
        println!("the limit held in {observations} observations");
        ensure!(observations > 5, "too few observations to prove anything: {observations}");
        steps
    })?;
    delete_owner(kubectl, OWNER, &[APOLLO, GEMINI])
}

/// A Deployment that wants six pods gets four, and says why.
fn fill(kubectl: &Kubectl) -> Result<()> {
    apply(kubectl, &[deployment(APOLLO, 6)])?;
    wait_for_pods(kubectl, APOLLO, 4)?;
    wait_for_failure(kubectl, APOLLO)?;
    let events = ["events", "-n", APOLLO, "--field-selector", "reason=FailedCreate,involvedObject.kind=ReplicaSet"];
    let events = kubectl.get(&events)?.to_string();
    ensure!(events.contains("exceeded quota: roster, requested: requests.cpu=50m"), "{events}");
    wait_for_use(kubectl, OWNER, "requests.cpu", "200m")?;
    wait_for_use(kubectl, OWNER, "pods", "4")
}

/// A Deployment in the other namespace gets pods when the first one has fewer.
fn move_quota(kubectl: &Kubectl) -> Result<()> {
    apply(kubectl, &[deployment(GEMINI, 2)])?;
    wait_for_failure(kubectl, GEMINI)?;
    wait_for_pods(kubectl, GEMINI, 0)?;
    scale(kubectl, APOLLO, 2)?;
    wait_for_pods(kubectl, GEMINI, 2)?;
    wait_for_pods(kubectl, APOLLO, 2)
}

/// A Job that has ended leaves its quota to a Deployment, although its pod still exists.
fn run_job(kubectl: &Kubectl) -> Result<()> {
    scale(kubectl, APOLLO, 1)?;
    wait_for_use(kubectl, OWNER, "pods", "3")?;
    apply(kubectl, &[job()])?;
    kubectl.run(&["wait", "--for=condition=Complete", "job/version", "-n", GEMINI, "--timeout=60s"])?;
    scale(kubectl, APOLLO, 2)?;
    wait_for_pods(kubectl, APOLLO, 2)?;
    wait_for_use(kubectl, OWNER, "requests.cpu", "200m")?;
    let ended = kubectl.run(&["get", "pods", "-n", GEMINI, "--field-selector=status.phase=Succeeded", "-o", "name"])?;
    ensure!(ended.lines().count() == 1, "the pod of the Job should still exist: {ended:?}");
    Ok(())
}

/// A claim that no volume satisfies counts.
fn claim(kubectl: &Kubectl) -> Result<()> {
    apply(kubectl, &[volume_claim("data")])?;
    wait_for_use(kubectl, OWNER, "requests.storage", "2Gi")?;
    wait_for_use(kubectl, OWNER, "persistentvolumeclaims", "1")?;
    let phase = kubectl.run(&["get", "pvc", "data", "-n", GEMINI, "-o", "jsonpath={.status.phase}"])?;
    ensure!(phase == "Pending", "the claim is {phase}");
    let refused = apply(kubectl, &[volume_claim("more")]).err().context("the limit is exceeded")?;
    ensure!(refused.to_string().contains("exceeded quota: roster"), "{refused:#}");
    Ok(())
}

/// Checks until it is stopped that neither pods nor allotments exceed the limit. Returns how often.
fn observe(kubectl: &Kubectl, is_stopped: &AtomicBool) -> Result<u32> {
    let mut observations = 0;
    while !is_stopped.load(Ordering::Relaxed) {
        let (allotted, requested) = cpu_of(kubectl, &[APOLLO, GEMINI])?;
        ensure!(allotted <= LIMIT, "{allotted}m of {LIMIT}m are allotted");
        ensure!(requested <= LIMIT, "pods request {requested}m of {LIMIT}m");
        observations += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(observations)
}

/// Waits until the namespace's Deployment says that the quota is exceeded.
fn wait_for_failure(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let message = "jsonpath={.status.conditions[?(@.type==\"ReplicaFailure\")].message}";
    eventually(&format!("the Deployment in {namespace} lacks quota"), TIMEOUT, || {
        let message = kubectl.run(&["get", "deployment", "web", "-n", namespace, "-o", message])?;
        ensure!(message.contains("exceeded quota: roster"), "the Deployment says {message:?}");
        Ok(())
    })
}

/// Returns a Job that ends at once.
fn job() -> Value {
    let mut pod = pod(ROSTER_IMAGE, &["--version"]);
    pod["restartPolicy"] = json!("Never");
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "version", "namespace": GEMINI},
        "spec": {"template": {"spec": pod}},
    })
}

/// Returns a claim of 2 of the owner's 3 GiB.
fn volume_claim(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": GEMINI},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
    })
}
