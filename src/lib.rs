//! Roster: identity for Kubernetes, declared.

#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod controllers;
pub mod credentials;
pub mod operations;
pub mod tls;
