//! Permits for work before authentication: limited per network and site, with a reserve for networks of kube-apiserver.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Extensions;
use ipnet::IpNet;
use roster_credentials::network::{network_of, site_of};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time;

use super::connections::Connection;
use super::peer::Peer;
use crate::operations::keyed_permits::{KeyedPermit, KeyedPermits};

/// The network that a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct RequestNetwork {
    /// All addresses in it count as one peer.
    pub network: IpNet,
    /// Whether it currently holds proven connections of kube-apiserver.
    pub network_has_api_server: bool,
}

impl RequestNetwork {
    /// Returns the network of that address.
    pub fn new(address: IpAddr, network_has_api_server: bool) -> Self {
        Self { network: network_of(address), network_has_api_server }
    }

    /// Returns the network of the request with these extensions, or `None` if its connection is unknown.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        let peer = extensions.get::<Arc<Peer>>()?;
        let connection = extensions.get::<Arc<Connection>>();
        Some(Self::new(peer.remote.ip(), connection.is_some_and(|connection| connection.network_has_api_server())))
    }
}

/// Limits on permits.
#[derive(Clone, Copy, Debug)]
pub struct NetworkPermitLimits {
    /// All permits.
    pub total: usize,
    /// Permits for networks that kube-apiserver does not use. The rest of `total` is reserved for those that it uses.
    pub direct: usize,
    /// Permits for one network that kube-apiserver does not use.
    pub of_network: usize,
    /// Permits for all networks of one site.
    pub of_site: usize,
}

/// Permits per network, also limited per site.
#[derive(Debug)]
pub struct NetworkShares {
    /// Keys are networks and sites, which differ in prefix length.
    permits: Arc<KeyedPermits<IpNet>>,
    of_network: usize,
    of_site: usize,
}

/// A permit of a network and its site, released when dropped.
#[derive(Debug)]
pub struct NetworkShare {
    _network: KeyedPermit<IpNet>,
    _site: KeyedPermit<IpNet>,
}

impl NetworkShares {
    /// Allows `of_network` permits for each network, and `of_site` for all networks of a site.
    pub fn new(of_network: usize, of_site: usize) -> Self {
        Self { permits: KeyedPermits::new(of_network), of_network, of_site }
    }

    /// Takes a permit, unless the network or its site is at its limit.
    pub fn take(&self, network: IpNet) -> Option<NetworkShare> {
        let of_network = self.permits.take_up_to(network, self.of_network)?;
        let of_site = self.permits.take_up_to(site_of(network), self.of_site)?;
        Some(NetworkShare { _network: of_network, _site: of_site })
    }
}

/// Permits for work of one kind.
#[derive(Debug)]
pub struct NetworkPermits {
    total: Semaphore,
    direct: Semaphore,
    direct_shares: NetworkShares,
}

/// A permit, released when dropped.
#[derive(Debug)]
pub struct NetworkPermit<'a> {
    _direct: Option<(NetworkShare, SemaphorePermit<'a>)>,
    _total: SemaphorePermit<'a>,
}

impl NetworkPermits {
    /// Creates the permits, all of them free.
    pub fn new(limits: NetworkPermitLimits) -> Self {
        let NetworkPermitLimits { total, direct, of_network, of_site } = limits;
        let direct_shares = NetworkShares::new(of_network, of_site);
        Self { total: Semaphore::new(total), direct: Semaphore::new(direct), direct_shares }
    }

    /// Takes a permit. A network of kube-apiserver waits for one for up to `timeout`; others do not wait. `None` if
    /// there is none.
    pub async fn take(&self, source: RequestNetwork, timeout: Duration) -> Option<NetworkPermit<'_>> {
        if source.network_has_api_server {
            let total = time::timeout(timeout, self.total.acquire()).await.ok()?.ok()?;
            return Some(NetworkPermit { _direct: None, _total: total });
        }
        let direct = (self.direct_shares.take(source.network)?, self.direct.try_acquire().ok()?);
        Some(NetworkPermit { _direct: Some(direct), _total: self.total.try_acquire().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: NetworkPermitLimits = NetworkPermitLimits { total: 8, direct: 6, of_network: 3, of_site: 4 };

    const HOUR: Duration = Duration::from_secs(3600);

    /// Returns a network in its own site.
    fn source(site: u8, network_has_api_server: bool) -> RequestNetwork {
        RequestNetwork::new([192, 0, site, 1].into(), network_has_api_server)
    }

    async fn taken(permits: &NetworkPermits, source: RequestNetwork) -> Vec<NetworkPermit<'_>> {
        let mut taken = Vec::new();
        while let Some(permit) = permits.take(source, Duration::ZERO).await {
            taken.push(permit);
        }
        taken
    }

    #[tokio::test]
    async fn other_networks_have_a_share_each_and_leave_a_reserve() {
        let permits = NetworkPermits::new(FEW);
        let one = taken(&permits, source(1, false)).await;
        assert_eq!(one.len(), FEW.of_network);
        let two = taken(&permits, source(2, false)).await;
        assert_eq!(one.len() + two.len(), FEW.direct);
        assert!(permits.take(source(3, false), HOUR).await.is_none(), "other networks do not wait");
        let api_server = taken(&permits, source(9, true)).await;
        assert_eq!(api_server.len(), FEW.total - FEW.direct);
        drop(one);
        assert_eq!(taken(&permits, source(3, false)).await.len(), FEW.of_network);
    }

    /// An owner of a site has any number of networks.
    #[tokio::test]
    async fn the_networks_of_a_site_share_a_limit() {
        let permits = NetworkPermits::new(FEW);
        let of_site =
            |last| RequestNetwork::new(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, last, 0, 0, 0, 1).into(), false);
        let mut held = Vec::new();
        for last in 1..=10 {
            held.extend(taken(&permits, of_site(last)).await);
        }
        assert_eq!(held.len(), FEW.of_site);
        assert_eq!(taken(&permits, source(1, false)).await.len(), FEW.direct - FEW.of_site);
        held.clear();
        assert_eq!(taken(&permits, of_site(11)).await.len(), FEW.of_network, "permits are returned at both levels");
    }

    #[tokio::test]
    async fn kube_apiserver_may_take_all_permits_and_waits() {
        let permits = NetworkPermits::new(FEW);
        let mut all = taken(&permits, source(9, true)).await;
        assert_eq!(all.len(), FEW.total);
        assert!(permits.take(source(1, false), HOUR).await.is_none());
        let mut waiting = Box::pin(permits.take(source(9, true), HOUR));
        assert!(futures::poll!(&mut waiting).is_pending());
        all.pop();
        assert!(permits.take(source(1, false), HOUR).await.is_none(), "kube-apiserver was first");
        assert!(waiting.await.is_some());
    }
}
