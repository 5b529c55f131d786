//! What the informers know, and whom its changes concern.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Store, store};
use moka::sync::Cache;
use roster_api::{Group, RoleBinding};
use roster_core::directory::{Concerned, Directory, entries};
use tokio::sync::{Notify, watch};

use super::catalogue::Catalogue;
use super::dirty::Dirty;
use super::failures::Failures;
use crate::metrics::Metrics;

/// How long it is remembered who is gone: longer than an API server believes an authenticator, which is two minutes.
const DEPARTED: Duration = Duration::from_secs(300);

/// Most of them that are remembered, each with a UID and a username.
const MAX_DEPARTED: u64 = 200_000;

/// Resources whose watches tell who holds what.
const GUARDED_BY: &[&str] = &[USERS, GROUPS, BINDINGS, "clusterrolebindings", "rolebindings", "namespaces"];
pub(super) const USERS: &str = "users";
pub(super) const GROUPS: &str = "groups";
pub(super) const BINDINGS: &str = "rolebindings.roster.dev";

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
    pub(super) directory: RwLock<Directory>,
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
    pub(super) writers: Mutex<Option<(Writer<Group>, Writer<RoleBinding>)>>,
    /// UIDs and usernames of Users that are gone since lately: what was issued to them may still be shown around.
    pub(super) departed: Cache<String, ()>,
    pub(super) edge_moved: Notify,
    /// Something has changed: perhaps the room that somebody waits for is there.
    pub allotments_moved: Notify,
    pub(super) synced: watch::Sender<bool>,
    /// Whether somebody looks at what is marked.
    pub(super) is_leading: AtomicBool,
    pub(super) failures: Arc<Failures>,
    pub(super) metrics: Arc<Metrics>,
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
            departed: Cache::builder().max_capacity(MAX_DEPARTED).time_to_live(DEPARTED).build(),
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

    pub(super) fn note_departure(&self, name: &str) {
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

    /// Takes in a User as the watch would.
    #[cfg(test)]
    pub fn set_user(&self, user: &roster_api::User) {
        self.user_catalogue.update(|view| view.set(Arc::new(entries::user::record(user))));
        self.change(|directory, now| directory.set_user(user, now));
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
        // A follower stores the tombstones that the leader has not.
        self.waiting.tombstones.mark(concerned.tombstones);
        if !self.is_leading() {
            return;
        }
        self.waiting.users.mark(concerned.users);
        self.waiting.groups.mark(concerned.groups);
        self.waiting.bindings.mark(concerned.bindings);
        self.waiting.orphaned.mark(concerned.orphaned);
        self.waiting.owners.mark(owners);
    }

    /// Whether this replica leads.
    pub fn is_leading(&self) -> bool {
        self.is_leading.load(Ordering::Acquire)
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
}
