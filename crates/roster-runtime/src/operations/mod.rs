//! Basics of a long-running process: logs, health, supervision, leader election.

pub mod client;
pub mod health;
pub mod keyed_permits;
pub mod leader;
mod representable_times;
pub mod supervisor;
pub mod telemetry;
