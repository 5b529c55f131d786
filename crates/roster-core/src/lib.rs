//! Pure logic of Roster: group memberships, compilation of bindings to RBAC, and quotas.

#![forbid(unsafe_code)]

pub mod directory;
pub mod quota;
pub mod rbac;
