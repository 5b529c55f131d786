//! The cluster that all tests share.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use roster_harness::cluster::{Image, NodeCluster, ROSTER_IMAGE};
use roster_harness::control_plane::NAMESPACE;
use roster_harness::kubectl::eventually;
use roster_harness::target_dir;
use serde_json::Value;

/// How long tests wait for things that should happen at once.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Folder of the cluster.
pub(crate) fn dir() -> PathBuf {
    target_dir().join("tests/e2e")
}

/// A cluster on which Roster is installed and kube-apiserver accepts its tokens.
pub(crate) struct Installed {
    pub(crate) cluster: NodeCluster,
    /// Output of the documented commands.
    pub(crate) output: String,
}

/// Starts the cluster when the first test needs it.
#[derive(Default)]
pub(crate) struct Shared(Mutex<Option<Installed>>);

impl Shared {
    /// Returns the cluster, which is left in the state in which the tests before it left it.
    pub(crate) fn get(&self) -> Result<MutexGuard<'_, Option<Installed>>> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.is_none() {
            *shared = Some(install()?);
        }
        Ok(shared)
    }
}

fn install() -> Result<Installed> {
    let archive = target_dir().join("image/roster.tar");
    ensure!(archive.is_file(), "{} is missing: run `make image`", archive.display());
    let begun = Instant::now();
    let image = Image { archive, name: ROSTER_IMAGE.to_owned() };
    let mut cluster = NodeCluster::start(&dir(), 2, &[image])?;
    println!("two nodes are ready after {:.1?}", begun.elapsed());
    cluster.kubectl.run(&["create", "namespace", NAMESPACE])?;
    cluster.kubectl.run(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"])?;
    let output = cluster.install()?;
    println!("Roster is installed after {:.1?}", begun.elapsed());
    cluster.accept_tokens()?;
    println!("kube-apiserver accepts tokens after {:.1?}", begun.elapsed());
    Ok(Installed { cluster, output })
}

impl Installed {
    /// Returns Roster's pods that are not being deleted: name and node of each.
    pub(crate) fn replicas(&self) -> Result<Vec<(String, String)>> {
        let pods = self.cluster.kubectl.get(&["pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=roster"])?;
        let pods = pods["items"].as_array().context("a list has items")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let running = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(running.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]))).collect())
    }

    /// Waits until a rollout of Roster is done.
    pub(crate) fn wait_for_rollout(&self) -> Result<()> {
        let rollout = ["rollout", "status", "deployment/roster", "-n", NAMESPACE, "--timeout=2m"];
        self.cluster.kubectl.run(&rollout).map(drop)
    }

    /// Waits until the guard decides on writes after a restart of kube-apiserver: while a replica's watches fail, it answers
    /// 503.
    pub(crate) fn wait_for_guard(&self) -> Result<()> {
        const OWNED: &str =
            "{apiVersion: v1, kind: Namespace, metadata: {name: probe, labels: {roster.dev/owner: probe}}}";
        let kubectl = &self.cluster.kubectl;
        eventually("the guard decides on writes", TIMEOUT, || {
            // Different replicas may answer.
            (0..5).try_for_each(|_| kubectl.run_with_input(&["create", "--dry-run=server", "-f", "-"], OWNED).map(drop))
        })
    }

    /// Checks that two replicas run, on different nodes.
    pub(crate) fn check_spread(&self) -> Result<()> {
        let replicas = self.replicas()?;
        let mut nodes: Vec<&str> = replicas.iter().map(|(_, node)| node.as_str()).collect();
        nodes.sort_unstable();
        ensure!(nodes == ["node-1", "node-2"], "the replicas should run on both nodes: {replicas:?}");
        Ok(())
    }
}
