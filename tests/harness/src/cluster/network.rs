//! Networks of a cluster. Nodes are connected by a bridge in the first node's namespace, and each has a network for its
//! pods. There is no way out of the cluster.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::command::run;
use super::namespaces::Namespaces;

/// Address of the Service `kubernetes`.
pub(super) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// Address of the Service `kube-dns`.
pub(super) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);

/// Network that contains those of all nodes' pods.
pub(super) const POD_NETWORK: &str = "10.244.0.0/16";

/// Bridge that connects nodes, in the first node.
const BRIDGE: &str = "nodes";

/// nftables table that drops a crashed node's packets.
const CRASH: &str = "\
table inet crash {
  chain received { type filter hook prerouting priority -400; policy drop; }
  chain sent { type filter hook postrouting priority 400; policy drop; }
}
";

/// Returns the address of the node with this number, from 1.
pub(super) fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 100, 0, number)
}

/// Returns the network of the node's pods.
pub(super) fn pods_of(number: u8) -> String {
    format!("10.244.{number}.0/24")
}

/// Connects the node with this number to the first one, and gives it its address and routes to the pods of the other
/// `count` nodes.
pub(super) fn connect(first: &Namespaces, node: &Namespaces, number: u8, count: u8) -> Result<()> {
    let ip = |namespaces: &Namespaces, args: &str| {
        let mut ip = Command::new("ip");
        ip.args(args.split(' '));
        run(namespaces.in_network(&ip))
    };
    let device = if number == 1 { BRIDGE } else { "eth0" };
    ip(node, "link set lo up")?;
    if number == 1 {
        ip(node, &format!("link add {BRIDGE} type bridge"))?;
    } else {
        let port = format!("node-{number}");
        ip(first, &format!("link add {port} type veth peer name {device} netns {}", node.pid))?;
        ip(first, &format!("link set {port} master {BRIDGE} up"))?;
    }
    ip(node, &format!("address add {}/24 dev {device}", node_address(number)))?;
    ip(node, &format!("link set {device} up"))?;
    // kube-proxy redirects packets to Services after they have been routed, so there must be a route. No host has its
    // address.
    ip(node, &format!("route add default via {} dev {device}", node_address(254)))?;
    for other in (1..=count).filter(|other| *other != number) {
        ip(node, &format!("route add {} via {}", pods_of(other), node_address(other)))?;
    }
    node.write("/proc/sys/net/ipv4/ip_forward", "1")?;
    // Packets between pods of one node pass only its bridge, and those to Services must be redirected there too.
    node.write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1").context("load the kernel module br_netfilter")
}

/// Drops all packets that the node and its pods send or receive, so that connections time out instead of being refused.
pub(super) fn disconnect(node: &Namespaces, dir: &Path) -> Result<()> {
    let file = dir.join("crash.nft");
    std::fs::write(&file, CRASH)?;
    node.run(&["nft", "-f", &file.to_string_lossy()])?;
    Ok(())
}

/// Undoes [`disconnect`].
pub(super) fn reconnect(node: &Namespaces) -> Result<()> {
    node.run(&["nft", "delete", "table", "inet", "crash"])?;
    Ok(())
}
