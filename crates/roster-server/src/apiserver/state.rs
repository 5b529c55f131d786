//! What the handlers share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Extension;
use axum::extract::State;
use jiff::Timestamp;
use kube::Client;
use roster_runtime::informers::Informers;
use roster_runtime::logins::Logins;
use roster_runtime::metrics::Metrics;
use roster_runtime::tls::authority::Authorities;
use roster_runtime::tls::network_permits::NetworkSeats;
use tokio_util::sync::CancellationToken;

use super::authorize::Authorizer;
use super::front_proxy::FrontProxy;
use super::identity::Caller;
use super::limits::{Permits, WATCHES};
use super::pages::{Moments, Tokens};
use super::status::ApiError;
use super::undoing::Undoing;
use crate::admission::guard::Guard;

/// Login attempts from one source in flight: one source does not take the permits of all.
const MOST_LOGINS_OF_A_SOURCE: usize = 32;

/// Login attempts in flight from all sources of one site.
const MOST_LOGINS_OF_A_SITE: usize = 192;

/// Longest key of a user: an email address has at most 254 characters.
const MOST_KEY_BYTES: usize = 320;

/// What the aggregated API is served with.
pub struct Parts {
    /// What is known.
    pub informers: Arc<Informers>,
    /// How the API server is reached.
    pub client: Client,
    /// Recognises the aggregator.
    pub front_proxy: Arc<FrontProxy>,
    /// Whose keys sign the tokens of lists.
    pub authorities: Arc<ArcSwap<Authorities>>,
    /// How people log in.
    pub logins: Arc<Logins>,
    /// Who may control an identity.
    pub guard: Arc<Guard>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Ends the watches.
    pub shutdown: CancellationToken,
}

/// What the handlers share.
pub struct DirectoryApi {
    /// What is known.
    pub informers: Arc<Informers>,
    /// How the API server is reached.
    pub client: Client,
    /// Whether callers may.
    pub authorizer: Authorizer,
    /// Where lists go on.
    pub tokens: Tokens,
    /// At which states lists are read.
    pub moments: Moments,
    /// Recognises the aggregator.
    pub front_proxy: Arc<FrontProxy>,
    /// How people log in.
    pub logins: Arc<Logins>,
    /// Who may control an identity.
    pub guard: Arc<Guard>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Ends the watches.
    pub shutdown: CancellationToken,
    /// Attempts to log in, by source.
    pub attempts: NetworkSeats,
    /// Permits for watches.
    pub watches: Permits,
    /// Turns to undo changes.
    pub undoing: Undoing,
}

/// What somebody was let in for.
#[derive(Clone, Debug)]
pub struct Right {
    /// The verb.
    pub verb: &'static str,
    /// The resource.
    pub resource: &'static str,
    /// The name, where it is about a single object.
    pub name: String,
}

impl DirectoryApi {
    /// The state of a replica that has served nothing yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { informers, client, front_proxy, authorities, logins, guard, metrics, shutdown } = parts;
        Self {
            authorizer: Authorizer::new(client.clone()),
            tokens: Tokens::new(authorities),
            moments: Moments::default(),
            undoing: Undoing::default(),
            watches: Permits::new(WATCHES, "watches"),
            attempts: NetworkSeats::new(MOST_LOGINS_OF_A_SOURCE, MOST_LOGINS_OF_A_SITE),
            informers,
            client,
            front_proxy,
            logins,
            guard,
            metrics,
            shutdown,
        }
    }

    /// Lets the caller pass who is active at this moment and may do this. `asked` is the name as the caller wrote it.
    ///
    /// # Errors
    /// 401, 403, or 503 where the API server does not answer; 400 for a name that nobody can have.
    pub async fn admit(
        &self,
        caller: &Arc<Caller>,
        verb: &'static str,
        resource: &str,
        name: &str,
        asked: &str,
    ) -> Result<(), ApiError> {
        if asked.len() > MOST_KEY_BYTES {
            return Err(ApiError::bad_request(format!("a name has at most {MOST_KEY_BYTES} bytes")));
        }
        if self.is_inactive(caller) {
            return Err(ApiError::unauthorized());
        }
        self.authorizer.check(caller, verb, resource, name, asked).await
    }

    /// Whether the caller is a User that is not active now, or is no more.
    pub fn is_inactive(&self, caller: &Caller) -> bool {
        self.informers.is_inactive(&caller.username, &caller.uid)
    }

    /// Whether the User of that name is active now.
    pub fn is_active(&self, name: &str) -> bool {
        self.informers.directory().person(name).is_some_and(|person| person.is_active(Timestamp::now()))
    }

    /// Name of the User who asks. Bound to the UID where the authenticator knows one: who bears the name of a User that
    /// is gone is not the one who has it now.
    pub fn user_of(&self, caller: &Caller) -> Option<String> {
        let directory = self.informers.directory();
        let mut holders = directory.named(&caller.username);
        let is_caller = |name: &&str| {
            let person = directory.person(name);
            person.is_some_and(|person| person.holds_username() && (caller.uid.is_empty() || caller.uid == person.uid))
        };
        holders.find(is_caller).map(str::to_owned)
    }
}

/// What a handler gets of a request.
pub type Api = State<Arc<DirectoryApi>>;

/// Who asks.
pub type Who = Extension<Arc<Caller>>;
