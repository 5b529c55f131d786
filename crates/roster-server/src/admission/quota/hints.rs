//! Requests larger allotments for owned namespaces while requests for pods, claims or services wait.
//!
//! ```text
//!  request ─▶ does it fit the namespace's allotment? ── yes ──────────────────▶ has kube-apiserver seen that? ─▶ allow
//!                 │ no, but the owner's quota has enough left                                  ▲
//!                 ▼                                                                            │
//!             annotate the ResourceQuota ─▶ the leader moves quota between namespaces ─────────┘
//! ```
//!
//! If that takes too long, the response is 429, so that the client tries again. Native quota would reject what the owner
//! may use.

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
use super::request::{Demand, Refusal};
use super::seen::Seen;

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
}

impl HintOutcome {
    /// Metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fits => "roomy",
            Self::Enlarged => "made",
            Self::Full => "full",
            Self::TimedOut => "late",
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
    /// When a request first timed out, by namespace, since one did not.
    late_since: Cache<String, Instant>,
    /// Annotation with the requests of this replica.
    annotation: String,
    waits: Waits,
}

impl Hints {
    /// Reads allotments from `informers`, patches them through `client`.
    pub fn new(client: Client, informers: Arc<Informers>, seen: Arc<Seen>) -> Self {
        Self {
            client,
            informers,
            seen,
            waiting: Mutex::default(),
            late_since: Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED).build(),
            annotation: format!("{REQUEST_PREFIX}-{}", hex(&random::<4>())),
            waits: Waits::default(),
        }
    }

    /// Waits until the demand fits the namespace's allotment, cannot fit the owner's quota, or the wait times out. The
    /// refusal, if there is one, asks the client to try again.
    pub async fn wait_for_capacity(&self, demand: &Demand) -> (HintOutcome, Option<Refusal>) {
        let outcome = if demand.wanted.is_empty() { HintOutcome::Fits } else { self.wait(demand).await };
        let namespace = &demand.namespace;
        let refusal = match outcome {
            HintOutcome::Full => None,
            HintOutcome::Fits | HintOutcome::Enlarged => {
                self.late_since.invalidate(namespace);
                None
            }
            HintOutcome::TimedOut => {
                let since = self.late_since.get_with(namespace.clone(), Instant::now);
                // After that native quota decides, so that controllers do not wait for ever.
                (since.elapsed() < self.waits.give_up_after)
                    .then(|| Refusal { message: too_late(namespace), is_passing: true })
            }
        };
        (outcome, refusal)
    }

    async fn wait(&self, Demand { namespace, wanted }: &Demand) -> HintOutcome {
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

    /// Returns whether it is time to ask for quota for the namespace again, and notes that this is done now.
    fn begin_asking(&self, namespace: &str) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(requests) = waiting.get_mut(namespace) else { return false };
        let is_due = requests.asked.is_none_or(|asked| asked.elapsed() >= PATCH_INTERVAL);
        if is_due {
            requests.asked = Some(Instant::now());
        }
        is_due
    }

    /// Annotates the ResourceQuota with the usage that waiting requests need. The leader acts on it, on any replica. This
    /// includes dry runs: what anybody has declared does not change, and without it a dry run would be rejected where the
    /// request itself is admitted.
    async fn ask(&self, namespace: &str) {
        let asked = {
            let directory = self.informers.directory();
            let Some(allotment) = directory.quotas.allotment(namespace) else { return };
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let wanted = waiting.get(namespace).map(|requests| requests.wanted.clone()).unwrap_or_default();
            quota_request(allotment, wanted, Timestamp::now())
        };
        let text = json!(asked).to_string();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {self.annotation.as_str(): text}}}));
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace);
        if let Err(error) = quotas.patch_metadata(NAME, &PatchParams::default(), &patch).await {
            debug!(namespace, %error, "requesting quota failed");
        }
    }
}

fn too_late(namespace: &str) -> String {
    format!(
        "the quota: namespace {namespace} needs a larger part of its owner's quota, which Roster has not moved to it in \
         time; please try again"
    )
}

fn prospect(directory: &Directory, namespace: &str, wanted: &Amounts) -> Prospect {
    // The watch may lag behind: there is one, or the policy would have denied the request.
    let Some(allotment) = directory.quotas.allotment(namespace) else { return Prospect::Movable };
    let lacks = |(name, amount): &(&String, &Amount)| **amount > allotment.headroom(name);
    let mut lacking = wanted.iter().filter(lacks).peekable();
    if lacking.peek().is_none() {
        return Prospect::Fits(allotment.revision);
    }
    let Some(owner) = directory.owner_of(namespace) else { return Prospect::Movable };
    // Of a User who was deleted, the leader leaves everything as it is.
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
mod tests {
    use super::*;

    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kube::client::Body;
    use roster_core::directory::bindings::NamespaceState;
    use roster_runtime::metrics::Metrics;
    use tokio::time::timeout;

    const CPU: &str = "requests.cpu";

    fn cpu(millis: i64) -> Amounts {
        [(CPU.to_owned(), Amount::millis(millis))].into()
    }

    fn set(informers: &Informers, hard: i64, revision: u64) {
        let (term, owner, spec) = (Some("t".to_owned()), Some("jane".to_owned()), cpu(hard));
        let enforced = Some(spec.clone());
        let allotment = Allotment { term, owner, spec, enforced, revision, ..Allotment::default() };
        informers.change(|directory, _| directory.set_allotment("apollo", Some(allotment)));
    }

    /// Jane owns the namespace apollo, and may use 4 CPUs.
    fn informers() -> Arc<Informers> {
        let informers = Arc::new(Informers::new(false, Arc::new(Metrics::default())));
        let metadata = ObjectMeta {
            labels: Some([(roster_api::OWNER_LABEL.to_owned(), "jane".to_owned())].into()),
            ..ObjectMeta::default()
        };
        informers.change(|directory, _| directory.set_namespace("apollo", Some(NamespaceState::of(&metadata))));
        let jane = json!({
            "apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {"name": "jane", "uid": "u"},
            "spec": {"quota": {"hard": {CPU: "4"}}},
        });
        let jane: roster_api::User = serde_json::from_value(jane).unwrap();
        informers.change(|directory, now| directory.set_user(&jane, now));
        informers
    }

    /// A replica whose kube-apiserver has seen revisions up to `revision`.
    fn hints(informers: &Arc<Informers>, revision: &Arc<Mutex<u64>>) -> Hints {
        counted_hints(informers, revision, &Arc::default())
    }

    /// The same, counting the patches.
    fn counted_hints(informers: &Arc<Informers>, revision: &Arc<Mutex<u64>>, patches: &Arc<AtomicUsize>) -> Hints {
        let (revision, patches) = (Arc::clone(revision), Arc::clone(patches));
        let answer = move |request: axum::http::Request<Body>| {
            let (revision, patches) = (Arc::clone(&revision), Arc::clone(&patches));
            async move {
                let is_dry_run = request.uri().query().is_some_and(|query| query.contains("dryRun"));
                let body = request.into_body().collect_bytes().await.unwrap();
                let sent: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let seen = sent["metadata"]["annotations"]["roster.dev/seen"].as_str();
                let is_seen = seen.is_none_or(|seen| seen.parse::<u64>().unwrap() <= *revision.lock().unwrap());
                assert_eq!(is_dry_run, seen.is_some());
                let (code, body) = if !is_dry_run {
                    patches.fetch_add(1, Ordering::Relaxed);
                    (200, json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {}}))
                } else if is_seen {
                    (200, json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {}}))
                } else {
                    (
                        422,
                        json!({"status": "Failure", "code": 422, "message": "roster-quota-seen: not yet", "reason": "Invalid"}),
                    )
                };
                let response = axum::http::Response::builder().status(code);
                Ok::<_, io::Error>(response.body(Body::from(body.to_string().into_bytes())).unwrap())
            }
        };
        let client = Client::new(tower::service_fn(answer), "default");
        Hints::new(client.clone(), Arc::clone(informers), Arc::new(Seen::new(client)))
    }

    fn demand(millis: i64) -> Demand {
        Demand { namespace: "apollo".to_owned(), wanted: cpu(millis) }
    }

    #[tokio::test]
    async fn a_larger_allotment_counts_once_kube_apiserver_has_seen_it() {
        let (informers, revision) = (informers(), Arc::new(Mutex::new(1)));
        set(&informers, 2000, 1);
        let hints = hints(&informers, &revision);
        assert_eq!(hints.wait_for_capacity(&demand(2000)).await, (HintOutcome::Fits, None));
        let demand = demand(3000);
        let mut waiting = std::pin::pin!(hints.wait_for_capacity(&demand));
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "there is too little");
        set(&informers, 3000, 2);
        let early = timeout(Duration::from_millis(200), &mut waiting).await;
        assert!(early.is_err(), "kube-apiserver would reject it: {early:?}");
        *revision.lock().unwrap() = 2;
        assert_eq!(waiting.await, (HintOutcome::Enlarged, None));
    }

    #[tokio::test]
    async fn a_replica_that_has_not_seen_the_allotment_waits_for_it() {
        let (informers, revision) = (informers(), Arc::new(Mutex::new(9)));
        let (hints, demand) = (hints(&informers, &revision), demand(3000));
        let later = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            set(&informers, 3000, 2);
        };
        let (made, ()) = tokio::join!(hints.wait_for_capacity(&demand), later);
        assert_eq!(made, (HintOutcome::Enlarged, None));
    }

    #[tokio::test]
    async fn clients_try_again_while_the_leader_is_slow() {
        let (informers, revision) = (informers(), Arc::new(Mutex::new(9)));
        set(&informers, 2000, 1);
        let hurried = |give_up_after| {
            // Longer than it takes to find out that nothing is left.
            let waits = Waits { longest: CHECK_INTERVAL * 2, give_up_after };
            Hints { waits, ..hints(&informers, &revision) }
        };
        let hints = hurried(Duration::from_secs(600));
        let (outcome, refusal) = hints.wait_for_capacity(&demand(3000)).await;
        assert_eq!(outcome, HintOutcome::TimedOut);
        assert!(refusal.expect("the client tries again").is_passing);
        assert!(hints.waiting.lock().unwrap().is_empty());
        let full = hints.wait_for_capacity(&demand(5000)).await;
        assert_eq!(full, (HintOutcome::Full, None), "native quota rejects what the owner may not use");
        let tired = hurried(Duration::ZERO);
        assert_eq!(tired.wait_for_capacity(&demand(3000)).await, (HintOutcome::TimedOut, None), "native quota decides");
        set(&informers, 3000, 2);
        assert_eq!(tired.wait_for_capacity(&demand(3000)).await, (HintOutcome::Fits, None));
    }

    #[tokio::test]
    async fn requests_in_a_namespace_share_patches() {
        let (informers, revision, patches) = (informers(), Arc::new(Mutex::new(9)), Arc::default());
        set(&informers, 1000, 1);
        let waits = Waits { longest: PATCH_INTERVAL * 3, ..Waits::default() };
        let hints = Hints { waits, ..counted_hints(&informers, &revision, &patches) };
        let demand = demand(3000);
        let late = join_all((0..300).map(|_| hints.wait_for_capacity(&demand))).await;
        assert!(late.into_iter().all(|(outcome, _)| outcome == HintOutcome::TimedOut));
        let patches = patches.load(Ordering::Relaxed);
        assert!((1..=4).contains(&patches), "one for each interval, and not for each request: {patches}");
    }
}
