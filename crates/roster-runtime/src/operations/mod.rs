//! Basics of a long-running process: logs, health, supervision, leader election.

pub mod client;
pub mod health;
pub mod keyed_permits;
mod late_times;
pub mod leader;
pub mod supervisor;
pub mod telemetry;
