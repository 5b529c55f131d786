//! Roster: identity for Kubernetes, declared.
//!
//! One room per responsibility; imports point downwards only.
//!
//! ```text
//!                       main ── cli, plugin                 commands: of the operator, of `kubectl roster`
//!                               │
//!                            operator                    puts the parts together
//!           ┌───────────────────┼──────────────┐
//!      controllers     admission, apiserver   tls        talk to the cluster
//!           └─────────┬─────────┘              │
//!                 informers                    │         watches that feed the directory
//!                     │                        │
//!               notifications                  │         signed notices to the webhooks of users
//!                     │                        │
//!                     │                    operations    config, health, leadership, supervision
//!           ┌─────────┴─────────┬──────────────┘
//!         rbac                  │                        pure: bindings compiled, and the guard
//!           │                   │
//!       directory          credentials                   pure: who is in what; names, hashes, records
//!           └─────────┬─────────┘
//!               api, metrics                             types
//! ```

#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod apiserver;
pub mod cli;
pub mod controllers;
pub mod credentials;
pub mod directory;
pub mod informers;
pub mod logins;
pub mod metrics;
pub mod notifications;
pub mod operations;
pub mod operator;
pub mod plugin;
pub mod rbac;
pub mod tls;
