//! Metrics of the hash pools. The metrics server registers them.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// Buckets for the duration of a hash, in seconds.
const DURATION_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Metrics of the hash pools.
#[derive(Clone, Debug)]
pub struct HashMetrics {
    /// Duration of hashes and verifications in seconds, without the time in the queue.
    pub duration: Histogram,
    /// CPU time of hashes and verifications, in seconds.
    pub cpu: Counter<f64, AtomicU64>,
    /// Callers waiting for a slot.
    pub waiting: Gauge<i64, AtomicI64>,
    /// Callers that were rejected because the queue was full.
    pub rejected: Counter,
}

impl Default for HashMetrics {
    fn default() -> Self {
        Self {
            duration: Histogram::new(DURATION_BUCKETS),
            cpu: Counter::default(),
            waiting: Gauge::default(),
            rejected: Counter::default(),
        }
    }
}
