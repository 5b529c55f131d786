//! Metrics of the hash pool, which whoever serves metrics registers.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// Buckets of the duration of a hash, in seconds.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Metrics of the hash pool.
#[derive(Clone, Debug)]
pub struct HashMetrics {
    /// Time that a hash or a verification took, without the wait, in seconds.
    pub duration: Histogram,
    /// CPU time that went into hashes and verifications, in seconds.
    pub cpu: Counter<f64, AtomicU64>,
    /// Callers that wait for a slot.
    pub waiting: Gauge<i64, AtomicI64>,
    /// Callers that were turned away.
    pub rejected: Counter,
}

impl Default for HashMetrics {
    fn default() -> Self {
        Self {
            duration: Histogram::new(SECONDS),
            cpu: Counter::default(),
            waiting: Gauge::default(),
            rejected: Counter::default(),
        }
    }
}
