//! Running the process.

pub mod metrics;
