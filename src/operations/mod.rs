//! Running the process: configuration, logs, metrics, health, supervision and leadership.

pub mod config;
pub mod health;
pub mod leader;
pub mod metrics;
pub mod run;
pub mod supervisor;
pub mod telemetry;
