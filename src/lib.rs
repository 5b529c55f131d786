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
//!          notifications, logins               │         signed notices to users; passwords, tokens and keys proved
//!                     │                        │
//!                     │                    operations    config, health, leadership, supervision
//!           ┌─────────┴─────────┬──────────────┘
//!         rbac                  │                        pure: bindings compiled, and the guard
//!           │                   │
//!       directory ─▶ quota credentials ◀─ import         pure: who is in what; what may be used; names, hashes, records;
//!                                                        people of other systems
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
pub mod import;
pub mod informers;
pub mod logins;
pub mod metrics;
pub mod notifications;
pub mod operations;
pub mod operator;
pub mod plugin;
pub mod quota;
pub mod rbac;
pub mod tls;
