//! Pure logic of Roster: memberships, bindings compiled to RBAC, quotas.

#![forbid(unsafe_code)]

pub mod directory;
pub mod quota;
pub mod rbac;
