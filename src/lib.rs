//! Roster: identity for Kubernetes, declared.

#![forbid(unsafe_code)]

pub mod api;
