//! State that the components of a replica share.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kube::{Client, Config};
use roster_controllers::user;
use roster_credentials::policy::PasswordPolicy;
use roster_credentials::pool::HashPool;
use roster_runtime::informers::Informers;
use roster_runtime::metrics::Metrics;
use roster_runtime::operations::client::{self, Component};
use roster_runtime::operations::health::Health;

use crate::config::RunConfig;

/// Minimum time without progress after which a task counts as stuck.
pub(super) const MAX_STALL: Duration = Duration::from_secs(60);

/// State that the components of a replica share.
pub(super) struct Replica {
    /// Client for admission, the directory API and logins.
    pub(super) client: Client,
    /// Client configuration for kube-apiserver, for components with their own clients.
    pub(super) access: Config,
    pub(super) config: Arc<RunConfig>,
    pub(super) informers: Arc<Informers>,
    /// Index of the objects that Users refer to, for the User controller.
    pub(super) users: Arc<user::Cache>,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
    /// Hashes passwords.
    pub(super) pool: HashPool,
    /// Requirements for new passwords.
    pub(super) policy: Arc<PasswordPolicy>,
}

impl Replica {
    /// Creates the shared components without starting anything.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub(super) fn new(config: RunConfig, access: Config) -> Result<Self> {
        let (config, metrics) = (Arc::new(config), Arc::new(Metrics::default()));
        let informers = Informers::new(config.rbac.expand_groups, Arc::clone(&metrics));
        let informers = Arc::new(informers.with_issuer(&config.issuer_url()));
        let sources = config.password_secret_namespaces.iter().cloned().collect();
        let hashing = &config.hashing;
        let pool = HashPool::new(hashing.cost()?, hashing.slots(), usize::from(hashing.queue), metrics.hashing.clone());
        Ok(Self {
            client: client::connect(&access, Component::Server)?,
            access,
            users: Arc::new(user::Cache::new(sources, Arc::clone(&informers), &metrics)),
            informers,
            health: Arc::new(Health::default()),
            policy: Arc::new(config.logins.password_policy()?),
            pool,
            metrics,
            config,
        })
    }
}
