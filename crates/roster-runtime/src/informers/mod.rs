//! Informers that feed the directory on every replica and queue work for the leader's controllers.
//!
//! ```text
//!  watch ──▶ Catalogue (users, groups) ──▶ lists and watches of the aggregated API
//!    └─────▶ Directory ──▶ Affected ──▶ WorkQueues.{users,groups,bindings,orphaned,…} ──▶ controllers
//!  clock ───────▶┘ ▲
//!                  └── read by the guard, the controllers and queries
//! ```

pub mod callers;
pub mod catalogue;
pub mod credential_changes;
pub mod dirty;
pub mod failures;
mod feed;
pub mod follow;
mod list_watch;
mod recently_deleted;
pub mod snapshot;
mod state;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::Client;
use kube::runtime::watcher::Event;
use roster_api::User;
use roster_api::role_binding::RoleKind;
use roster_core::directory::native::Native;
use roster_core::directory::{Directory, entries};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::operations::health::Health;
use catalogue::Feeder;
use feed::{Feed, PrunedStore, prune, prune_group};
use state::{BINDINGS, GROUPS, USERS, Writers};
pub use state::{Informers, WorkQueues};

/// Maximum sleep between checks of the clock: timers stand still while a machine is suspended.
const MAX_SLEEP: Duration = Duration::from_secs(60);

impl Informers {
    /// Runs the watches and the clock until `shutdown`. `namespace` is Roster's own. `on_user` is called with each
    /// event of the watch of Users, before the directory changes.
    ///
    /// # Errors
    /// If a watch ends or a task panics.
    pub async fn run(
        self: Arc<Self>,
        (client, namespace): (Client, String),
        on_user: impl FnMut(&Event<User>) + Send + 'static,
        health: Arc<Health>,
        shutdown: CancellationToken,
    ) -> Result<()> {
        let mut watches = JoinSet::new();
        let synced = self.start_watches(&client, &namespace, on_user, &mut watches);
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
                    info!("informers synced");
                    self.synced.send_replace(true);
                    health.set_synced();
                }
            }
        }
    }

    /// Advances the directory's time at each validity boundary, accurate to the second.
    async fn keep_time(&self) -> Result<()> {
        loop {
            let next = self.directory().next_transition();
            let left = next.and_then(|edge| Duration::try_from(edge.duration_since(Timestamp::now())).ok());
            let sleep = match (next, left) {
                (None, _) => MAX_SLEEP,
                (Some(_), left) => left.unwrap_or_default().min(MAX_SLEEP),
            };
            tokio::select! {
                () = tokio::time::sleep(sleep) => self.change(Directory::advance),
                () = self.next_edge_changed.notified() => {}
            }
        }
    }

    fn start_watches(
        self: &Arc<Self>,
        client: &Client,
        namespace: &str,
        on_user: impl FnMut(&Event<User>) + Send + 'static,
        watches: &mut JoinSet<Result<()>>,
    ) -> Vec<oneshot::Receiver<()>> {
        let mut feed = Feed { informers: self, client, watches, synced: Vec::new() };
        let writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Writers { users, groups, role_bindings } = writers.expect("informers are run once");
        feed.guarded(
            USERS,
            |informers: &Self, name, user| {
                // A relist may show a recreated User without the deletion of the former one.
                informers.note_deletion(name, user.and_then(|user| user.metadata.uid.as_deref()));
                informers.change(|directory, now| match user {
                    Some(user) => directory.set_user(user, now),
                    None => directory.remove_user(name, now),
                });
                // Queued in any case: the controller also reads what the directory does not hold, such as the password
                // Secret's name.
                informers.queue_users([name.to_owned()]);
            },
            PrunedStore::new(users, prune).observed_by(on_user),
            Some(Feeder::new(Arc::clone(&self.user_catalogue), entries::user::record)),
            |queues| &queues.users,
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
            PrunedStore::new(groups, prune_group),
            Some(Feeder::new(Arc::clone(&self.group_catalogue), entries::group::record)),
            |queues| &queues.groups,
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
            PrunedStore::new(role_bindings, prune),
            None,
            |queues| &queues.bindings,
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
