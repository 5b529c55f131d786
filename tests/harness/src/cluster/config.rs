//! Configuration files of a node's components.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::network::{DNS_SERVICE, POD_NETWORK};
use crate::assets::NodeParts;
use crate::control_plane::Pair;

/// Name of the image of pods' first process.
pub(super) const PAUSE_IMAGE: &str = "localhost/pause:1";

/// How long a node may be silent before the cluster notices that it has crashed. A kubelet renews its Lease four times in
/// this time. The defaults are 50 and 40 seconds.
pub(super) const NODE_LEASE_SECONDS: u32 = 20;

/// Socket of containerd, on the node.
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Writes containerd's configuration and that of the CNI plugins to `dir`, and returns the path of the former.
///
/// Differences from a common installation: data is in `/run`, which is in memory, and containers can't be given another
/// `oom_score_adj`, which takes a capability that containers often lack (`CAP_SYS_RESOURCE`).
pub(super) fn containerd(dir: &Path, parts: &NodeParts, pods: &str) -> Result<PathBuf> {
    let networks = dir.join("cni");
    std::fs::create_dir_all(&networks)?;
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge", "bridge": "pods", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables"},
        ],
    });
    std::fs::write(networks.join("10-pods.conflist"), network.to_string())?;
    let path = dir.join("containerd.toml");
    let config = format!(
        "version = 4\n\
         root = '/run/containerd-data'\n\
         state = '/run/containerd'\n\
         imports = []\n\
         disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp', \
         'io.containerd.image-verifier.v1.bindir']\n\
         [plugins.'io.containerd.internal.v1.opt']\n\
         path = '/run/containerd-opt'\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\n\
         sandbox = '{PAUSE_IMAGE}'\n\
         [plugins.'io.containerd.cri.v1.runtime']\n\
         restrict_oom_score_adj = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\n\
         bin_dirs = ['{}']\n\
         conf_dir = '{}'\n\
         use_internal_loopback = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n\
         runtime_type = 'io.containerd.runc.v2'\n\
         options = {{SystemdCgroup = false}}\n",
        parts.cni.display(),
        networks.display()
    );
    std::fs::write(&path, config)?;
    Ok(path)
}

/// Writes kubelet's configuration.
pub(super) fn kubelet(dir: &Path, client_ca: &Path, serving: &Pair) -> Result<PathBuf> {
    let path = dir.join("kubelet.json");
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": client_ca},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": serving.0,
        "tlsPrivateKeyFile": serving.1,
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "nodeLeaseDurationSeconds": NODE_LEASE_SECONDS,
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_SERVICE],
        // The machine's resolver can't be reached.
        "resolvConf": "",
        "volumePluginDir": "/run/kubelet-volume-plugins",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%",
        },
    });
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

/// Writes kube-proxy's configuration.
pub(super) fn kube_proxy(dir: &Path, kubeconfig: &Path, node_name: &str, address: Ipv4Addr) -> Result<PathBuf> {
    let path = dir.join("kube-proxy.json");
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node_name,
        "bindAddress": address,
        "clusterCIDR": POD_NETWORK,
        "clientConnection": {"kubeconfig": kubeconfig},
        "oomScoreAdj": 0,
        // Zero leaves the machine's settings as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    });
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}
