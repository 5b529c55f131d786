//! The TLS port, and the certificates that Roster makes for it.
//!
//! ```text
//!  authority (pure) ──▶ certificates: the CA's Secret ──▶ serving certificate ──▶ listener ──▶ router
//!                            │
//!                            └──▶ trust: caBundle of the webhook configuration (leader only)
//! ```

pub mod activity;
pub mod authority;
pub mod certificates;
pub mod listener;
pub mod peer;
pub mod trust;
