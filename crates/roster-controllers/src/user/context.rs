//! What the User controller works with, and how a reconciliation fails.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use roster_api::User;
use roster_core::rbac::Policy;
use roster_credentials::policy::PasswordPolicy;
use roster_credentials::pool::{HashPool, Saturated};
use roster_credentials::record::Corrupt;
use roster_runtime::informers::Informers;
use roster_runtime::informers::failures::Failures;
use roster_runtime::metrics::Metrics;
use roster_runtime::notifications::Notifier;

use super::index::Index;
use crate::backoff::Backoff;
use crate::events::Reporter;
use crate::native::{Failed, NativeWriter};
use crate::written::Written;

/// Longest time that one reconciliation may take. The client's own retries can add up to minutes.
pub(super) const RECONCILE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the controller works with.
pub struct Context {
    pub(super) client: Client,
    pub(super) users: Api<User>,
    /// Secrets of Roster's own namespace.
    pub(super) identities: Api<Secret>,
    pub(super) namespace: String,
    /// Namespaces in which password Secrets are read. Empty: all.
    pub(super) source_namespaces: BTreeSet<String>,
    pub(super) pool: HashPool,
    pub(super) password_policy: Arc<PasswordPolicy>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) index: Mutex<Index>,
    pub(super) informers: Arc<Informers>,
    pub(super) writer: Arc<NativeWriter>,
    pub(super) policy: Arc<Policy>,
    pub(super) failures: Arc<Failures>,
    pub(super) written: Written,
    pub(super) backoff: Backoff,
    pub(super) reporter: Reporter,
    pub(super) notifier: Notifier,
}

impl Context {
    /// A controller for the Users of the cluster, with its Secrets in `namespace`. It reads password Secrets in
    /// `source_namespaces`, or in all namespaces if there are none.
    pub fn new(
        client: Client,
        (namespace, source_namespaces): (&str, BTreeSet<String>),
        (pool, password_policy): (HashPool, Arc<PasswordPolicy>),
        informers: Arc<Informers>,
        writer: Arc<NativeWriter>,
        policy: Arc<Policy>,
        (notifier, metrics): (Notifier, Arc<Metrics>),
    ) -> Self {
        Self {
            users: Api::all(client.clone()),
            identities: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            source_namespaces,
            pool,
            password_policy,
            index: Mutex::default(),
            informers,
            writer,
            policy,
            failures: Arc::new(Failures::new(metrics.watch_errors.clone())),
            written: Written::default(),
            backoff: Backoff::default(),
            notifier,
            reporter: Reporter::new(client.clone(), "roster.dev/user", Arc::clone(&metrics)),
            metrics,
            client,
        }
    }

    /// Tells the index of an event and marks whom it concerns.
    pub(super) fn note(&self, change: impl FnOnce(&mut Index) -> Vec<String>) {
        let concerned = change(&mut self.index());
        self.informers.waiting.users.mark(concerned);
    }

    /// The index. Held for look-ups alone, never across an await.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a reconciliation did not come to its end. It is tried again, with backoff.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("reading what the User refers to")]
    Dereference(#[source] kube::Error),
    #[error("claiming names and writing the credential")]
    Apply(#[source] kube::Error),
    #[error("reading the credential: delete the Secret to begin anew, without second factor and API keys")]
    Corrupt(#[source] Corrupt),
    #[error("writing the User's finalizers")]
    Finalize(#[source] kube::Error),
    #[error("writing the User's status")]
    Status(#[source] kube::Error),
    #[error("the name has changed hands meanwhile")]
    Overtaken,
    #[error("writing {}", .0.key)]
    Administrator(Failed),
    #[error(transparent)]
    Saturated(#[from] Saturated),
    #[error("not done within {RECONCILE_TIMEOUT:?}")]
    Timeout,
}

impl Error {
    /// The outcome in metrics.
    pub(super) fn category(&self) -> &'static str {
        match self {
            Self::Dereference(error) | Self::Apply(error) | Self::Finalize(error) | Self::Status(error)
                if is_conflict(error) =>
            {
                "conflict"
            }
            Self::Overtaken => "conflict",
            Self::Dereference(_) => "dereference",
            Self::Apply(_) => "apply",
            Self::Corrupt(_) => "corrupt",
            Self::Finalize(_) => "finalize",
            Self::Status(_) => "status",
            Self::Administrator(_) => "administrator",
            Self::Saturated(_) => "saturated",
            Self::Timeout => "timeout",
        }
    }
}

/// Somebody else wrote the object meanwhile: HTTP 409.
pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
