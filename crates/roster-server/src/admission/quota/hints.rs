//! Requests larger allotments for owned namespaces while requests for pods, claims or services wait. Denies nothing.
//!
//! ```text
//!  request ─▶ does it fit the namespace's allotment? ── yes ─▶ allow
//!                 │ no, but the owner's quota has enough left
//!                 ▼
//!             annotate the ResourceQuota ─▶ the leader moves quota between namespaces ─▶ allow
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use kube::api::{Patch, PatchParams};
use kube::core::GroupVersionResource;
use kube::{Api, Client};
use roster_core::quota::allotment::{Allotment, NAME, QuotaRequest, REQUEST_ANNOTATION};
use roster_core::quota::amount::{Amount, Amounts, add_all};
use roster_core::quota::usage::{of_claim, of_pod, of_service};
use roster_runtime::informers::Informers;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

/// Longest time that a request waits for quota. kube-apiserver times out after five seconds.
const MAX_WAIT: Duration = Duration::from_millis(2500);

/// Minimum wait before reporting [`HintOutcome::Full`], and longest time between checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Minimum time between two patches for a request.
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

/// Asks the leader for larger allotments.
pub struct Hints {
    client: Client,
    informers: Arc<Informers>,
    /// Amounts that requests at this replica wait for, by namespace.
    waiting: Mutex<HashMap<String, Amounts>>,
}

impl Hints {
    /// Reads allotments from `informers`, patches them through `client`.
    pub fn new(client: Client, informers: Arc<Informers>) -> Self {
        Self { client, informers, waiting: Mutex::default() }
    }

    /// Waits until the demand fits the namespace's allotment, cannot fit the owner's quota, or the wait times out.
    pub async fn wait_for_capacity(&self, demand: &Demand) -> HintOutcome {
        let Demand { namespace, wanted } = demand;
        if self.check(namespace, wanted) == HintOutcome::Fits {
            return HintOutcome::Fits;
        }
        let _waiting = Waiting::enter(self, namespace, wanted.clone());
        let begun = Instant::now();
        let deadline = begun + MAX_WAIT;
        let mut since = None;
        loop {
            // Subscribe before the check, so that a change between the two is not missed.
            let moved = self.informers.allotments_changed.notified();
            match self.check(namespace, wanted) {
                HintOutcome::Fits => return HintOutcome::Enlarged,
                // Deletions reach the informers with a delay.
                HintOutcome::Full if begun.elapsed() >= CHECK_INTERVAL => return HintOutcome::Full,
                _ => {}
            }
            if since.is_none_or(|asked: Instant| asked.elapsed() >= PATCH_INTERVAL) {
                self.ask(namespace).await;
                since = Some(Instant::now());
            }
            let next = deadline.min(Instant::now() + CHECK_INTERVAL);
            if timeout_at(next, moved).await.is_err() && Instant::now() >= deadline {
                return HintOutcome::TimedOut;
            }
        }
    }

    /// Returns `Fits` if the demand fits, `Enlarged` if the leader can move quota, `Full` otherwise.
    fn check(&self, namespace: &str, wanted: &Amounts) -> HintOutcome {
        let directory = self.informers.directory();
        let Some(allotment) = directory.quotas.allotment(namespace) else { return HintOutcome::Fits };
        let lacks = |(name, amount): &(&String, &Amount)| **amount > allotment.headroom(name);
        let mut lacking = wanted.iter().filter(lacks).peekable();
        if lacking.peek().is_none() {
            return HintOutcome::Fits;
        }
        let owner = directory.owner_of(namespace);
        let Some(quota) = owner.and_then(|owner| directory.quota_of(owner)) else { return HintOutcome::Full };
        let fits = |(name, amount): (&String, &Amount)| {
            let used = quota.used.get(name).copied().unwrap_or_default();
            quota.hard.get(name).is_none_or(|hard| used + *amount <= *hard)
        };
        if lacking.all(fits) { HintOutcome::Enlarged } else { HintOutcome::Full }
    }

    /// Annotates the ResourceQuota with the usage that waiting requests need. The leader acts on it, on any replica.
    async fn ask(&self, namespace: &str) {
        let asked = {
            let directory = self.informers.directory();
            let Some(allotment) = directory.quotas.allotment(namespace) else { return };
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            quota_request(allotment, waiting.get(namespace).cloned().unwrap_or_default(), Timestamp::now())
        };
        let text = json!(asked).to_string();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {REQUEST_ANNOTATION: text}}}));
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace);
        if let Err(error) = quotas.patch_metadata(NAME, &PatchParams::default(), &patch).await {
            debug!(namespace, %error, "room could not be asked for");
        }
    }
}

fn quota_request(allotment: &Allotment, waiting: Amounts, now: Timestamp) -> QuotaRequest {
    let since = allotment.request.as_ref().filter(|asked| asked.counts_at(now)).map_or(now, |asked| asked.since);
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
        add_all(waiting.entry(namespace.to_owned()).or_default(), &wanted);
        drop(waiting);
        Self { hints, namespace, wanted }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.hints.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sums) = waiting.get_mut(self.namespace) else { return };
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

/// The fields of an AdmissionReview that hints use. Objects are parsed only if their resource counts.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: String,
    kind: String,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: String,
    resource: GroupVersionResource,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    old_object: Option<&'a RawValue>,
}

/// Amounts that a request adds to a namespace's usage.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Demand {
    /// Empty if the request adds nothing that counts.
    namespace: String,
    wanted: Amounts,
}

/// An AdmissionReview, reduced to what the demand and the response need.
pub struct HintReview {
    api_version: String,
    kind: String,
    uid: String,
    /// Amounts that the request adds.
    pub demand: Demand,
}

impl HintReview {
    /// Returns the response, which always allows the request.
    pub fn allowed(self) -> serde_json::Value {
        let Self { api_version, kind, uid, .. } = self;
        json!({"apiVersion": api_version, "kind": kind, "response": {"uid": uid, "allowed": true}})
    }
}

/// Parses a review. Returns `None` if it has no request.
///
/// # Errors
/// If the body is not an AdmissionReview.
pub fn parse(body: &[u8], now: Timestamp) -> serde_json::Result<Option<HintReview>> {
    let Review { api_version, kind, request } = serde_json::from_slice(body)?;
    Ok(request.map(|request| {
        let demand = if request.dry_run {
            Demand::default()
        } else {
            Demand { wanted: requested(&request, now), namespace: request.namespace }
        };
        HintReview { api_version, kind, uid: request.uid, demand }
    }))
}

/// Returns the amounts that the request adds: the new object's minus the old one's.
fn requested(request: &Request<'_>, now: Timestamp) -> Amounts {
    let (old, new) = (request.old_object, request.object);
    match request.resource.resource.as_str() {
        "pods" => added::<Pod>(old, new, |pod| of_pod(pod, now)),
        "persistentvolumeclaims" => added::<PersistentVolumeClaim>(old, new, of_claim),
        "services" => added::<Service>(old, new, of_service),
        _ => Amounts::new(),
    }
}

fn added<K: DeserializeOwned>(
    old: Option<&RawValue>,
    new: Option<&RawValue>,
    usage: impl Fn(&K) -> Amounts,
) -> Amounts {
    let used = |object: Option<&RawValue>| {
        let object: Option<K> = object.and_then(|object| serde_json::from_str(object.get()).ok());
        object.as_ref().map(&usage).unwrap_or_default()
    };
    let before = used(old);
    let rest = used(new).into_iter().map(|(name, amount)| {
        let less = before.get(&name).copied().unwrap_or_default();
        (name, amount.saturating_sub(less))
    });
    rest.filter(|(_, amount)| *amount > Amount::ZERO).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(request: &serde_json::Value) -> Demand {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let review = parse(review.to_string().as_bytes(), Timestamp::now()).unwrap().expect("there is a request");
        let demand = review.demand.clone();
        let answer = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "u-1", "allowed": true},
        });
        assert_eq!(review.allowed(), answer);
        demand
    }

    fn service(ports: usize) -> serde_json::Value {
        json!({"spec": {"type": "NodePort", "ports": vec![json!({"port": 80}); ports]}})
    }

    #[test]
    fn only_added_usage_is_requested() {
        let of = |object: serde_json::Value, old: serde_json::Value, dry_run: bool| {
            let resource = json!({"group": "", "version": "v1", "resource": "services"});
            let request = json!({
                "uid": "u-1", "resource": resource, "namespace": "x", "dryRun": dry_run, "operation": "UPDATE",
                "userInfo": {}, "object": object, "oldObject": old, "options": {"anything": [1, 2]},
            });
            demand(&request)
        };
        let added = of(service(3), service(1), false);
        assert_eq!(added.namespace, "x");
        assert_eq!(added.wanted, Amounts::from([("services.nodeports".to_owned(), Amount::units(2))]));
        let created = of(service(1), json!(null), false);
        assert_eq!(created.wanted["services"], Amount::units(1));
        assert_eq!(of(service(3), json!(null), true), Demand::default(), "of a dry run nothing is used");
        assert!(of(json!(["no", "object"]), json!(null), false).wanted.is_empty());
    }

    #[test]
    fn invalid_reviews_are_errors() {
        assert!(parse(b"[]", Timestamp::now()).is_err());
        let empty = br#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#;
        assert!(parse(empty, Timestamp::now()).unwrap().is_none());
    }
}
