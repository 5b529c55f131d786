//! Users that this replica has seen deleted.

use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use roster_credentials::signing::MAX_TOKEN_LIFETIME;

/// Maximum number of remembered UIDs, and of remembered usernames, of deleted Users.
const MAX_DELETED: u64 = 200_000;

/// How long the username of a deleted User is remembered, for callers without a UID. Longer than kube-apiserver caches
/// authentication, which is two minutes.
const USERNAME_TTL: Duration = Duration::from_mins(5);

/// How long the UID of a deleted User is remembered, for tokens whose ID did not reach Roster: as long as they are valid,
/// and as kube-apiserver caches that.
const UID_TTL: Duration = MAX_TOKEN_LIFETIME.saturating_add(USERNAME_TTL);

/// Users that this replica has seen deleted, whose credentials may still be presented. Tokens of Roster need none of
/// this, because their IDs contain the UID.
pub(super) struct RecentlyDeleted {
    uids: Cache<String, ()>,
    usernames: Cache<String, ()>,
}

impl Default for RecentlyDeleted {
    fn default() -> Self {
        let cache = || Cache::builder().max_capacity(MAX_DELETED).eviction_policy(EvictionPolicy::lru());
        let remember = |ttl| cache().time_to_live(ttl).build();
        Self { uids: remember(UID_TTL), usernames: remember(USERNAME_TTL) }
    }
}

impl RecentlyDeleted {
    /// Remembers a User.
    pub(super) fn insert(&self, uid: String, username: String) {
        self.uids.insert(uid, ());
        self.usernames.insert(username, ());
    }

    /// Returns whether a User with that UID was deleted recently.
    pub(super) fn has_uid(&self, uid: &str) -> bool {
        self.uids.contains_key(uid)
    }

    /// Returns whether a User with that username was deleted recently. Another one may have it now.
    pub(super) fn has_username(&self, username: &str) -> bool {
        self.usernames.contains_key(username)
    }
}
