//! The open connections of the TLS port: how many a network may hold, and which one is closed to make room.
//!
//! ```text
//!  anonymous ── a valid bearer token ──▶ authenticated ─┐
//!      └────── a client or a request that proved to be kube-apiserver ──▶ API server
//! ```
//!
//! Anonymous and authenticated connections share three quarters of the table, so there is always room for
//! kube-apiserver, whose connections are never closed for others. When room is short, idle connections go first: closing
//! one loses no work, and HTTP clients reconnect.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use crate::metrics::CounterBy;
use crate::operations::network::network_of;

/// How many connections may be open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All connections together.
    pub total: usize,
    /// All but kube-apiserver's.
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
}

/// Limits of the TLS port.
///
/// kube-apiserver has up to 1,024 watches and 600 requests in flight by default, each with a connection of its own. A
/// browser opens 6 connections and a Go client rarely more than a few dozen, so 256 are enough for the people behind one
/// NAT gateway to log in at the same time, and a dozen addresses are needed to fill the table.
pub const LIMITS: Limits = Limits {
    total: 4096,
    untrusted: 3072,
    anonymous_of_network: 256,
    anonymous_beside_api_server: 1024,
    authenticated_of_network: 512,
    closing: 256,
};

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

    /// Whether its network holds proven connections of kube-apiserver, this one perhaps among them.
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
        if state.open.remove(&self.0.id).is_some() {
            state.released(&self.0);
        } else {
            state.closing -= 1;
        }
    }
}

/// Counts by [`Trust`].
type ByTrust = [usize; 3];

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    open: HashMap<u64, Arc<Connection>>,
    networks: HashMap<IpNet, ByTrust>,
    total: ByTrust,
    closing: usize,
}

impl State {
    fn held(&self, network: &IpNet) -> ByTrust {
        self.networks.get(network).copied().unwrap_or_default()
    }

    fn add(&mut self, network: IpNet, trust: Trust) {
        self.networks.entry(network).or_default()[trust as usize] += 1;
        self.total[trust as usize] += 1;
    }

    fn released(&mut self, connection: &Connection) {
        let trust = connection.trust() as usize;
        self.total[trust] -= 1;
        if let Some(held) = self.networks.get_mut(&connection.network) {
            held[trust] -= 1;
            if *held == ByTrust::default() {
                self.networks.remove(&connection.network);
            }
        }
    }

    fn evict(&mut self, id: u64) {
        let Some(connection) = self.open.remove(&id) else { return };
        self.released(&connection);
        self.closing += 1;
        connection.evicted.cancel();
    }

    /// The anonymous connection of the network that has been idle for longest.
    fn idle_of(&self, network: &IpNet) -> Option<u64> {
        let of_network =
            |connection: &&Arc<Connection>| connection.network == *network && connection.trust() == Trust::Anonymous;
        let idle = self.open.values().filter(of_network).filter_map(|connection| {
            let (is_working, since) = connection.activity.standing();
            (!is_working).then_some((since, connection.id))
        });
        idle.min().map(|(_, id)| id)
    }

    /// The connection that costs least to close in favour of one more of `network`: idle before busy or new, anonymous
    /// before authenticated, of the network that holds most, and of those the oldest.
    fn least_valuable(&self, network: &IpNet) -> Option<u64> {
        let untrusted = |network: &IpNet| {
            let [anonymous, authenticated, _] = self.held(network);
            anonymous + authenticated
        };
        let is_api_servers = |other: &IpNet| other != network && self.held(other)[Trust::ApiServer as usize] > 0;
        let candidates = self
            .open
            .values()
            .filter(|connection| connection.trust() < Trust::ApiServer && !is_api_servers(&connection.network));
        let keyed = candidates.map(|connection| {
            let (is_working, since) = connection.activity.standing();
            (is_working, connection.trust(), Reverse(untrusted(&connection.network)), since, connection.id)
        });
        let (is_working, trust, Reverse(most), _, id) = keyed.min()?;
        // Work under way is ended only if it is a stranger's, and for a network that holds less.
        let is_fair = !is_working || (trust == Trust::Anonymous && untrusted(network) + 1 < most);
        is_fair.then_some(id)
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
    /// An empty table. `shed` counts the connections that are `evicted` or `refused`.
    pub fn new(limits: Limits, shed: CounterBy) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default(), shed })
    }

    /// Adds a new anonymous connection, if need be in place of another one. `None`: there is no room.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<OpenConnection> {
        let network = network_of(address);
        let mut state = self.state();
        match self.room(&state, &network) {
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
        state.add(network, Trust::Anonymous);
        state.open.insert(connection.id, Arc::clone(&connection));
        Some(OpenConnection(connection))
    }

    /// Which connection has to go for one more of `network`, if any.
    fn room(&self, state: &State, network: &IpNet) -> Result<Option<u64>, Full> {
        let limits = &self.limits;
        let [anonymous, _, api_server] = state.held(network);
        let most = if api_server > 0 { limits.anonymous_beside_api_server } else { limits.anonymous_of_network };
        // A new connection of kube-apiserver is anonymous until its first request: its network has the reserved room.
        let all = if api_server > 0 { limits.total } else { limits.untrusted };
        let [all_anonymous, all_authenticated, _] = state.total;
        let victim = if anonymous >= most {
            state.idle_of(network)
        } else if all_anonymous + all_authenticated >= all || state.open.len() >= limits.total {
            state.least_valuable(network)
        } else {
            return Ok(None);
        };
        victim.filter(|_| state.closing < limits.closing).map(Some).ok_or(Full)
    }

    fn has_api_server(&self, network: &IpNet) -> bool {
        self.state().held(network)[Trust::ApiServer as usize] > 0
    }

    fn promote(&self, connection: &Connection, trust: Trust) {
        let mut state = self.state();
        let [_, authenticated, _] = state.held(&connection.network);
        let is_full = trust == Trust::Authenticated && authenticated >= self.limits.authenticated_of_network;
        if is_full || connection.trust() >= trust || !state.open.contains_key(&connection.id) {
            return;
        }
        state.released(connection);
        connection.trust.store(trust as u8, Ordering::Release);
        state.add(connection.network, trust);
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
