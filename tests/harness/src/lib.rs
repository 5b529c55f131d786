//! A local control plane (the real etcd, kube-apiserver and kube-controller-manager) and operators, for
//! the integration tests, `make demo` and `make up`, and a cluster with nodes for `make cluster` and the end-to-end
//! tests.
//!
//! ```text
//!  assets ──▶ template ──▶ control_plane ──▶ kubectl ──▶ operator
//!                            │    │     ╲                  │
//!                           pki  process ◀───── cluster    └──▶ balancer
//! ```
//!
//! Everything listens on free loopback ports, and ends with the process that started it.

pub mod assets;
pub mod balancer;
pub mod cluster;
pub mod control_plane;
pub mod kubectl;
mod notes;
pub mod operator;
mod paths;
pub mod pki;
mod ports;
pub mod process;
mod python;
mod template;

pub use cluster::NodeCluster;
pub use control_plane::{ControlPlane, Flags};
pub use kubectl::Kubectl;
pub use notes::follow_notes;
pub use operator::{Installation, Operator};
pub use paths::{operator_under_test, project_root, target_dir};
pub use ports::free_port;
pub use python::python_with_packages;
pub use template::Template;
