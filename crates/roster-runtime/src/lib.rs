//! What the servers and controllers of Roster share: watches, logins, TLS, operations.

#![forbid(unsafe_code)]

pub mod informers;
pub mod logins;
pub mod metrics;
pub mod notifications;
pub mod operations;
pub mod tls;
