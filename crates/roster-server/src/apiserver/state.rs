//! State shared by the handlers.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Extension;
use axum::extract::State;
use jiff::Timestamp;
use kube::Client;
use roster_core::directory::Directory;
use roster_core::directory::callers::CallerIdentity;
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

/// Maximum number of login attempts in flight from one source, so that one source cannot take all permits.
const MAX_LOGINS_OF_A_SOURCE: usize = 32;

/// Maximum number of login attempts in flight from all sources of one site.
const MAX_LOGINS_OF_A_SITE: usize = 192;

/// Maximum length of a user key, in bytes. An email address has at most 254 characters.
const MAX_KEY_BYTES: usize = 320;

/// Dependencies of the aggregated API.
pub struct DirectoryApiParts {
    /// Watched objects, and the directory.
    pub informers: Arc<Informers>,
    /// Client for kube-apiserver.
    pub client: Client,
    /// Recognizes the aggregator.
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
    /// Recognizes the aggregator.
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
    /// Limits how many lists undo changes at the same time.
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
    /// Creates the state of a newly started replica.
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

    /// Returns whether the caller is a User that is inactive, deleted, or renamed since the login.
    pub fn is_inactive(&self, caller: &Caller) -> bool {
        self.informers.is_inactive(caller.presented(&self.informers))
    }

    /// Returns whether the User of that name is active now.
    pub fn is_active(&self, name: &str) -> bool {
        self.informers.directory().user(name).is_some_and(|person| person.is_active(Timestamp::now()))
    }

    /// Returns the User that the caller is: by its UID if it has one, and otherwise by its username.
    pub fn user_of(&self, caller: &Caller) -> Option<String> {
        self.user_in(&self.informers.directory(), caller)
    }

    /// Same as [`Self::user_of`], for code that has already locked the directory.
    pub fn user_in(&self, directory: &Directory, caller: &Caller) -> Option<String> {
        match directory.identify(caller.presented(&self.informers)) {
            CallerIdentity::User(name) => Some(name.to_owned()),
            CallerIdentity::Renamed(_) | CallerIdentity::Deleted | CallerIdentity::Other => None,
        }
    }
}

/// State extractor of the handlers.
pub type ApiState = State<Arc<DirectoryApi>>;

/// Caller extractor.
pub type CallerExtension = Extension<Arc<Caller>>;
