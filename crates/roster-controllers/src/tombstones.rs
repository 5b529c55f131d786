//! Stores the tombstones of deleted Users, and removes those of names that are in use again or that have expired.
//!
//! This runs on every replica. The leader does both; a follower only stores tombstones that the leader has not stored.
//! [`roster_core::directory::tombstones`] explains their purpose and decides what to do. In steady state, no requests
//! are sent: watches and timers trigger everything.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use roster_api::TOMBSTONE_SECRET_TYPE;
use roster_core::directory::Affected;
use roster_core::directory::tombstones::{Tombstone, TombstoneStep};
use roster_runtime::informers::Informers;
use roster_runtime::metrics::Metrics;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::keyed::process_keys;

/// Maximum number of names that are processed concurrently.
const CONCURRENCY: usize = 4;

/// Timeout for one name. The client's own retries can add up to minutes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum time until a name is checked again. Timers that span several years panic.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Dependencies and state of the controller.
pub struct Context {
    secrets: Api<Secret>,
    informers: Arc<Informers>,
    metrics: Arc<Metrics>,
    backoff: Backoff,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("Secret {0} is not of type {TOMBSTONE_SECRET_TYPE}: delete it")]
    Occupied(String),
    #[error("timed out after {TIMEOUT:?}")]
    Timeout,
}

impl Context {
    /// Creates the context. `namespace`: where tombstones are stored.
    pub fn new(client: &Client, namespace: &str, informers: &Arc<Informers>, metrics: &Arc<Metrics>) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            informers: Arc::clone(informers),
            metrics: Arc::clone(metrics),
            backoff: Backoff::default(),
        }
    }

    /// Performs the next step for a name. Returns the time after which to check it again, if any.
    async fn reconcile(&self, user: &str) -> Option<Duration> {
        let now = Timestamp::now();
        let step = {
            let directory = self.informers.directory();
            let current_uid = directory.user(user).map(|person| person.uid.as_str());
            directory.tombstones.next_step(user, current_uid, now)
        };
        let step = if self.informers.is_leading() { step } else { step.for_follower(now) };
        match tokio::time::timeout(TIMEOUT, self.perform(user, step)).await.unwrap_or(Err(Error::Timeout)) {
            Ok(wait) => {
                self.backoff.succeeded(user);
                wait
            }
            Err(error) => {
                let wait = self.backoff.failed(user);
                warn!(user, %error, retry_in = ?wait, "writing the tombstone of a deleted User failed");
                Some(wait)
            }
        }
    }

    async fn perform(&self, user: &str, step: TombstoneStep) -> Result<Option<Duration>, Error> {
        match step {
            TombstoneStep::Nothing => {}
            TombstoneStep::Wait(until) => {
                let left = until.duration_since(Timestamp::now());
                return Ok(Some(Duration::try_from(left).unwrap_or_default().min(MAX_WAIT)));
            }
            TombstoneStep::Store(tombstone) => {
                let (tombstone, secret) = self.store(tombstone).await?;
                self.informers.change(|directory, now| directory.set_tombstone(tombstone, secret, now));
            }
            TombstoneStep::Remove(secret) => {
                self.remove(user, &secret).await?;
                info!(user, "removed the tombstone of a deleted User");
                self.informers.change(|directory, _| directory.remove_tombstone(user, Some(&secret)));
            }
            TombstoneStep::Forget => self.informers.change(|directory, now| {
                directory.tombstones.forget_expired(user, now);
                Affected::default()
            }),
        }
        Ok(None)
    }

    /// Creates the Secret. If it exists, replaces that of an earlier User with the same name, or adds what this replica
    /// knows to that of the same User. Returns the stored tombstone, which may be another replica's, and the UID of its
    /// Secret.
    async fn store(&self, mut tombstone: Tombstone) -> Result<(Tombstone, String), Error> {
        let secret = tombstone.secret();
        let written = match self.secrets.create(&PostParams::default(), &secret).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let name = secret.name_any();
                let mut existing = self.secrets.get(&name).await?;
                if existing.type_ != secret.type_ {
                    return Err(Error::Occupied(name));
                }
                if let Some(stored) = Tombstone::read(&existing) {
                    let Some(replacement) = tombstone.replacement_for(&stored) else {
                        return Ok((stored, existing.uid().unwrap_or_default()));
                    };
                    tombstone = replacement;
                }
                let secret = tombstone.secret();
                existing.data = secret.data;
                existing.metadata.annotations = secret.metadata.annotations;
                self.secrets.replace(&name, &PostParams::default(), &existing).await?
            }
            outcome => outcome?,
        };
        self.metrics.writes.inc("Secret");
        info!(user = tombstone.user, expires = %tombstone.expires(), "stored the tombstone of a deleted User");
        Ok((tombstone, written.uid().unwrap_or_default()))
    }

    async fn remove(&self, user: &str, uid: &str) -> Result<(), Error> {
        let only_this = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams::default().preconditions(only_this);
        match self.secrets.delete(&Tombstone::secret_name(user), &params).await {
            Ok(_) => self.metrics.writes.inc("Secret"),
            // Already deleted, or replaced by another object.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Runs the controller until `shutdown`, once the informers have synced.
pub async fn run(ctx: Context, shutdown: CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = ctx.informers.synced() => {}
    }
    let marked = ctx.informers.queues.tombstones.stream(Duration::ZERO);
    let ctx = &ctx;
    process_keys(marked, CONCURRENCY, |user| async move { ctx.reconcile(&user).await }, shutdown).await;
}
