//! Controllers: level-based and idempotent. They run on the leader only. Each is a thin shell around a pure function from
//! the observed to the desired state.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod events;
pub mod group;
pub mod keyed;
pub mod native;
pub mod quota;
pub mod role_binding;
pub mod tombstones;
pub mod user;
pub mod written;
