//! Components of a cluster's control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::config::NODE_LEASE_SECONDS;
use super::namespaces::Namespaces;
use super::network::node_address;
use crate::assets::NodeParts;
use crate::control_plane::{
    CA, Certificates, Identity, api_server, controller_manager, etcd, file_flag, go_program, wait_until_ready,
    write_kubeconfig,
};
use crate::kubectl::Kubectl;
use crate::pki::Authority;
use crate::process::Process;

// The control plane has a network namespace to itself, so its ports are free.
/// Port of kube-apiserver on the first node.
pub(super) const API_PORT: u16 = 6443;
const ETCD_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;
const CONTROLLER_MANAGER_PORT: u16 = 10257;

/// Running components.
#[derive(Debug)]
pub(super) struct Components {
    _scheduler: Process,
    _controller_manager: Process,
    pub(super) api_server: Process,
    _etcd: Process,
}

impl Components {
    /// Starts the control plane in the network namespace of the first node. `forwarded` is the port of kube-apiserver
    /// outside.
    pub(super) fn start(
        dir: &Path,
        first: &Namespaces,
        kubectl: &Kubectl,
        forwarded: u16,
        parts: &NodeParts,
    ) -> Result<Self> {
        let (assets, certs) = (&kubectl.assets, &Certificates::load(&dir.join("pki")));
        let spawn = |name: &str, command: &Command| {
            Process::spawn(name, first.in_network(command), dir.join(format!("{name}.log")))
        };
        let mut etcd = spawn("etcd", &etcd(assets, &dir.join("etcd"), ETCD_PORT, ETCD_PEER_PORT))?;
        let mut command = api_server(assets, certs, ETCD_PORT, API_PORT);
        command.args([
            "--bind-address=0.0.0.0",
            &format!("--advertise-address={}", node_address(1)),
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            &file_flag("kubelet-client-certificate", &certs.admin.0),
            &file_flag("kubelet-client-key", &certs.admin.1),
            &file_flag("kubelet-certificate-authority", &certs.ca.0),
            "--kubelet-preferred-address-types=InternalIP",
        ]);
        let mut api_server = spawn("kube-apiserver", &command)?;
        let url = format!("https://127.0.0.1:{API_PORT}");
        wait_until_ready(kubectl, forwarded, &mut [&mut etcd, &mut api_server])?;
        let mut controller_manager = controller_manager(assets, dir, certs, &url, CONTROLLER_MANAGER_PORT)?;
        controller_manager.arg(format!("--node-monitor-grace-period={NODE_LEASE_SECONDS}s"));
        Ok(Self {
            _scheduler: spawn("kube-scheduler", &scheduler(dir, certs, &url, parts)?)?,
            _controller_manager: spawn("kube-controller-manager", &controller_manager)?,
            api_server,
            _etcd: etcd,
        })
    }
}

fn scheduler(dir: &Path, certs: &Certificates, url: &str, parts: &NodeParts) -> Result<Command> {
    let ca = Authority::load(&dir.join("pki"), CA)?;
    let client = ca.client(&dir.join("pki"), "scheduler", "system:kube-scheduler", &[])?;
    let kubeconfig = dir.join("scheduler.kubeconfig");
    write_kubeconfig(&kubeconfig, url, &certs.ca.0, &Identity::Certificate(&client))?;
    let mut command = go_program(&parts.scheduler);
    command.args([
        &file_flag("kubeconfig", &kubeconfig),
        &file_flag("authentication-kubeconfig", &kubeconfig),
        &file_flag("authorization-kubeconfig", &kubeconfig),
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]);
    Ok(command)
}
