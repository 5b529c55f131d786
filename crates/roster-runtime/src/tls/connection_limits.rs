//! Limits on the connections of a port.

use std::time::Duration;

/// Limits on open connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// All connections.
    pub total: usize,
    /// Unproven connections of networks that kube-apiserver does not use. As long as at most half of this number are
    /// authenticated, those are not evicted while busy.
    pub untrusted: usize,
    /// Anonymous connections of one network.
    pub anonymous_of_network: usize,
    /// Anonymous connections of a network with proven connections of kube-apiserver: each of its requests may take one
    /// until it is proven.
    pub anonymous_of_api_server_network: usize,
    /// Authenticated connections of one network. Further ones stay anonymous.
    pub authenticated_of_network: usize,
    /// Connections with the path of a webhook: all of them. Further ones stay anonymous. Networks that hold such
    /// connections may together use as many slots beyond `untrusted`.
    pub webhooks: usize,
    /// Connections with the path of a webhook of one network. Further ones stay anonymous.
    pub webhooks_of_network: usize,
    /// Evicted connections whose sockets are not closed yet.
    pub closing: usize,
    /// Minimum interval between searches of a full table. Up to 64 connections are evicted in between.
    pub search_interval: Duration,
    /// Whether to evict the oldest connection if no other can be, even if it is busy. For ports that answer at once: a
    /// connection that stays open for long is not waiting for a response.
    pub closes_oldest: bool,
}

/// Limits of the TLS port.
///
/// kube-apiserver has up to 1,024 watches and 600 requests in flight by default, each on its own connection. A browser
/// opens 6 connections and a Go client rarely more than a few dozen, so 256 are enough for the users behind one NAT
/// gateway to log in at the same time. Six such addresses can fill their part of the table; they are then evicted in
/// favor of addresses of other sites. kube-apiserver has up to 200 changes in flight, so 256 connections with the path of
/// a webhook are enough for one whose address is unknown.
pub const LIMITS: ConnectionLimits = ConnectionLimits {
    total: 4096,
    untrusted: 1536,
    anonymous_of_network: 256,
    anonymous_of_api_server_network: 1024,
    authenticated_of_network: 512,
    webhooks: 512,
    webhooks_of_network: 256,
    closing: 256,
    search_interval: Duration::from_millis(10),
    closes_oldest: false,
};

/// Limits of the probe port: kubelet opens a connection for each probe, and Prometheus keeps one or two. Probes are
/// answered within milliseconds, so a new connection is answered before 512 others arrive.
pub const PROBE_LIMITS: ConnectionLimits = ConnectionLimits {
    total: 512,
    untrusted: 512,
    anonymous_of_network: 64,
    anonymous_of_api_server_network: 64,
    authenticated_of_network: 0,
    webhooks: 0,
    webhooks_of_network: 0,
    closing: 512,
    search_interval: Duration::from_millis(10),
    closes_oldest: true,
};
