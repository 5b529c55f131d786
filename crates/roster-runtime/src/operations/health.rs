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
    serving: AtomicBool,
    trusted: AtomicBool,
    addressed: AtomicBool,
    informed: AtomicBool,
    introduced: AtomicBool,
    loops: Mutex<Vec<Arc<Heartbeat>>>,
}

/// Progress of one loop.
#[derive(Debug)]
pub struct Heartbeat {
    name: &'static str,
    patience: Duration,
    last: Mutex<Instant>,
}

impl Heartbeat {
    /// Records one turn of the loop.
    pub fn beat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the loop has beaten within its patience.
    pub fn is_alive(&self) -> bool {
        self.silent_for() <= self.patience
    }

    fn silent_for(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl Health {
    /// Registers a loop that must beat at least once every `patience`.
    pub fn watch_over(&self, name: &'static str, patience: Duration) -> Arc<Heartbeat> {
        let heartbeat = Arc::new(Heartbeat { name, patience, last: Mutex::new(Instant::now()) });
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&heartbeat));
        heartbeat
    }

    /// Monitors the runtime that this is called on: it is stuck if no task runs for `patience`.
    pub fn watch_over_runtime(&self, name: &'static str, patience: Duration) -> Arc<Heartbeat> {
        let heartbeat = self.watch_over(name, patience);
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
    pub fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
    }

    /// Sets whether kube-apiserver trusts the serving certificate.
    pub fn set_trusted(&self, trusted: bool) {
        self.trusted.store(trusted, Ordering::Release);
    }

    /// Sets whether kube-apiserver calls the webhooks at paths that this replica accepts.
    pub fn set_addressed(&self, addressed: bool) {
        self.addressed.store(addressed, Ordering::Release);
    }

    /// Records that the directory is complete.
    pub fn set_informed(&self) {
        self.informed.store(true, Ordering::Release);
    }

    /// Records that the front proxy's authorities have been read, or that there is no front proxy.
    pub fn set_introduced(&self) {
        self.introduced.store(true, Ordering::Release);
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
            (&self.serving, "not ready: the TLS port is not serving\n"),
            (&self.informed, "not ready: the informers have not synced yet\n"),
            (&self.introduced, "not ready: the front proxy's authorities have not been read yet\n"),
            (&self.trusted, "not ready: the caBundles do not contain this replica's authority\n"),
            (
                &self.addressed,
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
    fn a_loop_that_stands_still_is_not_live() {
        let health = Health::default();
        let moving = health.watch_over("moving", Duration::from_secs(60));
        moving.beat();
        assert_eq!(health.livez().0, StatusCode::OK);
        health.watch_over("stuck", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(1));
        let (status, report) = health.livez();
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(report.contains("[-]stuck stuck") && report.contains("[+]moving ok"), "{report}");
    }

    #[test]
    fn readiness_needs_a_port_trust_a_front_proxy_and_a_directory() {
        let health = Health::default();
        health.set_serving(true);
        health.set_trusted(true);
        health.set_addressed(true);
        assert!(health.readyz().1.contains("informers"));
        health.set_informed();
        assert!(health.readyz().1.contains("front proxy"));
        health.set_introduced();
        for (serving, trusted) in [(false, false), (false, true), (true, false), (true, true)] {
            health.set_serving(serving);
            health.set_trusted(trusted);
            assert_eq!(health.readyz().0 == StatusCode::OK, serving && trusted);
        }
        health.set_addressed(false);
        assert!(health.readyz().1.contains("admission path"));
    }
}
