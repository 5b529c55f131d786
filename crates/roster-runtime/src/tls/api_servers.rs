//! Addresses of kube-apiserver. With them, a replica that starts under attack reserves connections for kube-apiserver
//! before the first connection is proven to be kube-apiserver's.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use tracing::{info, warn};

/// Name of the EndpointSlice that kube-apiserver maintains; same as its Service.
const ENDPOINT_SLICE: &str = "kubernetes";

/// Request timeout. Without the addresses, a replica starts anyway.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of addresses used: connections are reserved for each.
const MAX_ADDRESSES: usize = 64;

/// Returns the addresses in the EndpointSlice of the Service `kubernetes`, or none if it can't be read. kube-apiserver
/// may use other addresses, for example behind a proxy or NAT: no connections are reserved for those until one is
/// proven.
pub async fn expected(client: Client) -> Vec<IpAddr> {
    match read(client).await {
        Ok(addresses) => {
            info!(?addresses, "found the addresses of kube-apiserver");
            addresses
        }
        Err(error) => {
            warn!(error = format!("{error:#}"), "reading the addresses of kube-apiserver failed");
            Vec::new()
        }
    }
}

async fn read(client: Client) -> Result<Vec<IpAddr>> {
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    let slice = tokio::time::timeout(TIMEOUT, slices.get_opt(ENDPOINT_SLICE)).await.context("no answer in time")??;
    Ok(slice.map(|slice| addresses(&slice)).unwrap_or_default())
}

fn addresses(slice: &EndpointSlice) -> Vec<IpAddr> {
    let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    addresses.filter_map(|address| address.parse().ok()).take(MAX_ADDRESSES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_those_of_all_endpoints() {
        let endpoints = json!([{"addresses": ["192.0.2.1", "example.org"]}, {"addresses": ["2001:db8::1"]}]);
        let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints});
        let read = addresses(&serde_json::from_value(slice).unwrap());
        assert_eq!(read, ["192.0.2.1", "2001:db8::1"].map(|address| address.parse::<IpAddr>().unwrap()));
    }
}
