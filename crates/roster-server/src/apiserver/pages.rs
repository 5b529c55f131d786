//! Pagination: signed continue tokens, and cached states at the revisions that lists are being read at.
//!
//! A token contains everything that is needed, so any replica can continue the list. The cache only saves undoing
//! changes, and allows finishing a list whose revision is no longer in the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use roster_core::directory::index::table::Table;
use roster_runtime::tls::authority::Authorities;
use sha2::{Digest, Sha256};

use super::identity::Caller;
use super::status::ApiError;

/// Maximum pause between two pages. etcd keeps a revision for as long by default.
const CACHE_TTL: Duration = Duration::from_secs(300);

/// Maximum number of cached revisions, for all resources together. Each holds the records that have changed since.
const MAX_REVISIONS: u64 = 64;

/// Maximum number of lists whose first page is cached.
const MAX_LISTS: u64 = 10_000;

/// Age after which an unchanged entry is written again: writing to the cache is far slower than reading.
const REWRITE_INTERVAL: Duration = Duration::from_secs(10);

const PURPOSE: &str = "roster continue token v1";
const SIGNATURE_BYTES: usize = 16;
const PAYLOAD_BYTES: usize = 32;

/// A state of a resource: unchanged from `since` to at least `until`. Any replica that has seen a revision in between
/// has the same state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RevisionRange {
    /// Revision of the last change.
    pub since: u64,
    /// Latest known revision with the same state.
    pub until: u64,
}

/// Where a list continues.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Position {
    /// State of the first page.
    pub revisions: RevisionRange,
    /// Number of items on the previous pages.
    pub offset: u64,
}

/// Identifies a list: digest of the resource and the query as written.
pub type ListId = [u8; 8];

/// Returns the ID of a list.
pub fn list_id(resource: &str, written: &str) -> ListId {
    let digest = Sha256::new().chain_update(resource).chain_update([0]).chain_update(written).finalize();
    digest[..8].try_into().expect("a digest is longer")
}

/// Signs and verifies continue tokens.
pub struct ContinueTokens(Arc<ArcSwap<Authorities>>);

impl ContinueTokens {
    /// Creates an instance with keys from these authorities, which all replicas share.
    pub fn new(authorities: Arc<ArcSwap<Authorities>>) -> Self {
        Self(authorities)
    }

    /// Returns a token that continues the list at `position`.
    pub fn write(&self, list: ListId, position: Position) -> String {
        let keys = self.0.load().derive(PURPOSE, Timestamp::now());
        let mut bytes = Vec::with_capacity(PAYLOAD_BYTES + SIGNATURE_BYTES);
        bytes.extend(list);
        bytes.extend(position.revisions.since.to_be_bytes());
        bytes.extend(position.revisions.until.to_be_bytes());
        bytes.extend(position.offset.to_be_bytes());
        let signature = hmac::sign(&keys[0], &bytes);
        bytes.extend(&signature.as_ref()[..SIGNATURE_BYTES]);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Verifies and parses a token of this list.
    ///
    /// # Errors
    /// 400 if the token is invalid or belongs to another list.
    pub fn read(&self, list: ListId, token: &str) -> Result<Position, ApiError> {
        let keys = self.0.load().derive(PURPOSE, Timestamp::now());
        read(&keys, list, token)
    }
}

/// Verifies and parses a token signed with one of the keys.
///
/// # Errors
/// 400 if the token is invalid or belongs to another list.
pub fn read(keys: &[hmac::Key], list: ListId, token: &str) -> Result<Position, ApiError> {
    let invalid = |message: &str| ApiError::bad_parameter("continue", message);
    let unknown = || invalid("must be metadata.continue of the previous page");
    if token.len() > 2 * (PAYLOAD_BYTES + SIGNATURE_BYTES) {
        return Err(unknown());
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| unknown())?;
    let (payload, signature) = bytes.split_at_checked(PAYLOAD_BYTES).ok_or_else(unknown)?;
    let is_signed = |key: &hmac::Key| {
        let expected = hmac::sign(key, payload);
        aws_lc_rs::constant_time::verify_slices_are_equal(&expected.as_ref()[..SIGNATURE_BYTES], signature).is_ok()
    };
    if !keys.iter().any(is_signed) {
        return Err(unknown());
    }
    if payload[..8] != list {
        return Err(invalid("belongs to a list with other filters, selectors or sort keys"));
    }
    let number = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
    Ok(Position { revisions: RevisionRange { since: number(8), until: number(16) }, offset: number(24) })
}

/// Cache of the states that lists are being read at.
pub struct SnapshotCache {
    /// Tables by resource and revision of the last change.
    tables: Cache<(&'static str, u64), Arc<Table>>,
    /// State of the first page, by caller and list.
    first_pages: Cache<(Arc<Caller>, ListId), (RevisionRange, Instant)>,
}

impl Default for SnapshotCache {
    fn default() -> Self {
        Self {
            // With the default policy (by frequency), a new state would have to be read more often than an old one to
            // be kept.
            tables: Cache::builder()
                .max_capacity(MAX_REVISIONS)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(CACHE_TTL)
                .build(),
            // Not `time_to_idle`: a client that keeps reloading the second page wants current data.
            first_pages: Cache::builder().max_capacity(MAX_LISTS).time_to_live(CACHE_TTL).build(),
        }
    }
}

impl SnapshotCache {
    /// Caches the state at which this caller read the first page of a list.
    pub async fn note_first_page(&self, caller: &Arc<Caller>, list: ListId, revisions: RevisionRange) {
        let key = (Arc::clone(caller), list);
        let is_known =
            |(known, since): (RevisionRange, Instant)| known == revisions && since.elapsed() < REWRITE_INTERVAL;
        if !self.first_pages.get(&key).await.is_some_and(is_known) {
            self.first_pages.insert(key, (revisions, Instant::now())).await;
        }
    }

    /// Returns the state at which this caller recently read the first page of a list from this replica.
    pub async fn of_first_page(&self, caller: &Arc<Caller>, list: ListId) -> Option<RevisionRange> {
        self.first_pages.get(&(Arc::clone(caller), list)).await.map(|(revisions, _)| revisions)
    }

    /// Caches all records of a state.
    pub async fn put(&self, resource: &'static str, revisions: RevisionRange, table: Arc<Table>) {
        let key = (resource, revisions.since);
        if self.tables.get(&key).await.is_none() {
            self.tables.insert(key, table).await;
        }
    }

    /// Returns all records of a state, if cached.
    pub async fn table(&self, resource: &'static str, revisions: RevisionRange) -> Option<Arc<Table>> {
        self.tables.get(&(resource, revisions.since)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> ContinueTokens {
        let authorities = Authorities::create(Timestamp::now(), Duration::from_secs(3600)).unwrap();
        ContinueTokens::new(Arc::new(ArcSwap::from_pointee(authorities)))
    }

    #[test]
    fn a_continue_token_is_valid_only_for_its_list() {
        let (tokens, list) = (tokens(), list_id("users", "sortBy=name&"));
        let position = Position { revisions: RevisionRange { since: 77, until: 80 }, offset: 500 };
        let token = tokens.write(list, position);
        assert_eq!(tokens.read(list, &token).unwrap(), position);
        let other = tokens.read(list_id("users", ""), &token).unwrap_err();
        assert!(other.to_json()["message"].as_str().unwrap().contains("other filters"));
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(tokens.read(list, std::str::from_utf8(&bytes).unwrap()).is_err(), "byte {at}");
        }
        for nonsense in ["", "x", "%%%", &"A".repeat(10_000)] {
            assert!(tokens.read(list, nonsense).is_err());
        }
    }

    #[test]
    fn a_continue_token_survives_rotation_of_the_authority() {
        let first = Authorities::create(Timestamp::now(), Duration::from_secs(3600)).unwrap();
        let shared = Arc::new(ArcSwap::from_pointee(first.clone()));
        let tokens = ContinueTokens::new(Arc::clone(&shared));
        let token = tokens.write([1; 8], Position { revisions: RevisionRange { since: 1, until: 1 }, offset: 2 });
        let later = Timestamp::now() + Duration::from_secs(2700);
        shared.store(Arc::new(first.rotated(later, Duration::from_secs(3600)).unwrap().unwrap()));
        assert!(tokens.read([1; 8], &token).is_ok());
    }

    /// A reader that has just begun keeps its state, however often others read older ones.
    #[tokio::test]
    async fn a_new_snapshot_evicts_the_least_recently_read() {
        let (snapshots, table) = (SnapshotCache::default(), Arc::new(Table::new(&[], Vec::new())));
        let revisions = |since| RevisionRange { since, until: since };
        for since in 0..MAX_REVISIONS {
            snapshots.put("users", revisions(since), Arc::clone(&table)).await;
        }
        for _ in 0..5 {
            snapshots.tables.run_pending_tasks().await;
            for since in 0..MAX_REVISIONS {
                assert!(snapshots.table("users", revisions(since)).await.is_some());
            }
        }
        snapshots.put("users", revisions(1000), table).await;
        snapshots.tables.run_pending_tasks().await;
        assert!(snapshots.table("users", revisions(1000)).await.is_some());
        assert!(snapshots.table("users", revisions(0)).await.is_none());
    }
}
