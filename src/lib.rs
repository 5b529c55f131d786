//! Roster: identity for Kubernetes, declared.
//!
//! One room per responsibility; imports point downwards only.
//!
//! ```text
//!                       main ── cli
//!                               │
//!                            operator                    puts the parts together
//!           ┌───────────────────┼──────────────┐
//!      controllers          admission         tls        talk to the cluster
//!           │                   │              │
//!           │                   │          operations    config, health, leadership, supervision
//!           └─────────┬─────────┴──────────────┘
//!                credentials                             pure
//!                ┌────┴────┐
//!               api     metrics                          types
//! ```

#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod cli;
pub mod controllers;
pub mod credentials;
pub mod metrics;
pub mod operations;
pub mod operator;
pub mod tls;
