//! Context and errors of the User controller.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use roster_api::User;
use roster_core::rbac::Policy;
use roster_credentials::policy::PasswordPolicy;
use roster_credentials::pool::{HashPool, Saturated};
use roster_credentials::record::Corrupt;
use roster_runtime::informers::Informers;
use roster_runtime::metrics::Metrics;
use roster_runtime::notifications::Notifier;

use super::cache::Cache;
use super::index::Index;
use crate::backoff::Backoff;
use crate::events::Reporter;
use crate::native::{Failed, NativeWriter};
use crate::written::Written;

/// Timeout of a reconciliation. The client's own retries can add up to minutes.
pub(super) const RECONCILE_TIMEOUT: Duration = Duration::from_secs(60);

/// Dependencies and state of the controller.
pub struct Context {
    pub(super) client: Client,
    pub(super) users: Api<User>,
    /// Secrets of Roster's own namespace.
    pub(super) identities: Api<Secret>,
    pub(super) namespace: String,
    pub(super) pool: HashPool,
    pub(super) password_policy: Arc<PasswordPolicy>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) cache: Arc<Cache>,
    pub(super) informers: Arc<Informers>,
    pub(super) writer: Arc<NativeWriter>,
    pub(super) policy: Arc<Policy>,
    pub(super) written: Written,
    pub(super) backoff: Backoff,
    pub(super) reporter: Reporter,
    pub(super) notifier: Notifier,
}

/// What the User controller is built from.
pub struct ContextParts {
    pub client: Client,
    /// Namespace of the identity Secrets.
    pub namespace: String,
    pub cache: Arc<Cache>,
    /// Hashes passwords of password Secrets.
    pub pool: HashPool,
    pub password_policy: Arc<PasswordPolicy>,
    pub informers: Arc<Informers>,
    /// Writes the bindings of administrators.
    pub writer: Arc<NativeWriter>,
    /// Names the administrator ClusterRole.
    pub policy: Arc<Policy>,
    pub notifier: Notifier,
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// Creates the context.
    pub fn new(parts: ContextParts) -> Self {
        let ContextParts { client, namespace, metrics, .. } = parts;
        Self {
            users: Api::all(client.clone()),
            identities: Api::namespaced(client.clone(), &namespace),
            namespace,
            pool: parts.pool,
            password_policy: parts.password_policy,
            cache: parts.cache,
            informers: parts.informers,
            writer: parts.writer,
            policy: parts.policy,
            written: Written::default(),
            backoff: Backoff::default(),
            notifier: parts.notifier,
            reporter: Reporter::new(client.clone(), "roster.dev/user", Arc::clone(&metrics)),
            metrics,
            client,
        }
    }

    /// Locks the index. Never hold the lock across an await.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.cache.index()
    }
}

/// Failure of a reconciliation. It is retried with backoff.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("reading what the User refers to")]
    Dereference(#[source] kube::Error),
    #[error("claiming names and writing the credential")]
    Apply(#[source] kube::Error),
    #[error("reading the credential: delete the Secret to reset it; the second factor and API keys will be lost")]
    Corrupt(#[source] Corrupt),
    #[error("writing the User's finalizers")]
    Finalize(#[source] kube::Error),
    #[error("writing the User's status")]
    Status(#[source] kube::Error),
    #[error("another User has taken the name meanwhile")]
    Overtaken,
    #[error("writing {}", .0.key)]
    Administrator(Failed),
    #[error(transparent)]
    Saturated(#[from] Saturated),
    #[error("timed out after {RECONCILE_TIMEOUT:?}")]
    Timeout,
}

impl Error {
    /// Label value in metrics.
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

/// Returns whether the object was changed or created by another writer (HTTP 409).
pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
