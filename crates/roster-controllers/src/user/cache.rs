//! Index of what Users refer to, which watches keep current on every replica.
//!
//! Followers keep it too, so that a new leader starts without listing Users and Secrets.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::{Config as WatchConfig, Event, watcher};
use kube::{Api, Client};
use roster_api::{OWNER_LABEL, PASSWORD_SECRET_TYPE, User};
use roster_credentials::record::{Claim, IDENTIFIER_LABEL};
use roster_runtime::informers::Informers;
use roster_runtime::informers::failures::WatchFailures;
use roster_runtime::informers::follow::follow;
use roster_runtime::metrics::Metrics;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::index::Index;

/// Index of what Users refer to. It queues the Users that a change affects.
pub struct Cache {
    index: Mutex<Index>,
    informers: Arc<Informers>,
    /// Namespaces in which password Secrets are read. Empty: all.
    pub(super) source_namespaces: BTreeSet<String>,
    failures: Arc<WatchFailures>,
    synced: watch::Sender<bool>,
}

impl Cache {
    /// Creates an empty cache. `source_namespaces`: the namespaces in which password Secrets are read; empty: all.
    pub fn new(source_namespaces: BTreeSet<String>, informers: Arc<Informers>, metrics: &Metrics) -> Self {
        Self {
            index: Mutex::default(),
            informers,
            source_namespaces,
            failures: Arc::new(WatchFailures::new(metrics.watch_errors.clone())),
            synced: watch::Sender::new(false),
        }
    }

    /// Applies an event of the informers' watch of Users.
    pub fn user_event(&self, event: &Event<User>) {
        self.note(|index| index.user_event(event));
    }

    /// Runs the watches until `shutdown`. `namespace`: Roster's own, which holds the identity Secrets.
    ///
    /// # Errors
    /// If a watch ends or a task panics.
    pub async fn run(self: Arc<Self>, client: Client, namespace: String, shutdown: CancellationToken) -> Result<()> {
        let mut watches = JoinSet::new();
        let all = try_join_all(self.start_watches(&client, &namespace, &mut watches));
        tokio::pin!(all);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(ended) = watches.join_next() => return ended?.context("a watch of what Users refer to"),
                outcome = &mut all, if !*self.synced.borrow() => {
                    outcome?;
                    info!("identity Secrets, password Secrets and owned namespaces are known");
                    self.synced.send_replace(true);
                }
            }
        }
    }

    /// Waits until every initial list is complete.
    pub async fn synced(&self) {
        // The sender lives in self, so it can't be dropped.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn start_watches(
        self: &Arc<Self>,
        client: &Client,
        namespace: &str,
        watches: &mut JoinSet<Result<()>>,
    ) -> Vec<oneshot::Receiver<()>> {
        let mut synced = Vec::new();
        let mut begin = || {
            let (sender, receiver) = oneshot::channel();
            synced.push(receiver);
            (Arc::clone(self), sender, Arc::clone(&self.failures))
        };

        let identities: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), namespace);
        let claims = watcher(identities, WatchConfig::default().labels(IDENTIFIER_LABEL));
        let (cache, ready, failures) = begin();
        let apply = move |event| {
            cache.note_credential(&event);
            cache.note(|index| index.claim_event(event));
        };
        watches.spawn(follow("claims", claims, apply, ready, failures));

        if self.source_namespaces.is_empty() {
            let secrets = watcher(Api::<PartialObjectMeta<Secret>>::all(client.clone()), password_secrets());
            let (cache, ready, failures) = begin();
            let apply = move |event| cache.note(|index| index.source_event(None, event));
            watches.spawn(follow("secrets", secrets, apply, ready, failures));
        }
        for namespace in &self.source_namespaces {
            let secrets: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), namespace);
            let (cache, ready, failures) = begin();
            let (secrets, ready) = or_failed(watcher(secrets, password_secrets()), ready);
            let scope = namespace.clone();
            let apply = move |event| cache.note(|index| index.source_event(Some(&scope), event));
            watches.spawn(follow("secrets", secrets, apply, ready, failures));
        }

        let owned = WatchConfig::default().labels(OWNER_LABEL);
        let owned = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), owned);
        let (cache, ready, failures) = begin();
        let apply = move |event| cache.note(|index| index.namespace_event(event));
        watches.spawn(follow("owned namespaces", owned, apply, ready, failures));
        synced
    }

    /// Applies an event to the index and queues the Users that it affects.
    fn note(&self, change: impl FnOnce(&mut Index) -> Vec<String>) {
        let affected = change(&mut self.index());
        self.informers.queue_users(affected);
    }

    /// Tells those who keep a session open that the User's credential has changed.
    fn note_credential(&self, event: &Event<PartialObjectMeta<Secret>>) {
        if let Event::InitApply(secret) | Event::Apply(secret) | Event::Delete(secret) = event
            && let Some(claim) = Claim::read(&secret.metadata).filter(|claim| claim.is_username)
        {
            self.informers.credential_changes.note(&claim.owner_uid);
        }
    }

    /// Locks the index. Never hold the lock across an await.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn password_secrets() -> WatchConfig {
    WatchConfig::default().fields(&format!("type={PASSWORD_SECRET_TYPE}"))
}

/// Makes `ready` fire when the first list is complete or the watch has failed. A configured namespace that was deleted,
/// together with the Role in it, must not prevent the controller from starting. Users that refer to a Secret there are
/// checked one by one.
fn or_failed<T, E>(
    watch: impl Stream<Item = Result<T, E>>,
    ready: oneshot::Sender<()>,
) -> (impl Stream<Item = Result<T, E>>, oneshot::Sender<()>) {
    let (complete, is_complete) = oneshot::channel();
    let (failed, has_failed) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            Ok(()) = is_complete => {}
            Ok(()) = has_failed => {}
            else => return,
        }
        let _ = ready.send(());
    });
    let mut failed = Some(failed);
    let watch = watch.inspect(move |event| {
        if event.is_err()
            && let Some(failed) = failed.take()
        {
            let _ = failed.send(());
        }
    });
    (watch, complete)
}
