//! Context and errors of the quota controller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::{Api, Client};
use moka::sync::Cache;
use roster_api::User;
use roster_core::directory::owner_quota::OwnerQuota;
use roster_core::quota::defaults::Defaults;
use roster_credentials::digest::{hex, random};
use roster_runtime::informers::Informers;
use roster_runtime::informers::failures::WatchFailures;
use roster_runtime::metrics::Metrics;

use super::plan::{History, View};
use super::refused::Refused;
use crate::backoff::Backoff;
use crate::events::Reporter;

/// Timeout of a reconciliation. The client's own retries can add up to minutes.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

/// Time until an owner with unmet targets is reconciled again if no watch event comes first.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Time after a write until usage is verified.
const VERIFY_AFTER: Duration = Duration::from_secs(1);

/// How long the history of an idle namespace is kept.
const HISTORY_TTL: Duration = Duration::from_secs(600);

/// Maximum number of namespaces with a history.
const MAX_HISTORY: u64 = 100_000;

/// Dependencies and state of the controller.
pub struct Context {
    pub(super) client: Client,
    pub(super) informers: Arc<Informers>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) defaults: Defaults,
    /// Whether Secrets may be listed in all namespaces.
    pub(super) counts_secrets: bool,
    /// Random ID of this leadership term.
    pub(super) term: String,
    /// Requests that quota refused, by namespace.
    pub(super) refused: Cache<String, Vec<Refused>>,
    /// History of namespaces.
    pub(super) history: Cache<String, History>,
    pub(super) reported: Mutex<HashMap<String, (Option<OwnerQuota>, Instant)>>,
    /// Owners whose quota was written but whose usage has not been verified since, and whether some of their namespaces are
    /// new.
    pub(super) unverified: Mutex<HashMap<String, bool>>,
    /// Number of interrupted attempts by owner. Their writes may still be in flight, and are fenced like those of a previous
    /// leader.
    pub(super) interrupted: Mutex<HashMap<String, u64>>,
    /// Publishes Events about namespaces.
    pub(super) reporter: Reporter,
    pub(super) failures: Arc<WatchFailures>,
    pub(super) backoff: Backoff,
}

impl Context {
    /// Creates the context. `defaults` are the default requests and limits of containers. `counts_secrets`: whether Roster may
    /// list Secrets in all namespaces.
    pub fn new(
        client: Client,
        informers: Arc<Informers>,
        defaults: Defaults,
        counts_secrets: bool,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            reporter: Reporter::new(client.clone(), "roster.dev/quota", Arc::clone(&metrics)),
            client,
            informers,
            defaults,
            counts_secrets,
            term: hex(&random::<8>()),
            refused: Cache::builder().max_capacity(MAX_HISTORY).time_to_live(HISTORY_TTL).build(),
            history: Cache::builder().max_capacity(MAX_HISTORY).time_to_live(HISTORY_TTL).build(),
            reported: Mutex::default(),
            unverified: Mutex::default(),
            interrupted: Mutex::default(),
            failures: Arc::new(WatchFailures::new(metrics.watch_errors.clone())),
            backoff: Backoff::default(),
            metrics,
        }
    }

    /// Returns the term to record in writes for an owner. It changes after an interrupted attempt, so that late writes
    /// of that attempt are not mistaken for writes of the next one.
    pub(super) fn term(&self, owner: &str) -> String {
        let interrupted = self.interrupted.lock().unwrap_or_else(PoisonError::into_inner);
        interrupted.get(owner).map_or_else(|| self.term.clone(), |count| format!("{}-{count}", self.term))
    }

    pub(super) fn unverified(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        self.unverified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the owner has namespaces whose ResourceQuota was just created.
    pub(super) fn is_new(&self, owner: &str) -> bool {
        self.unverified().get(owner).copied().unwrap_or(false)
    }

    /// Returns when to reconcile an owner again. After each change of `spec.hard`, kube-controller-manager recalculates the
    /// usage from caches that lag, and may not correct what it missed for minutes. So after a write, the usage is read once
    /// more.
    pub(super) fn next_check(&self, owner: &str, has_written: bool, is_reached: bool) -> Option<Duration> {
        if has_written {
            return Some(if is_reached { VERIFY_AFTER } else { RETRY_INTERVAL });
        }
        self.unverified().remove(owner);
        (!is_reached).then_some(RETRY_INTERVAL)
    }

    /// Returns the state of an owner, or `None` if there is nothing to do because the User does not exist.
    pub(super) fn view(&self, owner: &str) -> Option<View> {
        View::of(owner, &self.informers.directory(), |namespace| History {
            refused: self.refused.get(namespace).into_iter().flatten().map(|refused| refused.request).collect(),
            ..self.history.get(namespace).unwrap_or_default()
        })
    }

    /// Returns whether the User exists in kube-apiserver. The watch of Users may lag behind that of Namespaces, so a
    /// User that was created before its namespaces may still be missing from the directory.
    pub(super) async fn exists(&self, owner: &str) -> Result<bool, Error> {
        let users: Api<User> = Api::all(self.client.clone());
        let found = users.get_metadata_opt(owner).await;
        found.map(|found| found.is_some()).map_err(|source| Error::Owner(owner.to_owned(), source))
    }

    /// Records usage, in order to detect growth, and the requests whose usage has been reached: even if usage drops
    /// again later, those requests are no longer waiting.
    pub(super) fn remember(&self, view: &View) {
        let now = now();
        for owned in view.namespaces.iter().filter(|_| !view.limits.is_empty()) {
            let Some(allotment) = &owned.allotment else { continue };
            let reached = owned.reached();
            if owned.history.used != allotment.used || reached != owned.history.reached {
                let last_growth =
                    view.limits.keys().filter_map(|name| Some((name.clone(), owned.last_growth(name, now)?)));
                let history = History {
                    used: allotment.used.clone(),
                    last_growth: last_growth.collect(),
                    reached,
                    refused: Vec::new(),
                };
                self.history.insert(owned.name.clone(), history);
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("reading ResourceQuotas and usage")]
    Read(#[source] kube::Error),
    #[error("reading User {0}")]
    Owner(String, #[source] kube::Error),
    #[error("writing {what} in namespace {namespace}")]
    Write { what: &'static str, namespace: String, source: kube::Error },
    #[error("timed out after {TIMEOUT:?}")]
    Timeout,
}

pub(super) fn now() -> Timestamp {
    Timestamp::now()
}
