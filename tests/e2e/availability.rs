//! What happens to replicas and nodes does not fail requests.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roster_harness::control_plane::NAMESPACE;
use roster_harness::kubectl::eventually;

use crate::load;
use crate::shared::{Installed, Shared, TIMEOUT};

/// How long requests are sent while the cluster knows that a node has crashed.
const OUTAGE: Duration = Duration::from_secs(3);

/// Runs `disturb` while requests are sent, and waits until two replicas run on different nodes again.
fn under_load(shared: &Shared, disturb: impl FnOnce(&Installed) -> Result<()>) -> Result<()> {
    let shared = shared.get()?;
    let installed = shared.as_ref().context("the cluster runs")?;
    load::during(installed, || disturb(installed).and_then(|()| installed.wait_for_rollout()))?;
    installed.check_spread()
}

/// All replicas are replaced, one after the other.
pub(crate) fn rolling_restart(shared: &Shared) -> Result<()> {
    under_load(shared, |installed| {
        installed.cluster.kubectl.run(&["rollout", "restart", "deployment/roster", "-n", NAMESPACE])?;
        Ok(())
    })
}

/// SIGKILL ends the leader, and kubelet starts it again.
pub(crate) fn killed_replica(shared: &Shared) -> Result<()> {
    under_load(shared, |installed| {
        let kubectl = &installed.cluster.kubectl;
        let holder = "jsonpath={.spec.holderIdentity}";
        // The pod's name, and an ID of the process.
        let holder = kubectl.run(&["get", "lease", "roster", "-n", NAMESPACE, "-o", holder])?;
        let (leader, _) = holder.split_once('_').with_context(|| format!("{holder} is not a replica"))?;
        let restarts = || -> Result<u64> {
            let pod = kubectl.get(&["pod", leader, "-n", NAMESPACE])?;
            pod["status"]["containerStatuses"][0]["restartCount"].as_u64().context("the container has a status")
        };
        let (before, replicas) = (restarts()?, installed.replicas()?);
        let (_, node) = replicas.iter().find(|(name, _)| name == leader).context("the leader is a replica")?;
        let number = if node == "node-1" { 1 } else { 2 };
        // As seen from the node, a container's processes have ordinary process IDs.
        installed.cluster.exec(number, &["pkill", "--signal", "KILL", "--full", "^/roster run"])?;
        eventually("the leader is restarted", TIMEOUT, || {
            let now = restarts()?;
            ensure!(now > before, "{now} restarts of {leader}");
            Ok(())
        })
    })
}

/// One node after the other is drained, and takes pods again. The second drain moves both replicas.
pub(crate) fn drained_nodes(shared: &Shared) -> Result<()> {
    under_load(shared, |installed| {
        for (number, node) in [(2, "node-2"), (1, "node-1")] {
            installed.cluster.drain(number)?;
            installed.wait_for_rollout()?;
            let left: Vec<_> = installed.replicas()?.into_iter().filter(|(_, host)| host == node).collect();
            ensure!(left.is_empty(), "{node} is drained, but has {left:?}");
            installed.cluster.kubectl.run(&["uncordon", node])?;
        }
        // The replicas that were moved stay where they are until the next rollout.
        installed.cluster.kubectl.run(&["rollout", "restart", "deployment/roster", "-n", NAMESPACE])?;
        Ok(())
    })
}

/// A node crashes: until the cluster notices, connections to its replica time out. Then it comes back.
pub(crate) fn crashed_node(shared: &Shared) -> Result<()> {
    under_load(shared, |installed| {
        let cluster = &installed.cluster;
        let replicas = ["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=roster"];
        let field = ["--field-selector=spec.nodeName=node-2", "-o", "jsonpath={.items[0].status.podIP}"];
        let address = cluster.kubectl.run(&[&replicas[..], &field].concat())?;
        cluster.crash_node(2)?;
        let probe = cluster.exec(1, &["curl", "-sS", "--max-time", "2", &format!("http://{address}:8080/livez")]);
        let error = probe.err().context("the replica answers although its node has crashed")?;
        ensure!(error.to_string().contains("timed out"), "a connection should time out: {error:#}");
        let noticed = cluster.kubectl.run(&["wait", "--for=condition=Ready=Unknown", "node/node-2", "--timeout=2m"]);
        std::thread::sleep(OUTAGE);
        cluster.recover_node(2)?;
        noticed?;
        eventually("the replica is available again", TIMEOUT, || installed.wait_for_rollout())
    })
}
