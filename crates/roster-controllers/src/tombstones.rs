//! Stores the tombstones of deleted Users, and removes those of names that are in use again or that have expired.
//!
//! [`roster_core::directory::tombstones`] says what they are for and decides what to do. In steady state this reads and writes
//! nothing: it goes by watches and by timers.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use roster_api::TOMBSTONE_SECRET_TYPE;
use roster_core::directory::Concerned;
use roster_core::directory::tombstones::{Step, Tombstone};
use roster_runtime::informers::Informers;
use roster_runtime::metrics::Metrics;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::keyed::work_off;

/// Names that are worked on at the same time.
const CONCURRENCY: usize = 4;

/// Longest time for one name. The client's own retries can add up to minutes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What the controller works with.
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
    #[error("not done within {TIMEOUT:?}")]
    Timeout,
}

impl Context {
    /// A controller that keeps tombstones in `namespace`.
    pub fn new(client: &Client, namespace: &str, informers: &Arc<Informers>, metrics: &Arc<Metrics>) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            informers: Arc::clone(informers),
            metrics: Arc::clone(metrics),
            backoff: Backoff::default(),
        }
    }

    /// Does what is to be done about a name. Returns when to look at it again.
    async fn reconcile(&self, user: &str) -> Option<Duration> {
        let step = {
            let directory = self.informers.directory();
            let living = directory.person(user).map(|person| person.uid.as_str());
            directory.tombstones.next_step(user, living, Timestamp::now())
        };
        match tokio::time::timeout(TIMEOUT, self.take(user, step)).await.unwrap_or(Err(Error::Timeout)) {
            Ok(wait) => {
                self.backoff.succeeded(user);
                wait
            }
            Err(error) => {
                let wait = self.backoff.failed(user);
                warn!(user, %error, retry_in = ?wait, "the tombstone of a deleted User could not be written");
                Some(wait)
            }
        }
    }

    async fn take(&self, user: &str, step: Step) -> Result<Option<Duration>, Error> {
        match step {
            Step::Nothing => {}
            Step::Wait(until) => {
                let left = until.duration_since(Timestamp::now());
                return Ok(Some(Duration::try_from(left).unwrap_or_default()));
            }
            Step::Store(tombstone) => {
                let stored = self.store(&tombstone).await?;
                self.metrics.writes.inc("Secret");
                info!(user, expires = %tombstone.expires(), "stored the tombstone of a deleted User");
                let secret = stored.uid().unwrap_or_default();
                self.informers.change(|directory, _| directory.set_tombstone(tombstone, secret));
            }
            Step::Remove(secret) => {
                self.remove(user, &secret).await?;
                info!(user, "removed the tombstone of a deleted User");
                self.informers.change(|directory, _| directory.remove_tombstone(user, Some(&secret)));
            }
            Step::Forget => self.informers.change(|directory, now| {
                directory.tombstones.forget_expired(user, now);
                Concerned::default()
            }),
        }
        Ok(None)
    }

    /// Creates the Secret, or replaces the one of an earlier User of the name.
    async fn store(&self, tombstone: &Tombstone) -> Result<Secret, Error> {
        let secret = tombstone.secret();
        match self.secrets.create(&PostParams::default(), &secret).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            outcome => return Ok(outcome?),
        }
        let name = secret.name_any();
        let mut existing = self.secrets.get(&name).await?;
        if existing.type_ != secret.type_ {
            return Err(Error::Occupied(name));
        }
        existing.data = secret.data;
        existing.metadata.annotations = secret.metadata.annotations;
        Ok(self.secrets.replace(&name, &PostParams::default(), &existing).await?)
    }

    async fn remove(&self, user: &str, uid: &str) -> Result<(), Error> {
        let only_this = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams::default().preconditions(only_this);
        match self.secrets.delete(&Tombstone::secret_name(user), &params).await {
            Ok(_) => self.metrics.writes.inc("Secret"),
            // Gone already, or another one by now.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Runs the controller until `shutdown`.
pub async fn run(ctx: Context, shutdown: CancellationToken) {
    let marked = ctx.informers.waiting.tombstones.stream(Duration::ZERO);
    let ctx = &ctx;
    work_off(marked, CONCURRENCY, |user| async move { ctx.reconcile(&user).await }, shutdown).await;
}
