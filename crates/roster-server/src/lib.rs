//! Aggregated API and admission webhooks of Roster.

#![forbid(unsafe_code)]

pub mod admission;
pub mod apiserver;
