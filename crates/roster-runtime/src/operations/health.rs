//! Liveness and readiness probes, on their own port.
//!
//! *Live*: all loops are running. Each beats at every attempt, successful or not, so an unreachable kube-apiserver does
//! not get the process killed. *Ready*: the TLS port serves a certificate that kube-apiserver trusts, at paths that
//! this replica accepts, and the directory and the front proxy's authorities are known. Readiness does not depend on
//! leadership, because every replica answers requests.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use crate::metrics::Metrics;

/// State reported by the probes.
#[derive(Debug, Default)]
pub struct Health {
    is_serving: AtomicBool,
    is_trusted: AtomicBool,
    has_valid_paths: AtomicBool,
    is_synced: AtomicBool,
    knows_front_proxy: AtomicBool,
    loops: Mutex<Vec<Arc<Heartbeat>>>,
}

/// Progress of one loop.
#[derive(Debug)]
pub struct Heartbeat {
    name: &'static str,
    max_silence: Duration,
    last: Mutex<Instant>,
}

impl Heartbeat {
    /// Records one iteration of the loop.
    pub fn beat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the loop has beaten within `max_silence`.
    pub fn is_alive(&self) -> bool {
        self.silent_for() <= self.max_silence
    }

    fn silent_for(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl Health {
    /// Registers a loop that must beat at least once every `max_silence`.
    pub fn register_loop(&self, name: &'static str, max_silence: Duration) -> Arc<Heartbeat> {
        let heartbeat = Arc::new(Heartbeat { name, max_silence, last: Mutex::new(Instant::now()) });
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&heartbeat));
        heartbeat
    }

    /// Monitors the runtime that this is called on: it is stuck if no task runs for `max_silence`.
    pub fn register_runtime(&self, name: &'static str, max_silence: Duration) -> Arc<Heartbeat> {
        let heartbeat = self.register_loop(name, max_silence);
        let beating = Arc::clone(&heartbeat);
        tokio::spawn(async move {
            loop {
                beating.beat();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        heartbeat
    }

    /// Sets whether the TLS port accepts requests.
    pub fn set_serving(&self, is_serving: bool) {
        self.is_serving.store(is_serving, Ordering::Release);
    }

    /// Sets whether kube-apiserver trusts the serving certificate.
    pub fn set_trusted(&self, is_trusted: bool) {
        self.is_trusted.store(is_trusted, Ordering::Release);
    }

    /// Sets whether kube-apiserver calls the webhooks at paths that this replica accepts.
    pub fn set_paths_valid(&self, has_valid_paths: bool) {
        self.has_valid_paths.store(has_valid_paths, Ordering::Release);
    }

    /// Records that the directory is complete.
    pub fn set_synced(&self) {
        self.is_synced.store(true, Ordering::Release);
    }

    /// Records that the front proxy's authorities have been read, or that there is no front proxy.
    pub fn set_front_proxy_known(&self) {
        self.knows_front_proxy.store(true, Ordering::Release);
    }

    /// Returns the response of `/livez`.
    pub fn livez(&self) -> (StatusCode, String) {
        let mut report = String::new();
        let mut status = StatusCode::OK;
        for heartbeat in self.loops.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let alive = heartbeat.is_alive();
            if !alive {
                status = StatusCode::INTERNAL_SERVER_ERROR;
            }
            let _ = writeln!(
                report,
                "[{}]{} {}",
                if alive { '+' } else { '-' },
                heartbeat.name,
                if alive { "ok" } else { "stuck" }
            );
        }
        (status, report)
    }

    /// Returns the response of `/readyz`.
    pub fn readyz(&self) -> (StatusCode, &'static str) {
        let lacks = [
            (&self.is_serving, "not ready: the TLS port is not serving\n"),
            (&self.is_synced, "not ready: the informers have not synced yet\n"),
            (&self.knows_front_proxy, "not ready: the front proxy's authorities have not been read yet\n"),
            (&self.is_trusted, "not ready: the caBundles do not contain this replica's authority\n"),
            (
                &self.has_valid_paths,
                "not ready: the webhook configurations contain no admission path that this replica accepts\n",
            ),
        ];
        match lacks.into_iter().find(|(holds, _)| !holds.load(Ordering::Acquire)) {
            None => (StatusCode::OK, "ok\n"),
            Some((_, lack)) => (StatusCode::SERVICE_UNAVAILABLE, lack),
        }
    }
}

/// Returns the routes of the probe port: `/livez`, `/readyz` and `/metrics`.
pub fn router(health: Arc<Health>, metrics: Arc<Metrics>) -> Router {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let probes = Router::new()
        .route("/livez", get(|State(health): State<Arc<Health>>| async move { health.livez() }))
        .route("/readyz", get(|State(health): State<Arc<Health>>| async move { health.readyz() }))
        .with_state(health);
    probes.route(
        "/metrics",
        get(move || {
            let text = metrics.render();
            async move { ([("content-type", OPENMETRICS)], text) }
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_loop_is_not_live() {
        let health = Health::default();
        let moving = health.register_loop("moving", Duration::from_secs(60));
        moving.beat();
        assert_eq!(health.livez().0, StatusCode::OK);
        health.register_loop("stuck", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(1));
        let (status, report) = health.livez();
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(report.contains("[-]stuck stuck") && report.contains("[+]moving ok"), "{report}");
    }

    #[test]
    fn readiness_requires_port_trust_paths_front_proxy_and_directory() {
        let health = Health::default();
        health.set_serving(true);
        health.set_trusted(true);
        health.set_paths_valid(true);
        assert!(health.readyz().1.contains("informers"));
        health.set_synced();
        assert!(health.readyz().1.contains("front proxy"));
        health.set_front_proxy_known();
        for (is_serving, is_trusted) in [(false, false), (false, true), (true, false), (true, true)] {
            health.set_serving(is_serving);
            health.set_trusted(is_trusted);
            assert_eq!(health.readyz().0 == StatusCode::OK, is_serving && is_trusted);
        }
        health.set_paths_valid(false);
        assert!(health.readyz().1.contains("admission path"));
    }
}
