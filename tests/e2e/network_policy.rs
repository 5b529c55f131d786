//! What the chart's NetworkPolicy lets through is enough for Roster, and nothing else passes.

use anyhow::{Context, Result, bail, ensure};
use roster_harness::cluster::NodeCluster;
use roster_harness::control_plane::NAMESPACE;
use roster_harness::kubectl::eventually;
use serde_json::json;

use crate::firewall::Firewall;
use crate::login::Client;
use crate::shared::{Installed, Shared, TIMEOUT};
use crate::workload::{apply, pod};

/// kube-apiserver is on the first node. Only pods of the namespace `monitoring` may read metrics.
const VALUES: &str = concat!(
    "networkPolicy.enabled=true,networkPolicy.apiServers[0].cidr=10.100.0.1/32,networkPolicy.apiServers[0].ports={6443},",
    r"networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name=monitoring"
);

const PEOPLE: &str = "-f examples/user-with-password.yaml";
const USERNAME: &str = "jane";
const PASSWORD: &str = "correct horse battery staple";

/// What happens to a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Accepted,
    Refused,
    TimedOut,
}

use Outcome::{Accepted, Refused, TimedOut};

/// A connection, and what happens to it without and with the policy.
struct Probe {
    from: Host,
    /// Address and port, separated by a slash.
    to: String,
    without: Outcome,
    with: Outcome,
}

/// A machine or pod: its node and, if it is a pod, its address.
#[derive(Clone, Debug)]
struct Host {
    node: u8,
    pod: Option<String>,
}

/// With the policy, everything works that works without it, and connections to and from other ports and addresses fail.
pub(crate) fn enforced(shared: &Shared) -> Result<()> {
    let shared = shared.get()?;
    let installed = shared.as_ref().context("the cluster runs")?;
    let kubectl = &installed.cluster.kubectl;
    let upgrade =
        format!("helm upgrade roster charts/roster -n {NAMESPACE} --reset-then-reuse-values --set '{VALUES}'");
    kubectl.script(&upgrade)?;
    apply(kubectl, &[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "monitoring"}})])?;
    let scraper = start_pod(installed, "monitoring")?;
    let stranger = start_pod(installed, "default")?;

    let probes = probes(installed, &scraper, &stranger)?;
    check(&installed.cluster, &probes, |probe| probe.without)?;
    let firewall = Firewall::enforce(&installed.cluster)?;
    check(&installed.cluster, &probes, |probe| probe.with)?;
    restart_replica(installed)?;
    check_everything(installed, &scraper)?;
    drop(firewall);

    kubectl.run(&["delete", "namespace", "monitoring", "--timeout=60s"])?;
    kubectl.run(&["delete", "pod", "probe", "-n", "default"])?;
    kubectl.script(&format!("helm rollback roster 1 -n {NAMESPACE} && kubectl delete {PEOPLE}")).map(drop)
}

/// Tries all connections at the same time.
fn check(cluster: &NodeCluster, probes: &[Probe], expected: fn(&Probe) -> Outcome) -> Result<()> {
    std::thread::scope(|scope| {
        let connections: Vec<_> = probes.iter().map(|probe| (probe, scope.spawn(|| probe.connect(cluster)))).collect();
        connections.into_iter().try_for_each(|(probe, outcome)| {
            let outcome = outcome.join().expect("a probe does not panic")?;
            let (Probe { from, to, .. }, expected) = (probe, expected(probe));
            ensure!(outcome == expected, "a connection from {from:?} to {to} is {outcome:?}, not {expected:?}");
            Ok(())
        })
    })
}

fn probes(installed: &Installed, scraper: &Host, stranger: &Host) -> Result<Vec<Probe>> {
    let kubectl = &installed.cluster.kubectl;
    let (first, second) = (&replica(installed, "node-1")?, &replica(installed, "node-2")?);
    let at = |host: &Host, port: u16| format!("{}/{port}", host.pod.as_deref().unwrap_or_default());
    let dns = ["get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[0].status.podIP}"];
    let dns = kubectl.run(&dns)?;
    let node = &Host { node: 2, pod: None };
    let probe = |from: &Host, to: &str, without, with| Probe { from: from.clone(), to: to.to_owned(), without, with };
    Ok(vec![
        // Logins, webhooks and the directory are for all; metrics are not. The stranger is a neighbour of the second replica.
        probe(stranger, &at(first, 8443), Accepted, Accepted),
        probe(stranger, &at(second, 8443), Accepted, Accepted),
        probe(node, &at(first, 8443), Accepted, Accepted),
        probe(scraper, &at(first, 8080), Accepted, Accepted),
        probe(scraper, &at(second, 8080), Accepted, Accepted),
        probe(stranger, &at(first, 8080), Accepted, TimedOut),
        probe(stranger, &at(second, 8080), Accepted, TimedOut),
        probe(node, &at(first, 8080), Accepted, TimedOut),
        // kubelet's probes.
        probe(node, &at(second, 8080), Accepted, Accepted),
        // A port that the policy does not name.
        probe(stranger, &at(first, 9000), Refused, TimedOut),
        // kube-apiserver and its Service, but no other node at its port, and no other port of its node.
        probe(second, "10.0.0.1/443", Accepted, Accepted),
        probe(second, "10.100.0.1/6443", Accepted, Accepted),
        probe(first, "10.100.0.2/6443", Refused, TimedOut),
        probe(second, "10.100.0.1/10250", Accepted, TimedOut),
        // DNS and its Service, but no other port of its pod.
        probe(second, "10.0.0.10/53", Accepted, Accepted),
        probe(second, &format!("{dns}/53"), Accepted, Accepted),
        probe(second, &format!("{dns}/8181"), Accepted, TimedOut),
    ])
}

/// Kills the replica that reaches kube-apiserver through the policy. It starts without any connection from before.
fn restart_replica(installed: &Installed) -> Result<()> {
    let kubectl = &installed.cluster.kubectl;
    let replicas = installed.replicas()?;
    let (name, _) = replicas.iter().find(|(_, node)| node == "node-2").context("node-2 has a replica")?;
    installed.cluster.exec(2, &["pkill", "--signal", "KILL", "--full", "^/roster run"])?;
    eventually("the replica is ready again", TIMEOUT, || {
        let pod = kubectl.get(&["pod", name, "-n", NAMESPACE])?;
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(status["restartCount"] != 0 && status["ready"] == true, "{status}");
        Ok(())
    })
}

/// Checks `helm test`, webhooks, controllers, a login, a TokenReview, the directory, and metrics.
fn check_everything(installed: &Installed, scraper: &Host) -> Result<()> {
    let kubectl = &installed.cluster.kubectl;
    let output = kubectl.script(&format!("helm test roster -n {NAMESPACE} --logs"))?;
    ensure!(output.contains("Phase:          Succeeded"), "{output}");
    kubectl.script(&format!("kubectl apply {PEOPLE}"))?;
    kubectl.run(&["wait", "--for=condition=Ready", "users.roster.dev/jane", "--timeout=60s"])?;
    let client = Client::new(installed)?;
    let user = client.who_am_i(&client.token(USERNAME, PASSWORD)?)?;
    ensure!(user["username"] == USERNAME, "{user}");
    let people = kubectl.run(&["get", "users.directory.roster.dev", "-o", "name"])?;
    ensure!(people.contains(USERNAME), "{people}");
    for node in ["node-1", "node-2"] {
        let address = replica(installed, node)?.pod.context("a replica is a pod")?;
        let url = format!("http://{address}:8080/metrics");
        let metrics = installed.cluster.exec(scraper.node, &on(scraper, &["curl", "-sS", "--max-time", "5", &url]))?;
        ensure!(metrics.contains("roster_logins"), "{metrics}");
    }
    Ok(())
}

/// Starts a pod on the second node.
fn start_pod(installed: &Installed, namespace: &str) -> Result<Host> {
    let kubectl = &installed.cluster.kubectl;
    let mut spec = pod("localhost/pause:1", &[]);
    spec["nodeName"] = json!("node-2");
    let metadata = json!({"name": "probe", "namespace": namespace});
    let account = ["wait", "--for=create", "serviceaccount/default", "-n", namespace, "--timeout=30s"];
    kubectl.run(&account)?;
    apply(kubectl, &[json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})])?;
    kubectl.run(&["wait", "--for=condition=Ready", "pod/probe", "-n", namespace, "--timeout=60s"])?;
    let address = kubectl.run(&["get", "pod", "probe", "-n", namespace, "-o", "jsonpath={.status.podIP}"])?;
    Ok(Host { node: 2, pod: Some(address) })
}

fn replica(installed: &Installed, node: &str) -> Result<Host> {
    let replicas = installed.replicas()?;
    let (name, _) = replicas.iter().find(|(_, host)| host == node).with_context(|| format!("{node} has no replica"))?;
    let address = ["get", "pod", name, "-n", NAMESPACE, "-o", "jsonpath={.status.podIP}"];
    let address = installed.cluster.kubectl.run(&address)?;
    Ok(Host { node: if node == "node-1" { 1 } else { 2 }, pod: Some(address) })
}

impl Probe {
    fn connect(&self, cluster: &NodeCluster) -> Result<Outcome> {
        let script = format!("timeout 3 bash -c '</dev/tcp/{}' && echo accepted || echo $?", self.to);
        let outcome = cluster.exec(self.from.node, &on(&self.from, &["bash", "-c", &script]))?;
        Ok(match outcome.trim() {
            "accepted" => Accepted,
            "1" => Refused,
            "124" => TimedOut,
            other => bail!("{script} on {:?} prints {other:?}", self.from),
        })
    }
}

/// Returns arguments that run a command in the network of a host, on its node.
fn on<'a>(host: &'a Host, command: &[&'a str]) -> Vec<&'a str> {
    const IN_POD: &str = r#"for network in /run/netns/*; do
        if nsenter --net=$network ip -4 address show dev eth0 | grep -qF "inet $1/"; then shift; exec nsenter --net=$network "$@"; fi
    done; echo "no pod has $1" >&2; exit 1"#;
    match &host.pod {
        Some(address) => [&["bash", "-c", IN_POD, "pod", address], command].concat(),
        None => command.to_vec(),
    }
}
