//! What any long-running process needs: configuration, logs, health, supervision, leadership.

pub mod config;
pub mod health;
pub mod leader;
pub mod network;
pub mod seats;
pub mod supervisor;
pub mod telemetry;
