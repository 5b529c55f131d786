//! Networks that count as one peer, and the sites that they belong to.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Returns the network whose addresses count as one peer: a single IPv4 address, or the /64 of an IPv6 subscriber.
pub fn network_of(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::from(address)),
        IpAddr::V6(address) => IpNet::V6(Ipv6Net::new(address, 64).expect("64 is a prefix length of IPv6").trunc()),
    }
}

/// Returns the site of a network: a range that typically belongs to one organization, which can use any of its
/// networks. For IPv6, this is the /48, which contains 65,536 networks of size /64. For IPv4, it is the /24.
pub fn site_of(network: IpNet) -> IpNet {
    match network {
        IpNet::V4(network) => IpNet::V4(Ipv4Net::new_assert(network.addr(), 24).trunc()),
        IpNet::V6(network) => IpNet::V6(Ipv6Net::new_assert(network.addr(), 48).trunc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_subscriber_is_one_peer() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("::ffff:192.0.2.7"), network("192.0.2.7"));
    }
    #[test]
    fn networks_of_one_organization_are_one_site() {
        let site = |text: &str| site_of(network_of(text.parse().unwrap()));
        assert_eq!(site("2001:db8:0:1::1"), site("2001:db8:0:ffff::1"));
        assert_ne!(site("2001:db8:0::1"), site("2001:db8:1::1"));
        assert_eq!(site("192.0.2.1"), site("192.0.2.2"));
        assert_ne!(site("192.0.2.1"), site("192.0.3.1"));
    }
}
