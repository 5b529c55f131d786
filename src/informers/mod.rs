//! The watches that feed the directory, on every replica, and what they set in motion on the leader.
//!
//! ```text
//!  watch ──▶ Catalogue (users, groups) ──▶ lists and watches of the aggregated API
//!    └─────▶ Directory ──▶ Concerned ──▶ dirty.{users,groups,bindings,orphaned,…} ──▶ controllers
//!  clock ──▶     ▲
//!                └── guard, controllers, queries
//! ```

pub mod catalogue;
pub mod dirty;
pub mod failures;
mod feed;
pub mod follow;
mod list_watch;
pub mod snapshot;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::Client;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Store, store};
use moka::sync::Cache;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::api::role_binding::RoleKind;
use crate::api::{Group, RoleBinding};
use crate::directory::native::Native;
use crate::directory::{Concerned, Directory, entries};
use crate::metrics::Metrics;
use crate::operations::health::Health;
use catalogue::{Catalogue, Feeder};
use dirty::Dirty;
use failures::Failures;
use feed::{Feed, prune, prune_group};

/// How long it is remembered who is gone: longer than an API server believes an authenticator, which is two minutes.
const DEPARTED: Duration = Duration::from_secs(300);

/// Most of them that are remembered, each with a UID and a username.
const MOST_DEPARTED: u64 = 200_000;

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
    /// Owners of namespaces, whose limits or use may have changed.
    pub owners: Arc<Dirty<String>>,
    /// Names of deleted Users whose tombstone may have to be stored or removed.
    pub tombstones: Arc<Dirty<String>>,
}

/// The directory and the watches behind it.
pub struct Informers {
    directory: RwLock<Directory>,
    /// Users, as queries see them.
    pub user_catalogue: Arc<Catalogue>,
    /// Groups, as queries see them.
    pub group_catalogue: Arc<Catalogue>,
    /// What waits for the leader's controllers.
    pub waiting: Waiting,
    /// Groups, without their spec.
    pub groups: Store<Group>,
    /// RoleBindings of Roster.
    pub role_bindings: Store<RoleBinding>,
    writers: Mutex<Option<(Writer<Group>, Writer<RoleBinding>)>>,
    /// UIDs and usernames of Users that are gone since lately: what was issued to them may still be shown around.
    departed: Cache<String, ()>,
    edge_moved: Notify,
    /// Something has changed: perhaps the room that somebody waits for is there.
    pub allotments_moved: Notify,
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
            user_catalogue: Arc::new(Catalogue::new(entries::user::FIELDS)),
            group_catalogue: Arc::new(Catalogue::new(entries::group::FIELDS)),
            waiting: Waiting::default(),
            groups,
            role_bindings,
            writers: Mutex::new(Some((group_writer, binding_writer))),
            departed: Cache::builder().max_capacity(MOST_DEPARTED).time_to_live(DEPARTED).build(),
            edge_moved: Notify::new(),
            allotments_moved: Notify::new(),
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

    /// Whether an identity is that of a User who is not active now, or who is no more. The UID is empty where the
    /// authenticator knows none; then whoever has taken over the name counts.
    pub fn is_inactive(&self, username: &str, uid: &str) -> bool {
        let (directory, now) = (self.directory(), Timestamp::now());
        let holder = directory.holder_of(username).and_then(|name| directory.person(name));
        match holder {
            Some(holder) if !holder.is_active(now) => true,
            Some(_) => self.departed.contains_key(uid),
            None => self.departed.contains_key(uid) || self.departed.contains_key(username),
        }
    }

    fn note_departure(&self, name: &str) {
        let gone = self.directory().person(name).map(|person| (person.uid.clone(), person.username.clone()));
        if let Some((uid, username)) = gone {
            self.departed.insert(uid, ());
            self.departed.insert(username, ());
        }
    }

    /// Whether every first list is complete.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Whether a watch that the guard goes by fails at this moment: what the directory says may be out of date.
    pub fn is_failing(&self) -> bool {
        self.failures.any_of(GUARDED_BY)
    }

    /// Whether the watch of the Users fails at this moment: who was disabled may not be known.
    pub fn is_blind_to_users(&self) -> bool {
        self.failures.any_of(&[USERS])
    }

    /// Has the watch of the Users fail.
    #[cfg(test)]
    pub fn lose_sight_of_users(&self) {
        self.failures.begin_or_go_on(USERS, true);
    }

    /// Waits until every first list is complete.
    pub async fn synced(&self) {
        // The sender lives in self: it can't be gone.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Changes the directory and sets in motion whom that concerns.
    pub fn change(&self, change: impl FnOnce(&mut Directory, Timestamp) -> Concerned) {
        let (concerned, owners) = {
            let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
            let edge = directory.next_edge();
            let concerned = change(&mut directory, Timestamp::now());
            if directory.next_edge() != edge {
                self.edge_moved.notify_one();
            }
            let owners = directory.owners_among(&concerned);
            (concerned, owners)
        };
        if !concerned.owners.is_empty() {
            self.allotments_moved.notify_waiters();
        }
        if !self.is_leading.load(Ordering::Acquire) {
            return;
        }
        self.waiting.users.mark(concerned.users);
        self.waiting.groups.mark(concerned.groups);
        self.waiting.bindings.mark(concerned.bindings);
        self.waiting.orphaned.mark(concerned.orphaned);
        self.waiting.owners.mark(owners);
        self.waiting.tombstones.mark(concerned.tombstones);
    }

    /// Begins to mark what changes, with everything there is: this replica leads now.
    pub fn lead(&self) {
        self.is_leading.store(true, Ordering::Release);
        let directory = self.directory();
        self.waiting.users.mark(directory.users().map(str::to_owned));
        self.waiting.groups.mark(directory.groups().cloned());
        self.waiting.bindings.mark(directory.bindings.names().cloned());
        self.waiting.owners.mark(directory.owners());
        self.waiting.tombstones.mark(directory.tombstones.users().map(str::to_owned));
        let orphaned = directory.natives.owners().filter(|uid| !directory.is_owner_known(uid)).cloned();
        self.waiting.orphaned.mark(orphaned);
    }

    /// Runs the watches and the clock until `shutdown`. `namespace`: Roster's own.
    ///
    /// # Errors
    /// If a watch ends or a task panics.
    pub async fn run(
        self: Arc<Self>,
        (client, namespace): (Client, String),
        health: Arc<Health>,
        shutdown: CancellationToken,
    ) -> Result<()> {
        let mut watches = JoinSet::new();
        let synced = self.start_watches(&client, &namespace, &mut watches);
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
        namespace: &str,
        watches: &mut JoinSet<Result<()>>,
    ) -> Vec<oneshot::Receiver<()>> {
        let mut feed = Feed { informers: self, client, watches, synced: Vec::new() };
        let (groups, bindings) =
            self.writers.lock().unwrap_or_else(PoisonError::into_inner).take().expect("informers are run once");
        feed.guarded(
            USERS,
            |informers: &Self, name, user| {
                if user.is_none() {
                    informers.note_departure(name);
                }
                informers.change(|directory, now| match user {
                    Some(user) => directory.set_user(user, now),
                    None => directory.remove_user(name, now),
                });
            },
            None,
            Some(Feeder::new(Arc::clone(&self.user_catalogue), entries::user::record)),
            |waiting| &waiting.users,
            |directory| directory.users().map(str::to_owned).collect(),
        );
        feed.guarded(
            GROUPS,
            |informers: &Self, name, group| {
                informers.change(|directory, now| match group {
                    Some(group) => directory.set_group(group, now),
                    None => directory.remove_group(name, now),
                });
            },
            Some((groups, prune_group)),
            Some(Feeder::new(Arc::clone(&self.group_catalogue), entries::group::record)),
            |waiting| &waiting.groups,
            |directory| directory.groups().cloned().collect(),
        );
        feed.guarded(
            BINDINGS,
            |informers: &Self, name, binding| {
                informers.change(|directory, now| match binding {
                    Some(binding) => directory.set_binding(binding, now),
                    None => directory.remove_binding(name),
                });
            },
            Some((bindings, prune)),
            None,
            |waiting| &waiting.bindings,
            |directory| directory.bindings.names().cloned().collect(),
        );
        feed.native(Native::of_cluster, "clusterrolebindings", true);
        feed.native(Native::of_namespace, "rolebindings", false);
        feed.roles::<ClusterRole>(RoleKind::ClusterRole, |role| role.rules.as_ref(), "clusterroles");
        feed.roles::<Role>(RoleKind::Role, |role| role.rules.as_ref(), "roles");
        feed.namespaces();
        feed.allotments();
        feed.limit_ranges();
        feed.tombstones(namespace);
        feed.synced
    }
}
