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
//! with the address: it holds or recently held a connection with the certificate, or is in the EndpointSlice. Limits
//! count networks, but what kube-apiserver is granted counts for its exact address: others may use the rest of a network.
//! Behind a proxy, its address may be unknown. So connections with a path are evicted last, and have a few slots of their
//! own. When the table is full, connections whose clients do not read are evicted first, then
//! idle ones: closing one loses no work, and HTTP clients reconnect. Busy ones are evicted last, and only for a site,
//! or a network of the same site, that holds fewer connections.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use roster_credentials::network::{network_of, site_of};
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, ActivityState};
pub use super::connection_limits::{ConnectionLimits, LIMITS, PROBE_LIMITS};
pub use super::connection_trust::{Standing, Trust};
use crate::metrics::CounterBy;

/// How long slots stay reserved for an address after its last connection with kube-apiserver's certificate, which closes
/// idle connections after 90 s. The address may have a new owner by then, who must not be able to renew the reservation
/// with a path.
const RESERVATION_TTL: Duration = Duration::from_secs(3600);

/// Maximum number of eviction candidates that one search finds.
const CANDIDATES: usize = 64;

/// One connection; an extension of each request on it.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    address: IpAddr,
    network: IpNet,
    trust: AtomicU8,
    /// Whether the client has presented kube-apiserver's certificate.
    is_certified: AtomicBool,
    activity: Arc<Activity>,
    evicted: CancellationToken,
    table: Arc<ConnectionTable>,
}

impl Connection {
    /// Returns the highest trust proven so far.
    pub fn trust(&self) -> Trust {
        Trust::from_u8(self.trust.load(Ordering::Acquire))
    }

    /// Raises the trust in the connection: to [`Trust::ApiServer`] for a certificate, and also for the path of a webhook
    /// if its address is one of kube-apiserver. It never falls: each request is authorized separately anyway.
    pub fn mark(&self, trust: Trust) {
        let current = self.trust();
        let may_rise = match trust {
            Trust::ApiServer => !self.is_certified(),
            // The address may have become known.
            Trust::Webhook => current <= trust,
            Trust::Anonymous | Trust::Authenticated => current < trust,
        };
        if may_rise {
            self.table.promote(self, trust);
        }
    }

    fn is_certified(&self) -> bool {
        self.is_certified.load(Ordering::Acquire)
    }

    /// Returns which limits apply to its requests.
    pub fn standing(&self) -> Standing {
        if self.trust() == Trust::ApiServer {
            return Standing::ApiServer;
        }
        let has_api_server = self.table.state().has_api_server(&self.address);
        if has_api_server { Standing::AtApiServerAddress } else { Standing::Unknown }
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

/// Unproven connections of addresses without reserved slots.
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

/// The connections of one address.
#[derive(Debug, Default)]
struct Address {
    held: ByTrust,
    /// Connections with kube-apiserver's certificate.
    certified: usize,
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
    addresses: HashMap<IpAddr, Address>,
    /// Connections of each site that are not proven to be kube-apiserver's.
    sites: HashMap<IpNet, usize>,
    /// Addresses of kube-apiserver: when a connection last presented its certificate, or the last such one ended.
    api_servers: HashMap<IpAddr, Instant>,
    /// Addresses from which kube-apiserver is expected.
    expected: HashSet<IpAddr>,
    total: ByTrust,
    closing: usize,
    candidates: Candidates,
}

impl State {
    fn held(&self, network: &IpNet) -> ByTrust {
        self.networks.get(network).map(|network| network.held).unwrap_or_default()
    }

    fn held_at(&self, address: &IpAddr) -> ByTrust {
        self.addresses.get(address).map(|address| address.held).unwrap_or_default()
    }

    /// Whether slots are reserved for the address, because kube-apiserver uses it, recently did, or is expected to. The path
    /// of a webhook counts as a proof there: if the address is not in the EndpointSlice, for example behind a proxy,
    /// kube-apiserver often holds a connection with the certificate to another replica only.
    fn is_reserved(&self, address: &IpAddr) -> bool {
        let is_certified = || self.addresses.get(address).is_some_and(|address| address.certified > 0);
        let is_recent = |certified: &Instant| certified.elapsed() < RESERVATION_TTL;
        self.expected.contains(address) || is_certified() || self.api_servers.get(address).is_some_and(is_recent)
    }

    /// Whether the address holds proven connections of kube-apiserver.
    fn has_api_server(&self, address: &IpAddr) -> bool {
        self.is_reserved(address) && self.held_at(address)[Trust::ApiServer as usize] > 0
    }

    /// Records that the address had a connection with kube-apiserver's certificate just now.
    fn reserve_for_api_server(&mut self, address: IpAddr) {
        self.api_servers.insert(address, Instant::now());
        let addresses = &self.addresses;
        let is_certified = |address: &IpAddr| addresses.get(address).is_some_and(|address| address.certified > 0);
        self.api_servers.retain(|address, proven| proven.elapsed() < RESERVATION_TTL || is_certified(address));
    }

    /// Returns the addresses with reserved slots.
    fn reserved(&self) -> impl Iterator<Item = &IpAddr> {
        let expected = self.expected.iter().filter(|address| !self.api_servers.contains_key(*address));
        self.api_servers.keys().chain(expected).filter(|address| self.is_reserved(address))
    }

    /// Subtracts the connections of addresses with reserved slots. They are left out of the limits of others: they are
    /// never evicted, so they must not use up the slots of others either.
    fn without_reserved(&self, total: ByTrust, is_counted: impl Fn(&IpAddr) -> bool) -> ByTrust {
        self.reserved().filter(|address| is_counted(address)).fold(total, |total, address| {
            let held = self.held_at(address);
            std::array::from_fn(|trust| total[trust] - held[trust])
        })
    }

    /// Counts unproven connections of addresses without reserved slots.
    fn unreserved(&self) -> Unreserved {
        let [anonymous, authenticated, webhooks, _] = self.without_reserved(self.total, |_| true);
        Unreserved { all: anonymous + authenticated + webhooks, authenticated, webhooks }
    }

    /// Counts the connections that share the limits of a network with those of `address`.
    fn held_with(&self, address: &IpAddr) -> ByTrust {
        if self.is_reserved(address) {
            return self.held_at(address);
        }
        let network = network_of(*address);
        self.without_reserved(self.held(&network), |address| network_of(*address) == network)
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
        let address = self.addresses.entry(connection.address).or_default();
        address.held[trust] += 1;
        address.certified += usize::from(connection.is_certified());
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
        if connection.trust() < Trust::ApiServer {
            self.leave_site(site_of(connection.network));
        }
        if let Some(address) = self.addresses.get_mut(&connection.address) {
            address.held[trust] -= 1;
            address.certified -= usize::from(connection.is_certified());
            if address.held == ByTrust::default() {
                self.addresses.remove(&connection.address);
            }
        }
        if connection.is_certified() {
            self.reserve_for_api_server(connection.address);
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

    /// Returns the anonymous connection that has been stalled, or else idle, the longest, of those that share the limits
    /// of a network with those of `address`.
    fn idle_with(&self, address: &IpAddr) -> Option<u64> {
        let is_reserved = self.is_reserved(address);
        let shares_limits = |connection: &Connection| {
            connection.address == *address || !is_reserved && !self.is_reserved(&connection.address)
        };
        let of_network = self.networks.get(&network_of(*address))?.open.values();
        let anonymous = of_network.filter(|connection| connection.trust() == Trust::Anonymous);
        let anonymous = anonymous.filter(|connection| shares_limits(connection));
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
        !is_protected && self.is_unreserved(connection)
    }

    /// Whether a connection has no reserved slot, by its own proof or by its address.
    fn is_unreserved(&self, connection: &Connection) -> bool {
        connection.trust() < Trust::ApiServer && !self.is_reserved(&connection.address)
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
        let evictable = self.open.iter().filter(|(_, connection)| self.is_unreserved(connection));
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
        let (address, network) = (address.to_canonical(), network_of(address));
        let mut state = self.state();
        match self.victim_for(&mut state, &address, &network) {
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
            address,
            network,
            trust: AtomicU8::new(Trust::Anonymous as u8),
            is_certified: AtomicBool::new(false),
            activity: Arc::default(),
            evicted: CancellationToken::new(),
            table: Arc::clone(self),
        });
        state.next_id += 1;
        state.add(&connection);
        Some(OpenConnection(connection))
    }

    /// Returns the connection to evict for a new one of `address`, which belongs to `network`, if any.
    fn victim_for(&self, state: &mut State, address: &IpAddr, network: &IpNet) -> Result<Option<u64>, TableFull> {
        let limits = &self.limits;
        let [anonymous, ..] = state.held_with(address);
        // A new connection of kube-apiserver is anonymous until its first request: its address has reserved slots.
        let most = if state.has_api_server(address) {
            limits.anonymous_of_api_server_network
        } else {
            limits.anonymous_of_network
        };
        let own_slots = if state.held(network)[Trust::Webhook as usize] > 0 { limits.webhooks } else { 0 };
        let is_crowded = !state.is_reserved(address) && state.unreserved().all >= limits.untrusted + own_slots;
        let is_full = state.open.len() >= limits.total || is_crowded;
        let may_have_more = anonymous < most;
        if may_have_more && !is_full {
            return Ok(None);
        }
        if state.closing >= limits.closing {
            return Err(TableFull);
        }
        let unreserved = if may_have_more { state.least_valuable(network, limits) } else { None };
        let found = unreserved.or_else(|| state.idle_with(address));
        let found = found.or_else(|| {
            let oldest = || state.oldest(|connection| may_have_more || connection.network == *network);
            if limits.closes_oldest { oldest() } else { None }
        });
        found.map(Some).ok_or(TableFull)
    }

    /// Reserves slots for an address from which kube-apiserver is expected. Without a proof, it has no other privilege.
    pub fn expect_api_server(&self, address: IpAddr) {
        self.state().expected.insert(address.to_canonical());
    }

    fn promote(&self, connection: &Connection, trust: Trust) {
        let mut state = self.state();
        let is_certified = trust == Trust::ApiServer;
        let is_at_home = trust == Trust::Webhook && state.is_reserved(&connection.address);
        let trust = if is_at_home { Trust::ApiServer } else { trust };
        let [_, authenticated, webhooks, _] = state.held_with(&connection.address);
        let is_full = match trust {
            Trust::Authenticated => authenticated >= self.limits.authenticated_of_network,
            Trust::Webhook => {
                webhooks >= self.limits.webhooks_of_network || state.unreserved().webhooks >= self.limits.webhooks
            }
            Trust::Anonymous | Trust::ApiServer => false,
        };
        let is_news = connection.trust() < trust || is_certified && !connection.is_certified();
        if is_full || !is_news {
            return;
        }
        let Some(connection) = state.remove(connection.id) else { return };
        connection.trust.store(trust as u8, Ordering::Release);
        if is_certified {
            connection.is_certified.store(true, Ordering::Release);
            state.reserve_for_api_server(connection.address);
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
