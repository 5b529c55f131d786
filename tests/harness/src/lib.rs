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
mod python;

pub use control_plane::{ControlPlane, Flags};
pub use kubectl::Kubectl;
pub use operator::{Installation, Operator};
pub use python::python_with_packages;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// The project's root folder: the one that this process works in, or lies in. (Where it was built is no answer: two
/// checkouts may share a target folder.)
///
/// # Panics
/// If the process runs outside of the project.
pub fn project_root() -> PathBuf {
    let here = std::env::current_dir().expect("there is a working directory");
    let root = here.ancestors().find(|folder| folder.join("controlplane/build.sh").is_file());
    root.expect("run this inside the project").to_owned()
}

/// The operator under test: `ROSTER_TEST_BINARY`, or else the one that cargo built beside the tests. `make test` names the
/// release build, which is what ships, while the tests themselves are compiled quickly.
pub fn operator_under_test(built: &str) -> PathBuf {
    std::env::var_os("ROSTER_TEST_BINARY").map_or_else(|| PathBuf::from(built), PathBuf::from)
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
