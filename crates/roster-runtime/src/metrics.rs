//! Prometheus metrics. Every label has a fixed set of values, never object names or error messages.

use std::fmt::Write;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use roster_credentials::HashMetrics;

/// One label with a value known at compile time.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Label {
    name: &'static str,
    value: &'static str,
}

impl EncodeLabelSet for Label {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        use prometheus_client::encoding::EncodeLabel;
        (self.name, self.value).encode(encoder.encode_label())
    }
}

/// Counters by the value of one label.
#[derive(Clone, Debug)]
pub struct CounterBy {
    name: &'static str,
    family: Family<Label, Counter>,
}

impl CounterBy {
    /// Creates the series of these values at 0; others appear on first use. Prometheus misses the first increment of a
    /// series that starts with it.
    fn new(name: &'static str, values: &[&'static str]) -> Self {
        let counter = Self { name, family: Family::default() };
        for value in values {
            counter.create(value);
        }
        counter
    }

    /// Creates the series of this label value at 0, if it does not exist.
    pub fn create(&self, value: &'static str) {
        drop(self.family.get_or_create(&Label { name: self.name, value }));
    }

    /// Increments the counter for this label value.
    pub fn inc(&self, value: &'static str) {
        self.family.get_or_create(&Label { name: self.name, value }).inc();
    }
}

fn seconds() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0])
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Metrics of the hash pool.
    pub hashing: HashMetrics,
    /// Reconciliations by outcome: `ok`, or the category of the error.
    pub reconciliations: CounterBy,
    /// Duration of a User reconciliation, in seconds.
    pub reconcile_duration: Histogram,
    /// Reconciliations of RoleBindings by outcome.
    pub binding_reconciliations: CounterBy,
    /// Duration of a RoleBinding reconciliation, in seconds.
    pub binding_reconcile_duration: Histogram,
    /// Reconciliations of Groups by outcome.
    pub group_reconciliations: CounterBy,
    /// Failed watches by resource. Each is retried with backoff.
    pub watch_errors: CounterBy,
    /// Objects that did not parse.
    pub unreadable: Counter,
    /// Writes to kube-apiserver by kind of object.
    pub writes: CounterBy,
    /// Admission requests by outcome.
    pub admissions: CounterBy,
    /// Latency of admission responses, in seconds, excluding requests that wait for quota.
    pub admission_duration: Histogram,
    /// Requests to the aggregated API by outcome.
    pub directory_requests: CounterBy,
    /// Login attempts by outcome.
    pub logins: CounterBy,
    /// Users locked after failed logins.
    pub lockouts: Counter,
    /// Login attempts refused unchecked because a failure could not have been counted.
    pub logins_uncountable: Counter,
    /// Users with failed attempts that are not yet counted.
    pub uncounted_failures: Gauge<i64, AtomicI64>,
    /// Reviews of tokens and API keys by outcome.
    pub token_reviews: CounterBy,
    /// Notices by outcome.
    pub notifications: CounterBy,
    /// Quota moved between the namespaces of one owner, by direction: `grow`, `shrink`.
    pub quota_moves: CounterBy,
    /// Requests for which quota was looked for, by outcome: `fits`, `enlarged`, `full`, `timed_out`, `too_many`, `exempt`.
    pub quota_hints: CounterBy,
    /// Connections closed or refused: `evicted` and `refused` because the table was full, `stalled` because the client
    /// did not read.
    pub connections_shed: CounterBy,
    /// Expiry of this replica's serving certificate, in seconds since 1970.
    pub certificate_expiry: Gauge<i64, AtomicI64>,
    /// 1 while this replica holds the lease.
    pub leader: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            hashing: HashMetrics::default(),
            reconciliations: CounterBy::new(
                "outcome",
                &[
                    "ok",
                    "conflict",
                    "dereference",
                    "apply",
                    "corrupt",
                    "finalize",
                    "status",
                    "administrator",
                    "saturated",
                    "timeout",
                ],
            ),
            reconcile_duration: seconds(),
            binding_reconciliations: CounterBy::new("outcome", &["ok", "write", "status", "timeout"]),
            binding_reconcile_duration: seconds(),
            group_reconciliations: CounterBy::new("outcome", &["ok", "status", "timeout"]),
            watch_errors: CounterBy::new("resource", &[]),
            unreadable: Counter::default(),
            writes: CounterBy::new(
                "kind",
                &["Secret", "UserStatus", "GroupStatus", "ClusterRoleBinding", "RoleBinding"],
            ),
            admissions: CounterBy::new(
                "outcome",
                &["protected", "unchanged", "allowed", "refused", "saturated", "failed", "unproven"],
            ),
            admission_duration: seconds(),
            directory_requests: CounterBy::new(
                "outcome",
                &["success", "denied", "not_found", "client_error", "expired", "rejected", "server_error"],
            ),
            logins: CounterBy::new(
                "outcome",
                &["granted", "challenged", "refused", "invalid", "saturated", "unavailable"],
            ),
            lockouts: Counter::default(),
            logins_uncountable: Counter::default(),
            uncounted_failures: Gauge::default(),
            token_reviews: CounterBy::new("outcome", &["authenticated", "refused", "unavailable"]),
            notifications: CounterBy::new("outcome", &["sent", "refused", "failed", "dropped"]),
            quota_moves: CounterBy::new("direction", &["grow", "shrink"]),
            quota_hints: CounterBy::new("outcome", &["fits", "enlarged", "full", "timed_out", "too_many", "exempt"]),
            connections_shed: CounterBy::new("outcome", &["evicted", "refused", "stalled"]),
            certificate_expiry: Gauge::default(),
            leader: Gauge::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = self.registry.sub_registry_with_prefix("roster");
        let hashing = &self.hashing;
        registry.register_with_unit(
            "hash_duration",
            "Duration of one password hash or verification",
            Unit::Seconds,
            hashing.duration.clone(),
        );
        registry.register_with_unit(
            "hash_cpu",
            "CPU time used for password hashes",
            Unit::Seconds,
            hashing.cpu.clone(),
        );
        registry.register("hash_waiting", "Callers waiting for a hashing slot", hashing.waiting.clone());
        registry.register("hash_rejected", "Callers rejected because the queue was full", hashing.rejected.clone());
        registry.register("user_reconciliations", "Reconciliations of Users", self.reconciliations.family.clone());
        registry.register_with_unit(
            "user_reconcile_duration",
            "Duration of one reconciliation of a User",
            Unit::Seconds,
            self.reconcile_duration.clone(),
        );
        registry.register(
            "role_binding_reconciliations",
            "Reconciliations of RoleBindings",
            self.binding_reconciliations.family.clone(),
        );
        registry.register_with_unit(
            "role_binding_reconcile_duration",
            "Duration of one reconciliation of a RoleBinding",
            Unit::Seconds,
            self.binding_reconcile_duration.clone(),
        );
        registry.register(
            "group_reconciliations",
            "Reconciliations of Groups",
            self.group_reconciliations.family.clone(),
        );
        registry.register("watch_errors", "Watches that failed and were retried", self.watch_errors.family.clone());
        registry.register("objects_unreadable", "Objects that did not parse and were skipped", self.unreadable.clone());
        registry.register("writes", "Writes to the API server", self.writes.family.clone());
        registry.register("admission_requests", "Admission requests", self.admissions.family.clone());
        registry.register_with_unit(
            "admission_duration",
            "Duration of one admission request",
            Unit::Seconds,
            self.admission_duration.clone(),
        );
        registry.register(
            "directory_requests",
            "Requests to the aggregated API",
            self.directory_requests.family.clone(),
        );
        registry.register("logins", "Login attempts and password reviews", self.logins.family.clone());
        registry.register("lockouts", "Users that were locked out after failed logins", self.lockouts.clone());
        registry.register(
            "logins_uncountable",
            "Login attempts refused because a failure could not have been counted",
            self.logins_uncountable.clone(),
        );
        registry.register(
            "uncounted_failures",
            "Users whose failed login attempts have not been counted yet",
            self.uncounted_failures.clone(),
        );
        registry.register("token_reviews", "Reviews of tokens and API keys", self.token_reviews.family.clone());
        registry.register("notifications", "Security notifications to users", self.notifications.family.clone());
        registry.register(
            "quota_moves",
            "Moves of quota between the namespaces of one owner",
            self.quota_moves.family.clone(),
        );
        registry.register(
            "quota_hints",
            "Requests for which Roster looked for unused quota",
            self.quota_hints.family.clone(),
        );
        registry.register(
            "connections_shed",
            "Connections refused or closed: a limit was reached, or the client did not read",
            self.connections_shed.family.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "Time at which the serving certificate expires, in seconds since 1970",
            Unit::Seconds,
            self.certificate_expiry.clone(),
        );
        registry.register("leader", "1 while this replica holds the lease", self.leader.clone());
        self
    }

    /// Renders the metrics in OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Writing to a String fails only if a metric fails to encode itself.
            let _ = writeln!(text, "# EOF");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_every_metric_with_its_prefix() {
        let metrics = Metrics::default();
        metrics.reconciliations.inc("ok");
        let text = metrics.render();
        assert!(text.contains("roster_user_reconciliations_total{outcome=\"ok\"} 1"), "{text}");
        assert!(text.contains("roster_hash_duration_seconds_bucket"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
