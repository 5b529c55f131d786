//! Starts the watches, one task each, that feed the directory and other stores.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use futures::{Stream, TryStreamExt};
use k8s_openapi::api::core::v1::{LimitRange, Namespace, ResourceQuota, Secret};
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{self, Config, Event};
use kube::{Api, Client, Resource, ResourceExt};
use roster_api::role_binding::{RoleKind, RoleRef};
use roster_api::{Group, GroupSpec, TOMBSTONE_SECRET_TYPE, USER_ANNOTATION};
use roster_core::directory::bindings::NamespaceState;
use roster_core::directory::native::{Native, NativeKey, key};
use roster_core::directory::tombstones::Tombstone;
use roster_core::directory::{Directory, RoleKey};
use roster_core::quota::allotment::{Allotment, DEFAULTS_ANNOTATION, NAME};
use roster_core::quota::defaults::given_by;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::warn;

use super::catalogue::Feeder;
use super::dirty::DirtyKeys;
use super::follow::{Relist, WatchFailure, WatchStep, follow, readable};
use super::list_watch::{ListWatchError, list_watch, list_watch_parsed};
use super::state::{Informers, WorkQueues};

/// Called with each event.
type Observer<K> = Box<dyn FnMut(&Event<K>) + Send>;

/// A store that a watch feeds.
pub(super) struct PrunedStore<K: Resource<DynamicType = ()> + Clone + 'static> {
    writer: Writer<K>,
    prune: fn(&mut K),
    observer: Observer<K>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> PrunedStore<K> {
    /// Creates a store of objects that `prune` has stripped of unused fields.
    pub(super) fn new(writer: Writer<K>, prune: fn(&mut K)) -> Self {
        Self { writer, prune, observer: Box::new(|_| {}) }
    }

    /// Passes each event to `observer`, after the store has changed.
    pub(super) fn observed_by(self, observer: impl FnMut(&Event<K>) + Send + 'static) -> Self {
        Self { observer: Box::new(observer), ..self }
    }

    fn handle(&mut self, event: Event<K>) {
        let event = event.modify(self.prune);
        self.writer.apply_watcher_event(&event);
        (self.observer)(&event);
    }
}

/// State of an object as a watch has seen it.
enum ObjectState<'a, K> {
    /// The object exists.
    Present(&'a K),
    /// The object was deleted; holds its last state.
    Deleted(&'a K),
    /// A relist does not contain it.
    Unlisted,
}

impl<'a, K> ObjectState<'a, K> {
    const fn present(&self) -> Option<&'a K> {
        if let Self::Present(object) = self { Some(object) } else { None }
    }
}

/// Starts watches.
pub(super) struct Feed<'a> {
    /// State to feed.
    pub informers: &'a Arc<Informers>,
    /// Client for kube-apiserver.
    pub client: &'a Client,
    /// Tasks of the watches.
    pub watches: &'a mut JoinSet<Result<()>>,
    /// One receiver per watch, signalled when its initial list is complete.
    pub synced: Vec<oneshot::Receiver<()>>,
}

impl Feed<'_> {
    fn watch<K>(&self) -> impl Stream<Item = Result<WatchStep<K>, ListWatchError>> + Send + use<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        list_watch_parsed(Api::<K>::all(self.client.clone()))
    }

    /// Watches `K` and calls `change` with the state of each object, including removals found by a relist.
    fn start<K, Q, E>(
        &mut self,
        (resource, watch): (&'static str, impl Stream<Item = Result<WatchStep<K>, E>> + Send + 'static),
        key: impl Fn(&ObjectMeta) -> Q + Send + 'static,
        mut change: impl FnMut(&Informers, &Q, ObjectState<'_, K>) + Send + 'static,
        mut before: impl FnMut(&WatchStep<K>) + Send + 'static,
        relisted: impl Fn(&Informers) + Send + 'static,
        known: impl Fn(&Directory) -> Vec<Q> + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
        Q: Clone + Eq + Hash + Send + 'static,
        E: WatchFailure + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.synced.push(receiver);
        let informers = Arc::clone(self.informers);
        let mut relist = Relist::default();
        let apply = move |step: WatchStep<K>| {
            before(&step);
            let WatchStep::Event(event) = step else { return };
            match &event {
                Event::Init => relist.begin(),
                Event::InitApply(object) | Event::Apply(object) => {
                    let key = key(object.meta());
                    relist.name(&key);
                    change(&informers, &key, ObjectState::Present(object));
                }
                Event::Delete(object) => change(&informers, &key(object.meta()), ObjectState::Deleted(object)),
                Event::InitDone => {
                    let known = known(&informers.directory());
                    for gone in relist.finish(known.iter()) {
                        change(&informers, &gone, ObjectState::Unlisted);
                    }
                    relisted(&informers);
                }
            }
        };
        let failures = Arc::clone(&self.informers.failures);
        self.watches.spawn(follow(resource, watch, apply, sender, failures));
    }

    /// Watches a kind that Roster defines. An object that does not parse, for example after a downgrade, is reported
    /// and keeps its last known state.
    pub(super) fn guarded<K>(
        &mut self,
        resource: &'static str,
        change: impl Fn(&Informers, &str, Option<&K>) + Send + 'static,
        mut kept: PrunedStore<K>,
        mut feeder: Option<Feeder<K>>,
        queues: impl Fn(&WorkQueues) -> &DirtyKeys<String> + Send + 'static,
        known: impl Fn(&Directory) -> Vec<String> + Clone + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + Default + DeserializeOwned + Send + Sync + 'static,
    {
        let all_names = known.clone();
        self.start(
            (resource, list_watch(Api::<K>::all(self.client.clone()))),
            |metadata| metadata.name.clone().unwrap_or_default(),
            move |informers, name: &String, object| match object.present().map(|guard| &guard.0) {
                None => change(informers, name, None),
                Some(Ok(object)) => change(informers, name, Some(object)),
                Some(Err(invalid)) => {
                    informers.metrics.unreadable.inc();
                    warn!(resource, name, error = invalid.error, "skipping an object that does not parse");
                }
            },
            // Runs before the directory changes: controllers that process the objects queued by that change must find
            // the current state here.
            move |step| {
                if let Some(feeder) = &mut feeder {
                    feeder.handle(step);
                }
                if let WatchStep::Event(event) = step
                    && let Some(event) = readable(event.clone())
                {
                    kept.handle(event);
                }
            },
            // A store replaces its content only when a relist is complete, so keys queued earlier may not have found
            // their objects yet.
            move |informers| {
                if informers.is_leading.load(Ordering::Acquire) {
                    queues(&informers.queues).mark(all_names(&informers.directory()));
                }
            },
            known,
        );
    }

    /// Watches a kind of native binding.
    pub(super) fn native<K>(&mut self, read: fn(&K) -> Native, resource: &'static str, of_cluster: bool)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        self.start(
            (resource, self.watch::<K>()),
            key,
            move |informers, key: &NativeKey, object| {
                informers.change(|directory, _| match object {
                    ObjectState::Present(object) => directory.set_native(read(object)),
                    ObjectState::Deleted(object) => directory.remove_native(key, object.meta().uid.as_deref()),
                    ObjectState::Unlisted => directory.remove_native(key, None),
                });
            },
            |_| {},
            |_| {},
            move |directory| {
                directory.natives.keys().filter(|key| key.namespace.is_none() == of_cluster).cloned().collect()
            },
        );
    }

    /// Watches a kind of native role.
    pub(super) fn roles<K>(&mut self, kind: RoleKind, rules: fn(&K) -> Option<&Vec<PolicyRule>>, resource: &'static str)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let key = move |metadata: &ObjectMeta| RoleKey {
            role: RoleRef { kind, name: metadata.name.clone().unwrap_or_default() },
            namespace: metadata.namespace.clone(),
        };
        self.start(
            (resource, self.watch::<K>()),
            key,
            move |informers, key: &RoleKey, object| {
                let rules = object.present().map(|role| rules(role).map(Vec::as_slice).unwrap_or_default().into());
                informers.change(|directory, _| directory.set_role(key.clone(), rules));
            },
            |_| {},
            |_| {},
            move |directory| directory.roles().filter(|key| key.role.kind == kind).cloned().collect(),
        );
    }

    /// Watches namespaces.
    pub(super) fn namespaces(&mut self) {
        self.start(
            ("namespaces", self.watch::<PartialObjectMeta<Namespace>>()),
            |metadata| metadata.name.clone().unwrap_or_default(),
            |informers, name: &String, namespace| {
                let state = namespace.present().map(|namespace| NamespaceState::of(namespace.meta()));
                informers.change(|directory, _| directory.set_namespace(name, state));
            },
            |_| {},
            |_| {},
            |directory| directory.bindings.namespaces().cloned().collect(),
        );
    }

    /// Watches the ResourceQuotas that Roster manages.
    pub(super) fn allotments(&mut self) {
        // Selected by name: others may use the label on their own quotas.
        let own = Config::default().fields(&format!("metadata.name={NAME}"));
        let quotas = watcher::watcher(Api::<ResourceQuota>::all(self.client.clone()), own).map_ok(WatchStep::Event);
        self.start(
            ("resourcequotas", quotas),
            |metadata| metadata.namespace.clone().unwrap_or_default(),
            |informers, namespace: &String, quota| {
                let allotment = quota.present().map(Allotment::of);
                informers.change(|directory, _| directory.set_allotment(namespace, allotment));
            },
            |_| {},
            |_| {},
            |directory| directory.quotas.allotted().cloned().collect(),
        );
    }

    /// Watches tombstones of deleted Users in Roster's own namespace. Until its initial list is complete, the guard
    /// knows only deletions since startup. Later deletions are seen in the watch of Users, so a failure of this watch
    /// does not weaken the guard.
    pub(super) fn tombstones(&mut self, namespace: &str) {
        let own = Config::default().fields(&format!("type={TOMBSTONE_SECRET_TYPE}"));
        let secrets = watcher::watcher(Api::<Secret>::namespaced(self.client.clone(), namespace), own);
        self.start(
            ("tombstones", secrets.map_ok(WatchStep::Event)),
            |metadata| {
                let annotations = metadata.annotations.as_ref();
                annotations.and_then(|annotations| annotations.get(USER_ANNOTATION)).cloned().unwrap_or_default()
            },
            |informers, user: &String, secret| match secret {
                ObjectState::Present(secret) => {
                    let Some(tombstone) = Tombstone::read(secret) else {
                        warn!(user, secret = secret.name_any(), "skipping a tombstone that does not parse");
                        return;
                    };
                    let uid = secret.uid().unwrap_or_default();
                    informers.change(|directory, now| directory.set_tombstone(tombstone, uid, now));
                }
                ObjectState::Deleted(secret) => {
                    informers.change(|directory, _| directory.remove_tombstone(user, secret.meta().uid.as_deref()));
                }
                ObjectState::Unlisted => informers.change(|directory, _| directory.remove_tombstone(user, None)),
            },
            |_| {},
            |_| {},
            |directory| directory.tombstones.stored().map(str::to_owned).collect(),
        );
    }

    /// Watches the LimitRanges that define container defaults, Roster's own and others.
    pub(super) fn limit_ranges(&mut self) {
        self.start(
            ("limitranges", self.watch::<LimitRange>()),
            |metadata| (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default()),
            |informers, (namespace, name): &(String, String), range| {
                let given = |range: &LimitRange| given_by(range).into_iter().collect::<Vec<_>>().join(",");
                let annotated = |range: &LimitRange| range.annotations().get(DEFAULTS_ANNOTATION).cloned();
                let defaults = range.present().map(|range| {
                    // The annotation counts only on Roster's own LimitRange.
                    Some(range).filter(|_| name == NAME).and_then(annotated).unwrap_or_else(|| given(range))
                });
                let defaults = defaults.filter(|defaults| !defaults.is_empty());
                informers.change(|directory, _| directory.set_limit_range(namespace, name, defaults));
            },
            |_| {},
            |_| {},
            |directory| directory.quotas.limit_ranges().collect(),
        );
    }
}

/// Drops unused metadata, which is most of an object's size.
pub(super) fn prune<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    object.meta_mut().annotations = None;
    object.meta_mut().owner_references = None;
}

/// Drops the spec of a Group: the directory knows its members.
pub(super) fn prune_group(group: &mut Group) {
    prune(group);
    group.spec = GroupSpec::default();
}
