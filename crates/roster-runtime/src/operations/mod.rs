//! What any long-running process needs: logs, health, supervision, leadership.

pub mod health;
pub mod leader;
pub mod seats;
pub mod supervisor;
pub mod telemetry;
