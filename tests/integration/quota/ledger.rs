//! What the pods of some namespaces request together, at each revision.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};

use super::{ROSTER, milli};
use crate::support::eventually;

/// Sums in revision order: one watch of all pods passes every state that ever was, in each of which the limit must
/// hold. A consistent list now and then shows that the watch misses none.
pub struct Ledger {
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
    most_pods: usize,
    /// The greatest sum that a list has shown.
    listed: i128,
    lists: usize,
}

/// requests.cpu of a pod, in thousandths.
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
        let before = if is_there { self.pods.insert(key, requested) } else { self.pods.remove(&key) };
        self.sum += if is_there { requested } else { 0 } - before.unwrap_or_default();
        self.max = self.max.max(self.sum);
        self.most_pods = self.most_pods.max(self.pods.len());
    }

    fn sum_of(&self, pods: &[Pod]) -> i128 {
        pods.iter().filter(|pod| self.namespaces.contains(&key(pod).0)).map(requested).sum()
    }
}

impl Ledger {
    /// Begins to watch.
    pub async fn open(client: &Client, namespaces: BTreeSet<String>) -> Self {
        let pods: Api<Pod> = Api::all(client.clone());
        let list = pods.list(&ListParams::default()).await.unwrap();
        let mut state = State { namespaces, ..State::default() };
        for pod in &list.items {
            state.set(pod, true);
        }
        let state = Arc::new(Mutex::new(state));
        let from = list.metadata.resource_version.unwrap();
        let watching = tokio::spawn(watch(pods.clone(), from, Arc::clone(&state)));
        let listing = tokio::spawn(list_again(pods, Arc::clone(&state)));
        Self { client: client.clone(), state, tasks: vec![watching, listing] }
    }

    /// Once nobody writes any more: the greatest sum of all, in thousandths, and the greatest number of pods.
    pub async fn close(self) -> (i128, usize) {
        let pods: Api<Pod> = Api::all(self.client.clone());
        eventually("the watch has seen what is there", || async {
            let list = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let state = self.state.lock().unwrap();
            let listed = state.sum_of(&list.items);
            if listed == state.sum { Ok(()) } else { Err(format!("{} of {listed}", state.sum)) }
        })
        .await;
        assert!(self.tasks.iter().all(|task| !task.is_finished()), "the watch or the lists ended early");
        let state = self.state.lock().unwrap();
        assert!(state.lists > 0 && state.listed <= state.max, "{} listed, {} watched", state.listed, state.max);
        (state.max, state.most_pods)
    }

    /// How many pods there are.
    pub fn pods(&self) -> usize {
        self.state.lock().unwrap().pods.len()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn watch(pods: Api<Pod>, mut revision: String, state: Arc<Mutex<State>>) {
    loop {
        let events = pods.watch(&WatchParams::default(), &revision).await.unwrap();
        let mut events = pin!(events);
        // The API server ends a watch after some minutes; the next one goes on where it was.
        while let Ok(Some(event)) = events.try_next().await {
            let (pod, is_there) = match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, true),
                WatchEvent::Deleted(pod) => (pod, false),
                WatchEvent::Bookmark(bookmark) => {
                    revision = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(error) => panic!("the watch has a gap: {error:?}"),
            };
            revision = pod.resource_version().unwrap();
            state.lock().unwrap().set(&pod, is_there);
        }
    }
}

async fn list_again(pods: Api<Pod>, state: Arc<Mutex<State>>) {
    loop {
        // Without a revision the answer is what etcd has at the moment.
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

/// Counts how often room is moved: changes of `spec.hard` of the ResourceQuotas that Roster keeps.
pub struct Moves {
    count: Arc<Mutex<usize>>,
    task: tokio::task::JoinHandle<()>,
}

impl Moves {
    /// Begins to count.
    pub async fn count(client: &Client) -> Self {
        let quotas: Api<ResourceQuota> = Api::all(client.clone());
        let own = ListParams::default().fields(&format!("metadata.name={ROSTER}"));
        let list = quotas.list(&own).await.unwrap();
        let count = Arc::default();
        let task =
            tokio::spawn(count_moves(quotas, list.items, list.metadata.resource_version.unwrap(), Arc::clone(&count)));
        Self { count, task }
    }

    /// How many there were.
    pub fn end(&self) -> usize {
        assert!(!self.task.is_finished(), "the watch ended early");
        *self.count.lock().unwrap()
    }
}

impl Drop for Moves {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn count_moves(
    quotas: Api<ResourceQuota>,
    first: Vec<ResourceQuota>,
    mut revision: String,
    count: Arc<Mutex<usize>>,
) {
    let hard = |quota: &ResourceQuota| quota.spec.clone().unwrap_or_default().hard.unwrap_or_default();
    let mut known: BTreeMap<_, _> = first.iter().map(|quota| (quota.namespace(), hard(quota))).collect();
    let own = WatchParams::default().fields(&format!("metadata.name={ROSTER}"));
    loop {
        let events = quotas.watch(&own, &revision).await.unwrap();
        let mut events = pin!(events);
        while let Ok(Some(event)) = events.try_next().await {
            let quota = match event {
                WatchEvent::Added(quota) | WatchEvent::Modified(quota) | WatchEvent::Deleted(quota) => quota,
                WatchEvent::Bookmark(bookmark) => {
                    revision = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(error) => panic!("the watch has a gap: {error:?}"),
            };
            revision = quota.resource_version().unwrap();
            let now = hard(&quota);
            if known.insert(quota.namespace(), now.clone()).is_some_and(|before| before != now) {
                *count.lock().unwrap() += 1;
            }
        }
    }
}
