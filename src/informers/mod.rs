//! The watches that feed the directory, on every replica, and what they set in motion on the leader.
//!
//! ```text
//!  watch ──▶ Directory ──▶ Concerned ──▶ dirty.{users,groups,bindings,orphaned} ──▶ controllers
//!  clock ──▶     ▲
//!                └── guard, controllers, queries
//! ```

pub mod dirty;
pub mod failures;
pub mod follow;
pub mod snapshot;

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Store, store};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::role_binding::{RoleKind, RoleRef};
use crate::api::{Group, GroupSpec, RoleBinding};
use crate::directory::bindings::NamespaceState;
use crate::directory::native::{Key, Native, key};
use crate::directory::{Concerned, Directory, RoleKey};
use crate::metrics::Metrics;
use crate::operations::health::Health;
use dirty::Dirty;
use failures::Failures;
use follow::{Relist, follow, readable};

/// Longest sleep before the clock is looked at again: a timer stands still while a machine is suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Resources whose watches tell who holds what.
const GUARDED_BY: &[&str] = &[USERS, GROUPS, BINDINGS, "clusterrolebindings", "rolebindings", "namespaces"];
const USERS: &str = "users";
const GROUPS: &str = "groups";
const BINDINGS: &str = "rolebindings.roster.dev";

/// What waits for the leader's controllers, by `metadata.name`, or by UID where it is orphaned.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Users.
    pub users: Arc<Dirty<String>>,
    /// Groups.
    pub groups: Arc<Dirty<String>>,
    /// RoleBindings of Roster.
    pub bindings: Arc<Dirty<String>>,
    /// Owners of native bindings that are not there.
    pub orphaned: Arc<Dirty<String>>,
}

/// The directory and the watches behind it.
pub struct Informers {
    directory: RwLock<Directory>,
    /// What waits for the leader's controllers.
    pub waiting: Waiting,
    /// Groups, without their spec.
    pub groups: Store<Group>,
    /// RoleBindings of Roster.
    pub role_bindings: Store<RoleBinding>,
    writers: Mutex<Option<(Writer<Group>, Writer<RoleBinding>)>>,
    edge_moved: Notify,
    synced: watch::Sender<bool>,
    /// Whether somebody looks at what is marked.
    is_leading: AtomicBool,
    failures: Arc<Failures>,
    metrics: Arc<Metrics>,
}

impl Informers {
    /// Informers that know nothing yet.
    pub fn new(expand_groups: bool, metrics: Arc<Metrics>) -> Self {
        let (groups, group_writer) = store();
        let (role_bindings, binding_writer) = store();
        Self {
            directory: RwLock::new(Directory::new(expand_groups)),
            waiting: Waiting::default(),
            groups,
            role_bindings,
            writers: Mutex::new(Some((group_writer, binding_writer))),
            edge_moved: Notify::new(),
            synced: watch::Sender::new(false),
            is_leading: AtomicBool::new(false),
            failures: Arc::new(Failures::new(metrics.watch_errors.clone())),
            metrics,
        }
    }

    /// The directory. Held for look-ups alone, never across an await.
    pub fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every first list is complete.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Whether a watch that the guard goes by fails at this moment: what the directory says may be out of date.
    pub fn is_failing(&self) -> bool {
        self.failures.any_of(GUARDED_BY)
    }

    /// Waits until every first list is complete.
    pub async fn synced(&self) {
        // The sender lives in self: it can't be gone.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Changes the directory and sets in motion whom that concerns.
    pub fn change(&self, change: impl FnOnce(&mut Directory, Timestamp) -> Concerned) {
        let concerned = {
            let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
            let edge = directory.next_edge();
            let concerned = change(&mut directory, Timestamp::now());
            if directory.next_edge() != edge {
                self.edge_moved.notify_one();
            }
            concerned
        };
        if !self.is_leading.load(Ordering::Acquire) {
            return;
        }
        self.waiting.users.mark(concerned.users);
        self.waiting.groups.mark(concerned.groups);
        self.waiting.bindings.mark(concerned.bindings);
        self.waiting.orphaned.mark(concerned.orphaned);
    }

    /// Begins to mark what changes, with everything there is: this replica leads now.
    pub fn lead(&self) {
        self.is_leading.store(true, Ordering::Release);
        let directory = self.directory();
        self.waiting.users.mark(directory.users().cloned());
        self.waiting.groups.mark(directory.groups().cloned());
        self.waiting.bindings.mark(directory.bindings.names().cloned());
        let orphaned = directory.natives.owners().filter(|uid| !directory.is_owner_known(uid)).cloned();
        self.waiting.orphaned.mark(orphaned);
    }

    /// Runs the watches and the clock until `shutdown`.
    ///
    /// # Errors
    /// If a watch ends or a task panics.
    pub async fn run(self: Arc<Self>, client: Client, health: Arc<Health>, shutdown: CancellationToken) -> Result<()> {
        let mut watches = JoinSet::new();
        let synced = self.start_watches(&client, &mut watches);
        let clock = Arc::clone(&self);
        watches.spawn(async move { clock.keep_time().await });
        let all = try_join_all(synced);
        tokio::pin!(all);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(ended) = watches.join_next() => return ended?.context("a watch of the directory"),
                outcome = &mut all, if !self.is_synced() => {
                    outcome?;
                    info!("users, groups, bindings, namespaces and native RBAC are known");
                    self.synced.send_replace(true);
                    health.set_informed();
                }
            }
        }
    }

    /// Lets time pass in the directory, to the second.
    async fn keep_time(&self) -> Result<()> {
        loop {
            let next = self.directory().next_edge();
            let left = next.and_then(|edge| Duration::try_from(edge.duration_since(Timestamp::now())).ok());
            let sleep = match (next, left) {
                (None, _) => LONGEST_SLEEP,
                (Some(_), left) => left.unwrap_or_default().min(LONGEST_SLEEP),
            };
            tokio::select! {
                () = tokio::time::sleep(sleep) => self.change(Directory::advance),
                () = self.edge_moved.notified() => {}
            }
        }
    }

    fn start_watches(
        self: &Arc<Self>,
        client: &Client,
        watches: &mut JoinSet<Result<()>>,
    ) -> Vec<oneshot::Receiver<()>> {
        let mut feed = Feed { informers: self, client, watches, synced: Vec::new() };
        let (groups, bindings) =
            self.writers.lock().unwrap_or_else(PoisonError::into_inner).take().expect("informers are run once");
        feed.guarded(
            USERS,
            |informers, name, user| {
                informers.change(|directory, now| match user {
                    Some(user) => directory.set_user(user, now),
                    None => directory.remove_user(name),
                });
            },
            None,
            |waiting| &waiting.users,
            |directory| directory.users().cloned().collect(),
        );
        feed.guarded(
            GROUPS,
            |informers, name, group| {
                informers.change(|directory, now| match group {
                    Some(group) => directory.set_group(group, now),
                    None => directory.remove_group(name, now),
                });
            },
            Some((groups, prune_group)),
            |waiting| &waiting.groups,
            |directory| directory.groups().cloned().collect(),
        );
        feed.guarded(
            BINDINGS,
            |informers, name, binding| {
                informers.change(|directory, now| match binding {
                    Some(binding) => directory.set_binding(binding, now),
                    None => directory.remove_binding(name),
                });
            },
            Some((bindings, prune)),
            |waiting| &waiting.bindings,
            |directory| directory.bindings.names().cloned().collect(),
        );
        feed.native(Native::of_cluster, "clusterrolebindings", true);
        feed.native(Native::of_namespace, "rolebindings", false);
        feed.roles::<ClusterRole>(RoleKind::ClusterRole, "clusterroles");
        feed.roles::<Role>(RoleKind::Role, "roles");
        feed.namespaces();
        feed.synced
    }
}

/// A store that a watch feeds, and what is dropped from each object first.
type Kept<K> = (Writer<K>, fn(&mut K));

/// What a watch has seen of an object.
enum Seen<'a, K> {
    /// It is there.
    Present(&'a K),
    /// It was deleted, and was last this.
    Deleted(&'a K),
    /// A new list does not name it.
    Unlisted,
}

impl<'a, K> Seen<'a, K> {
    const fn present(&self) -> Option<&'a K> {
        if let Self::Present(object) = self { Some(object) } else { None }
    }
}

/// Starts one watch after the other.
struct Feed<'a> {
    informers: &'a Arc<Informers>,
    client: &'a Client,
    watches: &'a mut JoinSet<Result<()>>,
    synced: Vec<oneshot::Receiver<()>>,
}

impl Feed<'_> {
    /// Watches `K`, and passes on what is seen of each object, the removals that a relist implies included.
    fn start<K, Q>(
        &mut self,
        resource: &'static str,
        key: impl Fn(&ObjectMeta) -> Q + Send + 'static,
        mut change: impl FnMut(&Informers, &Q, Seen<'_, K>) + Send + 'static,
        mut before: impl FnMut(&Event<K>) + Send + 'static,
        relisted: impl Fn(&Informers) + Send + 'static,
        known: impl Fn(&Directory) -> Vec<Q> + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
        Q: Clone + Eq + Hash + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.synced.push(receiver);
        let informers = Arc::clone(self.informers);
        let mut relist = Relist::default();
        let apply = move |event: Event<K>| {
            before(&event);
            match &event {
                Event::Init => relist.begin(),
                Event::InitApply(object) | Event::Apply(object) => {
                    let key = key(object.meta());
                    relist.name(&key);
                    change(&informers, &key, Seen::Present(object));
                }
                Event::Delete(object) => change(&informers, &key(object.meta()), Seen::Deleted(object)),
                Event::InitDone => {
                    let known = known(&informers.directory());
                    for gone in relist.finish(known.iter()) {
                        change(&informers, &gone, Seen::Unlisted);
                    }
                    relisted(&informers);
                }
            }
        };
        let watch = watcher(Api::<K>::all(self.client.clone()), Config::default());
        let failures = Arc::clone(&self.informers.failures);
        self.watches.spawn(follow(resource, watch, apply, sender, failures));
    }

    /// Watches a kind of Roster. An object that does not parse, as after a downgrade, is reported and stays what it
    /// was last known as.
    fn guarded<K>(
        &mut self,
        resource: &'static str,
        change: impl Fn(&Informers, &str, Option<&K>) + Send + 'static,
        mut kept: Option<Kept<K>>,
        waiting: impl Fn(&Waiting) -> &Dirty<String> + Send + 'static,
        known: impl Fn(&Directory) -> Vec<String> + Clone + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + Default + DeserializeOwned + Send + Sync + 'static,
    {
        let everyone = known.clone();
        self.start::<DeserializeGuard<K>, String>(
            resource,
            |metadata| metadata.name.clone().unwrap_or_default(),
            move |informers, name, object| match object.present().map(|guard| &guard.0) {
                None => change(informers, name, None),
                Some(Ok(object)) => change(informers, name, Some(object)),
                Some(Err(invalid)) => {
                    informers.metrics.unreadable.inc();
                    warn!(resource, name, error = invalid.error, "an object does not parse and is left as it is");
                }
            },
            // Before the directory: whoever that sets in motion finds the object as it is now.
            move |event| {
                if let Some((writer, prune)) = &mut kept
                    && let Some(event) = readable(event.clone())
                {
                    writer.apply_watcher_event(&event.modify(*prune));
                }
            },
            // A store takes over what a relist names when the list is complete: who was marked before was not there yet.
            move |informers| {
                if informers.is_leading.load(Ordering::Acquire) {
                    waiting(&informers.waiting).mark(everyone(&informers.directory()));
                }
            },
            known,
        );
    }

    fn native<K>(&mut self, read: fn(&K) -> Native, resource: &'static str, of_cluster: bool)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        self.start::<K, Key>(
            resource,
            key,
            move |informers, key, object| {
                informers.change(|directory, _| match object {
                    Seen::Present(object) => directory.set_native(read(object)),
                    Seen::Deleted(object) => directory.remove_native(key, object.meta().uid.as_deref()),
                    Seen::Unlisted => directory.remove_native(key, None),
                });
            },
            |_| {},
            |_| {},
            move |directory| {
                directory.natives.keys().filter(|key| key.namespace.is_none() == of_cluster).cloned().collect()
            },
        );
    }

    fn roles<K>(&mut self, kind: RoleKind, resource: &'static str)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let key = move |metadata: &ObjectMeta| RoleKey {
            role: RoleRef { kind, name: metadata.name.clone().unwrap_or_default() },
            namespace: metadata.namespace.clone(),
        };
        self.start::<PartialObjectMeta<K>, RoleKey>(
            resource,
            key,
            |informers, key, object| {
                let exists = object.present().is_some();
                informers.change(|directory, _| directory.set_role(key.clone(), exists));
            },
            |_| {},
            |_| {},
            move |directory| directory.roles().filter(|key| key.role.kind == kind).cloned().collect(),
        );
    }

    fn namespaces(&mut self) {
        self.start::<PartialObjectMeta<Namespace>, String>(
            "namespaces",
            |metadata| metadata.name.clone().unwrap_or_default(),
            |informers, name, namespace| {
                let state = namespace.present().map(|namespace| NamespaceState {
                    labels: namespace.labels().clone(),
                    is_terminating: namespace.meta().deletion_timestamp.is_some(),
                });
                informers.change(|directory, _| directory.set_namespace(name, state));
            },
            |_| {},
            |_| {},
            |directory| directory.bindings.namespaces().cloned().collect(),
        );
    }
}

/// Drops what nobody reads: it is most of an object's size.
fn prune<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    object.meta_mut().annotations = None;
}

/// The directory knows who is in a group.
fn prune_group(group: &mut Group) {
    prune(group);
    group.spec = GroupSpec::default();
}
