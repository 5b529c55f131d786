//! Basics of a long-running process: logs, health, supervision, leader election.

pub mod health;
pub mod leader;
pub mod seats;
pub mod supervisor;
pub mod telemetry;
