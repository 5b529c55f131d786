//! Batches last-login and last-use timestamps, so that a login costs no write of its own.
//!
//! If a replica is killed, it loses at most one interval of timestamps.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use roster_api::User;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::login_user::LoginUser;
use super::vault::Vault;
use crate::informers::Informers;
use crate::metrics::Metrics;

/// Maximum number of users, and of keys, kept between two batches. Further uses are not recorded.
const MAX_WAITING: usize = 100_000;

/// Concurrent writes.
const CONCURRENCY: usize = 8;

/// Uses of a key closer together than this are recorded once.
const KEY_PRECISION: Duration = Duration::from_secs(300);

/// Timeout of the last batch at shutdown.
const LAST_BATCH: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct ApiKeyId {
    user: String,
    uid: String,
    key: String,
}

/// Collects uses and writes them in batches.
pub struct LastUse {
    informers: Arc<Informers>,
    users: Api<User>,
    vault: Arc<Vault>,
    metrics: Arc<Metrics>,
    /// Keyed by name and UID of the User.
    logins: Mutex<HashMap<(String, String), Timestamp>>,
    keys: Mutex<HashMap<ApiKeyId, Timestamp>>,
}

impl LastUse {
    /// Creates an empty collector that writes with `client` and the vault.
    pub fn new(client: Client, informers: Arc<Informers>, vault: Arc<Vault>, metrics: Arc<Metrics>) -> Self {
        Self { informers, users: Api::all(client), vault, metrics, logins: Mutex::default(), keys: Mutex::default() }
    }

    /// Records a successful login.
    pub fn note_login(&self, person: &LoginUser, now: Timestamp) {
        note(&self.logins, (person.name.clone(), person.uid.clone()), now);
    }

    /// Records the use of an API key.
    pub fn note_key(&self, person: &LoginUser, key: &str, now: Timestamp) {
        note(&self.keys, ApiKeyId { user: person.name.clone(), uid: person.uid.clone(), key: key.to_owned() }, now);
    }

    /// Writes a batch each interval until `shutdown`, then a last one.
    ///
    /// # Errors
    /// Never: failed writes are retried with the next batch.
    pub async fn run(self: Arc<Self>, interval: Duration, shutdown: CancellationToken) -> Result<()> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    let _ = tokio::time::timeout(LAST_BATCH, self.write()).await;
                    return Ok(());
                }
                () = tokio::time::sleep(interval) => self.write().await,
            }
        }
    }

    async fn write(&self) {
        let logins = std::mem::take(&mut *lock(&self.logins));
        let keys = std::mem::take(&mut *lock(&self.keys));
        let logins = stream::iter(logins).map(|((name, uid), at)| async move {
            if !self.write_login(&name, &uid, at).await {
                note(&self.logins, (name, uid), at);
            }
        });
        logins.buffer_unordered(CONCURRENCY).collect::<()>().await;
        let keys = stream::iter(keys).map(|(key, at)| async move {
            if !self.write_key(&key, at).await {
                note(&self.keys, key, at);
            }
        });
        keys.buffer_unordered(CONCURRENCY).collect::<()>().await;
    }

    /// Writes a last login. Returns whether it needs no retry.
    async fn write_login(&self, name: &str, uid: &str, at: Timestamp) -> bool {
        let record = self.informers.user_catalogue.peek().table.get(name).cloned();
        let Some(record) = record.filter(|record| record.uid() == uid) else { return true };
        let second = Timestamp::from_second(at.as_second()).expect("it comes from a valid timestamp");
        let known = record.to_value()["status"]["lastLoginTime"].as_str().and_then(|text| text.parse().ok());
        if known.is_some_and(|known: Timestamp| known >= second) {
            return true;
        }
        // With the resourceVersion that was compared: another replica may have written a later login.
        let metadata = json!({"uid": uid, "resourceVersion": record.revision.to_string()});
        let patch = json!({"metadata": metadata, "status": {"lastLoginTime": second}});
        match self.users.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {
                self.metrics.writes.inc("UserStatus");
                true
            }
            Err(kube::Error::Api(status)) if status.code == 404 => true,
            Err(kube::Error::Api(status)) if status.code == 409 => false,
            Err(error) => {
                warn!(user = name, %error, "writing a last login failed, retrying");
                false
            }
        }
    }

    async fn write_key(&self, used: &ApiKeyId, at: Timestamp) -> bool {
        let Some(person) = LoginUser::named(&self.informers, &used.user).filter(|person| person.uid == used.uid) else {
            return true;
        };
        let outcome = self.vault.update(&person, |credential| {
            let key = credential.api_keys.iter_mut().find(|key| key.name == used.key);
            if let Some(key) = key.filter(|key| key.last_used.is_none_or(|last| last + KEY_PRECISION <= at)) {
                key.last_used = Some(at);
            }
        });
        outcome.await.is_ok()
    }
}

fn note<K: Eq + Hash>(gathered: &Mutex<HashMap<K, Timestamp>>, key: K, at: Timestamp) {
    let mut gathered = lock(gathered);
    let is_full = gathered.len() >= MAX_WAITING;
    match gathered.entry(key) {
        Entry::Occupied(mut known) => {
            let last = (*known.get()).max(at);
            known.insert(last);
        }
        Entry::Vacant(free) if !is_full => drop(free.insert(at)),
        Entry::Vacant(_) => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
