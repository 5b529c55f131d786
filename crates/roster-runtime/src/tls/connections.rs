//! Table of open connections of the TLS port: limits per network, and which connection is evicted when it is full.
//!
//! ```text
//!  anonymous ── a valid bearer token ──▶ authenticated
//!      ├─────── the path of a webhook ──▶ webhook ── from an address of kube-apiserver ─┐
//!      └─────── the front proxy's certificate ──────────────────────────────────────────┴──▶ kube-apiserver
//! ```
//!
//! Connections that are not proven to be kube-apiserver's share a part of the table, so slots always remain for
//! kube-apiserver, whose connections are never evicted. The path of a webhook can leak, so it proves this only together
//! with the address: the network holds a connection with the certificate, did so recently, or is in the EndpointSlice of
//! kube-apiserver. Behind a proxy, its address may be unknown. So connections with a path are evicted last, and have a
//! few slots of their own. When the table is full, connections whose clients do not read are evicted first, then
//! idle ones: closing one loses no work, and HTTP clients reconnect. Busy ones are evicted last, and only for a site,
//! or a network of the same site, that holds fewer connections.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use roster_credentials::network::{network_of, site_of};
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, ActivityState};
pub use super::connection_limits::{ConnectionLimits, LIMITS, PROBE_LIMITS};
use crate::metrics::CounterBy;

/// How long slots stay reserved for a network after its last proven connection of kube-apiserver, which closes idle
/// connections after 90 s. The network has no other privilege by then: its address may have a new owner.
const RESERVATION_TTL: Duration = Duration::from_secs(3600);

/// Maximum number of eviction candidates that one search finds.
const CANDIDATES: usize = 64;

/// What a client has proven on a connection.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Trust {
    /// Nothing yet.
    Anonymous,
    /// A request had a valid bearer token.
    Authenticated,
    /// A request had the path of a webhook, which kube-apiserver knows. Others may have learned it.
    Webhook,
    /// The client is kube-apiserver.
    ApiServer,
}

impl Trust {
    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Anonymous,
            1 => Self::Authenticated,
            2 => Self::Webhook,
            _ => Self::ApiServer,
        }
    }
}

/// One connection; an extension of each request on it.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    network: IpNet,
    trust: AtomicU8,
    activity: Arc<Activity>,
    evicted: CancellationToken,
    table: Arc<ConnectionTable>,
}

impl Connection {
    /// Returns the highest trust proven so far.
    pub fn trust(&self) -> Trust {
        Trust::from_u8(self.trust.load(Ordering::Acquire))
    }

    /// Raises the trust in the connection, from [`Trust::Webhook`] to [`Trust::ApiServer`] if its address is one of
    /// kube-apiserver. It never falls: each request is authorized separately anyway.
    pub fn mark(&self, trust: Trust) {
        if self.trust() < trust {
            self.table.promote(self, trust);
        }
    }

    /// Whether its network currently holds proven connections of kube-apiserver, possibly including this one.
    pub fn network_has_api_server(&self) -> bool {
        self.trust() == Trust::ApiServer || self.table.state().has_api_server(&self.network)
    }

    /// Returns the network that the connection counts towards.
    pub const fn network(&self) -> IpNet {
        self.network
    }

    /// Returns the activity of the connection.
    pub const fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Counts the connection as closed because its client did not read.
    pub fn count_stalled(&self) {
        self.table.shed.inc("stalled");
    }

    /// Completes when the connection is evicted.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

/// An entry of the table, removed when dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<Connection>);

impl OpenConnection {
    /// Returns the connection, to be shared with its requests.
    pub const fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut state = self.0.table.state();
        if state.remove(self.0.id).is_none() {
            state.closing -= 1;
        }
    }
}

/// Counts indexed by [`Trust`].
type ByTrust = [usize; 4];

/// Unproven connections of networks without reserved slots.
#[derive(Debug)]
struct Unreserved {
    all: usize,
    authenticated: usize,
    webhooks: usize,
}

/// The connections of one network.
#[derive(Debug, Default)]
struct Network {
    held: ByTrust,
    open: BTreeMap<u64, Arc<Connection>>,
}

/// Ids of connections to evict next, so that a full table is not searched for each new connection.
#[derive(Debug, Default)]
struct Candidates {
    /// Ordered by value, the least valuable last.
    ids: Vec<u64>,
    searched: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    /// By id, the oldest first.
    open: BTreeMap<u64, Arc<Connection>>,
    networks: HashMap<IpNet, Network>,
    /// Connections of each site that are not proven to be kube-apiserver's.
    sites: HashMap<IpNet, usize>,
    /// Networks of kube-apiserver: when a connection was last proven, or the last proven one ended.
    api_servers: HashMap<IpNet, Instant>,
    /// Networks from which kube-apiserver is expected.
    expected: HashSet<IpNet>,
    total: ByTrust,
    closing: usize,
    candidates: Candidates,
}

impl State {
    fn held(&self, network: &IpNet) -> ByTrust {
        self.networks.get(network).map(|network| network.held).unwrap_or_default()
    }

    /// Whether the network holds proven connections of kube-apiserver.
    fn has_api_server(&self, network: &IpNet) -> bool {
        self.held(network)[Trust::ApiServer as usize] > 0
    }

    /// Whether slots are reserved for the network, because kube-apiserver uses it, recently did, or is expected to.
    fn is_reserved(&self, network: &IpNet) -> bool {
        self.expected.contains(network)
            || self.has_api_server(network)
            || self.api_servers.get(network).is_some_and(|proven| proven.elapsed() < RESERVATION_TTL)
    }

    /// Records that the network had a proven connection of kube-apiserver just now.
    fn reserve_for_api_server(&mut self, network: IpNet) {
        self.api_servers.insert(network, Instant::now());
        let networks = &self.networks;
        let has_proven =
            |network: &IpNet| networks.get(network).is_some_and(|network| network.held[Trust::ApiServer as usize] > 0);
        self.api_servers.retain(|network, proven| proven.elapsed() < RESERVATION_TTL || has_proven(network));
    }

    /// Counts unproven connections of networks without reserved slots. Networks with reserved slots are left out: their
    /// connections are never evicted, so they must not use up the slots of others either.
    fn unreserved(&self) -> Unreserved {
        let expected = self.expected.iter().filter(|network| !self.api_servers.contains_key(*network));
        let reserved = self.api_servers.keys().chain(expected).filter(|network| self.is_reserved(network));
        let [anonymous, authenticated, webhooks, _] = reserved.fold(self.total, |total, network| {
            let held = self.held(network);
            std::array::from_fn(|trust| total[trust] - held[trust])
        });
        Unreserved { all: anonymous + authenticated + webhooks, authenticated, webhooks }
    }

    /// Counts the network's connections that are not proven to be kube-apiserver's.
    fn untrusted(&self, network: &IpNet) -> usize {
        self.held(network)[..Trust::ApiServer as usize].iter().sum()
    }

    /// Counts the connections of the network's site, and of the network, without those of kube-apiserver.
    fn share(&self, network: &IpNet) -> (usize, usize) {
        (self.sites.get(&site_of(*network)).copied().unwrap_or_default(), self.untrusted(network))
    }

    /// Whether `network` would hold fewer connections than `other` even with one more. Networks of different sites are
    /// compared by the connections of their sites.
    fn holds_less(&self, network: &IpNet, other: &IpNet) -> bool {
        let ((site, own), (other_site, others)) = (self.share(network), self.share(other));
        if site_of(*network) == site_of(*other) { own + 1 < others } else { site + 1 < other_site }
    }

    fn add(&mut self, connection: &Arc<Connection>) {
        let trust = connection.trust() as usize;
        let network = self.networks.entry(connection.network).or_default();
        network.held[trust] += 1;
        network.open.insert(connection.id, Arc::clone(connection));
        self.total[trust] += 1;
        if connection.trust() < Trust::ApiServer {
            *self.sites.entry(site_of(connection.network)).or_default() += 1;
        }
        self.open.insert(connection.id, Arc::clone(connection));
    }

    /// Removes a connection, and returns it if it was open.
    fn remove(&mut self, id: u64) -> Option<Arc<Connection>> {
        let connection = self.open.remove(&id)?;
        let trust = connection.trust() as usize;
        self.total[trust] -= 1;
        if connection.trust() == Trust::ApiServer {
            self.reserve_for_api_server(connection.network);
        } else {
            self.leave_site(site_of(connection.network));
        }
        if let Some(network) = self.networks.get_mut(&connection.network) {
            network.held[trust] -= 1;
            network.open.remove(&id);
            if network.open.is_empty() {
                self.networks.remove(&connection.network);
            }
        }
        Some(connection)
    }

    fn leave_site(&mut self, site: IpNet) {
        if let Some(count) = self.sites.get_mut(&site) {
            *count -= 1;
            if *count == 0 {
                self.sites.remove(&site);
            }
        }
    }

    fn evict(&mut self, id: u64) {
        let Some(connection) = self.remove(id) else { return };
        self.closing += 1;
        connection.evicted.cancel();
    }

    /// Returns the network's anonymous connection that has been stalled, or else idle, the longest.
    fn idle_of(&self, network: &IpNet) -> Option<u64> {
        let of_network = self.networks.get(network)?.open.values();
        let anonymous = of_network.filter(|connection| connection.trust() == Trust::Anonymous);
        let keyed = anonymous.map(|connection| (connection.activity.state(), connection.id));
        let ((state, _), id) = keyed.min()?;
        (state < ActivityState::Busy).then_some(id)
    }

    /// Returns the connection that is cheapest to evict for a new one of `network`.
    fn least_valuable(&mut self, network: &IpNet, limits: &ConnectionLimits) -> Option<u64> {
        if self.candidates.searched.is_none_or(|searched| searched.elapsed() >= limits.search_interval) {
            self.candidates = Candidates { ids: self.search(limits), searched: Some(Instant::now()) };
        }
        // A candidate that must not be evicted for this network stays one for others: otherwise the largest holder
        // would use up all candidates and keep out smaller ones.
        let mut ids = std::mem::take(&mut self.candidates.ids);
        let found = ids.iter().rposition(|id| self.may_evict_for(*id, network, limits));
        let found = found.map(|index| ids.remove(index));
        self.candidates.ids = ids;
        found
    }

    /// Whether a connection may be evicted for one of `network`. Busy ones are evicted only for a site or network that
    /// holds fewer.
    fn may_evict_for(&self, id: u64, network: &IpNet, limits: &ConnectionLimits) -> bool {
        let Some(connection) = self.open.get(&id) else { return false };
        let state = connection.activity.state().0;
        self.is_evictable(connection, state, limits)
            && (state < ActivityState::Busy || self.holds_less(network, &connection.network))
    }

    /// Whether a connection may be evicted for others at all. Valid tokens protect busy connections up to a limit, and
    /// paths of webhooks also idle ones, so that anonymous clients can't push them out. Beyond it, they must not keep
    /// everyone else out.
    fn is_evictable(&self, connection: &Connection, state: ActivityState, limits: &ConnectionLimits) -> bool {
        let is_protected = match (connection.trust(), state) {
            (Trust::Authenticated, ActivityState::Busy) => self.unreserved().authenticated <= limits.untrusted / 2,
            (Trust::Webhook, ActivityState::Busy | ActivityState::Idle) => {
                self.unreserved().webhooks <= limits.webhooks / 2
            }
            _ => false,
        };
        !is_protected && !self.is_reserved(&connection.network)
    }

    /// Finds the connections that are cheapest to evict, the cheapest last. Order of eviction: stalled, then idle, then
    /// busy or new. Stalled and idle anonymous ones come before authenticated ones. Within each group, those of the
    /// largest site come first, then those of the largest network in it, then anonymous ones, then the oldest. Of busy
    /// authenticated ones, the newest comes first, because a watch is worth more the longer it lasts. Those with the
    /// path of a webhook come last.
    fn search(&self, limits: &ConnectionLimits) -> Vec<u64> {
        let keyed = self.open.values().filter_map(|connection| {
            let ((state, since), trust) = (connection.activity.state(), connection.trust());
            if !self.is_evictable(connection, state, limits) {
                return None;
            }
            let is_busy = state == ActivityState::Busy;
            let by_trust = if is_busy && trust < Trust::Webhook { Trust::Anonymous } else { trust };
            let age = if is_busy && trust == Trust::Authenticated {
                (None, u64::MAX - connection.id)
            } else {
                (Some(since), connection.id)
            };
            let most = Reverse(self.share(&connection.network));
            Some(((trust == Trust::Webhook, state, by_trust), (most, trust, age), connection.id))
        });
        let mut keyed: Vec<_> = keyed.collect();
        keyed.sort_unstable();
        keyed.truncate(CANDIDATES);
        keyed.into_iter().rev().map(|(.., id)| id).collect()
    }

    /// Returns the oldest evictable connection that `matches`.
    fn oldest(&self, mut matches: impl FnMut(&Connection) -> bool) -> Option<u64> {
        let evictable = self.open.iter().filter(|(_, connection)| !self.is_reserved(&connection.network));
        evictable.into_iter().find(|(_, connection)| matches(connection)).map(|(id, _)| *id)
    }
}

/// Table of the open connections.
#[derive(Debug)]
pub struct ConnectionTable {
    limits: ConnectionLimits,
    state: Mutex<State>,
    shed: CounterBy,
}

impl ConnectionTable {
    /// Creates an empty table. `shed` counts the connections that are `evicted`, `refused` or `stalled`.
    pub fn new(limits: ConnectionLimits, shed: CounterBy) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default(), shed })
    }

    /// Adds a new anonymous connection, evicting another one if necessary. `None` if there is no slot.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<OpenConnection> {
        let network = network_of(address);
        let mut state = self.state();
        match self.victim_for(&mut state, &network) {
            Ok(None) => {}
            Ok(Some(victim)) => {
                self.shed.inc("evicted");
                state.evict(victim);
            }
            Err(TableFull) => {
                self.shed.inc("refused");
                return None;
            }
        }
        let connection = Arc::new(Connection {
            id: state.next_id,
            network,
            trust: AtomicU8::new(Trust::Anonymous as u8),
            activity: Arc::default(),
            evicted: CancellationToken::new(),
            table: Arc::clone(self),
        });
        state.next_id += 1;
        state.add(&connection);
        Some(OpenConnection(connection))
    }

    /// Returns the connection to evict for a new one of `network`, if any.
    fn victim_for(&self, state: &mut State, network: &IpNet) -> Result<Option<u64>, TableFull> {
        let limits = &self.limits;
        let [anonymous, ..] = state.held(network);
        // A new connection of kube-apiserver is anonymous until its first request: its network has reserved slots.
        let most = if state.has_api_server(network) {
            limits.anonymous_of_api_server_network
        } else {
            limits.anonymous_of_network
        };
        let own_slots = if state.held(network)[Trust::Webhook as usize] > 0 { limits.webhooks } else { 0 };
        let is_crowded = !state.is_reserved(network) && state.unreserved().all >= limits.untrusted + own_slots;
        let is_full = state.open.len() >= limits.total || is_crowded;
        let may_have_more = anonymous < most;
        if may_have_more && !is_full {
            return Ok(None);
        }
        if state.closing >= limits.closing {
            return Err(TableFull);
        }
        let unreserved = if may_have_more { state.least_valuable(network, limits) } else { None };
        let found = unreserved.or_else(|| state.idle_of(network));
        let found = found.or_else(|| {
            let oldest = || state.oldest(|connection| may_have_more || connection.network == *network);
            if limits.closes_oldest { oldest() } else { None }
        });
        found.map(Some).ok_or(TableFull)
    }

    /// Reserves slots for an address from which kube-apiserver is expected. Without a proof, it has no other privilege.
    pub fn expect_api_server(&self, address: IpAddr) {
        self.state().expected.insert(network_of(address));
    }

    fn promote(&self, connection: &Connection, trust: Trust) {
        let mut state = self.state();
        let is_at_home = trust == Trust::Webhook && state.is_reserved(&connection.network);
        let trust = if is_at_home { Trust::ApiServer } else { trust };
        let [_, authenticated, webhooks, _] = state.held(&connection.network);
        let is_full = match trust {
            Trust::Authenticated => authenticated >= self.limits.authenticated_of_network,
            Trust::Webhook => {
                webhooks >= self.limits.webhooks_of_network || state.unreserved().webhooks >= self.limits.webhooks
            }
            Trust::Anonymous | Trust::ApiServer => false,
        };
        if is_full || connection.trust() >= trust {
            return;
        }
        let Some(connection) = state.remove(connection.id) else { return };
        connection.trust.store(trust as u8, Ordering::Release);
        if trust == Trust::ApiServer {
            state.reserve_for_api_server(connection.network);
        }
        state.add(&connection);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No connection may be evicted for the new one.
struct TableFull;

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
