//! Credentials: passwords, hashes, second factors, API keys, login identifiers, and the Secrets that store them.
//!
//! ```text
//!  password Secret ──source──▶ password ──pool──▶ hash ──▶ credential ──record──▶ identity Secret
//!                                 policy                  ▲    │                  (named by claim)
//!                 totp (seal), api_key, lockout (digest) ─┘  login: evaluates login attempts
//!                                                            signing ──▶ token, token_id: issued after a login
//! ```
//!
//! This crate does not access the cluster. No type reveals a secret through `Debug` or `Display`.

#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

pub mod api_key;
mod bcrypt_sha256;
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
pub mod token_id;
pub mod totp;

pub use metrics::HashMetrics;
