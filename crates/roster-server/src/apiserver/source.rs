//! Source address of a request, through trusted proxies.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use ipnet::IpNet;
use roster_runtime::tls::peer::Peer;

use super::state::DirectoryApi;
use super::status::ApiError;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Source address of a request.
#[derive(Clone, Copy, Debug)]
pub struct SourceAddress(pub IpAddr);

impl FromRequestParts<Arc<DirectoryApi>> for SourceAddress {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<DirectoryApi>) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<Arc<Peer>>();
        let peer = peer.ok_or_else(|| ApiError::internal("the connection is unknown"))?;
        let is_aggregator = api.front_proxy.authenticate(&peer.certificates, &parts.headers).is_some();
        let proxies = &api.logins.trusted_proxies;
        Ok(Self(address(peer.remote.ip(), &parts.headers, is_aggregator, proxies)))
    }
}

/// Returns the source address of a request that came over a connection from `peer`.
///
/// Each proxy appends the address that it was reached from. So the list is read from its end, as long as the address
/// that wrote an entry is trusted. The client may have forged the rest.
pub fn address(peer: IpAddr, headers: &HeaderMap, is_peer_trusted: bool, proxies: &[IpNet]) -> IpAddr {
    let is_proxy = |address: &IpAddr| proxies.iter().any(|network| network.contains(address));
    let mut from = peer.to_canonical();
    if !is_peer_trusted && !is_proxy(&from) {
        return from;
    }
    let values = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let entries: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    for entry in entries.into_iter().rev() {
        let Ok(address) = entry.parse::<IpAddr>() else { break };
        from = address.to_canonical();
        if !is_proxy(&from) {
            break;
        }
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use rstest::rstest;

    const CLIENT: &str = "203.0.113.9";

    #[rstest]
    #[case::direct("203.0.113.9", &[], false, CLIENT)]
    #[case::direct_with_a_forged_header("203.0.113.9", &["198.51.100.1"], false, CLIENT)]
    #[case::through_the_api_server("10.0.0.2", &["203.0.113.9"], true, CLIENT)]
    #[case::through_it_with_a_forged_entry("10.0.0.2", &["198.51.100.1, 203.0.113.9"], true, CLIENT)]
    #[case::through_it_with_a_forged_header("10.0.0.2", &["198.51.100.1", "203.0.113.9"], true, CLIENT)]
    #[case::through_a_proxy("192.0.2.1", &["203.0.113.9"], false, CLIENT)]
    #[case::through_a_proxy_and_the_api_server("10.0.0.2", &["203.0.113.9, 192.0.2.1"], true, CLIENT)]
    #[case::with_a_forged_entry_before_the_proxy("10.0.0.2", &["198.51.100.1, 203.0.113.9, 192.0.2.1"], true, CLIENT)]
    #[case::no_header("10.0.0.2", &[], true, "10.0.0.2")]
    #[case::nonsense_ends_the_chain("10.0.0.2", &["203.0.113.9, unknown, 192.0.2.1"], true, "192.0.2.1")]
    #[case::ipv4_in_ipv6("::ffff:203.0.113.9", &[], false, CLIENT)]
    fn finds_the_client(
        #[case] peer: &str,
        #[case] forwarded: &[&'static str],
        #[case] is_peer_trusted: bool,
        #[case] expected: &str,
    ) {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
        }
        let proxies = ["192.0.2.0/24".parse().unwrap()];
        let found = address(peer.parse().unwrap(), &headers, is_peer_trusted, &proxies);
        assert_eq!(found, expected.parse::<IpAddr>().unwrap());
    }
}
