//! Access to the cluster for commands that run once.

use anyhow::{Context, Result};
use kube::{Client, Config};
use roster_runtime::operations::client::identify;

/// Returns the client configuration for kube-apiserver. `component` is the command's name in the `User-Agent`.
///
/// # Errors
/// If no cluster is configured.
pub(super) async fn access(component: &str) -> Result<Config> {
    let mut config = Config::infer().await.context("no access to a cluster: set KUBECONFIG")?;
    identify(&mut config, component)?;
    Ok(config)
}

/// Returns a client for kube-apiserver.
///
/// # Errors
/// If no cluster is configured, or its credentials can't be used.
pub(super) async fn client(component: &str) -> Result<Client> {
    Ok(Client::try_from(access(component).await?)?)
}
