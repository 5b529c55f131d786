//! Sum of the requests of the pods of some namespaces, at each revision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::replay::{Counted, Fact, Maxima, replay};
use super::{ROSTER, milli};
use crate::support::eventually;

/// Sums in revision order: a watch of all pods reports every state, and the limit must hold in each. Consistent lists
/// from time to time check that the watch misses none. A watch of the ResourceQuotas shows where
/// kube-controller-manager miscounted.
pub(super) struct Ledger {
    client: Client,
    state: Arc<Mutex<State>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    namespaces: BTreeSet<String>,
    /// By namespace and name.
    pods: BTreeMap<(String, String), i128>,
    sum: i128,
    max: i128,
    /// Greatest sum seen in a list.
    listed: i128,
    lists: usize,
    /// By revision: namespace and fact.
    facts: BTreeMap<u64, (String, Fact)>,
}

/// Path of `status.used` for CPU requests in `managedFields`.
const USED: &str = "/f:status/f:used/f:requests.cpu";

/// Returns what a ResourceQuota says about CPU requests.
fn fact_of(quota: &ResourceQuota) -> Fact {
    let (spec, status) = (quota.spec.clone().unwrap_or_default(), quota.status.clone().unwrap_or_default());
    let of = |amounts: Option<BTreeMap<String, Quantity>>| {
        amounts.and_then(|amounts| amounts.get("requests.cpu").map(|amount| milli(&amount.0))).unwrap_or_default()
    };
    let has_changed =
        |entry: &&ManagedFieldsEntry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(USED).is_some());
    let by = quota.managed_fields().iter().filter(has_changed);
    let by = by.filter_map(|entry| entry.manager.clone()).collect();
    Fact::Quota(Counted { given: of(spec.hard), enforced: of(status.hard), used: of(status.used), by })
}

fn revision_of(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_ref().and_then(|revision| revision.parse().ok()).expect("resourceVersions are numbers")
}

/// Returns the CPU requests of a pod, in thousandths.
fn requested(pod: &Pod) -> i128 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let requests = containers.filter_map(|container| container.resources.as_ref()?.requests.as_ref()?.get("cpu"));
    requests.map(|cpu| milli(&cpu.0)).sum()
}

fn key(pod: &Pod) -> (String, String) {
    (pod.namespace().unwrap_or_default(), pod.name_any())
}

impl State {
    fn set(&mut self, pod: &Pod, is_there: bool) {
        let key = key(pod);
        if !self.namespaces.contains(&key.0) {
            return;
        }
        let requested = requested(pod);
        let fact = Fact::Pod(key.1.clone(), is_there.then_some(requested));
        self.facts.insert(revision_of(&pod.metadata), (key.0.clone(), fact));
        let before = if is_there { self.pods.insert(key, requested) } else { self.pods.remove(&key) };
        self.sum += if is_there { requested } else { 0 } - before.unwrap_or_default();
        self.max = self.max.max(self.sum);
    }

    fn count(&mut self, quota: &ResourceQuota) {
        let namespace = quota.namespace().unwrap_or_default();
        if self.namespaces.contains(&namespace) {
            self.facts.insert(revision_of(&quota.metadata), (namespace, fact_of(quota)));
        }
    }

    fn sum_of(&self, pods: &[Pod]) -> i128 {
        pods.iter().filter(|pod| self.namespaces.contains(&key(pod).0)).map(requested).sum()
    }
}

impl Ledger {
    /// Starts to watch.
    pub(super) async fn start(client: &Client, namespaces: BTreeSet<String>) -> Self {
        let pods: Api<Pod> = Api::all(client.clone());
        let quotas: Api<ResourceQuota> = Api::all(client.clone());
        let list = pods.list(&ListParams::default()).await.unwrap();
        let counted = quotas.list(&ListParams::default()).await.unwrap();
        let mut state = State { namespaces, ..State::default() };
        list.items.iter().for_each(|pod| state.set(pod, true));
        counted.items.iter().for_each(|quota| state.count(quota));
        let state = Arc::new(Mutex::new(state));
        let (of_pods, of_quotas) = (Arc::clone(&state), Arc::clone(&state));
        let all = WatchParams::default();
        let watching =
            watch(pods.clone(), all.clone(), list.metadata.resource_version.unwrap(), move |pod, is_there| {
                of_pods.lock().unwrap().set(pod, is_there);
            });
        let counting = watch(quotas, all, counted.metadata.resource_version.unwrap(), move |quota, _| {
            of_quotas.lock().unwrap().count(quota);
        });
        let listing = list_again(pods, Arc::clone(&state));
        let tasks = vec![tokio::spawn(watching), tokio::spawn(counting), tokio::spawn(listing)];
        Self { client: client.clone(), state, tasks }
    }

    /// Call once all writers have stopped. Returns the maxima, and checks that Roster is not responsible for more than
    /// the limit.
    pub(super) async fn finish(self, limit: i128) -> Maxima {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let quotas: Api<ResourceQuota> = Api::all(self.client.clone());
        eventually("the watches have delivered every object", || async {
            let list = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let counted = quotas.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let state = self.state.lock().unwrap();
            let listed = state.sum_of(&list.items);
            let is_seen = |quota: &&ResourceQuota| {
                let is_own = state.namespaces.contains(&quota.namespace().unwrap_or_default());
                !is_own || state.facts.contains_key(&revision_of(&quota.metadata))
            };
            let seen = counted.items.iter().filter(is_seen).count();
            if listed == state.sum && seen == counted.items.len() {
                Ok(())
            } else {
                Err(format!("{} of {listed}, {seen} of {} ResourceQuotas", state.sum, counted.items.len()))
            }
        })
        .await;
        assert!(self.tasks.iter().all(|task| !task.is_finished()), "a watch or the lists ended early");
        let state = self.state.lock().unwrap();
        assert!(state.lists > 0 && state.listed <= state.max, "{} listed, {} watched", state.listed, state.max);
        let maxima = replay(state.facts.values(), limit);
        assert!(
            maxima.requested == state.max && maxima.given <= limit,
            "{maxima:?}; {}m were seen at a time",
            state.max
        );
        maxima
    }

    /// Returns the number of pods.
    pub(super) fn pods(&self) -> usize {
        self.state.lock().unwrap().pods.len()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Reports every changed object, and whether it still exists.
async fn watch<K>(api: Api<K>, params: WatchParams, mut revision: String, mut tell: impl FnMut(&K, bool))
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    loop {
        let events = api.watch(&params, &revision).await.unwrap();
        let mut events = pin!(events);
        // The API server ends a watch after some minutes. The next one resumes it.
        while let Ok(Some(event)) = events.try_next().await {
            let (object, is_there) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, true),
                WatchEvent::Deleted(object) => (object, false),
                WatchEvent::Bookmark(bookmark) => {
                    revision = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(error) => panic!("the watch has a gap: {error:?}"),
            };
            revision = object.resource_version().unwrap();
            tell(&object, is_there);
        }
    }
}

async fn list_again(pods: Api<Pod>, state: Arc<Mutex<State>>) {
    loop {
        // Without a revision, the list is consistent with etcd.
        let list = pods.list(&ListParams::default()).await.unwrap();
        {
            let mut state = state.lock().unwrap();
            let sum = state.sum_of(&list.items);
            state.listed = state.listed.max(sum);
            state.lists += 1;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Counts changes of `spec.hard` of Roster's ResourceQuotas.
pub(super) struct AllotmentChanges {
    count: Arc<Mutex<usize>>,
    task: tokio::task::JoinHandle<()>,
}

impl AllotmentChanges {
    /// Starts to count.
    pub(super) async fn count(client: &Client) -> Self {
        let quotas: Api<ResourceQuota> = Api::all(client.clone());
        let own = ListParams::default().fields(&format!("metadata.name={ROSTER}"));
        let list = quotas.list(&own).await.unwrap();
        let count = Arc::<Mutex<usize>>::default();
        let hard = |quota: &ResourceQuota| quota.spec.clone().unwrap_or_default().hard.unwrap_or_default();
        let mut known: BTreeMap<_, _> = list.items.iter().map(|quota| (quota.namespace(), hard(quota))).collect();
        let counted = Arc::clone(&count);
        let own = WatchParams::default().fields(&format!("metadata.name={ROSTER}"));
        let moves = watch(quotas, own, list.metadata.resource_version.unwrap(), move |quota, _| {
            let now = hard(quota);
            if known.insert(quota.namespace(), now.clone()).is_some_and(|before| before != now) {
                *counted.lock().unwrap() += 1;
            }
        });
        Self { count, task: tokio::spawn(moves) }
    }

    /// Returns the count.
    pub(super) fn end(&self) -> usize {
        assert!(!self.task.is_finished(), "the watch ended early");
        *self.count.lock().unwrap()
    }
}

impl Drop for AllotmentChanges {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Greatest sum of `spec.hard` for CPU requests over some namespaces.
pub(super) struct Allotted {
    most: Arc<Mutex<i128>>,
    task: tokio::task::JoinHandle<()>,
}

impl Allotted {
    /// Starts to watch.
    pub(super) async fn watch(client: &Client, namespaces: &[String]) -> Self {
        let quotas: Api<ResourceQuota> = Api::all(client.clone());
        let own = format!("metadata.name={ROSTER}");
        let list = quotas.list(&ListParams::default().fields(&own)).await.unwrap();
        let namespaces: BTreeSet<String> = namespaces.iter().cloned().collect();
        let mut given = BTreeMap::new();
        let most = Arc::<Mutex<i128>>::default();
        let greatest = Arc::clone(&most);
        let mut note = move |quota: &ResourceQuota| {
            let namespace = quota.namespace().unwrap_or_default();
            if let (true, Fact::Quota(counted)) = (namespaces.contains(&namespace), fact_of(quota)) {
                given.insert(namespace, counted.given);
                let mut greatest = greatest.lock().unwrap();
                *greatest = given.values().sum::<i128>().max(*greatest);
            }
        };
        list.items.iter().for_each(&mut note);
        let params = WatchParams::default().fields(&own);
        let watching = watch(quotas, params, list.metadata.resource_version.unwrap(), move |quota, _| note(quota));
        Self { most, task: tokio::spawn(watching) }
    }

    /// Returns the sum, in thousandths.
    pub(super) fn end(&self) -> i128 {
        assert!(!self.task.is_finished(), "the watch ended early");
        *self.most.lock().unwrap()
    }
}

impl Drop for Allotted {
    fn drop(&mut self) {
        self.task.abort();
    }
}
