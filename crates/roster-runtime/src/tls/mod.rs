//! TLS port and its certificates.
//!
//! ```text
//!  authority (pure) ──▶ certificates: the CA's Secret ──▶ serving certificate ──▶ listener ──▶ router
//!                            │
//!                            ├──▶ trust: caBundle and path of the webhook configurations (leader only)
//!                            └──▶ origin: admission paths that only kube-apiserver knows
//! ```
//!
//! With `--serving-certificate-secret`, the serving certificate and the trust in it are managed externally, for example
//! by cert-manager.

pub mod activity;
pub mod api_servers;
pub mod authority;
pub mod bodies;
pub mod certificates;
mod connection_limits;
mod connection_trust;
pub mod connections;
pub mod external;
pub mod frames;
pub mod listener;
pub mod network_permits;
pub mod origin;
pub mod peer;
pub mod socket;
pub mod trust;
