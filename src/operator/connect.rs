//! Connections to kube-apiserver, listening sockets, and objects that must be loaded before a replica can start.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use backon::{ConstantBuilder, Retryable};
use kube::Config;
use roster_credentials::seal::Sealer;
use roster_runtime::logins::sealing_key;
use roster_runtime::logins::signing_keys::SigningKeyStore;
use roster_runtime::tls::certificates::Certificates;
use tokio::net::TcpListener;
use tracing::warn;

use super::replica::Replica;

/// Returns the client configuration for kube-apiserver.
pub(super) async fn access() -> Result<Config> {
    let mut config = Config::infer().await.context("no access to a cluster: set KUBECONFIG, or run inside one")?;
    // Compressing long lists costs kube-apiserver and Roster more than it saves on the network within a cluster.
    config.disable_compression = true;
    Ok(config)
}

/// Listens on `address`. `flag` is named in the error.
pub(super) async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag} {address}"))
}

/// Keys that all replicas share. Each is created by the first replica that needs it.
pub(super) struct Keys {
    pub(super) certificates: Certificates,
    pub(super) signing: SigningKeyStore,
    pub(super) sealer: Sealer,
}

impl Keys {
    /// Loads the keys, or creates them.
    ///
    /// # Errors
    /// If kube-apiserver does not answer for half a minute, or a Secret has invalid content.
    pub(super) async fn load(replica: &Replica) -> Result<Self> {
        let Replica { client, config, metrics, .. } = replica;
        let certificates = retried("the certificates", || {
            Certificates::load(client.clone(), config.certificates(), metrics.certificate_expiry.clone())
        });
        let algorithm = config.logins.token_signing_algorithm;
        let signing =
            retried("the signing keys", || SigningKeyStore::load(client.clone(), &config.namespace, algorithm));
        let sealer = retried("the sealing key", || sealing_key::load(client.clone(), &config.namespace));
        let (certificates, signing, sealer) = tokio::try_join!(certificates, signing, sealer)?;
        Ok(Self { certificates, signing, sealer })
    }
}

/// Retries for half a minute, because kube-apiserver may start after Roster.
async fn retried<T, F: Future<Output = Result<T>>>(what: &str, load: impl FnMut() -> F) -> Result<T> {
    const MAX_RETRIES: usize = 29;
    let every_second = ConstantBuilder::default().with_delay(Duration::from_secs(1)).with_max_times(MAX_RETRIES);
    let loaded = load.retry(every_second).notify(|error: &anyhow::Error, _| {
        warn!(error = format!("{error:#}"), "loading {what} failed, retrying");
    });
    loaded.await.with_context(|| format!("loading {what} failed"))
}
