//! Permitted receivers of notices (pure). Anyone who edits a User chooses the URL, but Roster connects to it: without
//! this check, a User would give access to networks that only Roster can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(first: u16, second: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0), prefix)
}

/// Addresses that are not globally reachable, from IANA's registry, and a public one that is dangerous.
const REFUSED_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    // Looks public, but is the host agent on every Azure machine.
    v4(168, 63, 129, 16, 32),
];

/// Global unicast. Addresses outside are loopback, private, link-local, multicast or reserved.
const UNICAST_V6: Ipv6Net = v6(0x2000, 0, 3);

/// Exceptions within it: protocol assignments (including Teredo) and documentation.
const REFUSED_V6: [Ipv6Net; 3] = [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x3fff, 0, 20)];

const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 16);
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);

/// Addresses that notices may be sent to: public ones and allowed networks.
#[derive(Clone, Debug, Default)]
pub(super) struct Targets {
    allowed: Vec<IpNet>,
}

impl Targets {
    /// Permits public addresses and these networks.
    pub(super) fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Whether notices may be sent to that address.
    pub(super) fn permits(&self, address: IpAddr) -> bool {
        let reached = reached(address);
        is_public(reached) || self.allowed.iter().any(|net| net.contains(&address) || net.contains(&reached))
    }
}

/// Returns the IPv4 address embedded in an IPv6 address, if any, else the address itself.
fn reached(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let octets = v6.octets();
    if NAT64.contains(&v6) {
        Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]).into()
    } else if SIX_TO_FOUR.contains(&v6) {
        Ipv4Addr::new(octets[2], octets[3], octets[4], octets[5]).into()
    } else {
        address.to_canonical()
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !REFUSED_V4.iter().any(|net| net.contains(&v4)),
        IpAddr::V6(v6) => UNICAST_V6.contains(&v6) && !REFUSED_V6.iter().any(|net| net.contains(&v6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn permits(allowed: &[&str], address: &str) -> bool {
        let allowed = allowed.iter().map(|net| net.parse().unwrap()).collect();
        Targets::new(allowed).permits(address.parse().unwrap())
    }

    #[rstest]
    #[case::unspecified("0.0.0.0")]
    #[case::this_network("0.1.2.3")]
    #[case::loopback("127.0.0.1")]
    #[case::all_of_loopback("127.255.255.254")]
    #[case::private_a("10.0.0.1")]
    #[case::private_b("172.16.0.1")]
    #[case::private_b_end("172.31.255.255")]
    #[case::private_c("192.168.1.1")]
    #[case::shared("100.64.0.1")]
    #[case::shared_end("100.127.255.255")]
    #[case::link_local("169.254.1.1")]
    #[case::metadata("169.254.169.254")]
    #[case::metadata_of_azure("168.63.129.16")]
    #[case::metadata_of_oracle("192.0.0.192")]
    #[case::documentation_1("192.0.2.1")]
    #[case::documentation_2("198.51.100.1")]
    #[case::documentation_3("203.0.113.1")]
    #[case::benchmark("198.19.0.1")]
    #[case::relay("192.88.99.1")]
    #[case::multicast("224.0.0.251")]
    #[case::reserved("240.0.0.1")]
    #[case::broadcast("255.255.255.255")]
    #[case::v6_unspecified("::")]
    #[case::v6_loopback("::1")]
    #[case::v6_unique_local("fd00:ec2::254")]
    #[case::v6_unique_local_start("fc00::1")]
    #[case::v6_link_local("fe80::1")]
    #[case::v6_site_local("fec0::1")]
    #[case::v6_multicast("ff02::1")]
    #[case::v6_discard("100::1")]
    #[case::v6_documentation("2001:db8::1")]
    #[case::v6_documentation_2("3fff::1")]
    #[case::v6_benchmark("2001:2::1")]
    #[case::v6_teredo("2001:0:4136:e378:8000:63bf:3fff:fdd2")]
    #[case::v6_segments("5f00::1")]
    #[case::mapped_loopback("::ffff:127.0.0.1")]
    #[case::mapped_metadata("::ffff:169.254.169.254")]
    #[case::compatible_private("::10.0.0.1")]
    #[case::translated_private("::ffff:0:10.0.0.1")]
    #[case::six_to_four_private("2002:c0a8:0101::1")]
    #[case::nat64_loopback("64:ff9b::127.0.0.1")]
    #[case::nat64_metadata("64:ff9b::a9fe:a9fe")]
    #[case::nat64_local("64:ff9b:1::808:808")]
    fn addresses_that_are_not_public_are_refused(#[case] address: &str) {
        assert!(!permits(&[], address));
    }

    #[rstest]
    #[case("8.8.8.8")]
    #[case("100.63.255.255")]
    #[case("100.128.0.0")]
    #[case("172.15.255.255")]
    #[case("172.32.0.0")]
    #[case("198.17.255.255")]
    #[case("223.255.255.255")]
    #[case("2606:4700::1111")]
    #[case("2001:4860:4860::8888")]
    #[case("::ffff:8.8.8.8")]
    #[case("64:ff9b::8.8.8.8")]
    #[case("2002:808:808::1")]
    fn public_addresses_are_permitted(#[case] address: &str) {
        assert!(permits(&[], address));
    }

    #[rstest]
    #[case("10.96.0.0/12", "10.96.0.10", true)]
    #[case("10.96.0.0/12", "::ffff:10.96.0.10", true)]
    #[case("10.96.0.0/12", "64:ff9b::10.96.0.10", true)]
    #[case("10.96.0.0/12", "10.112.0.1", false)]
    #[case("10.96.0.0/12", "127.0.0.1", false)]
    #[case("fd00::/8", "fd12::1", true)]
    #[case("fd00::/8", "fe80::1", false)]
    #[case("::1/128", "::1", true)]
    #[case("0.0.0.0/0", "169.254.169.254", true)]
    #[case("0.0.0.0/0", "::1", false)]
    fn an_exception_allows_only_its_network(#[case] allowed: &str, #[case] address: &str, #[case] permitted: bool) {
        assert_eq!(permits(&[allowed], address), permitted);
    }
}
