//! The work that only one replica does at a time: controllers, rotation of keys and certificates, and caBundles.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::FutureExt;
use roster_controllers::native::NativeWriter;
use roster_controllers::{group, quota, role_binding, user};
use roster_runtime::logins::signing_keys::SigningKeyStore;
use roster_runtime::notifications::Notifier;
use roster_runtime::operations::client::{self, Component};
use roster_runtime::operations::health::Heartbeat;
use roster_runtime::operations::leader::{ElectionHeartbeats, LeaderElection, LeaseOptions, Lost};
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
    /// Heartbeat of the runtime on which the controllers run.
    pub(super) runtime: Arc<Heartbeat>,
}

impl Leader {
    /// Takes part in the election once the informers have synced. Before that, this replica could not do the work, but
    /// would hold the lease instead of a replica that can. A leader that can't renew the lease in time stops its
    /// controllers and takes part again.
    ///
    /// # Errors
    /// If another replica takes the lease from this one, the controllers are stuck, or one ends by itself.
    pub(super) async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let Replica { config, health, informers, users, .. } = &*self.replica;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = futures::future::join(informers.synced(), users.synced()) => {}
        }
        // An attempt may take as long as the renew deadline.
        let election = health.register_loop("leader election", MAX_STALL.max(config.lease.renew_deadline * 2));
        // One identity for all terms: this replica can renew a lease that it could not renew in time.
        let options = config.lease.options();
        while !shutdown.is_cancelled() {
            let election = self.start_election(options.clone(), Arc::clone(&election))?;
            Box::pin(self.lead(election, &shutdown)).await?;
        }
        Ok(())
    }

    /// Waits for the lease and leads until it is lost or `shutdown`.
    async fn lead(&self, mut election: LeaderElection, shutdown: &CancellationToken) -> Result<()> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            acquired = election.acquired() => acquired?,
        }
        let Replica { informers, metrics, .. } = &*self.replica;
        metrics.leader.set(1);
        informers.lead();
        // Dropping `control` stops the controllers, before the election releases the lease.
        let outcome = tokio::select! {
            lost = election.ended() => step_down(lost),
            ended = self.control(shutdown.clone()) => ended,
        };
        informers.stop_leading();
        metrics.leader.set(0);
        if shutdown.is_cancelled()
            && let Err(error) = election.resign().await
        {
            let error = format!("{error:#}");
            warn!(error, "releasing the lease failed; the next leader waits until it expires");
        }
        outcome
    }

    fn start_election(&self, options: LeaseOptions, election: Arc<Heartbeat>) -> Result<LeaderElection> {
        let Replica { config, access, .. } = &*self.replica;
        let heartbeats = ElectionHeartbeats { election, controllers: Arc::clone(&self.runtime) };
        // The election has its own client, so that it never waits for threads or connections of other work.
        let access = access.clone();
        let connect = move || client::connect(&access, Component::LeaderElection);
        LeaderElection::start(connect, config.namespace.clone(), options, heartbeats)
    }

    async fn control(&self, shutdown: CancellationToken) -> Result<()> {
        let Replica { access, config, informers, users: cache, metrics, pool, policy, .. } = &*self.replica;
        let client = client::connect(access, Component::Controllers)?;
        let concurrency = config.concurrency;
        let rbac = Arc::new(config.rbac.policy());
        let writer = NativeWriter::new(client.clone(), Arc::clone(informers), concurrency, Arc::clone(metrics));
        let writer = Arc::new(writer);
        let users = user::Context::new(user::ContextParts {
            client: client.clone(),
            namespace: config.namespace.clone(),
            cache: Arc::clone(cache),
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
        let others = async { tokio::join!(users, groups, bindings) };
        tokio::try_join!(quotas, trust, sweep, rotation, others.map(Ok)).map(drop)
    }
}

/// Returns `Ok` if this replica may take part in the election again, because no other replica can have led in the
/// meantime. Otherwise returns the error that ends this replica.
fn step_down(lost: Result<()>) -> Result<()> {
    match lost {
        Err(error) if matches!(error.downcast_ref(), Some(Lost::NotRenewed(_))) => {
            warn!(error = format!("{error:#}"), "leadership lost, stopped the controllers");
            Ok(())
        }
        lost => lost.context("leadership was lost"),
    }
}
