//! A cluster with nodes: kubelet, containerd and kube-proxy run real pods, in namespaces on this machine.
//!
//! ```text
//!            ┌▶ requirements, documented, forwarder
//!  NodeCluster ─▶ node ─▶ config, images ─▶ namespaces ─▶ cgroups
//!            └▶ network, mounts, components ────▲
//! ```
//!
//! The control plane runs in the network namespace of the first node, where Services can be reached. Everything ends with
//! the process that started it, however that ends. Then only empty cgroups are left, which the next start removes.

mod cgroups;
mod command;
mod components;
mod config;
pub mod documented;
mod forwarder;
mod images;
mod mounts;
mod namespaces;
mod network;
mod node;
mod requirements;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use self::images::Image;
pub use self::requirements::check as check_requirements;

use self::components::{API_PORT, Components};
use self::forwarder::Forwarder;
use self::namespaces::Namespaces;
use self::network::{API_SERVICE, DNS_SERVICE, node_address};
use self::node::{Join, Node, node_name};
use crate::assets::{Assets, NodeParts};
use crate::control_plane::{Certificates, Identity, wait_until_ready, write_kubeconfig};
use crate::kubectl::{Kubectl, eventually};

/// Name by which the documented installation refers to Roster's image.
pub const ROSTER_IMAGE: &str = concat!("registry.example.com/roster:", env!("CARGO_PKG_VERSION"));

/// Name of CoreDNS's image.
const COREDNS_IMAGE: &str = "localhost/coredns:1";

/// Cluster DNS.
const COREDNS: &str = include_str!("../../manifests/coredns.yaml");

/// A running cluster. Dropping it ends everything in it.
#[derive(Debug)]
pub struct NodeCluster {
    // In the order in which they are stopped.
    forwarder: Forwarder,
    nodes: Vec<Node>,
    components: Components,
    /// kubectl as cluster administrator (`system:masters`), from outside the nodes.
    pub kubectl: Kubectl,
    /// Folder with certificates, kubeconfigs, configurations and logs.
    pub dir: PathBuf,
}

impl NodeCluster {
    /// Starts a cluster of `count` nodes, which have `images`, and waits until nodes and DNS are ready. Its files are in
    /// `dir`, which is emptied first.
    ///
    /// # Errors
    /// If the machine lacks something, or a component does not become ready. The message contains the end of its log.
    pub fn start(dir: &Path, count: u8, images: &[Image]) -> Result<Self> {
        check_requirements()?;
        Self::remove_leftovers()?;
        let (assets, parts) = (Assets::resolve()?, NodeParts::resolve()?);
        let dir = empty_folder(dir)?;
        let pki = dir.join("pki");
        Certificates::create(&pki, &[&node_address(1).to_string(), &API_SERVICE.to_string()])?;

        let mut namespaces = create_namespaces(&dir, count, &parts)?.into_iter();
        let first = namespaces.next().context("a cluster has at least one node")?;
        let forwarder = Forwarder::start(&first.network(), SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), API_PORT))?;
        let certs = Certificates::load(&pki);
        let url = format!("https://127.0.0.1:{}", forwarder.port);
        let admin = Identity::Certificate(&certs.admin);
        let kubeconfig = write_kubeconfig(&dir.join("admin.kubeconfig"), &url, &certs.ca.0, &admin)?;
        let kubectl = Kubectl { assets, kubeconfig };
        let components = Components::start(&dir, &first, &kubectl, forwarder.port, &parts)?;

        let mut images = images.to_vec();
        images.push(Image { archive: parts.pause_image.clone(), name: config::PAUSE_IMAGE.to_owned() });
        images.push(Image { archive: parts.coredns_image.clone(), name: COREDNS_IMAGE.to_owned() });
        let api_server = Self::api_server();
        let join = Join { parts: &parts, pki: &pki, api_server: &api_server, images: &images };
        let nodes = start_nodes(std::iter::once(first).chain(namespaces), &dir, &join)?;
        let mut cluster = Self { forwarder, nodes, components, kubectl, dir };
        cluster.wait_until_nodes_are_ready(Duration::from_secs(90))?;
        cluster.start_dns()?;
        Ok(cluster)
    }

    /// Builds what a cluster runs, if it is missing.
    ///
    /// # Errors
    /// If it can't be built. The message says what is missing.
    pub fn build_parts() -> Result<()> {
        NodeParts::resolve().map(drop)
    }

    /// Removes what clusters that were killed have left on the machine: empty cgroups.
    ///
    /// # Errors
    /// If a cgroup can't be removed.
    pub fn remove_leftovers() -> Result<()> {
        cgroups::remove_leftovers()
    }

    fn wait_until_nodes_are_ready(&mut self, timeout: Duration) -> Result<()> {
        let names: Vec<String> = self.nodes.iter().map(|node| format!("node/{}", node.name)).collect();
        let mut wait = vec!["wait", "--for=condition=Ready", "--timeout=1s"];
        wait.extend(names.iter().map(String::as_str));
        let (kubectl, nodes) = (&self.kubectl, &mut self.nodes);
        eventually("all nodes are ready", timeout, || kubectl.run(&wait))
            .or_else(|error| nodes.iter_mut().try_for_each(Node::check).and(Err(error)))?;
        Ok(())
    }

    fn start_dns(&self) -> Result<()> {
        let manifest = COREDNS.replace("COREDNS_IMAGE", COREDNS_IMAGE).replace("DNS_SERVICE", &DNS_SERVICE.to_string());
        self.kubectl.apply(&manifest)?;
        self.kubectl.run(&["rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=60s"])?;
        Ok(())
    }

    /// Installs the chart and tests it, with the commands of `docs/how-to/install.md`, and returns their output.
    ///
    /// # Errors
    /// If one of the commands fails.
    pub fn install(&self) -> Result<String> {
        self.kubectl.script(&documented::code_block("docs/how-to/install.md", "helm install roster charts/roster")?)
    }

    /// Makes kube-apiserver accept Roster's tokens, with the commands, the file and the flags of
    /// `docs/how-to/tokens.md`.
    ///
    /// # Errors
    /// If Roster is not installed, or kube-apiserver does not become ready again.
    pub fn accept_tokens(&mut self) -> Result<()> {
        const PAGE: &str = "docs/how-to/tokens.md";
        let folder = self.dir.join("roster");
        std::fs::create_dir_all(&folder)?;
        let block = |text: &str| -> Result<String> {
            Ok(documented::code_block(PAGE, text)?.replace("/etc/kubernetes/roster", &folder.to_string_lossy()))
        };
        let address = self.kubectl.script(&block("base64 -d > /etc/kubernetes/roster/ca.crt")?)?;
        let webhook = block("tls-server-name")?.replace("10.96.0.50", address.trim());
        std::fs::write(folder.join("token-webhook.kubeconfig"), webhook)?;
        let flags = block("--authentication-token-webhook-config-file=")?;
        self.restart_api_server(&flags.lines().collect::<Vec<_>>())
    }

    /// Kills kube-apiserver and starts it again, with additional flags.
    ///
    /// # Errors
    /// If it does not become ready again.
    pub fn restart_api_server(&mut self, flags: &[&str]) -> Result<()> {
        let server = &mut self.components.api_server;
        server.restart_with(flags)?;
        wait_until_ready(&self.kubectl, self.forwarder.port, &mut [server])
    }

    /// Returns the URL of the API server from nodes.
    pub fn api_server() -> String {
        format!("https://{}:{API_PORT}", node_address(1))
    }

    /// Returns kubectl as the user of a bearer token.
    ///
    /// # Errors
    /// If the kubeconfig can't be written.
    pub fn kubectl_with_token(&self, token: &str) -> Result<Kubectl> {
        let (url, ca) = (format!("https://127.0.0.1:{}", self.forwarder.port), self.dir.join("pki/ca.crt"));
        let kubeconfig = write_kubeconfig(&self.dir.join("token.kubeconfig"), &url, &ca, &Identity::Token(token))?;
        Ok(Kubectl { assets: self.kubectl.assets.clone(), kubeconfig })
    }

    /// Runs a command on the node with this number, from 1, and returns its output.
    ///
    /// # Errors
    /// If it fails; the message contains its standard error.
    pub fn exec(&self, number: u8, args: &[&str]) -> Result<String> {
        // Without what makes it run on the node.
        command::run_named(&args.join(" "), self.node(number)?.command(args))
    }

    /// Moves all pods away from a node, as before maintenance. `uncordon` of kubectl undoes it.
    ///
    /// # Errors
    /// If pods can't be evicted within two minutes.
    pub fn drain(&self, number: u8) -> Result<()> {
        let node = node_name(number);
        self.kubectl.run(&["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=2m"])?;
        Ok(())
    }

    /// Makes a node other than the first look as if it had crashed: all packets to and from it and its pods are dropped,
    /// so that connections time out instead of being refused.
    ///
    /// # Errors
    /// If nftables refuses the rules.
    pub fn crash_node(&self, number: u8) -> Result<()> {
        ensure!(number > 1, "the control plane runs on the first node");
        let node = self.node(number)?;
        network::disconnect(&node.namespaces, &node.dir)
    }

    /// Undoes [`NodeCluster::crash_node`], and waits until the node is ready.
    ///
    /// # Errors
    /// If it does not become ready within two minutes.
    pub fn recover_node(&self, number: u8) -> Result<()> {
        let node = self.node(number)?;
        network::reconnect(&node.namespaces)?;
        self.kubectl.run(&["wait", "--for=condition=Ready", &format!("node/{}", node.name), "--timeout=2m"]).map(drop)
    }

    fn node(&self, number: u8) -> Result<&Node> {
        let index = usize::from(number).checked_sub(1);
        index.and_then(|index| self.nodes.get(index)).with_context(|| format!("there is no node {number}"))
    }
}

/// Empties or creates a folder, and returns its canonical path.
fn empty_folder(dir: &Path) -> Result<PathBuf> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let dir = dir.canonicalize()?;
    let is_hidden = mounts::HIDDEN.iter().any(|hidden| dir.starts_with(hidden));
    ensure!(!is_hidden, "{} can't be seen on nodes: set CARGO_TARGET_DIR to another folder", dir.display());
    Ok(dir)
}

/// Creates the namespaces of all nodes, with mounts and network.
fn create_namespaces(dir: &Path, count: u8, parts: &NodeParts) -> Result<Vec<Namespaces>> {
    let mut created: Vec<Namespaces> = Vec::new();
    for number in 1..=count {
        let dir = dir.join(node_name(number));
        std::fs::create_dir_all(&dir)?;
        let namespaces = Namespaces::create(&parts.pause, dir.join("unshare.log"))?;
        mounts::prepare(&namespaces, &dir)?;
        network::connect(created.first().unwrap_or(&namespaces), &namespaces, number, count)?;
        created.push(namespaces);
    }
    Ok(created)
}

/// Starts all nodes at the same time.
fn start_nodes(namespaces: impl Iterator<Item = Namespaces>, dir: &Path, join: &Join<'_>) -> Result<Vec<Node>> {
    std::thread::scope(|scope| {
        let started: Vec<_> = (1..)
            .zip(namespaces)
            .map(|(number, namespaces)| {
                let dir = dir.join(node_name(number));
                scope.spawn(move || Node::start(namespaces, dir, number, join))
            })
            .collect();
        started.into_iter().map(|node| node.join().expect("starting a node does not panic")).collect()
    })
}
