//! Requests larger allotments for owned namespaces while requests for pods, claims or services wait.
//!
//! ```text
//!  request ─▶ does it fit the namespace's allotment? ── yes ──────────────────▶ has kube-apiserver seen that? ─▶ allow
//!                 │ no, but the owner's quota has enough left                                  ▲
//!                 ▼                                                                            │
//!             annotate the ResourceQuota ─▶ the leader moves quota between namespaces ─────────┘
//! ```
//!
//! If that takes too long, the response is 429, so that the client tries again. Native quota would reject the request
//! for good, although the owner's quota allows it. So it is if too many requests wait already. Requests of Kubernetes'
//! own controllers never wait: they go on to native quota, and the controllers retry by themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use moka::sync::Cache;
use roster_core::directory::Directory;
use roster_core::quota::allotment::{Allotment, NAME, QuotaRequest, REQUEST_PREFIX};
use roster_core::quota::amount::{Amount, Amounts, add_all};
use roster_credentials::digest::{hex, random};
use roster_runtime::informers::Informers;
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::enforcement::Waits;
use super::permits::{WaitPermit, WaitPermits, may_be_made_up};
use super::request::{Demand, Refusal};
use super::seen::Seen;
use crate::admission::review_origin::ReviewOrigin;

/// How long a namespace in which requests timed out is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Maximum number of namespaces that are remembered.
const MAX_REMEMBERED: u64 = 100_000;

/// Minimum wait before reporting [`HintOutcome::Full`], and longest time between checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Minimum time between two patches of a namespace's ResourceQuota. Each patch changes its revision, for which requests
/// that fit must wait.
const PATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Result of [`Hints::wait_for_capacity`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HintOutcome {
    /// It fit at once.
    Fits,
    /// It fit after the allotment was enlarged.
    Enlarged,
    /// The owner's quota is used up.
    Full,
    /// Timed out.
    TimedOut,
    /// Too many requests wait already.
    TooMany,
    /// A controller sent it, so it did not wait.
    Exempt,
}

impl HintOutcome {
    /// Metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Enlarged => "enlarged",
            Self::Full => "full",
            Self::TimedOut => "timed_out",
            Self::TooMany => "too_many",
            Self::Exempt => "exempt",
        }
    }
}

/// Whether a demand can be met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Prospect {
    /// It fits the allotment since this revision of the ResourceQuota.
    Fits(u64),
    /// The leader can move quota.
    Movable,
    /// The owner's quota is used up.
    Full,
}

/// Requests that wait for quota in a namespace.
#[derive(Default)]
struct WaitingRequests {
    /// Sum of the amounts that they wait for.
    wanted: Amounts,
    /// When the leader was last asked for quota.
    asked: Option<Instant>,
}

/// Asks the leader for larger allotments.
pub struct Hints {
    client: Client,
    informers: Arc<Informers>,
    seen: Arc<Seen>,
    /// Requests that wait at this replica, by namespace.
    waiting: Mutex<HashMap<String, WaitingRequests>>,
    permits: Arc<WaitPermits>,
    /// Namespaces for which the leader was recently asked on behalf of a request that does not wait. Here and below,
    /// reviews that prove only their path have entries of their own, so that made-up ones do not affect others.
    recently_asked: Cache<(ReviewOrigin, String), ()>,
    /// When requests began to time out, by namespace. Removed once a request fits again.
    late_since: Cache<(ReviewOrigin, String), Instant>,
    /// Annotation with the requests of this replica.
    annotation: String,
    waits: Waits,
}

impl Hints {
    /// Creates an instance that reads allotments from `informers` and patches them through `client`.
    pub fn new(client: Client, informers: Arc<Informers>, seen: Arc<Seen>, permits: Arc<WaitPermits>) -> Self {
        Self {
            client,
            informers,
            seen,
            waiting: Mutex::default(),
            permits,
            recently_asked: Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(PATCH_INTERVAL).build(),
            late_since: Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED).build(),
            annotation: format!("{REQUEST_PREFIX}-{}", hex(&random::<4>())),
            waits: Waits::default(),
        }
    }

    /// Waits until the demand fits the namespace's allotment, cannot fit the owner's quota, or the wait times out. The
    /// refusal, if there is one, asks the client to try again.
    pub async fn wait_for_capacity(&self, demand: &Demand, origin: ReviewOrigin) -> (HintOutcome, Option<Refusal>) {
        let namespace = &demand.namespace;
        if may_be_made_up(&self.informers.directory(), namespace, origin) {
            return without_waiting(demand);
        }
        let outcome = match self.begin_waiting(demand, origin) {
            Ok(_permit) => self.wait(demand).await,
            Err(outcome) => outcome,
        };
        let key = (origin, namespace.clone());
        let refusal = match outcome {
            HintOutcome::Full | HintOutcome::Exempt => None,
            HintOutcome::Fits | HintOutcome::Enlarged => {
                self.late_since.invalidate(&key);
                None
            }
            HintOutcome::TimedOut | HintOutcome::TooMany => {
                let since = self.late_since.get_with_by_ref(&key, Instant::now);
                // After that native quota decides, so that controllers do not wait forever.
                (since.elapsed() < self.waits.give_up_after)
                    .then(|| Refusal { message: too_late(namespace), is_temporary: true })
            }
        };
        (outcome, refusal)
    }

    /// Returns a permit to wait, or the outcome if the request need not or must not wait.
    fn begin_waiting(&self, demand: &Demand, origin: ReviewOrigin) -> Result<WaitPermit, HintOutcome> {
        let Demand { namespace, wanted, is_by_controller } = demand;
        let prospect = self.prospect(namespace, wanted);
        let is_seen = matches!(prospect, Prospect::Fits(revision) if self.seen.is_known(namespace, revision));
        if wanted.is_empty() || is_seen {
            return Err(HintOutcome::Fits);
        }
        let acquire = || self.permits.acquire(&self.informers.directory(), namespace, origin);
        if !is_by_controller && let Some(permit) = acquire() {
            return Ok(permit);
        }
        Err(match prospect {
            // kube-apiserver has probably seen it.
            Prospect::Fits(_) => HintOutcome::Fits,
            Prospect::Full => HintOutcome::Full,
            Prospect::Movable => {
                self.ask_in_background(demand, origin);
                if *is_by_controller { HintOutcome::Exempt } else { HintOutcome::TooMany }
            }
        })
    }

    async fn wait(&self, Demand { namespace, wanted, .. }: &Demand) -> HintOutcome {
        let begun = Instant::now();
        let deadline = begun + self.waits.longest;
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            // Subscribe before the check, so that a change between the two is not missed.
            let moved = self.informers.allotments_changed.notified();
            let prospect = self.prospect(namespace, wanted);
            match prospect {
                Prospect::Fits(revision) => {
                    let is_seen = self.seen.wait(namespace, revision, deadline).await;
                    if is_seen && self.prospect(namespace, wanted) == prospect {
                        return if waiting.is_none() { HintOutcome::Fits } else { HintOutcome::Enlarged };
                    }
                }
                // Deletions reach the informers with a delay.
                Prospect::Full if begun.elapsed() >= CHECK_INTERVAL => return HintOutcome::Full,
                Prospect::Full | Prospect::Movable => {
                    waiting.get_or_insert_with(|| Waiting::enter(self, namespace, wanted.clone()));
                    if self.begin_asking(namespace) {
                        let _ = timeout_at(deadline, self.ask(namespace)).await;
                    }
                    let _ = timeout_at(deadline.min(Instant::now() + CHECK_INTERVAL), moved).await;
                }
            }
            if Instant::now() >= deadline {
                return HintOutcome::TimedOut;
            }
        }
    }

    fn prospect(&self, namespace: &str, wanted: &Amounts) -> Prospect {
        prospect(&self.informers.directory(), namespace, wanted)
    }

    /// Returns whether it is time to ask for quota for the namespace again, and if so, records that it is done now.
    fn begin_asking(&self, namespace: &str) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(requests) = waiting.get_mut(namespace) else { return false };
        let is_due = requests.asked.is_none_or(|asked| asked.elapsed() >= PATCH_INTERVAL);
        if is_due {
            requests.asked = Some(Instant::now());
        }
        is_due
    }

    /// Asks for quota on behalf of a request that does not wait: when it is sent again, it may fit.
    fn ask_in_background(&self, Demand { namespace, wanted, .. }: &Demand, origin: ReviewOrigin) {
        if self.recently_asked.entry((origin, namespace.clone())).or_insert(()).is_fresh() {
            let _waiting = Waiting::enter(self, namespace, wanted.clone());
            tokio::spawn(self.ask(namespace));
        }
    }

    /// Annotates the ResourceQuota with the usage that waiting requests need. The leader acts on it, whichever
    /// replica wrote it. Dry runs are included: the annotation changes nothing that users declare, and without it a dry
    /// run would be rejected although the request itself would be admitted.
    fn ask(&self, namespace: &str) -> impl Future<Output = ()> + use<> {
        let asked = self.informers.directory().quotas.allotment(namespace).map(|allotment| {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let wanted = waiting.get(namespace).map(|requests| requests.wanted.clone()).unwrap_or_default();
            quota_request(allotment, wanted, Timestamp::now())
        });
        let text = json!(asked).to_string();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {self.annotation.as_str(): text}}}));
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace);
        let namespace = namespace.to_owned();
        async move {
            if asked.is_none() {
                return;
            }
            if let Err(error) = quotas.patch_metadata(NAME, &PatchParams::default(), &patch).await {
                debug!(namespace, %error, "requesting quota failed");
            }
        }
    }
}

/// Answers a review of a namespace that may be made up.
fn without_waiting(demand: &Demand) -> (HintOutcome, Option<Refusal>) {
    if demand.wanted.is_empty() {
        return (HintOutcome::Fits, None);
    }
    if demand.is_by_controller {
        return (HintOutcome::Exempt, None);
    }
    (HintOutcome::TooMany, Some(Refusal { message: too_late(&demand.namespace), is_temporary: true }))
}

fn too_late(namespace: &str) -> String {
    format!(
        "the quota: namespace {namespace} needs a larger part of its owner's quota, which Roster has not moved to it in \
         time; please try again"
    )
}

fn prospect(directory: &Directory, namespace: &str, wanted: &Amounts) -> Prospect {
    // The watch may lag behind: without an allotment, the policy would have denied the request.
    let Some(allotment) = directory.quotas.allotment(namespace) else { return Prospect::Movable };
    let lacks = |(name, amount): &(&String, &Amount)| **amount > allotment.headroom(name);
    let mut lacking = wanted.iter().filter(lacks).peekable();
    if lacking.peek().is_none() {
        return Prospect::Fits(allotment.revision);
    }
    let Some(owner) = directory.owner_of(namespace) else { return Prospect::Movable };
    // If the User was deleted, the leader does not change its allotments.
    let quota = directory.user(owner).and_then(|_| directory.quota_of(owner));
    let Some(quota) = quota else { return Prospect::Full };
    let fits = |(name, amount): (&String, &Amount)| {
        let used = quota.used.get(name).copied().unwrap_or_default();
        quota.hard.get(name).is_none_or(|hard| used + *amount <= *hard)
    };
    if lacking.all(fits) { Prospect::Movable } else { Prospect::Full }
}

fn quota_request(allotment: &Allotment, waiting: Amounts, now: Timestamp) -> QuotaRequest {
    let since = allotment.requests.iter().filter(|asked| asked.counts_at(now)).map(|asked| asked.since).min();
    let since = since.unwrap_or(now);
    let held = waiting.into_iter().filter(|(name, _)| allotment.spec.contains_key(name));
    let level = held.map(|(name, amount)| {
        let level = allotment.used.get(&name).copied().unwrap_or_default() + amount;
        let text = level.text_for(&name);
        (name, text)
    });
    QuotaRequest { since, at: now, level: level.collect() }
}

/// Amounts that a request waits for. Subtracted from the namespace's sum on drop.
struct Waiting<'a> {
    hints: &'a Hints,
    namespace: &'a str,
    wanted: Amounts,
}

impl<'a> Waiting<'a> {
    fn enter(hints: &'a Hints, namespace: &'a str, wanted: Amounts) -> Self {
        let mut waiting = hints.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        add_all(&mut waiting.entry(namespace.to_owned()).or_default().wanted, &wanted);
        drop(waiting);
        Self { hints, namespace, wanted }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.hints.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(WaitingRequests { wanted: sums, .. }) = waiting.get_mut(self.namespace) else { return };
        for (name, amount) in &self.wanted {
            if let Some(sum) = sums.get_mut(name) {
                *sum = sum.saturating_sub(*amount);
            }
        }
        sums.retain(|_, sum| *sum > Amount::ZERO);
        if sums.is_empty() {
            waiting.remove(self.namespace);
        }
    }
}

#[cfg(test)]
#[path = "hints_tests.rs"]
mod tests;
