//! Tombstones: what deleted Users declared about themselves, so that other Users cannot take over their names.
//!
//! `spec.groups`, labels (which a `memberSelector` may match), `spec.admin`, and a `spec.username` (which native
//! bindings may name) are deleted with the User, and return when an administrator or a pipeline applies the old
//! manifest again. In between, a caller that may not bind the roles behind them could create a User of that name, set a
//! password, and wait. The guard therefore counts a deleted User's declarations for [`RETENTION`] as if the User still
//! existed.
//!
//! Groups, RoleBindings and native bindings that refer to the User by `metadata.name` are not deleted with it, so they
//! need no tombstone. The emails of such a User are deleted, however, and applications identify people by email, so it
//! leaves one for these. A User with none of this leaves no tombstone.
//!
//! ```text
//!  watch of Users ──▶ note_deletion ──┐                 ┌──▶ guard
//!                                     ├──▶ Tombstones ──┤
//!  watch of Secrets ──▶ set_stored ───┘                 ├──▶ leader: stores them, and removes expired ones
//!                                                       └──▶ followers: store what the leader has not stored
//!                                                            within `FOLLOWER_DELAY`
//! ```
//!
//! Every replica records a deletion as soon as it observes it, so its guard always sees either the User or the
//! tombstone. The Secret preserves the tombstone across restarts. The leader writes it at once. A follower writes it if
//! it does not appear within [`FOLLOWER_DELAY`]: there may be no leader, or the next leader may be a replica that
//! started after the deletion. A deletion that no replica has seen leaves no tombstone. A finalizer would close that
//! gap, but would cost a write for each User that names a group, and such a User could not be deleted while no operator
//! runs.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use roster_api::{TOMBSTONE_SECRET_TYPE, USER_ANNOTATION};
use roster_credentials::claim::{fold, object_name};
use serde::{Deserialize, Serialize};

use super::labels::Labels;

/// How long the name of a deleted User is protected.
pub const RETENTION: SignedDuration = SignedDuration::from_hours(90 * 24);

/// How long a follower waits for the leader to store a tombstone.
pub const FOLLOWER_DELAY: SignedDuration = SignedDuration::from_secs(5);

/// Prefix of the Secrets' names. The policy `roster-credentials` protects Secrets with this prefix.
const PREFIX: &str = "deleted-user-";

/// Key in the Secret's data; the value is the tombstone as JSON.
const KEY: &str = "tombstone";

/// What a deleted User declared about itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// `metadata.name` of the User.
    pub user: String,
    /// `metadata.uid` of the User.
    pub uid: String,
    /// `spec.username`, or `metadata.name` without one.
    pub username: String,
    /// Other usernames under which replicas knew the User when it was deleted, because one had not seen a rename yet.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub other_usernames: BTreeSet<String>,
    /// Folded email addresses. Applications identify people by them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub emails: BTreeSet<String>,
    /// `spec.admin`.
    pub is_admin: bool,
    /// Groups that the User named or whose selector matched it, whether or not they existed and accepted it. Sorted.
    pub groups: Vec<String>,
    /// Labels of the User: a `memberSelector` that is created or restored later may match them.
    #[serde(default)]
    pub labels: StoredLabels,
    /// When the User was created, by kube-apiserver's clock. `None` in tombstones of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// When Roster observed the deletion, by the clock of the replica that stored this.
    pub deleted: Timestamp,
}

/// Maximum size of the labels that a tombstone stores: keys and values together, in bytes. The policy
/// `roster-metadata-size` allows no more on Users, except for callers that may bind every role. Users older than that
/// policy may also exceed it.
pub const MAX_LABEL_BYTES: usize = 16 * 1024;

/// Maximum number of deleted Users with the same name, username or email. Beyond it, other Users cannot take it.
pub const MAX_TOMBSTONES_PER_USERNAME: usize = 32;

/// Labels of a deleted User.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StoredLabels {
    /// All labels.
    All(Labels),
    /// The labels exceed [`MAX_LABEL_BYTES`], or replicas knew different values of a label. No labels are stored, and
    /// the guard assumes that every selector matches.
    TooLarge,
}

impl StoredLabels {
    /// Returns the labels, or `TooLarge` if they do not fit.
    pub fn of(labels: Labels) -> Self {
        let size: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size > MAX_LABEL_BYTES { Self::TooLarge } else { Self::All(labels) }
    }

    /// Merges what two replicas knew of the same User.
    fn merge(self, other: &Self) -> Self {
        let (Self::All(mut labels), Self::All(others)) = (self, other) else { return Self::TooLarge };
        for (key, value) in others {
            if labels.entry(key.clone()).or_insert_with(|| value.clone()) != value {
                return Self::TooLarge;
            }
        }
        Self::of(labels)
    }

    /// Returns whether the User had no labels.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::All(labels) if labels.is_empty())
    }
}

impl Default for StoredLabels {
    fn default() -> Self {
        Self::All(Labels::new())
    }
}

impl Tombstone {
    /// Returns when the tombstone stops protecting the name.
    pub fn expires(&self) -> Timestamp {
        self.deleted.saturating_add(RETENTION).expect("only calendar units are rejected")
    }

    /// Returns the tombstone that must replace `stored`, a tombstone of the same name. `None` if `stored` already
    /// contains everything in this one or belongs to a later User of the name.
    pub fn replacement_for(&self, stored: &Self) -> Option<Self> {
        if self.uid == stored.uid {
            return Some(stored.clone().merge(self)).filter(|merged| merged != stored);
        }
        (self.age(stored) != Ordering::Less).then(|| self.clone())
    }

    /// Compares which User of the name existed first. Replica clocks may differ, so this compares the times of
    /// kube-apiserver where possible.
    fn age(&self, other: &Self) -> Ordering {
        let by_creation = self.created.zip(other.created).map_or(Ordering::Equal, |(own, other)| own.cmp(&other));
        by_creation.then(self.deleted.cmp(&other.deleted))
    }

    /// Adds what another replica knew of the same User. Everything that either replica knew counts.
    fn merge(mut self, other: &Self) -> Self {
        self.is_admin |= other.is_admin;
        self.groups =
            self.groups.into_iter().chain(other.groups.iter().cloned()).collect::<BTreeSet<_>>().into_iter().collect();
        self.labels = self.labels.merge(&other.labels);
        let usernames = other.other_usernames.iter().chain([&other.username]);
        self.other_usernames.extend(usernames.filter(|username| **username != self.username).cloned());
        self.emails.extend(other.emails.iter().cloned());
        self.created = self.created.or(other.created);
        self
    }

    /// Returns all usernames under which replicas knew the User, as written.
    pub fn usernames(&self) -> impl Iterator<Item = &String> {
        self.other_usernames.iter().chain([&self.username])
    }

    /// Reads the Secret. `None` if it does not parse or is stored under the name of another User.
    pub fn read(secret: &Secret) -> Option<Self> {
        let text = secret.data.as_ref()?.get(KEY)?;
        let tombstone: Self = serde_json::from_slice(&text.0).ok()?;
        let is_in_own_secret = secret.annotations().get(USER_ANNOTATION) == Some(&tombstone.user)
            && secret.metadata.name.as_ref() == Some(&Self::secret_name(&tombstone.user));
        is_in_own_secret.then_some(tombstone)
    }

    /// Builds the Secret to store, one per User name. It has no owner, because it outlives the User.
    pub fn secret(&self) -> Secret {
        let json = serde_json::to_vec(self).expect("a tombstone is JSON");
        Secret {
            metadata: ObjectMeta {
                name: Some(Self::secret_name(&self.user)),
                labels: Some([("app.kubernetes.io/managed-by".to_owned(), "roster".to_owned())].into()),
                annotations: Some([(USER_ANNOTATION.to_owned(), self.user.clone())].into()),
                ..ObjectMeta::default()
            },
            type_: Some(TOMBSTONE_SECRET_TYPE.to_owned()),
            data: Some([(KEY.to_owned(), ByteString(json))].into()),
            ..Secret::default()
        }
    }

    /// Returns the name of the Secret for a User name.
    pub fn secret_name(user: &str) -> String {
        object_name(PREFIX, user)
    }
}

/// The next action for a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TombstoneStep {
    /// Do nothing.
    Nothing,
    /// Do nothing until this instant, at which the tombstone expires or becomes due.
    Wait(Timestamp),
    /// Store this tombstone, replacing the stored one.
    Store(Tombstone),
    /// Delete the Secret with this UID.
    Remove(String),
    /// Forget tombstones that have expired and were never stored.
    Forget,
}

impl TombstoneStep {
    /// Returns what a follower does when the leader would take this step.
    #[must_use]
    pub fn for_follower(self, now: Timestamp) -> Self {
        match self {
            Self::Store(tombstone) => {
                let due = tombstone.deleted.saturating_add(FOLLOWER_DELAY).expect("only calendar units are rejected");
                if due > now { Self::Wait(due) } else { Self::Store(tombstone) }
            }
            Self::Forget => Self::Forget,
            Self::Nothing | Self::Wait(_) | Self::Remove(_) => Self::Nothing,
        }
    }
}

#[derive(Debug)]
struct Entry {
    tombstone: Tombstone,
    /// UID of the Secret that stores it; `None` if it is not stored.
    secret: Option<String>,
    /// Whether this replica knows more than the stored tombstone contains.
    is_ahead: bool,
}

/// All tombstones. At most one per name is stored. A name has several only if several Users of that name were deleted
/// one after another.
#[derive(Debug, Default)]
pub struct Tombstones {
    /// Entries by name and UID of the User.
    entries: BTreeMap<(String, String), Entry>,
    /// Folded name, username or email, with the name and UID of the User. A new User may take any of them.
    known_as: BTreeSet<(String, String, String)>,
    /// UID of the User, with its name.
    uids: BTreeSet<(String, String)>,
    /// The last instant passed to [`Tombstones::advance`].
    now: Timestamp,
}

impl Tombstones {
    /// Records a User whose deletion this replica has observed itself.
    pub fn note_deletion(&mut self, tombstone: Tombstone) {
        let is_known = self.entries.contains_key(&(tombstone.user.clone(), tombstone.uid.clone()));
        if !is_known {
            self.insert(Entry { tombstone, secret: None, is_ahead: false });
        }
    }

    /// Records a stored tombstone and the UID of its Secret.
    pub fn set_stored(&mut self, stored: Tombstone, secret: String) {
        let known = self.entries.get(&(stored.user.clone(), stored.uid.clone()));
        let merged = known.and_then(|known| known.tombstone.replacement_for(&stored));
        self.remove_where(&stored.user, |entry| entry.secret.is_some() || entry.tombstone.uid == stored.uid);
        let is_ahead = merged.is_some();
        self.insert(Entry { tombstone: merged.unwrap_or(stored), secret: Some(secret), is_ahead });
    }

    /// Records that the Secret is gone, matched by UID if it is known.
    pub fn remove_stored(&mut self, user: &str, secret: Option<&str>) {
        self.remove_where(user, |entry| {
            entry.secret.as_deref().is_some_and(|stored| secret.is_none_or(|secret| stored == secret))
        });
    }

    /// Records that a User of that name exists. Returns whether a tombstone of it is stored, which the leader must
    /// remove.
    pub fn note_user_exists(&mut self, user: &str) -> bool {
        self.remove_where(user, |entry| entry.secret.is_none());
        self.entries_of(user).next().is_some()
    }

    /// Forgets tombstones that have expired and are not stored.
    pub fn forget_expired(&mut self, user: &str, now: Timestamp) {
        self.remove_where(user, |entry| entry.secret.is_none() && entry.tombstone.expires() <= now);
    }

    /// Advances the clock. Expired tombstones no longer count, even if their Secret still exists.
    pub fn advance(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// Returns the unexpired tombstones of Users with that name.
    pub fn of(&self, user: &str) -> impl Iterator<Item = &Tombstone> {
        self.in_force(self.entries_of(user))
    }

    /// Returns the unexpired tombstones of Users with that name, username or email, ignoring case.
    pub fn known_as(&self, name: &str) -> impl Iterator<Item = &Tombstone> {
        let name = fold(name);
        let from = (name.clone(), String::new(), String::new());
        let found = self.known_as.range(from..).take_while(move |(known, ..)| *known == name);
        self.in_force(found.filter_map(|(_, user, uid)| self.entries.get(&(user.clone(), uid.clone()))))
    }

    /// Returns whether more than [`MAX_TOMBSTONES_PER_USERNAME`] tombstones of other Users have this name, username or
    /// email. The guard checks each of them when a User takes it, so their number is bounded.
    pub fn is_username_exhausted(&self, name: &str, user: &str) -> bool {
        self.known_as(name).filter(|tombstone| tombstone.user != user).take(MAX_TOMBSTONES_PER_USERNAME + 1).count()
            > MAX_TOMBSTONES_PER_USERNAME
    }

    /// Returns whether a deleted User had this UID. UIDs are never used again.
    pub fn has_uid(&self, uid: &str) -> bool {
        let from = (uid.to_owned(), String::new());
        self.uids.range(from..).next().is_some_and(|(known, _)| known == uid)
    }

    fn in_force<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> impl Iterator<Item = &'a Tombstone> {
        let now = self.now;
        entries.map(|entry| &entry.tombstone).filter(move |tombstone| tombstone.expires() > now)
    }

    /// Returns the names of all Users that have a tombstone.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(|(user, _)| user.as_str())
    }

    /// Returns the names of the Users whose tombstone is stored.
    pub fn stored(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|(_, entry)| entry.secret.is_some()).map(|((user, _), _)| user.as_str())
    }

    /// Returns what the leader must do about a name. `current` is the UID of the User that has the name now.
    pub fn next_step(&self, user: &str, current: Option<&str>, now: Timestamp) -> TombstoneStep {
        let stored = self.entries_of(user).find(|entry| entry.secret.is_some());
        let remove = |entry: &Entry| entry.secret.clone().map_or(TombstoneStep::Forget, TombstoneStep::Remove);
        if let Some(current) = current {
            // Same UID: another leader has seen a deletion that this replica has not seen yet.
            let is_replaced = |entry: &&Entry| entry.tombstone.uid != current;
            return stored.filter(is_replaced).map_or(TombstoneStep::Nothing, remove);
        }
        let by_age = |one: &&Entry, other: &&Entry| {
            one.tombstone.age(&other.tombstone).then(one.secret.is_some().cmp(&other.secret.is_some()))
        };
        let Some(latest) = self.entries_of(user).max_by(by_age) else { return TombstoneStep::Nothing };
        let expires = latest.tombstone.expires();
        match &latest.secret {
            _ if expires <= now => remove(stored.unwrap_or(latest)),
            Some(_) if !latest.is_ahead => TombstoneStep::Wait(expires),
            _ => TombstoneStep::Store(latest.tombstone.clone()),
        }
    }

    fn entries_of<'a>(&'a self, user: &str) -> impl Iterator<Item = &'a Entry> + use<'a> {
        let user = user.to_owned();
        let from = (user.clone(), String::new());
        self.entries.range(from..).take_while(move |((known, _), _)| *known == user).map(|(_, entry)| entry)
    }

    fn insert(&mut self, entry: Entry) {
        self.known_as.extend(keys_of(&entry.tombstone));
        self.uids.insert((entry.tombstone.uid.clone(), entry.tombstone.user.clone()));
        self.entries.insert((entry.tombstone.user.clone(), entry.tombstone.uid.clone()), entry);
    }

    fn remove_where(&mut self, user: &str, condition: impl Fn(&Entry) -> bool) {
        let removed: Vec<Tombstone> =
            self.entries_of(user).filter(|entry| condition(entry)).map(|entry| entry.tombstone.clone()).collect();
        for tombstone in removed {
            for key in keys_of(&tombstone) {
                self.known_as.remove(&key);
            }
            self.entries.remove(&(tombstone.user.clone(), tombstone.uid.clone()));
            self.uids.remove(&(tombstone.uid, tombstone.user));
        }
    }
}

/// Returns the lookup keys of a deleted User, each with its name and UID.
fn keys_of(tombstone: &Tombstone) -> impl Iterator<Item = (String, String, String)> {
    let Tombstone { user, uid, .. } = tombstone;
    tombstone.usernames().chain(&tombstone.emails).chain([user]).map(|key| (fold(key), user.clone(), uid.clone()))
}

#[cfg(test)]
#[path = "tombstones_tests.rs"]
mod tests;
