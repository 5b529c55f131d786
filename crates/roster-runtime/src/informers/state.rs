//! State of the informers, and the queues of objects that changes affect.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use jiff::Timestamp;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Store, store};
use roster_api::{Group, RoleBinding, User};
use roster_core::directory::{Affected, Directory, entries};
use roster_credentials::token_id::TokenIds;
use tokio::sync::{Notify, watch};

use super::catalogue::Catalogue;
use super::credential_changes::CredentialChanges;
use super::dirty::DirtyKeys;
use super::failures::WatchFailures;
use super::recently_deleted::RecentlyDeleted;
use crate::metrics::Metrics;

/// Resources whose watches the guard relies on.
const GUARD_RESOURCES: &[&str] = &[USERS, GROUPS, BINDINGS, "clusterrolebindings", "rolebindings", "namespaces"];
pub(super) const USERS: &str = "users";
pub(super) const GROUPS: &str = "groups";
pub(super) const BINDINGS: &str = "rolebindings.roster.dev";

/// Work queues of the leader's controllers, by `metadata.name`, or by UID for orphans.
#[derive(Debug, Default)]
pub struct WorkQueues {
    /// Users.
    pub users: Arc<DirtyKeys<String>>,
    /// Groups.
    pub groups: Arc<DirtyKeys<String>>,
    /// RoleBindings of Roster.
    pub bindings: Arc<DirtyKeys<String>>,
    /// UIDs of missing owners of native bindings.
    pub orphaned: Arc<DirtyKeys<String>>,
    /// Owners of namespaces whose limits or usage may have changed.
    pub owners: Arc<DirtyKeys<String>>,
    /// Names of deleted Users whose tombstone may have to be stored or removed.
    pub tombstones: Arc<DirtyKeys<String>>,
}

/// Writers of the stores.
pub(super) struct Writers {
    pub(super) users: Writer<User>,
    pub(super) groups: Writer<Group>,
    pub(super) role_bindings: Writer<RoleBinding>,
}

/// The directory and the informers that feed it.
pub struct Informers {
    pub(super) directory: RwLock<Directory>,
    /// Index of Users for queries.
    pub user_catalogue: Arc<Catalogue>,
    /// Index of Groups for queries.
    pub group_catalogue: Arc<Catalogue>,
    /// Work queues of the leader's controllers.
    pub queues: WorkQueues,
    /// Users, without metadata that no controller reads.
    pub users: Store<User>,
    /// Groups, without their spec.
    pub groups: Store<Group>,
    /// RoleBindings of Roster.
    pub role_bindings: Store<RoleBinding>,
    pub(super) writers: Mutex<Option<Writers>>,
    pub(super) recently_deleted: RecentlyDeleted,
    /// Changes of the Secrets that hold credentials.
    pub credential_changes: CredentialChanges,
    /// Recognizes the tokens that Roster has issued.
    pub(super) token_ids: TokenIds,
    pub(super) next_edge_changed: Notify,
    /// Notified when an owner's limits or usage may have changed, so that requests waiting for quota check again.
    pub allotments_changed: Notify,
    pub(super) synced: watch::Sender<bool>,
    /// Whether this replica is the leader, whose controllers process the queues.
    pub(super) is_leading: AtomicBool,
    pub(super) failures: Arc<WatchFailures>,
    pub(super) metrics: Arc<Metrics>,
}

impl Informers {
    /// Creates empty informers.
    pub fn new(expand_groups: bool, metrics: Arc<Metrics>) -> Self {
        let (users, user_writer) = store();
        let (groups, group_writer) = store();
        let (role_bindings, binding_writer) = store();
        let writers = Writers { users: user_writer, groups: group_writer, role_bindings: binding_writer };
        Self {
            directory: RwLock::new(Directory::new(expand_groups)),
            user_catalogue: Arc::new(Catalogue::new(entries::user::FIELDS)),
            group_catalogue: Arc::new(Catalogue::new(entries::group::FIELDS)),
            queues: WorkQueues::default(),
            users,
            groups,
            role_bindings,
            writers: Mutex::new(Some(writers)),
            recently_deleted: RecentlyDeleted::default(),
            credential_changes: CredentialChanges::default(),
            token_ids: TokenIds::default(),
            next_edge_changed: Notify::new(),
            allotments_changed: Notify::new(),
            synced: watch::Sender::new(false),
            is_leading: AtomicBool::new(false),
            failures: Arc::new(WatchFailures::new(metrics.watch_errors.clone())),
            metrics,
        }
    }

    /// Locks the directory for reading. Only for look-ups, never held across an await.
    pub fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every initial list is complete.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Whether a watch that the guard relies on is failing, so that the directory may be out of date.
    pub fn is_failing(&self) -> bool {
        self.failures.any_of(GUARD_RESOURCES)
    }

    /// Whether the watch of Users is failing, so that disabled Users may be unknown.
    pub fn is_user_watch_failing(&self) -> bool {
        self.failures.any_of(&[USERS])
    }

    /// Makes the watch of Users fail.
    #[cfg(test)]
    pub fn fail_user_watch(&self) {
        self.failures.record_failure(USERS, true);
    }

    /// Handles a User as its watch would.
    #[cfg(any(test, feature = "testing"))]
    pub fn set_user(&self, user: &User) {
        self.user_catalogue.update(|view| view.set(Arc::new(entries::user::record(user))));
        self.change(|directory, now| directory.set_user(user, now));
    }

    /// Waits until every initial list is complete.
    pub async fn synced(&self) {
        // The sender lives in self, so it can't be dropped.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Changes the directory and queues the affected objects.
    pub fn change(&self, change: impl FnOnce(&mut Directory, Timestamp) -> Affected) {
        let (affected, owners) = {
            let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
            let edge = directory.next_transition();
            let affected = change(&mut directory, Timestamp::now());
            if directory.next_transition() != edge {
                self.next_edge_changed.notify_one();
            }
            let owners = directory.owners_among(&affected);
            (affected, owners)
        };
        if !affected.owners.is_empty() {
            self.allotments_changed.notify_waiters();
        }
        // Followers queue these too: they store tombstones that the leader has not stored.
        self.queues.tombstones.mark(affected.tombstones);
        if !self.is_leading() {
            return;
        }
        self.queues.users.mark(affected.users);
        self.queues.groups.mark(affected.groups);
        self.queues.bindings.mark(affected.bindings);
        self.queues.orphaned.mark(affected.orphaned);
        self.queues.owners.mark(owners);
    }

    /// Queues Users for the leader's controller.
    pub fn queue_users(&self, names: impl IntoIterator<Item = String>) {
        if self.is_leading() {
            self.queues.users.mark(names);
        }
    }

    /// Whether this replica leads.
    pub fn is_leading(&self) -> bool {
        self.is_leading.load(Ordering::Acquire)
    }

    /// Starts to queue work, beginning with all objects, because this replica now leads.
    pub fn lead(&self) {
        self.is_leading.store(true, Ordering::Release);
        let directory = self.directory();
        self.queues.users.mark(directory.users().map(str::to_owned));
        self.queues.groups.mark(directory.groups().cloned());
        self.queues.bindings.mark(directory.bindings.names().cloned());
        self.queues.owners.mark(directory.owners());
        self.queues.tombstones.mark(directory.tombstones.users().map(str::to_owned));
        let orphaned = directory.natives.owners().filter(|uid| !directory.is_owner_known(uid)).cloned();
        self.queues.orphaned.mark(orphaned);
    }

    /// Stops queueing work and empties the queues, because this replica no longer leads.
    pub fn stop_leading(&self) {
        self.is_leading.store(false, Ordering::Release);
        // Followers process tombstones too.
        let WorkQueues { users, groups, bindings, orphaned, owners, tombstones: _ } = &self.queues;
        for queue in [users, groups, bindings, orphaned, owners] {
            queue.clear();
        }
    }
}
