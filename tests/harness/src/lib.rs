//! The local control plane (the real etcd, kube-apiserver and kube-controller-manager) and operators beside it: what
//! the integration tests, `make demo` and `make up` share.
//!
//! ```text
//!  assets ──▶ control_plane ──▶ kubectl ──▶ operator
//!               │    │                        │
//!              pki  process ◀─────────────────┴──▶ balancer
//! ```
//!
//! Everything listens on loopback, on free ports; nothing outlives the process that started it.

pub mod assets;
pub mod balancer;
pub mod control_plane;
pub mod kubectl;
pub mod operator;
pub mod pki;
pub mod process;

pub use control_plane::ControlPlane;
pub use kubectl::Kubectl;
pub use operator::{Installation, Operator};

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

/// The project's root folder.
pub fn project_root() -> &'static Path {
    let harness = Path::new(env!("CARGO_MANIFEST_DIR"));
    harness.ancestors().nth(2).expect("the harness lies two folders below the root")
}

/// A loopback port that was free a moment ago.
///
/// # Errors
/// If no port can be bound.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The folder for what a run leaves behind.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project_root().join("target"), PathBuf::from)
}
