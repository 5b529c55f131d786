//! Shared runtime of Roster's servers and controllers: informers, logins, TLS, metrics, notifications, operations.

#![forbid(unsafe_code)]

pub mod informers;
pub mod logins;
pub mod metrics;
pub mod notifications;
pub mod operations;
pub mod tls;
