//! A node: containerd, kubelet and kube-proxy in namespaces of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::config;
use super::images::Image;
use super::namespaces::Namespaces;
use super::network::{node_address, pods_of};
use super::requirements;
use crate::assets::NodeParts;
use crate::control_plane::{CA, Identity, file_flag, go_program, write_kubeconfig};
use crate::kubectl::eventually;
use crate::pki::Authority;
use crate::process::Process;

/// What nodes need to join the cluster.
pub(super) struct Join<'a> {
    pub(super) parts: &'a NodeParts,
    /// Folder with the cluster's authority.
    pub(super) pki: &'a Path,
    /// URL of the API server, from nodes.
    pub(super) api_server: &'a str,
    pub(super) images: &'a [Image],
}

/// A running node.
#[derive(Debug)]
pub(super) struct Node {
    // Dropped first: all processes of the node end with it.
    pub(super) namespaces: Namespaces,
    processes: Vec<Process>,
    pub(super) name: String,
    pub(super) dir: PathBuf,
}

impl Node {
    /// Starts the components of the node with this number, from 1. It does not wait until the node is ready.
    pub(super) fn start(namespaces: Namespaces, dir: PathBuf, number: u8, join: &Join<'_>) -> Result<Self> {
        let name = node_name(number);
        namespaces.run(&["hostname", &name])?;
        let mut node = Self { namespaces, processes: Vec::new(), name, dir };
        let parts = join.parts;
        let containerd = config::containerd(&node.dir, parts, &pods_of(number))?;
        node.spawn("containerd", &parts.containerd, &[file_flag("config", &containerd)], parts)?;
        let client = || node.namespaces.run(&[&parts.ctr.to_string_lossy(), "version"]);
        eventually("containerd is ready", Duration::from_secs(30), client)
            .or_else(|error| node.processes[0].check().and(Err(error)))?;
        for image in join.images {
            image.import(&node.namespaces, &parts.ctr)?;
        }
        node.start_kubelet(number, join)?;
        node.start_kube_proxy(number, join)?;
        Ok(node)
    }

    fn start_kubelet(&mut self, number: u8, join: &Join<'_>) -> Result<()> {
        let (ca, address) = (Authority::load(join.pki, CA)?, node_address(number).to_string());
        let client =
            ca.client(&self.dir, "kubelet-client", &format!("system:node:{}", self.name), &["system:nodes"])?;
        let serving = ca.server(&self.dir, "kubelet", &[&self.name, &address])?;
        let kubeconfig = self.dir.join("kubelet.kubeconfig");
        write_kubeconfig(&kubeconfig, join.api_server, &ca.cert, &Identity::Certificate(&client))?;
        let config = config::kubelet(&self.dir, &ca.cert, &serving)?;
        let flags = [
            file_flag("config", &config),
            file_flag("kubeconfig", &kubeconfig),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={address}"),
            "--root-dir=/run/kubelet".to_owned(),
            "--cert-dir=/run/kubelet-certificates".to_owned(),
        ];
        self.spawn("kubelet", &join.parts.kubelet, &flags, join.parts)
    }

    fn start_kube_proxy(&mut self, number: u8, join: &Join<'_>) -> Result<()> {
        let ca = Authority::load(join.pki, CA)?;
        let client = ca.client(&self.dir, "kube-proxy-client", "system:kube-proxy", &[])?;
        let kubeconfig = self.dir.join("kube-proxy.kubeconfig");
        write_kubeconfig(&kubeconfig, join.api_server, &ca.cert, &Identity::Certificate(&client))?;
        let config = config::kube_proxy(&self.dir, &kubeconfig, &self.name, node_address(number))?;
        self.spawn("kube-proxy", &join.parts.kube_proxy, &[file_flag("config", &config)], join.parts)
    }

    fn spawn(&mut self, name: &str, program: &Path, flags: &[String], parts: &NodeParts) -> Result<()> {
        let mut command = go_program(program);
        command.args(flags);
        let bin = parts.containerd.parent().context("containerd is in a folder")?;
        command.env("PATH", requirements::path(&bin.to_string_lossy()));
        let log = self.dir.join("log").join(format!("{name}.log"));
        self.processes.push(Process::spawn(name, self.namespaces.on_node(&command), log)?);
        Ok(())
    }

    /// Fails if a component has ended, with the end of its log.
    pub(super) fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// Returns a command that runs on the node.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(args[0]);
        command.args(&args[1..]);
        self.namespaces.on_node(&command)
    }
}

/// Returns the name of the node with this number.
pub(super) fn node_name(number: u8) -> String {
    format!("node-{number}")
}
