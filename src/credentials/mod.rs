//! Credentials: what a password, a hash and a login identifier are, and what is kept of them.
//!
//! ```text
//!  password Secret ──source──▶ password ──pool──▶ hash ──record──▶ identity Secret
//!                                                                   (its name: claim)
//! ```
//!
//! Nothing here talks to the cluster. No type here shows a secret through `Debug` or `Display`.

pub mod claim;
pub mod hash;
pub mod password;
pub mod pool;
pub mod record;
pub mod source;
