//! Translates the chart's NetworkPolicy to nftables, in place of a network plugin that enforces policies: the plugins of
//! the test cluster do not.
//!
//! It knows only what the chart renders, and fails on anything else.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};
use roster_harness::{Kubectl, NodeCluster};
use serde_json::Value;

/// nftables table with the rules.
const TABLE: &str = "network_policy";

/// Rules on both nodes. Dropping them removes them.
pub(crate) struct Firewall<'a> {
    cluster: &'a NodeCluster,
}

impl<'a> Firewall<'a> {
    /// Enforces the cluster's only NetworkPolicy for the pods that it selects now. Connections that exist are not ended.
    pub(crate) fn enforce(cluster: &'a NodeCluster) -> Result<Self> {
        let file = cluster.dir.join("policy.nft");
        std::fs::write(&file, rules(&cluster.kubectl)?)?;
        let firewall = Self { cluster };
        for node in [1, 2] {
            cluster.exec(node, &["nft", "-f", &file.to_string_lossy()])?;
        }
        Ok(firewall)
    }
}

impl Drop for Firewall<'_> {
    fn drop(&mut self) {
        for node in [1, 2] {
            // It fails on a node where the rules could not be created.
            let _ = self.cluster.exec(node, &["nft", "delete", "table", "inet", TABLE]);
        }
    }
}

/// Returns the table for nodes. Traffic between a pod and its own node does not pass the hook, and is always allowed, as
/// NetworkPolicies require.
fn rules(kubectl: &Kubectl) -> Result<String> {
    let policies = kubectl.get(&["networkpolicies", "-A"])?;
    let [policy] = policies["items"].as_array().map_or(&[][..], Vec::as_slice) else {
        bail!("there should be one NetworkPolicy: {policies}");
    };
    let spec = &policy["spec"];
    only(spec, &["podSelector", "policyTypes", "ingress", "egress"])?;
    ensure!(spec["policyTypes"] == serde_json::json!(["Ingress", "Egress"]), "{}", spec["policyTypes"]);
    let namespace = policy["metadata"]["namespace"].as_str().context("a NetworkPolicy has a namespace")?;
    let pods = kubectl.get(&["pods", "-n", namespace, "-l", &selector(&spec["podSelector"])?])?;
    let selected = addresses(&pods)?;
    ensure!(!selected.is_empty(), "the policy selects no pod: {spec}");
    let selected = selected.join(", ");
    let mut text = format!(
        "table inet {TABLE} {{\n  chain forward {{\n    type filter hook forward priority filter; policy accept;\n    \
         ct state established,related accept\n    ip saddr {{ {selected} }} jump egress_rules\n    \
         ip daddr {{ {selected} }} jump ingress_rules\n  }}\n"
    );
    for (chain, peers, address) in [("ingress", "from", "saddr"), ("egress", "to", "daddr")] {
        writeln!(text, "  chain {chain}_rules {{")?;
        for rule in spec[chain].as_array().context("both directions have rules")? {
            only(rule, &["ports", peers])?;
            let peers = match &rule[peers] {
                Value::Null => String::new(),
                peers => format!("ip {address} {{ {} }} ", peer_addresses(kubectl, peers)?.join(", ")),
            };
            for port in rule["ports"].as_array().context("each rule has ports")? {
                only(port, &["port", "protocol"])?;
                let protocol = port["protocol"].as_str().context("a port has a protocol")?.to_lowercase();
                writeln!(text, "    {peers}{protocol} dport {} return", number(&port["port"], chain, &pods)?)?;
            }
        }
        writeln!(text, "    drop\n  }}")?;
    }
    Ok(text + "}\n")
}

/// Returns the addresses of the peers of a rule.
fn peer_addresses(kubectl: &Kubectl, peers: &Value) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for peer in peers.as_array().context("peers are a list")? {
        if let Some(block) = peer.get("ipBlock") {
            only(peer, &["ipBlock"])?;
            only(block, &["cidr"])?;
            found.push(block["cidr"].as_str().context("a block has a CIDR")?.to_owned());
            continue;
        }
        only(peer, &["namespaceSelector"])?;
        let namespaces = kubectl.get(&["namespaces", "-l", &selector(&peer["namespaceSelector"])?])?;
        for namespace in namespaces["items"].as_array().context("a list has items")? {
            let name = namespace["metadata"]["name"].as_str().context("a Namespace has a name")?;
            found.extend(addresses(&kubectl.get(&["pods", "-n", name])?)?);
        }
    }
    ensure!(!found.is_empty(), "no peer exists: {peers}");
    Ok(found)
}

/// Returns the number of a port. Names of ports in ingress rules are those of the selected pods.
fn number(port: &Value, chain: &str, pods: &Value) -> Result<u64> {
    if let Some(number) = port.as_u64() {
        return Ok(number);
    }
    ensure!(chain == "ingress", "{port} is not a number");
    let containers = pods["items"][0]["spec"]["containers"].as_array().context("a pod has containers")?;
    let mut ports = containers.iter().filter_map(|container| container["ports"].as_array()).flatten();
    let found = ports.find(|found| found["name"] == *port).with_context(|| format!("no container has port {port}"))?;
    found["containerPort"].as_u64().context("a port has a number")
}

/// Returns a label selector as kubectl takes it.
fn selector(selector: &Value) -> Result<String> {
    only(selector, &["matchLabels"])?;
    let labels = selector["matchLabels"].as_object().context("a selector has labels")?;
    Ok(labels
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(","))
}

/// Returns the addresses of the pods in a list.
fn addresses(pods: &Value) -> Result<Vec<String>> {
    let pods = pods["items"].as_array().context("a list has items")?;
    Ok(pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned)).collect())
}

/// Fails if an object has other fields.
fn only(object: &Value, fields: &[&str]) -> Result<()> {
    let object = object.as_object().with_context(|| format!("{object} is not an object"))?;
    let unknown: Vec<_> = object.keys().filter(|key| !fields.contains(&key.as_str())).collect();
    ensure!(unknown.is_empty(), "the translation does not know {unknown:?} of {object:?}");
    Ok(())
}
