//! The work that only one replica does at a time: controllers, rotation of keys and certificates, and caBundles.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::FutureExt;
use kube::Config;
use roster_controllers::native::NativeWriter;
use roster_controllers::{group, quota, role_binding, user};
use roster_runtime::logins::signing_keys::SigningKeyStore;
use roster_runtime::notifications::Notifier;
use roster_runtime::operations::client::{self, Component};
use roster_runtime::operations::health::Heartbeat;
use roster_runtime::operations::leader::{ElectionHeartbeats, LeaderElection};
use roster_runtime::tls::certificates::Certificates;
use roster_runtime::tls::trust;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::replica::{MAX_STALL, Replica};

/// Leader election and the leader's work.
pub(super) struct Leader {
    pub(super) replica: Arc<Replica>,
    pub(super) certificates: Certificates,
    pub(super) signing_keys: SigningKeyStore,
    pub(super) notifier: Notifier,
    /// For a client of the election's own: it must not wait for threads or connections of other work.
    pub(super) access: Config,
    /// Heartbeat of the runtime on which the controllers run.
    pub(super) runtime: Arc<Heartbeat>,
}

impl Leader {
    /// Takes part in the election once the informers have synced. Before that, this replica could not do the work, and would
    /// keep the lease from one that can.
    ///
    /// # Errors
    /// If leadership is lost, or a controller ends by itself.
    pub(super) async fn run(self, shutdown: CancellationToken) -> Result<()> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = self.replica.informers.synced() => {}
        }
        let mut start_election = self.start_election()?;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            acquired = start_election.acquired() => acquired?,
        }
        let metrics = &self.replica.metrics;
        metrics.leader.set(1);
        let outcome = tokio::select! {
            // Lost leadership ends the process through the supervisor, without waiting for the controllers.
            lost = start_election.ended() => return lost.context("leadership was lost"),
            ended = self.control(shutdown.clone()) => ended,
        };
        metrics.leader.set(0);
        if shutdown.is_cancelled()
            && let Err(error) = start_election.resign().await
        {
            let error = format!("{error:#}");
            warn!(error, "releasing the lease failed; the next leader waits until it expires");
        }
        outcome
    }

    fn start_election(&self) -> Result<LeaderElection> {
        let Replica { config, health, .. } = &*self.replica;
        let heartbeats = ElectionHeartbeats {
            // An attempt may take as long as the renew deadline.
            election: health.register_loop("leader election", MAX_STALL.max(config.lease.renew_deadline * 2)),
            controllers: Arc::clone(&self.runtime),
        };
        let access = self.access.clone();
        let connect = move || client::connect(&access, Component::LeaderElection);
        LeaderElection::start(connect, config.namespace.clone(), config.lease.options(), heartbeats)
    }

    async fn control(&self, shutdown: CancellationToken) -> Result<()> {
        let Replica { config, informers, metrics, pool, policy, .. } = &*self.replica;
        let client = client::connect(&self.access, Component::Controllers)?;
        informers.lead();
        let concurrency = config.concurrency;
        let rbac = Arc::new(config.rbac.policy());
        let writer = NativeWriter::new(client.clone(), Arc::clone(informers), concurrency, Arc::clone(metrics));
        let writer = Arc::new(writer);
        let users = user::Context::new(user::ContextParts {
            client: client.clone(),
            namespace: config.namespace.clone(),
            source_namespaces: config.password_secret_namespaces.iter().cloned().collect(),
            pool: pool.clone(),
            password_policy: Arc::clone(policy),
            informers: Arc::clone(informers),
            writer: Arc::clone(&writer),
            policy: Arc::clone(&rbac),
            notifier: self.notifier.clone(),
            metrics: Arc::clone(metrics),
        });
        let users = user::run(Arc::new(users), concurrency, shutdown.clone());
        let groups = group::Context::new(client.clone(), Arc::clone(informers), Arc::clone(metrics));
        let groups = group::run(Arc::new(groups), concurrency, shutdown.clone());
        let (informers, metrics) = (|| Arc::clone(informers), || Arc::clone(metrics));
        let bindings = role_binding::Context::new(client.clone(), informers(), Arc::clone(&writer), rbac, metrics());
        let bindings = role_binding::run(Arc::new(bindings), concurrency, shutdown.clone());
        let counts_secrets = config.password_secret_namespaces.is_empty();
        let quotas =
            quota::Context::new(client.clone(), informers(), config.quota.defaults(), counts_secrets, metrics());
        let quotas = quota::run(Arc::new(quotas), concurrency, shutdown.clone());
        let sweep = writer.sweep(shutdown.clone());
        let rotation = self.signing_keys.clone().rotate(config.logins.signing_key_lifetime, shutdown.clone());
        let webhooks = config.webhook_configuration.clone();
        let trust = trust::keep(client, self.certificates.clone(), webhooks, shutdown);
        let others = async { tokio::join!(groups, bindings) };
        tokio::try_join!(users, quotas, trust, sweep, rotation, others.map(Ok)).map(drop)
    }
}
