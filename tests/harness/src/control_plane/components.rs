//! Command lines of etcd, kube-apiserver and kube-controller-manager, with the flags that every control plane has.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::certificates::Certificates;
use super::kubeconfig::{Identity, write_kubeconfig};
use crate::assets::Assets;

/// Network of the addresses of Services.
const SERVICE_NETWORK: &str = "10.0.0.0/16";

/// Returns a command that runs a Go program. Unless `GOGC` is set, it collects garbage a quarter as often as by
/// default: the heaps are small and the processes short-lived, and collection would take a fifth of their CPU time.
pub(crate) fn go_program(program: &Path) -> Command {
    let mut command = Command::new(program);
    if std::env::var_os("GOGC").is_none() {
        command.env("GOGC", "400");
    }
    command
}

/// Returns a flag whose value is a path.
pub(crate) fn file_flag(flag: &str, path: &Path) -> String {
    format!("--{flag}={}", path.display())
}

/// Returns the command of an etcd on loopback, with its data in `data_dir`.
pub(crate) fn etcd(assets: &Assets, data_dir: &Path, port: u16, peer_port: u16) -> Command {
    let (url, peer_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = go_program(&assets.etcd);
    // `make up` exports it for users. etcd would treat it as a repeated flag.
    command.env_remove("ETCD_DATA_DIR").args([
        &file_flag("data-dir", data_dir),
        &format!("--listen-client-urls={url}"),
        &format!("--advertise-client-urls={url}"),
        &format!("--listen-peer-urls={peer_url}"),
        &format!("--initial-advertise-peer-urls={peer_url}"),
        &format!("--initial-cluster=default={peer_url}"),
        "--quota-backend-bytes=8589934592",
        // The data is only needed for one run, so do not wait for the disk.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]);
    command
}

/// Returns the command of kube-apiserver at `port`, for the etcd at `etcd_port`.
pub(crate) fn api_server(assets: &Assets, certs: &Certificates, etcd_port: u16, port: u16) -> Command {
    let mut command = go_program(&assets.apiserver);
    command.args([
        &format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        &format!("--secure-port={port}"),
        &format!("--service-cluster-ip-range={SERVICE_NETWORK}"),
        &file_flag("client-ca-file", &certs.ca.0),
        &file_flag("tls-cert-file", &certs.serving.0),
        &file_flag("tls-private-key-file", &certs.serving.1),
        "--service-account-issuer=https://kubernetes.default.svc",
        &file_flag("service-account-key-file", &certs.service_accounts.0),
        &file_flag("service-account-signing-key-file", &certs.service_accounts.1),
        &file_flag("requestheader-client-ca-file", &certs.front_proxy_ca.0),
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-uid-headers=X-Remote-Uid",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        &file_flag("proxy-client-cert-file", &certs.front_proxy.0),
        &file_flag("proxy-client-key-file", &certs.front_proxy.1),
        "--allow-privileged=true",
    ]);
    command
}

/// Returns the command of kube-controller-manager at `port`, for the API server at `url`. Writes its kubeconfig to
/// `dir`.
///
/// # Errors
/// If the kubeconfig can't be written.
pub(crate) fn controller_manager(
    assets: &Assets,
    dir: &Path,
    certs: &Certificates,
    url: &str,
    port: u16,
) -> Result<Command> {
    let kubeconfig = dir.join("controller-manager.kubeconfig");
    write_kubeconfig(&kubeconfig, url, &certs.ca.0, &Identity::Certificate(&certs.controller_manager))?;
    let mut command = go_program(&assets.controller_manager);
    command.args([
        &file_flag("kubeconfig", &kubeconfig),
        &file_flag("authentication-kubeconfig", &kubeconfig),
        &file_flag("authorization-kubeconfig", &kubeconfig),
        "--bind-address=127.0.0.1",
        &format!("--secure-port={port}"),
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        // Its controllers start one after the other with two requests each: at the default of 20 requests per
        // second, the first ServiceAccount takes five seconds.
        "--kube-api-qps=1000",
        "--kube-api-burst=1000",
        &file_flag("root-ca-file", &certs.ca.0),
        &file_flag("service-account-private-key-file", &certs.service_accounts.1),
        &file_flag("cluster-signing-cert-file", &certs.ca.0),
        &file_flag("cluster-signing-key-file", &certs.ca.1),
    ]);
    Ok(command)
}
