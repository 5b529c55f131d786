//! State shared by the handlers.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Extension;
use axum::extract::State;
use jiff::Timestamp;
use kube::Client;
use roster_core::directory::Directory;
use roster_runtime::informers::Informers;
use roster_runtime::logins::Logins;
use roster_runtime::metrics::Metrics;
use roster_runtime::tls::authority::Authorities;
use roster_runtime::tls::network_permits::NetworkShares;
use tokio_util::sync::CancellationToken;

use super::authorize::Authorizer;
use super::front_proxy::FrontProxy;
use super::identity::Caller;
use super::limits::{Permits, WATCHES};
use super::pages::{ContinueTokens, SnapshotCache};
use super::status::ApiError;
use super::undoing::UndoLimiter;
use crate::admission::guard::Guard;

/// Login attempts in flight from one source, so that one source cannot take all permits.
const MAX_LOGINS_OF_A_SOURCE: usize = 32;

/// Login attempts in flight from all sources of one site.
const MAX_LOGINS_OF_A_SITE: usize = 192;

/// Longest user key, in bytes. An email address has at most 254 characters.
const MAX_KEY_BYTES: usize = 320;

/// Dependencies of the aggregated API.
pub struct DirectoryApiParts {
    /// Watched objects, and the directory.
    pub informers: Arc<Informers>,
    /// Client for kube-apiserver.
    pub client: Client,
    /// Recognises the aggregator.
    pub front_proxy: Arc<FrontProxy>,
    /// Signing keys of continue tokens.
    pub authorities: Arc<ArcSwap<Authorities>>,
    /// Verifies login attempts.
    pub logins: Arc<Logins>,
    /// Decides who may control an identity.
    pub guard: Arc<Guard>,
    /// Request metrics.
    pub metrics: Arc<Metrics>,
    /// Ends watches on shutdown.
    pub shutdown: CancellationToken,
}

/// State shared by the handlers.
pub struct DirectoryApi {
    /// Watched objects, and the directory.
    pub informers: Arc<Informers>,
    /// Client for kube-apiserver.
    pub client: Client,
    /// Authorizes callers.
    pub authorizer: Authorizer,
    /// Signs and verifies continue tokens.
    pub tokens: ContinueTokens,
    /// Revisions that lists are being read at.
    pub snapshots: SnapshotCache,
    /// Recognises the aggregator.
    pub front_proxy: Arc<FrontProxy>,
    /// Verifies login attempts.
    pub logins: Arc<Logins>,
    /// Decides who may control an identity.
    pub guard: Arc<Guard>,
    /// Request metrics.
    pub metrics: Arc<Metrics>,
    /// Ends watches on shutdown.
    pub shutdown: CancellationToken,
    /// Login attempts in flight, by source.
    pub attempts: NetworkShares,
    /// Permits for watches.
    pub watches: Permits,
    /// Slots for undoing changes.
    pub undoing: UndoLimiter,
}

/// The permission that a caller was admitted with.
#[derive(Clone, Debug)]
pub struct Permission {
    /// Verb of the request.
    pub verb: &'static str,
    /// Resource, with the subresource after a slash.
    pub resource: &'static str,
    /// Object name; empty for requests about several objects.
    pub name: String,
}

impl DirectoryApi {
    /// State of a newly started replica.
    pub fn new(parts: DirectoryApiParts) -> Self {
        let DirectoryApiParts { informers, client, front_proxy, authorities, logins, guard, metrics, shutdown } = parts;
        Self {
            authorizer: Authorizer::new(client.clone()),
            tokens: ContinueTokens::new(authorities),
            snapshots: SnapshotCache::default(),
            undoing: UndoLimiter::default(),
            watches: Permits::new(WATCHES, "watches"),
            attempts: NetworkShares::new(MAX_LOGINS_OF_A_SOURCE, MAX_LOGINS_OF_A_SITE),
            informers,
            client,
            front_proxy,
            logins,
            guard,
            metrics,
            shutdown,
        }
    }

    /// Admits a caller that is active and authorized. `asked`: the name as the caller wrote it.
    ///
    /// # Errors
    /// 401, 403, or 503 if kube-apiserver does not respond; 400 for a name that is too long.
    pub async fn admit(
        &self,
        caller: &Arc<Caller>,
        verb: &'static str,
        resource: &str,
        name: &str,
        asked: &str,
    ) -> Result<(), ApiError> {
        if asked.len() > MAX_KEY_BYTES {
            return Err(ApiError::bad_request(format!("a name must have at most {MAX_KEY_BYTES} bytes")));
        }
        if self.is_inactive(caller) {
            return Err(ApiError::unauthorized());
        }
        self.authorizer.check(caller, verb, resource, name, asked).await
    }

    /// Returns whether the caller is a User that is inactive or deleted.
    pub fn is_inactive(&self, caller: &Caller) -> bool {
        self.informers.is_inactive(&caller.username, &caller.uid)
    }

    /// Returns whether the User of that name is active now.
    pub fn is_active(&self, name: &str) -> bool {
        self.informers.directory().user(name).is_some_and(|person| person.is_active(Timestamp::now()))
    }

    /// Returns the User that the caller is. If the caller has a UID, it must match: a new User may have a deleted one's
    /// username.
    pub fn user_of(&self, caller: &Caller) -> Option<String> {
        Self::user_in(&self.informers.directory(), caller)
    }

    /// Same as [`Self::user_of`], in a directory that the caller has locked already.
    pub fn user_in(directory: &Directory, caller: &Caller) -> Option<String> {
        let mut holders = directory.users_with_username(&caller.username);
        let is_caller = |name: &&str| {
            let person = directory.user(name);
            person.is_some_and(|person| person.holds_username() && (caller.uid.is_empty() || caller.uid == person.uid))
        };
        holders.find(is_caller).map(str::to_owned)
    }
}

/// State extractor of the handlers.
pub type ApiState = State<Arc<DirectoryApi>>;

/// Caller extractor.
pub type CallerExtension = Extension<Arc<Caller>>;
