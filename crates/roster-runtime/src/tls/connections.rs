//! The open connections of the TLS port: how many a network may hold, and which one is closed to make room.
//!
//! ```text
//!  anonymous ── a valid bearer token ──▶ authenticated ─┐
//!      └────── a client or a request that proved to be kube-apiserver ──▶ API server
//! ```
//!
//! Anonymous and authenticated connections share a part of the table, so there is always room for
//! kube-apiserver, whose connections are never closed for others. When room is short, connections whose clients do not
//! read go first, and then idle ones: closing one loses no work, and HTTP clients reconnect. Busy ones go last, and only
//! for the benefit of a site that holds fewer connections, or of a network of the same site that does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use roster_credentials::network::{network_of, site_of};
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, Standing};
use crate::metrics::CounterBy;

/// How many connections may be open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All connections together.
    pub total: usize,
    /// Unproven ones of networks that kube-apiserver does not use. Up to half of them, authenticated ones are not closed
    /// while they are busy.
    pub untrusted: usize,
    /// Anonymous ones of one network.
    pub anonymous_of_network: usize,
    /// Anonymous ones of a network that holds proven connections of kube-apiserver: each of its requests may take one
    /// until it is proven.
    pub anonymous_beside_api_server: usize,
    /// Authenticated ones of one network. Further ones stay anonymous.
    pub authenticated_of_network: usize,
    /// Evicted connections whose sockets are not closed yet.
    pub closing: usize,
    /// Shortest time between two searches of a full table. Up to [`CANDIDATES`] connections are evicted in between.
    pub search_interval: Duration,
    /// Whether the oldest connection makes room if no other one can, even if it is busy. For ports whose requests are
    /// answered at once: whoever keeps a connection open for long is not waiting for an answer.
    pub closes_oldest: bool,
}

/// Limits of the TLS port.
///
/// kube-apiserver has up to 1,024 watches and 600 requests in flight by default, each with a connection of its own. A
/// browser opens 6 connections and a Go client rarely more than a few dozen, so 256 are enough for the people behind one
/// NAT gateway to log in at the same time. Six addresses fill the table, and then make room for addresses of other sites.
pub const LIMITS: Limits = Limits {
    total: 4096,
    untrusted: 1536,
    anonymous_of_network: 256,
    anonymous_beside_api_server: 1024,
    authenticated_of_network: 512,
    closing: 256,
    search_interval: Duration::from_millis(10),
    closes_oldest: false,
};

/// Limits of the probe port: kubelet opens a connection for each probe, and Prometheus keeps one or two. Probes are answered
/// within milliseconds, so a new connection has its answer before 512 others have come.
pub const PROBE_LIMITS: Limits = Limits {
    total: 512,
    untrusted: 512,
    anonymous_of_network: 64,
    anonymous_beside_api_server: 64,
    authenticated_of_network: 0,
    closing: 512,
    search_interval: Duration::from_millis(10),
    closes_oldest: true,
};

/// How long a network has reserved room after its last proven connection of kube-apiserver, which closes idle connections
/// after 90 s. It has no other privilege by then: its address may belong to somebody else.
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

    /// Whether its network holds proven connections of kube-apiserver at this moment, this one perhaps among them.
    pub fn is_beside_api_server(&self) -> bool {
        self.trust() == Trust::ApiServer || self.table.state().has_api_server(&self.network)
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
    /// The oldest first.
    open: BTreeMap<u64, Arc<Connection>>,
    networks: HashMap<IpNet, Network>,
    /// Connections of each site that are not proven to be kube-apiserver's.
    sites: HashMap<IpNet, usize>,
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

    /// Whether the network holds proven connections of kube-apiserver.
    fn has_api_server(&self, network: &IpNet) -> bool {
        self.held(network)[Trust::ApiServer as usize] > 0
    }

    /// Whether the network has reserved room, because kube-apiserver uses it or did lately.
    fn is_reserved(&self, network: &IpNet) -> bool {
        self.has_api_server(network)
            || self.api_servers.get(network).is_some_and(|proven| proven.elapsed() < REMEMBERED)
    }

    /// Remembers that the network has had a proven connection of kube-apiserver until now.
    fn remember_api_server(&mut self, network: IpNet) {
        self.api_servers.insert(network, Instant::now());
        let networks = &self.networks;
        let has_proven =
            |network: &IpNet| networks.get(network).is_some_and(|network| network.held[Trust::ApiServer as usize] > 0);
        self.api_servers.retain(|network, proven| proven.elapsed() < REMEMBERED || has_proven(network));
    }

    /// Connections that are not proven, of networks that have no reserved room, and how many of them are authenticated.
    /// Those with reserved room are never closed for others, so they must not take the places of others either.
    fn strangers(&self) -> (usize, usize) {
        let [anonymous, authenticated, _] = self.total;
        let beside = self.api_servers.keys().filter(|network| self.is_reserved(network));
        beside
            .map(|network| self.held(network))
            .fold((anonymous + authenticated, authenticated), |(all, authenticated), beside| {
                (all - beside[0] - beside[1], authenticated - beside[1])
            })
    }

    /// Connections of the network that are not proven to be kube-apiserver's.
    fn untrusted(&self, network: &IpNet) -> usize {
        let [anonymous, authenticated, _] = self.held(network);
        anonymous + authenticated
    }

    /// How much the network holds: the connections of its site, and its own, without those of kube-apiserver.
    fn share(&self, network: &IpNet) -> (usize, usize) {
        (self.sites.get(&site_of(*network)).copied().unwrap_or_default(), self.untrusted(network))
    }

    /// Whether `network` holds less than `other`, also with one connection more.
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
            self.remember_api_server(connection.network);
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

    /// The anonymous connection of the network that has been stalled for longest, or else idle.
    fn idle_of(&self, network: &IpNet) -> Option<u64> {
        let of_network = self.networks.get(network)?.open.values();
        let anonymous = of_network.filter(|connection| connection.trust() == Trust::Anonymous);
        let keyed = anonymous.map(|connection| (connection.activity.standing(), connection.id));
        let ((standing, _), id) = keyed.min()?;
        (standing < Standing::Busy).then_some(id)
    }

    /// The connection that costs least to close in favour of one more of `network`.
    fn least_valuable(&mut self, network: &IpNet, limits: &Limits) -> Option<u64> {
        if self.candidates.searched.is_none_or(|searched| searched.elapsed() >= limits.search_interval) {
            self.candidates = Candidates { ids: self.search(limits), searched: Some(Instant::now()) };
        }
        // A candidate that must not make room for this network stays one for others: whoever holds most would otherwise
        // use up all candidates, and keep out those who hold little.
        let mut ids = std::mem::take(&mut self.candidates.ids);
        let found = ids.iter().rposition(|id| self.is_fair(*id, network, limits));
        let found = found.map(|index| ids.remove(index));
        self.candidates.ids = ids;
        found
    }

    /// Whether a connection may be closed in favour of one more of `network`. Work under way is ended only for a site or
    /// network that holds less.
    fn is_fair(&self, id: u64, network: &IpNet, limits: &Limits) -> bool {
        let Some(connection) = self.open.get(&id) else { return false };
        let standing = connection.activity.standing().0;
        self.is_evictable(connection, standing, limits)
            && (standing < Standing::Busy || self.holds_less(network, &connection.network))
    }

    /// Whether a connection may be closed for others at all. Tokens that work are worth a part of the room: strangers must
    /// not push those out who are logged in. Beyond it, those who are logged in must not keep everybody else out.
    fn is_evictable(&self, connection: &Connection, standing: Standing, limits: &Limits) -> bool {
        let is_protected = standing == Standing::Busy
            && connection.trust() == Trust::Authenticated
            && self.strangers().1 <= limits.untrusted / 2;
        !is_protected && !self.is_reserved(&connection.network)
    }

    /// The connections that cost least to close, the cheapest last: stalled before idle before busy or new. Of idle ones,
    /// anonymous before authenticated, and of all of them those of the site, and in it of the network, that holds most.
    /// Then the oldest, but the newest of those that are busy with a valid token: a watch is worth more the longer it lasts.
    fn search(&self, limits: &Limits) -> Vec<u64> {
        let keyed = self.open.values().filter_map(|connection| {
            let ((standing, since), trust) = (connection.activity.standing(), connection.trust());
            if !self.is_evictable(connection, standing, limits) {
                return None;
            }
            let is_busy = standing == Standing::Busy;
            let by_trust = if is_busy { Trust::Anonymous } else { trust };
            let age = if is_busy && trust == Trust::Authenticated {
                (None, u64::MAX - connection.id)
            } else {
                (Some(since), connection.id)
            };
            let most = Reverse(self.share(&connection.network));
            Some(((standing, by_trust), (most, trust, age), connection.id))
        });
        let mut keyed: Vec<_> = keyed.collect();
        keyed.sort_unstable();
        keyed.truncate(CANDIDATES);
        keyed.into_iter().rev().map(|(.., id)| id).collect()
    }

    /// The oldest connection of a set that may be closed for others.
    fn oldest(&self, mut of: impl FnMut(&Connection) -> bool) -> Option<u64> {
        let evictable = self.open.iter().filter(|(_, connection)| !self.is_reserved(&connection.network));
        evictable.into_iter().find(|(_, connection)| of(connection)).map(|(id, _)| *id)
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
        let most = if state.has_api_server(network) {
            limits.anonymous_beside_api_server
        } else {
            limits.anonymous_of_network
        };
        let is_crowded = !state.is_reserved(network) && state.strangers().0 >= limits.untrusted;
        let is_full = state.open.len() >= limits.total || is_crowded;
        let may_have_more = anonymous < most;
        if may_have_more && !is_full {
            return Ok(None);
        }
        if state.closing >= limits.closing {
            return Err(Full);
        }
        let strangers = if may_have_more { state.least_valuable(network, limits) } else { None };
        let found = strangers.or_else(|| state.idle_of(network));
        let found = found.or_else(|| {
            let oldest = || state.oldest(|connection| may_have_more || connection.network == *network);
            if limits.closes_oldest { oldest() } else { None }
        });
        found.map(Some).ok_or(Full)
    }

    /// Reserves room for an address from which kube-apiserver is expected. Nothing else follows from it.
    pub fn expect_api_server(&self, address: IpAddr) {
        self.state().api_servers.insert(network_of(address), Instant::now());
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
