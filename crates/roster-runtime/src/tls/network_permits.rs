//! Permits for work that callers cause before they are authenticated: a share for each network, and a reserve for the
//! networks of kube-apiserver.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Extensions;
use ipnet::IpNet;
use roster_credentials::network::network_of;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::connections::Connection;
use super::peer::Peer;
use crate::operations::seats::{Seat, Seats};

/// The network that a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct RequestNetwork {
    /// Counts as one peer.
    pub network: IpNet,
    /// Whether it holds proven connections of kube-apiserver.
    pub is_beside_api_server: bool,
}

impl RequestNetwork {
    /// The network of that address.
    pub fn new(address: IpAddr, is_beside_api_server: bool) -> Self {
        Self { network: network_of(address), is_beside_api_server }
    }

    /// Returns the network of the request that has these extensions, or `None` if its connection is not known.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        let peer = extensions.get::<Arc<Peer>>()?;
        let connection = extensions.get::<Arc<Connection>>();
        Some(Self::new(peer.remote.ip(), connection.is_some_and(|connection| connection.is_beside_api_server())))
    }
}

/// How many permits there are.
#[derive(Clone, Copy, Debug)]
pub struct NetworkPermitLimits {
    /// All together.
    pub total: usize,
    /// Those of networks that kube-apiserver does not use. The rest of `total` is reserved for those that it uses.
    pub direct: usize,
    /// Those of one network that kube-apiserver does not use.
    pub of_network: usize,
}

/// Permits for work of one kind.
#[derive(Debug)]
pub struct NetworkPermits {
    total: Semaphore,
    direct: Semaphore,
    of_network: Arc<Seats<IpNet>>,
}

/// A permit, given back when dropped.
#[derive(Debug)]
pub struct NetworkPermit<'a> {
    _direct: Option<(Seat<IpNet>, SemaphorePermit<'a>)>,
    _total: SemaphorePermit<'a>,
}

impl NetworkPermits {
    /// All permits are free.
    pub fn new(limits: NetworkPermitLimits) -> Self {
        let NetworkPermitLimits { total, direct, of_network } = limits;
        Self { total: Semaphore::new(total), direct: Semaphore::new(direct), of_network: Seats::new(of_network) }
    }

    /// Takes a permit. A network of kube-apiserver waits for one for up to `patience`; others do not wait. `None`: there
    /// is none.
    pub async fn take(&self, source: RequestNetwork, patience: Duration) -> Option<NetworkPermit<'_>> {
        if source.is_beside_api_server {
            let total = timeout(patience, self.total.acquire()).await.ok()?.ok()?;
            return Some(NetworkPermit { _direct: None, _total: total });
        }
        let direct = (self.of_network.take(source.network)?, self.direct.try_acquire().ok()?);
        Some(NetworkPermit { _direct: Some(direct), _total: self.total.try_acquire().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: NetworkPermitLimits = NetworkPermitLimits { total: 6, direct: 4, of_network: 3 };

    const HOUR: Duration = Duration::from_secs(3600);

    fn source(last: u8, is_beside_api_server: bool) -> RequestNetwork {
        RequestNetwork::new([192, 0, 2, last].into(), is_beside_api_server)
    }

    async fn taken(permits: &NetworkPermits, source: RequestNetwork) -> Vec<NetworkPermit<'_>> {
        let mut taken = Vec::new();
        while let Some(permit) = permits.take(source, Duration::ZERO).await {
            taken.push(permit);
        }
        taken
    }

    #[tokio::test]
    async fn strangers_have_a_share_each_and_leave_a_reserve() {
        let permits = NetworkPermits::new(FEW);
        let one = taken(&permits, source(1, false)).await;
        assert_eq!(one.len(), FEW.of_network);
        let two = taken(&permits, source(2, false)).await;
        assert_eq!(one.len() + two.len(), FEW.direct);
        assert!(permits.take(source(3, false), HOUR).await.is_none(), "strangers do not wait");
        let api_server = taken(&permits, source(9, true)).await;
        assert_eq!(api_server.len(), FEW.total - FEW.direct);
        drop(one);
        assert_eq!(taken(&permits, source(3, false)).await.len(), FEW.of_network);
    }

    #[tokio::test]
    async fn kube_apiserver_takes_all_and_waits() {
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
