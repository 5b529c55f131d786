//! Secret with the signing keys: created by the first replica, watched by every replica, rotated by the leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use futures::{StreamExt, pin_mut};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use roster_credentials::signing::{SigningAlgorithm, SigningKeys};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Name of the Secret.
const SECRET: &str = "roster-token-keys";

/// How often the leader checks whether a new key is due.
const TICK: Duration = Duration::from_secs(60);

/// Current signing keys, updated from the Secret.
#[derive(Clone)]
pub struct SigningKeyStore {
    secrets: Api<Secret>,
    keys: Arc<ArcSwap<SigningKeys>>,
    /// Algorithm of new keys.
    algorithm: SigningAlgorithm,
    deleted: Arc<Notify>,
}

impl SigningKeyStore {
    /// Reads the keys, or creates one with this algorithm.
    ///
    /// # Errors
    /// If kube-apiserver does not answer, or the Secret does not parse.
    pub async fn load(client: Client, namespace: &str, algorithm: SigningAlgorithm) -> Result<Self> {
        let secrets = Api::namespaced(client, namespace);
        let keys = load_or_create(&secrets, algorithm).await?;
        Ok(Self { secrets, keys: Arc::new(ArcSwap::from_pointee(keys)), algorithm, deleted: Arc::default() })
    }

    /// Returns the current keys.
    pub fn keys(&self) -> Arc<ArcSwap<SigningKeys>> {
        Arc::clone(&self.keys)
    }

    /// Follows the Secret until `shutdown`.
    ///
    /// # Errors
    /// If the watch ends.
    pub async fn follow(self, shutdown: CancellationToken) -> Result<()> {
        let changes = watch_object(self.secrets.clone(), SECRET).default_backoff();
        pin_mut!(changes);
        loop {
            let change = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                change = changes.next() => change.context("the watch of the signing keys ended")?,
            };
            match change {
                Ok(Some(secret)) => match read(&secret) {
                    Ok(keys) => self.keys.store(Arc::new(keys)),
                    Err(error) => {
                        warn!(error = format!("{error:#}"), "signing keys are invalid, keeping the previous ones");
                    }
                },
                // The known keys keep signing until the leader recreates the Secret, which takes a moment.
                Ok(None) => self.deleted.notify_one(),
                Err(error) => warn!(%error, "watching the signing keys failed, retrying"),
            }
        }
    }

    /// Rotates the keys when due, until `shutdown`. Leader only.
    ///
    /// # Errors
    /// Never: failures are retried.
    pub async fn rotate(self, lifetime: Duration, shutdown: CancellationToken) -> Result<()> {
        // A new leader checks once. After that, it sends no request before the watched keys are due for rotation or
        // deleted.
        let mut must_check = true;
        loop {
            if must_check || self.is_due(lifetime) {
                let outcome = self.rotate_if_due(lifetime).await;
                must_check = outcome.is_err();
                if let Err(error) = outcome {
                    warn!(error = format!("{error:#}"), "rotating the signing keys failed, retrying");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.deleted.notified() => must_check = true,
                () = tokio::time::sleep(TICK.min(lifetime / 4)) => {}
            }
        }
    }

    fn is_due(&self, lifetime: Duration) -> bool {
        !matches!(self.keys.load().rotated(Timestamp::now(), lifetime, self.algorithm), Ok(None))
    }

    async fn rotate_if_due(&self, lifetime: Duration) -> Result<()> {
        let Some(secret) = self.secrets.get_opt(SECRET).await? else {
            return load_or_create(&self.secrets, self.algorithm).await.map(drop);
        };
        let keys = read(&secret)?;
        let Some(next) = keys.rotated(Timestamp::now(), lifetime, self.algorithm)? else { return Ok(()) };
        // A replace carries the resourceVersion, so of two leaders only one succeeds.
        let secret = Secret { data: Some(next.write()), ..secret };
        self.secrets.replace(SECRET, &PostParams::default(), &secret).await?;
        info!("rotated the signing keys");
        Ok(())
    }
}

async fn load_or_create(secrets: &Api<Secret>, algorithm: SigningAlgorithm) -> Result<SigningKeys> {
    if let Some(secret) = secrets.get_opt(SECRET).await? {
        return read(&secret);
    }
    let first = SigningKeys::create(Timestamp::now(), algorithm)?;
    let secret = Secret {
        metadata: ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() },
        data: Some(first.write()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(first),
        // Another replica created it first.
        Err(kube::Error::Api(status)) if status.code == 409 => read(&secrets.get(SECRET).await?),
        Err(error) => Err(error.into()),
    }
}

fn read(secret: &Secret) -> Result<SigningKeys> {
    SigningKeys::read(secret.data.as_ref().unwrap_or(&BTreeMap::new())).with_context(|| {
        format!(
            "Secret {SECRET} does not parse: delete it, and the leader creates a new key; this invalidates all tokens"
        )
    })
}
