//! What any long-running process needs: configuration, logs, health, supervision, leadership.

pub mod config;
pub mod health;
pub mod leader;
mod login_config;
pub mod supervisor;
pub mod telemetry;
