//! Roster: identity for Kubernetes, declared.
//!
//! One room per responsibility; imports point downwards only.
//!
//! ```text
//!                          main ── cli
//!                            │
//!                       operations::run
//!           ┌────────────────┼──────────────┐
//!      controllers       admission         tls          talk to the cluster
//!           └────────┬───────┘              │
//!               credentials                 │           pure
//!                    │                      │
//!                   api ◀───────────────────┘           types
//! ```

#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod cli;
pub mod controllers;
pub mod credentials;
pub mod operations;
pub mod tls;
