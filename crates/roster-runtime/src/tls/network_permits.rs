//! Permits for work before authentication: limited per network and site, with a reserve for addresses of kube-apiserver,
//! and another one for its proven connections.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Extensions;
use ipnet::IpNet;
use roster_credentials::network::{network_of, site_of};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time;

use super::connections::{Connection, Standing};
use super::peer::Peer;
use crate::operations::keyed_permits::{KeyedPermit, KeyedPermits};

/// The network that a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct RequestNetwork {
    /// All addresses in it count as one peer.
    pub network: IpNet,
    /// Which limits apply to the request.
    pub standing: Standing,
}

impl RequestNetwork {
    /// Returns the network of that address.
    pub fn new(address: IpAddr, standing: Standing) -> Self {
        Self { network: network_of(address), standing }
    }

    /// Returns the network of the request with these extensions, or `None` if its connection is unknown.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        let peer = extensions.get::<Arc<Peer>>()?;
        let connection = extensions.get::<Arc<Connection>>();
        Some(Self::new(peer.remote.ip(), connection.map_or(Standing::Unknown, |connection| connection.standing())))
    }
}

/// Limits on permits.
#[derive(Clone, Copy, Debug)]
pub struct NetworkPermitLimits {
    /// All permits.
    pub total: usize,
    /// Permits for addresses that kube-apiserver does not use, and as many for unproven connections of addresses that it
    /// uses. They overlap: see [`unproven`].
    pub direct: usize,
    /// Permits for one network that kube-apiserver does not use.
    pub of_network: usize,
    /// Permits for all networks of one site.
    pub of_site: usize,
}

/// Returns how many of `total` permits connections can hold that are not proven to be kube-apiserver's. Clients at
/// addresses that kube-apiserver does not use can hold `direct`. One half of the rest is reserved for its addresses, the
/// other half for its proven connections.
pub const fn unproven(total: usize, direct: usize) -> usize {
    total - (total - direct) / 2
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
    unproven: Semaphore,
    at_api_server_address: Semaphore,
    direct: Semaphore,
    direct_shares: NetworkShares,
}

/// A permit, released when dropped.
#[derive(Debug)]
pub struct NetworkPermit<'a> {
    _share: Option<NetworkShare>,
    _permits: Vec<SemaphorePermit<'a>>,
}

impl NetworkPermits {
    /// Creates the permits, all of them free.
    pub fn new(limits: NetworkPermitLimits) -> Self {
        let NetworkPermitLimits { total, direct, of_network, of_site } = limits;
        let direct_shares = NetworkShares::new(of_network, of_site);
        Self {
            total: Semaphore::new(total),
            unproven: Semaphore::new(unproven(total, direct)),
            at_api_server_address: Semaphore::new(direct),
            direct: Semaphore::new(direct),
            direct_shares,
        }
    }

    /// Takes a permit. Connections and addresses of kube-apiserver wait for one for up to `timeout`; others do not wait.
    /// Returns `None` if all permits are in use.
    pub async fn take(&self, source: RequestNetwork, timeout: Duration) -> Option<NetworkPermit<'_>> {
        let limits: &[&Semaphore] = match source.standing {
            Standing::ApiServer => &[&self.total],
            Standing::AtApiServerAddress => &[&self.at_api_server_address, &self.unproven, &self.total],
            Standing::Unknown => {
                let share = self.direct_shares.take(source.network)?;
                let limits = [&self.direct, &self.unproven, &self.total];
                let permits = limits.map(Semaphore::try_acquire).into_iter().collect::<Result<_, _>>().ok()?;
                return Some(NetworkPermit { _share: Some(share), _permits: permits });
            }
        };
        let acquired = async {
            let mut permits = Vec::new();
            // The narrowest first: a request that waits for one must not hold a wider one.
            for limit in limits {
                permits.push(limit.acquire().await.ok()?);
            }
            Some(permits)
        };
        let permits = time::timeout(timeout, acquired).await.ok()??;
        Some(NetworkPermit { _share: None, _permits: permits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{ApiServer, AtApiServerAddress, Unknown};

    const FEW: NetworkPermitLimits = NetworkPermitLimits { total: 8, direct: 6, of_network: 3, of_site: 4 };

    const HOUR: Duration = Duration::from_secs(3600);

    /// Returns a network in its own site.
    fn source(site: u8, standing: Standing) -> RequestNetwork {
        RequestNetwork::new([192, 0, site, 1].into(), standing)
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
        let one = taken(&permits, source(1, Unknown)).await;
        assert_eq!(one.len(), FEW.of_network);
        let two = taken(&permits, source(2, Unknown)).await;
        assert_eq!(one.len() + two.len(), FEW.direct);
        assert!(permits.take(source(3, Unknown), HOUR).await.is_none(), "other networks do not wait");
        let api_server = taken(&permits, source(9, ApiServer)).await;
        assert_eq!(api_server.len(), FEW.total - FEW.direct);
        drop(one);
        assert_eq!(taken(&permits, source(3, Unknown)).await.len(), FEW.of_network);
    }

    /// An owner of a site has any number of networks.
    #[tokio::test]
    async fn the_networks_of_a_site_share_a_limit() {
        let permits = NetworkPermits::new(FEW);
        let of_site =
            |last| RequestNetwork::new(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, last, 0, 0, 0, 1).into(), Unknown);
        let mut held = Vec::new();
        for last in 1..=10 {
            held.extend(taken(&permits, of_site(last)).await);
        }
        assert_eq!(held.len(), FEW.of_site);
        assert_eq!(taken(&permits, source(1, Unknown)).await.len(), FEW.direct - FEW.of_site);
        held.clear();
        assert_eq!(taken(&permits, of_site(11)).await.len(), FEW.of_network, "permits are returned at both levels");
    }

    #[tokio::test]
    async fn kube_apiserver_may_take_all_permits_and_waits() {
        let permits = NetworkPermits::new(FEW);
        let mut all = taken(&permits, source(9, ApiServer)).await;
        assert_eq!(all.len(), FEW.total);
        assert!(permits.take(source(1, Unknown), HOUR).await.is_none());
        let mut waiting = Box::pin(permits.take(source(9, ApiServer), HOUR));
        assert!(futures::poll!(&mut waiting).is_pending());
        all.pop();
        assert!(permits.take(source(1, Unknown), HOUR).await.is_none(), "kube-apiserver was first");
        assert!(waiting.await.is_some());
    }

    /// A client that shares an address with kube-apiserver must not take what proven connections need.
    #[tokio::test]
    async fn unproven_connections_at_an_address_of_kube_apiserver_leave_a_reserve() {
        let permits = NetworkPermits::new(FEW);
        let beside = taken(&permits, source(9, AtApiServerAddress)).await;
        assert_eq!(beside.len(), FEW.direct, "more than one network may have");
        let others = taken(&permits, source(1, Unknown)).await;
        assert_eq!(beside.len() + others.len(), unproven(FEW.total, FEW.direct));
        let proven = taken(&permits, source(9, ApiServer)).await;
        assert_eq!(proven.len(), FEW.total - unproven(FEW.total, FEW.direct));
        drop((beside, others, proven));
        // Clients elsewhere leave a reserve for the address.
        let mut others = taken(&permits, source(1, Unknown)).await;
        others.extend(taken(&permits, source(2, Unknown)).await);
        assert_eq!(others.len(), FEW.direct);
        assert!(permits.take(source(9, AtApiServerAddress), Duration::ZERO).await.is_some());
    }
}
