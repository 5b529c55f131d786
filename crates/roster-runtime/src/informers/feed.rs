//! Starts the watches: one task each, into the directory and whatever else keeps what they tell.

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
use roster_core::directory::native::{Key, Native, key};
use roster_core::directory::tombstones::Tombstone;
use roster_core::directory::{Directory, RoleKey};
use roster_core::quota::allotment::{Allotment, DEFAULTS_ANNOTATION, NAME};
use roster_core::quota::defaults::given_by;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::warn;

use super::catalogue::Feeder;
use super::dirty::Dirty;
use super::follow::{Failed, Relist, Step, follow, readable};
use super::list_watch::{Failure, list_watch, list_watch_parsed};
use super::state::{Informers, Waiting};

/// A store that a watch feeds, and what is dropped from each object first.
pub type Kept<K> = (Writer<K>, fn(&mut K));

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
pub struct Feed<'a> {
    /// What is fed.
    pub informers: &'a Arc<Informers>,
    /// How the API server is reached.
    pub client: &'a Client,
    /// The tasks.
    pub watches: &'a mut JoinSet<Result<()>>,
    /// One for each watch: its first list is complete.
    pub synced: Vec<oneshot::Receiver<()>>,
}

impl Feed<'_> {
    fn watch<K>(&self) -> impl Stream<Item = Result<Step<K>, Failure>> + Send + use<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        list_watch_parsed(Api::<K>::all(self.client.clone()))
    }

    /// Watches `K`, and passes on what is seen of each object, the removals that a relist implies included.
    fn start<K, Q, E>(
        &mut self,
        (resource, watch): (&'static str, impl Stream<Item = Result<Step<K>, E>> + Send + 'static),
        key: impl Fn(&ObjectMeta) -> Q + Send + 'static,
        mut change: impl FnMut(&Informers, &Q, Seen<'_, K>) + Send + 'static,
        mut before: impl FnMut(&Step<K>) + Send + 'static,
        relisted: impl Fn(&Informers) + Send + 'static,
        known: impl Fn(&Directory) -> Vec<Q> + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
        Q: Clone + Eq + Hash + Send + 'static,
        E: Failed + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.synced.push(receiver);
        let informers = Arc::clone(self.informers);
        let mut relist = Relist::default();
        let apply = move |step: Step<K>| {
            before(&step);
            let Step::Event(event) = step else { return };
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
        let failures = Arc::clone(&self.informers.failures);
        self.watches.spawn(follow(resource, watch, apply, sender, failures));
    }

    /// Watches a kind of Roster. An object that does not parse, as after a downgrade, is reported and stays what it
    /// was last known as.
    pub fn guarded<K>(
        &mut self,
        resource: &'static str,
        change: impl Fn(&Informers, &str, Option<&K>) + Send + 'static,
        mut kept: Option<Kept<K>>,
        mut feeder: Option<Feeder<K>>,
        waiting: impl Fn(&Waiting) -> &Dirty<String> + Send + 'static,
        known: impl Fn(&Directory) -> Vec<String> + Clone + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + Default + DeserializeOwned + Send + Sync + 'static,
    {
        let everyone = known.clone();
        self.start(
            (resource, list_watch(Api::<K>::all(self.client.clone()))),
            |metadata| metadata.name.clone().unwrap_or_default(),
            move |informers, name: &String, object| match object.present().map(|guard| &guard.0) {
                None => change(informers, name, None),
                Some(Ok(object)) => change(informers, name, Some(object)),
                Some(Err(invalid)) => {
                    informers.metrics.unreadable.inc();
                    warn!(resource, name, error = invalid.error, "an object does not parse and is left as it is");
                }
            },
            // Before the directory: whoever that sets in motion finds the object as it is now.
            move |step| {
                if let Some(feeder) = &mut feeder {
                    feeder.take(step);
                }
                if let Some((writer, prune)) = &mut kept
                    && let Step::Event(event) = step
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

    /// Watches a kind of native binding.
    pub fn native<K>(&mut self, read: fn(&K) -> Native, resource: &'static str, of_cluster: bool)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        self.start(
            (resource, self.watch::<K>()),
            key,
            move |informers, key: &Key, object| {
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

    /// Watches a kind of native role.
    pub fn roles<K>(&mut self, kind: RoleKind, rules: fn(&K) -> Option<&Vec<PolicyRule>>, resource: &'static str)
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
    pub fn namespaces(&mut self) {
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

    /// Watches the ResourceQuotas that Roster keeps.
    pub fn allotments(&mut self) {
        // By name: others may put the label on theirs.
        let own = Config::default().fields(&format!("metadata.name={NAME}"));
        let quotas = watcher::watcher(Api::<ResourceQuota>::all(self.client.clone()), own).map_ok(Step::Event);
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

    /// Watches the tombstones of deleted Users, in Roster's own namespace. Without its first list the guard knows only the
    /// deletions since the start. Afterwards this replica sees deletions in the watch of the Users, so a failure of this
    /// watch does not weaken the guard.
    pub fn tombstones(&mut self, namespace: &str) {
        let own = Config::default().fields(&format!("type={TOMBSTONE_SECRET_TYPE}"));
        let secrets = watcher::watcher(Api::<Secret>::namespaced(self.client.clone(), namespace), own);
        self.start(
            ("tombstones", secrets.map_ok(Step::Event)),
            |metadata| {
                let annotations = metadata.annotations.as_ref();
                annotations.and_then(|annotations| annotations.get(USER_ANNOTATION)).cloned().unwrap_or_default()
            },
            |informers, user: &String, secret| match secret {
                Seen::Present(secret) => {
                    let Some(tombstone) = Tombstone::read(secret) else {
                        warn!(user, secret = secret.name_any(), "a tombstone does not parse and is ignored");
                        return;
                    };
                    let uid = secret.uid().unwrap_or_default();
                    informers.change(|directory, now| directory.set_tombstone(tombstone, uid, now));
                }
                Seen::Deleted(secret) => {
                    informers.change(|directory, _| directory.remove_tombstone(user, secret.meta().uid.as_deref()));
                }
                Seen::Unlisted => informers.change(|directory, _| directory.remove_tombstone(user, None)),
            },
            |_| {},
            |_| {},
            |directory| directory.tombstones.stored().map(str::to_owned).collect(),
        );
    }

    /// Watches the LimitRanges that say what containers get, Roster's own and those of others.
    pub fn limit_ranges(&mut self) {
        self.start(
            ("limitranges", self.watch::<LimitRange>()),
            |metadata| (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default()),
            |informers, (namespace, name): &(String, String), range| {
                let given = |range: &LimitRange| given_by(range).into_iter().collect::<Vec<_>>().join(",");
                let noted = |range: &LimitRange| range.annotations().get(DEFAULTS_ANNOTATION).cloned();
                let defaults = range.present().map(|range| {
                    // What others write on theirs says nothing.
                    Some(range).filter(|_| name == NAME).and_then(noted).unwrap_or_else(|| given(range))
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

/// Drops what nobody reads: it is most of an object's size.
pub fn prune<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    object.meta_mut().annotations = None;
    object.meta_mut().owner_references = None;
}

/// The directory knows who is in a group.
pub fn prune_group(group: &mut Group) {
    prune(group);
    group.spec = GroupSpec::default();
}
