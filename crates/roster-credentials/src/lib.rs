//! Credentials: what a password, a hash and a login identifier are, and what is kept of them.
//!
//! ```text
//!  password Secret ──source──▶ password ──pool──▶ hash ──▶ credential ──record──▶ identity Secret
//!                                 policy                  ▲    │                  (its name: claim)
//!                 totp (seal), api_key, lockout (digest) ─┘  login: what follows from an attempt
//!                                                            signing ──▶ token: what it is exchanged for
//! ```
//!
//! Nothing here talks to the cluster. No type here shows a secret through `Debug` or `Display`.

#![forbid(unsafe_code)]

pub mod api_key;
pub mod claim;
pub mod credential;
pub mod digest;
pub mod hash;
pub mod lockout;
pub mod login;
pub mod memory;
mod metrics;
pub mod network;
pub mod password;
pub mod policy;
pub mod pool;
pub mod record;
pub mod seal;
pub mod signing;
pub mod source;
pub mod token;
pub mod totp;

pub use metrics::HashMetrics;
