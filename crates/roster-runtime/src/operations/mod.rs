//! Basics of a long-running process: logs, health, supervision, leader election.

pub mod client;
pub mod health;
pub mod json;
pub mod keyed_permits;
pub mod leader;
pub mod supervisor;
pub mod telemetry;
