//! The open connections of the TLS port: how many a network may hold, and which one is closed to make room.
//!
//! ```text
//!  anonymous ── a valid bearer token ──▶ authenticated ─┐
//!      └────── a client or a request that proved to be kube-apiserver ──▶ API server
//! ```
//!
//! Anonymous and authenticated connections share a part of the table, so there is always room for
//! kube-apiserver, whose connections are never closed for others. When room is short, connections whose clients do not
//! read go first, and then idle ones: closing one loses no work, and HTTP clients reconnect.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use roster_credentials::network::network_of;
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, Standing};
use crate::metrics::CounterBy;

/// How many connections may be open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All connections together.
    pub total: usize,
    /// Unproven ones of networks that kube-apiserver does not use.
    pub untrusted: usize,
    /// Anonymous ones of one network.
    pub anonymous_of_network: usize,
    /// Anonymous ones of a network that kube-apiserver has proven connections from: each of its requests may take one
    /// until it is proven.
    pub anonymous_beside_api_server: usize,
    /// Authenticated ones of one network. Further ones stay anonymous.
    pub authenticated_of_network: usize,
    /// Evicted connections whose sockets are not closed yet.
    pub closing: usize,
    /// Shortest time between two searches of a full table. Up to [`CANDIDATES`] connections are evicted in between.
    pub search_interval: Duration,
}

/// Limits of the TLS port.
///
/// kube-apiserver has up to 1,024 watches and 600 requests in flight by default, each with a connection of its own. A
/// browser opens 6 connections and a Go client rarely more than a few dozen, so 256 are enough for the people behind one
/// NAT gateway to log in at the same time, and six addresses are needed to fill the table.
pub const LIMITS: Limits = Limits {
    total: 4096,
    untrusted: 1536,
    anonymous_of_network: 256,
    anonymous_beside_api_server: 1024,
    authenticated_of_network: 512,
    closing: 256,
    search_interval: Duration::from_millis(10),
};

/// Limits of the probe port: kubelet opens a connection for each probe, and Prometheus keeps one or two.
pub const PROBE_LIMITS: Limits = Limits {
    total: 512,
    untrusted: 512,
    anonymous_of_network: 64,
    anonymous_beside_api_server: 64,
    authenticated_of_network: 0,
    closing: 64,
    search_interval: Duration::from_millis(10),
};

/// How long a network has the reserved room after its last proven connection of kube-apiserver, which closes idle
/// connections after 90 s.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Connections that one search of a full table finds.
const CANDIDATES: usize = 64;

/// What a connection has proven about its client.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Trust {
    /// Nothing yet.
    Anonymous,
    /// A request had a valid bearer token.
    Authenticated,
    /// The client is kube-apiserver.
    ApiServer,
}

impl Trust {
    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Anonymous,
            1 => Self::Authenticated,
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
    /// What the connection has proven so far.
    pub fn trust(&self) -> Trust {
        Trust::from_u8(self.trust.load(Ordering::Acquire))
    }

    /// Raises the trust in the connection. It never falls: authorization is decided anew for each request anyway.
    pub fn mark(&self, trust: Trust) {
        if self.trust() < trust {
            self.table.promote(self, trust);
        }
    }

    /// Whether its network holds proven connections of kube-apiserver, this one perhaps among them, or did lately.
    pub fn is_beside_api_server(&self) -> bool {
        self.trust() == Trust::ApiServer || self.table.has_api_server(&self.network)
    }

    /// The network that the connection counts for.
    pub const fn network(&self) -> IpNet {
        self.network
    }

    /// The requests on the connection.
    pub const fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Counts the connection as closed because its client does not read.
    pub fn count_stalled(&self) {
        self.table.shed.inc("stalled");
    }

    /// Returns when the connection has to make room for another one.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

/// An entry of the table, removed when dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<Connection>);

impl OpenConnection {
    /// The connection, to be shared with its requests.
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

/// Counts by [`Trust`].
type ByTrust = [usize; 3];

/// The connections of one network.
#[derive(Debug, Default)]
struct Network {
    held: ByTrust,
    open: BTreeMap<u64, Arc<Connection>>,
}

/// Ids of connections to evict next, so that a full table is not searched for each new connection.
#[derive(Debug, Default)]
struct Candidates {
    /// The least valuable one last.
    ids: Vec<u64>,
    searched: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    open: HashMap<u64, Arc<Connection>>,
    networks: HashMap<IpNet, Network>,
    /// Networks that kube-apiserver uses: when a connection was last proven, or the last proven one ended.
    api_servers: HashMap<IpNet, Instant>,
    total: ByTrust,
    closing: usize,
    candidates: Candidates,
}

impl State {
    fn held(&self, network: &IpNet) -> ByTrust {
        self.networks.get(network).map(|network| network.held).unwrap_or_default()
    }

    fn has_api_server(&self, network: &IpNet) -> bool {
        let is_remembered = || self.api_servers.get(network).is_some_and(|proven| proven.elapsed() < REMEMBERED);
        self.held(network)[Trust::ApiServer as usize] > 0 || is_remembered()
    }

    /// Remembers that the network has had a proven connection of kube-apiserver until now.
    fn remember_api_server(&mut self, network: IpNet) {
        self.api_servers.insert(network, Instant::now());
        let networks = &self.networks;
        let has_proven =
            |network: &IpNet| networks.get(network).is_some_and(|network| network.held[Trust::ApiServer as usize] > 0);
        self.api_servers.retain(|network, proven| proven.elapsed() < REMEMBERED || has_proven(network));
    }

    /// Connections that are not proven, of networks that kube-apiserver does not use. Those of its networks are never closed
    /// for others, so they must not take the places of others either.
    fn strangers(&self) -> usize {
        let [anonymous, authenticated, _] = self.total;
        let beside = self.api_servers.keys().filter(|network| self.has_api_server(network));
        anonymous + authenticated - beside.map(|network| self.untrusted(network)).sum::<usize>()
    }

    /// Connections of the network that may be evicted.
    fn untrusted(&self, network: &IpNet) -> usize {
        let [anonymous, authenticated, _] = self.held(network);
        anonymous + authenticated
    }

    fn add(&mut self, connection: &Arc<Connection>) {
        let trust = connection.trust() as usize;
        let network = self.networks.entry(connection.network).or_default();
        network.held[trust] += 1;
        network.open.insert(connection.id, Arc::clone(connection));
        self.total[trust] += 1;
        self.open.insert(connection.id, Arc::clone(connection));
    }

    /// Removes a connection, and returns it if it was open.
    fn remove(&mut self, id: u64) -> Option<Arc<Connection>> {
        let connection = self.open.remove(&id)?;
        let trust = connection.trust() as usize;
        self.total[trust] -= 1;
        if connection.trust() == Trust::ApiServer {
            self.remember_api_server(connection.network);
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

    fn evict(&mut self, id: u64) {
        let Some(connection) = self.remove(id) else { return };
        self.closing += 1;
        connection.evicted.cancel();
    }

    /// The anonymous connection of the network that has been stalled for longest, or else idle.
    fn idle_of(&self, network: &IpNet) -> Option<u64> {
        let of_network = self.networks.get(network)?.open.values();
        let anonymous = of_network.filter(|connection| connection.trust() == Trust::Anonymous);
        let keyed = anonymous.map(|connection| (connection.activity.standing(), connection.id));
        let ((standing, _), id) = keyed.min()?;
        (standing < Standing::Busy).then_some(id)
    }

    /// The connection that costs least to close in favour of one more of `network`.
    fn least_valuable(&mut self, network: &IpNet, search_interval: Duration) -> Option<u64> {
        if self.candidates.searched.is_none_or(|searched| searched.elapsed() >= search_interval) {
            self.candidates = Candidates { ids: self.search(), searched: Some(Instant::now()) };
        }
        // A candidate that must not make room for this network stays one for others: whoever holds most would otherwise
        // use up all candidates, and keep out those who hold little.
        let mut ids = std::mem::take(&mut self.candidates.ids);
        let found = ids.iter().rposition(|id| self.is_fair(*id, network));
        let found = found.map(|index| ids.remove(index));
        self.candidates.ids = ids;
        found
    }

    /// Whether a connection may be closed in favour of one more of `network`. Work under way is ended only if it is a
    /// stranger's, and for a network that holds less.
    fn is_fair(&self, id: u64, network: &IpNet) -> bool {
        let Some(connection) = self.open.get(&id) else { return false };
        if self.has_api_server(&connection.network) {
            return false;
        }
        connection.activity.standing().0 < Standing::Busy
            || (connection.trust() == Trust::Anonymous
                && self.untrusted(network) + 1 < self.untrusted(&connection.network))
    }

    /// The connections that cost least to close, the cheapest last: stalled before idle before busy or new, anonymous
    /// before authenticated, of the network that holds most, and of those the oldest.
    fn search(&self) -> Vec<u64> {
        let candidates = self.open.values().filter(|connection| !self.has_api_server(&connection.network));
        let keyed = candidates.map(|connection| {
            let (standing, since) = connection.activity.standing();
            let most = Reverse(self.untrusted(&connection.network));
            ((standing, connection.trust()), (most, since, connection.id))
        });
        let mut keyed: Vec<_> = keyed.collect();
        keyed.sort_unstable();
        keyed.truncate(CANDIDATES);
        keyed.into_iter().rev().map(|(_, (.., id))| id).collect()
    }
}

/// The open connections.
#[derive(Debug)]
pub struct ConnectionTable {
    limits: Limits,
    state: Mutex<State>,
    shed: CounterBy,
}

impl ConnectionTable {
    /// An empty table. `shed` counts the connections that are `evicted`, `refused` or `stalled`.
    pub fn new(limits: Limits, shed: CounterBy) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default(), shed })
    }

    /// Adds a new anonymous connection, if need be in place of another one. `None`: there is no room.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<OpenConnection> {
        let network = network_of(address);
        let mut state = self.state();
        match self.room(&mut state, &network) {
            Ok(None) => {}
            Ok(Some(victim)) => {
                self.shed.inc("evicted");
                state.evict(victim);
            }
            Err(Full) => {
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

    /// Which connection has to go for one more of `network`, if any.
    fn room(&self, state: &mut State, network: &IpNet) -> Result<Option<u64>, Full> {
        let limits = &self.limits;
        let [anonymous, ..] = state.held(network);
        // A new connection of kube-apiserver is anonymous until its first request: its network has the reserved room.
        let is_reserved = state.has_api_server(network);
        let most = if is_reserved { limits.anonymous_beside_api_server } else { limits.anonymous_of_network };
        let is_full = state.open.len() >= limits.total || (!is_reserved && state.strangers() >= limits.untrusted);
        if anonymous < most && !is_full {
            return Ok(None);
        }
        if state.closing >= limits.closing {
            return Err(Full);
        }
        let strangers = if anonymous < most { state.least_valuable(network, limits.search_interval) } else { None };
        strangers.or_else(|| state.idle_of(network)).map(Some).ok_or(Full)
    }

    fn has_api_server(&self, network: &IpNet) -> bool {
        self.state().has_api_server(network)
    }

    fn promote(&self, connection: &Connection, trust: Trust) {
        let mut state = self.state();
        let [_, authenticated, _] = state.held(&connection.network);
        let is_full = trust == Trust::Authenticated && authenticated >= self.limits.authenticated_of_network;
        if is_full || connection.trust() >= trust {
            return;
        }
        let Some(connection) = state.remove(connection.id) else { return };
        connection.trust.store(trust as u8, Ordering::Release);
        if trust == Trust::ApiServer {
            state.remember_api_server(connection.network);
        }
        state.add(&connection);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There is no connection that may be closed for another one.
struct Full;

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
