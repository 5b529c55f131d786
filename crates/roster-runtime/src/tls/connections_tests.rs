use proptest::prelude::*;

use super::*;
use crate::metrics::Metrics;
use crate::tls::activity::InFlight;

const SMALL: ConnectionLimits = ConnectionLimits {
    total: 16,
    untrusted: 12,
    anonymous_of_network: 4,
    anonymous_of_api_server_network: 6,
    authenticated_of_network: 3,
    webhooks: 4,
    webhooks_of_network: 3,
    closing: 1000,
    search_interval: Duration::ZERO,
    closes_oldest: false,
};

fn table() -> Arc<ConnectionTable> {
    ConnectionTable::new(SMALL, Metrics::default().connections_shed)
}

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

/// Returns an address in its own network of a site.
fn of_site(site: u16, network: u16) -> IpAddr {
    std::net::Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 1).into()
}

/// Fills the table with busy connections, each in its own network.
fn fill_by_site(table: &Arc<ConnectionTable>, site: u16, trust: Trust) -> Vec<(OpenConnection, InFlight)> {
    let admitted = (0..1000).map_while(|network| {
        let open = table.admit(of_site(site, network))?;
        open.connection().mark(trust);
        let request = busy(&open);
        Some((open, request))
    });
    admitted.collect()
}

/// Whether the connection's address currently holds proven connections of kube-apiserver.
fn is_at_api_server(open: &OpenConnection) -> bool {
    open.connection().standing() != Standing::Unknown
}

fn evicted(connections: &[(OpenConnection, InFlight)]) -> Vec<usize> {
    connections.iter().enumerate().filter(|(_, (open, _))| is_evicted(open)).map(|(at, _)| at).collect()
}

fn is_evicted(open: &OpenConnection) -> bool {
    open.connection().evicted.is_cancelled()
}

/// Opens connections that have had a request and are idle.
fn fill(table: &Arc<ConnectionTable>, last: u8, count: usize) -> Vec<OpenConnection> {
    let admitted = (0..count).map(|_| {
        let open = table.admit(address(last)).expect("there is a slot");
        drop(busy(&open));
        open
    });
    admitted.collect()
}

fn busy(open: &OpenConnection) -> InFlight {
    open.connection().activity().begin()
}

#[test]
fn a_network_at_its_limit_closes_its_own_oldest_idle_connection() {
    let table = table();
    let other = fill(&table, 9, 1);
    let own = fill(&table, 1, SMALL.anonymous_of_network);
    let _request = busy(&own[0]);
    let next = table.admit(address(1)).unwrap();
    let evicted: Vec<bool> = own.iter().map(is_evicted).collect();
    assert_eq!(evicted, [false, true, false, false]);
    assert!(!is_evicted(&other[0]) && !is_evicted(&next));
}

#[test]
fn a_network_with_only_busy_connections_is_refused_more() {
    let table = table();
    let own = fill(&table, 1, SMALL.anonymous_of_network);
    let _requests: Vec<_> = own.iter().map(busy).collect();
    assert!(table.admit(address(1)).is_none());
    assert!(table.admit(address(2)).is_some());
}

#[test]
fn three_networks_at_their_limits_leave_slots_for_others() {
    let table = table();
    let attackers: Vec<_> = (1..=3).flat_map(|last| fill(&table, last, SMALL.anonymous_of_network)).collect();
    let _requests: Vec<_> = attackers.iter().map(busy).collect();
    let mut guests = Vec::new();
    for last in 10..19 {
        guests.push(table.admit(address(last)).unwrap_or_else(|| panic!("{last} is refused")));
    }
    assert!(!guests.iter().any(is_evicted), "new ones are not closed for newer ones");
    assert!(table.admit(address(19)).is_none(), "busy connections of networks that hold no more than the new one stay");
}

#[test]
fn connections_of_kube_apiserver_are_accepted_and_never_evicted() {
    let table = table();
    let watches = fill(&table, 100, 1);
    watches[0].connection().mark(Trust::ApiServer);
    let attackers: Vec<_> = (1..=3).flat_map(|last| fill(&table, last, SMALL.anonymous_of_network)).collect();
    let _requests: Vec<_> = attackers.iter().map(busy).collect();
    let mut own = Vec::new();
    for _ in 0..20 {
        let open = table.admit(address(100));
        let Some(open) = open else { break };
        open.connection().mark(Trust::ApiServer);
        own.push(open);
    }
    assert!(own.len() >= SMALL.total - SMALL.untrusted - 1, "{}", own.len());
    assert!(!is_evicted(&watches[0]) && !own.iter().any(is_evicted), "not even idle ones");
}

#[test]
fn kube_apiserver_may_have_more_unproven_connections() {
    let table = table();
    let first = fill(&table, 1, 1);
    first[0].connection().mark(Trust::ApiServer);
    let more = fill(&table, 1, SMALL.anonymous_of_api_server_network);
    assert!(!more.iter().any(is_evicted));
}

#[test]
fn authenticated_connections_outlast_anonymous_ones_and_are_limited() {
    let table = table();
    let mut people = Vec::new();
    for _ in 0..5 {
        let open = fill(&table, 1, 1).remove(0);
        open.connection().mark(Trust::Authenticated);
        people.push(open);
    }
    let trusted = people.iter().filter(|open| open.connection().trust() == Trust::Authenticated).count();
    assert_eq!(trusted, SMALL.authenticated_of_network);
    let _rest: Vec<_> = (2..=20).flat_map(|last| fill(&table, last, 1)).collect();
    assert!(!people[..3].iter().any(is_evicted), "anonymous ones were idle, too");
    assert!(people[3..].iter().all(is_evicted), "they counted as anonymous ones of the largest network");
}

#[test]
fn an_unproven_connection_of_kube_apiserver_uses_reserved_slots() {
    let table = table();
    let proven = fill(&table, 1, 1).remove(0);
    proven.connection().mark(Trust::ApiServer);
    // Connections from many other networks, all of them busy.
    let others: Vec<_> = (2..=200).filter_map(|last| table.admit(address(last))).collect();
    let _work: Vec<_> = others.iter().map(busy).collect();
    assert!(table.admit(address(201)).is_none(), "there is no slot for another network");
    let mut own = fill(&table, 1, 2);
    assert_eq!(own.len(), 2);
    // And its open connections are not evicted for connections of other networks.
    let _work: Vec<_> = own.iter().map(busy).collect();
    let _more: Vec<_> = (202..=220).filter_map(|last| table.admit(address(last))).collect();
    assert!(!own.drain(..).any(|open| is_evicted(&open)));
}

#[test]
fn sockets_being_closed_are_limited() {
    let table = ConnectionTable::new(ConnectionLimits { closing: 2, ..SMALL }, Metrics::default().connections_shed);
    let mut own = fill(&table, 1, SMALL.anonymous_of_network + 2);
    assert!(table.admit(address(1)).is_none(), "two are still being closed");
    own.remove(0);
    assert!(table.admit(address(1)).is_some());
}

/// Stalls a connection.
fn stall(open: &OpenConnection) {
    open.connection().activity().stall_since(tokio::time::Instant::now() - Duration::from_secs(5));
}

#[test]
fn stalled_connections_are_evicted_before_idle_ones() {
    let table = table();
    let mut all: Vec<_> = (1..=12).map(|last| fill(&table, last, 1).remove(0)).collect();
    let _request = busy(&all[7]);
    stall(&all[7]);
    all[8].connection().mark(Trust::Authenticated);
    stall(&all[8]);
    all[9].connection().mark(Trust::ApiServer);
    stall(&all[9]);
    let mut victims = Vec::new();
    for last in 20..24 {
        all.push(table.admit(address(last)).unwrap());
        victims.push(all.iter().enumerate().filter(|(_, open)| is_evicted(open)).map(|(at, _)| at).collect::<Vec<_>>());
    }
    assert_eq!(victims, [vec![], vec![7], vec![7, 8], vec![0, 7, 8]], "the first needs no eviction");
}

#[test]
fn a_network_at_its_limit_closes_its_own_stalled_connection_first() {
    let table = table();
    let own = fill(&table, 1, SMALL.anonymous_of_network);
    let _request = busy(&own[2]);
    stall(&own[2]);
    let _next = table.admit(address(1)).unwrap();
    assert_eq!(own.iter().map(is_evicted).collect::<Vec<_>>(), [false, false, true, false]);
}

/// One search serves many new connections, in the order of their value.
#[test]
fn a_full_table_is_searched_at_intervals() {
    let limits = ConnectionLimits { search_interval: Duration::from_secs(3600), ..SMALL };
    let table = ConnectionTable::new(limits, Metrics::default().connections_shed);
    let all: Vec<_> = (1..=12).map(|last| fill(&table, last, 1).remove(0)).collect();
    let requests: Vec<_> = all[..4].iter().map(busy).collect();
    let mut admitted: Vec<_> = (20..28).map(|last| table.admit(address(last)).expect("eight are idle")).collect();
    assert!(all[4..].iter().all(is_evicted));
    assert!(table.admit(address(28)).is_none(), "the others are busy, and of networks that hold no more");
    drop(requests);
    admitted.push(table.admit(address(28)).unwrap());
    assert!(is_evicted(&all[0]) && !admitted.iter().any(is_evicted));
}

/// A client of the largest network that keeps connecting must not use up the candidates of others.
#[test]
fn attempts_of_the_largest_network_do_not_exclude_others() {
    let limits = ConnectionLimits { search_interval: Duration::from_secs(3600), ..SMALL };
    let table = ConnectionTable::new(limits, Metrics::default().connections_shed);
    let all: Vec<_> = (1..=4).flat_map(|last| fill(&table, last, 3)).collect();
    let _requests: Vec<_> = all.iter().map(busy).collect();
    for _ in 0..20 {
        assert!(table.admit(address(1)).is_none());
        assert!(table.admit(address(2)).is_none());
    }
    let _kubelet = table.admit(address(9)).expect("it replaces a connection of a network that holds three");
    assert_eq!(all.iter().filter(|open| is_evicted(open)).count(), 1);
}

/// These connections are never evicted for others.
#[test]
fn other_connections_in_the_network_of_kube_apiserver_use_no_slots_of_others() {
    let table = table();
    let api_server = table.admit(address(9)).unwrap();
    api_server.connection().mark(Trust::ApiServer);
    let beside: Vec<_> = (0..SMALL.anonymous_of_api_server_network + SMALL.authenticated_of_network)
        .map(|at| {
            let open = table.admit(address(9)).expect("there is a reserved slot");
            if at < SMALL.authenticated_of_network {
                open.connection().mark(Trust::Authenticated);
            }
            open
        })
        .collect();
    let _requests: Vec<_> = beside.iter().map(busy).collect();
    let others: Vec<_> = (1..=4).map(|last| table.admit(address(last)).expect("there are slots for others")).collect();
    assert!(!beside.iter().chain(&others).any(is_evicted));
}

#[test]
fn a_network_of_kube_apiserver_keeps_its_slots_after_its_last_connection() {
    let table = table();
    let api_server = table.admit(address(9)).unwrap();
    api_server.connection().mark(Trust::ApiServer);
    drop(api_server);
    let others: Vec<_> = (1..=3).flat_map(|last| fill(&table, last, 4)).collect();
    let _requests: Vec<_> = others.iter().map(busy).collect();
    let again: Vec<_> = (0..4).map(|_| table.admit(address(9)).expect("there is a reserved slot")).collect();
    assert!(!others.iter().chain(&again).any(is_evicted));
}

#[test]
fn a_network_recently_used_by_kube_apiserver_has_slots_and_no_other_privilege() {
    let table = table();
    let api_server = table.admit(address(9)).unwrap();
    let beside = table.admit(address(9)).unwrap();
    api_server.connection().mark(Trust::ApiServer);
    assert!(is_at_api_server(&beside));
    drop(api_server);
    assert!(!is_at_api_server(&beside), "the address may belong to another client");
    let mut own = vec![beside];
    own.extend(fill(&table, 9, SMALL.anonymous_of_network));
    assert_eq!(own.iter().filter(|open| is_evicted(open)).count(), 1, "its limit is that of any other network");
}

/// A replica started under attack has seen no proven connection yet.
#[test]
fn slots_are_reserved_where_kube_apiserver_is_expected() {
    let table = table();
    table.expect_api_server(address(9));
    let others: Vec<_> = (1..=3).flat_map(|last| fill(&table, last, 4)).collect();
    let _requests: Vec<_> = others.iter().map(busy).collect();
    let own: Vec<_> = (0..4).map(|_| table.admit(address(9)).expect("there is a reserved slot")).collect();
    assert!(!others.iter().chain(&own).any(is_evicted));
    assert!(!is_at_api_server(&own[0]), "nothing is proven");
}

/// An owner of an IPv6 /48 has 65,536 networks.
#[test]
fn a_site_that_holds_everything_is_evicted_for_others() {
    let table = table();
    let attackers = fill_by_site(&table, 1, Trust::Anonymous);
    assert_eq!(attackers.len(), SMALL.untrusted, "the site gets no further slot");
    let guests = fill_by_site(&table, 2, Trust::Anonymous);
    assert_eq!(guests.len(), SMALL.untrusted / 2);
    assert_eq!(evicted(&attackers).len(), SMALL.untrusted / 2);
    assert!(evicted(&guests).is_empty());
    assert_eq!(fill_by_site(&table, 3, Trust::Anonymous).len(), SMALL.untrusted / 3);
}

#[test]
fn busy_authenticated_connections_keep_half_of_the_slots() {
    let table = table();
    let people = fill_by_site(&table, 1, Trust::Authenticated);
    assert_eq!(people.len(), SMALL.untrusted);
    let guests = fill_by_site(&table, 2, Trust::Anonymous);
    assert_eq!(guests.len(), SMALL.untrusted / 2);
    let newest: Vec<usize> = (SMALL.untrusted / 2..SMALL.untrusted).collect();
    assert_eq!(evicted(&people), newest, "older connections are worth more");
    let more: Vec<_> = (3..9).flat_map(|site| fill_by_site(&table, site, Trust::Anonymous)).collect();
    assert!(!more.is_empty());
    assert_eq!(evicted(&people), newest, "the rest is not evicted for other networks");
}

/// A hundred thousand networks with one connection each must not hide the largest holder.
#[test]
fn the_largest_site_is_evicted_first() {
    let table = table();
    let others: Vec<_> = (10..15).map(|site| table.admit(of_site(site, 0)).unwrap()).collect();
    let _requests: Vec<_> = others.iter().map(busy).collect();
    let people = fill_by_site(&table, 1, Trust::Authenticated);
    assert_eq!(people.len(), SMALL.untrusted - others.len());
    assert!(table.admit(of_site(20, 0)).is_some());
    assert_eq!(evicted(&people), [people.len() - 1]);
    assert!(!others.iter().any(is_evicted));
}

/// Kubelet's probes are answered at once; a connection that stays open for long is not a probe.
#[test]
fn the_oldest_connection_is_evicted_for_a_probe() {
    let table =
        ConnectionTable::new(ConnectionLimits { closes_oldest: true, ..SMALL }, Metrics::default().connections_shed);
    let attackers: Vec<_> = (0..12).map(|site| table.admit(of_site(site, 0)).unwrap()).collect();
    let _requests: Vec<_> = attackers.iter().map(busy).collect();
    let probe = table.admit(of_site(100, 0)).expect("the probe is admitted");
    let next = table.admit(of_site(101, 0)).expect("the next probe is admitted, too");
    assert_eq!(attackers.iter().take_while(|open| is_evicted(open)).count(), 2);
    assert!(![probe, next].iter().any(is_evicted));
    // Another client may share kubelet's address.
    let own: Vec<_> = (0..SMALL.anonymous_of_network).map(|_| table.admit(of_site(200, 0)).unwrap()).collect();
    let _requests: Vec<_> = own.iter().map(busy).collect();
    let _probe = table.admit(of_site(200, 0)).expect("the probe is admitted");
    assert_eq!(own.iter().map(is_evicted).collect::<Vec<_>>(), [true, false, false, false]);
}

/// The path of one webhook may have leaked: it must not be enough to take the slots of kube-apiserver.
#[test]
fn the_path_of_a_webhook_alone_takes_no_reserved_slots() {
    let table = table();
    let leaked = fill_by_site(&table, 1, Trust::Webhook);
    let proven = |(open, _): &&(OpenConnection, InFlight)| open.connection().trust() == Trust::Webhook;
    assert_eq!(leaked.iter().filter(proven).count(), SMALL.webhooks, "the others stay anonymous");
    assert!(leaked.iter().all(|(open, _)| !is_at_api_server(open)));
    assert!(leaked.len() <= SMALL.untrusted + SMALL.webhooks);
    let guests = fill_by_site(&table, 2, Trust::Anonymous);
    assert!(guests.len() >= SMALL.untrusted / 3, "{} slots for others", guests.len());
    let api_server = table.admit(address(9)).expect("it replaces a connection of the larger site");
    api_server.connection().mark(Trust::ApiServer);
    assert!(table.admit(address(9)).is_some() && !is_evicted(&api_server));
}

/// kube-apiserver behind a proxy, whose address is unknown.
#[test]
fn connections_with_the_path_of_a_webhook_are_evicted_last_and_have_slots_of_their_own() {
    let table = table();
    let own: Vec<_> = (0..2)
        .map(|_| {
            let open = fill(&table, 1, 1).remove(0);
            open.connection().mark(Trust::Webhook);
            open
        })
        .collect();
    let others: Vec<_> = (10..40).filter_map(|last| table.admit(address(last))).collect();
    let _requests: Vec<_> = others.iter().map(busy).collect();
    assert!(others.len() >= SMALL.untrusted - 2);
    let next = table.admit(address(1)).expect("there is a slot beyond those of other networks");
    next.connection().mark(Trust::Webhook);
    assert_eq!(next.connection().trust(), Trust::Webhook);
    assert!(table.admit(address(200)).is_none_or(|_| own.iter().any(is_evicted)), "idle ones give way in the end");
}

#[test]
fn the_path_of_a_webhook_counts_as_a_proof_at_an_address_of_kube_apiserver() {
    for is_expected in [true, false] {
        let table = table();
        let certified = table.admit(address(9)).unwrap();
        if is_expected {
            table.expect_api_server(address(9));
        } else {
            certified.connection().mark(Trust::ApiServer);
        }
        let (own, other) = (table.admit(address(9)).unwrap(), table.admit(address(1)).unwrap());
        for open in [&own, &other] {
            open.connection().mark(Trust::Webhook);
        }
        assert_eq!((own.connection().trust(), other.connection().trust()), (Trust::ApiServer, Trust::Webhook));
        assert!(is_at_api_server(&own) && !is_at_api_server(&other));
    }
}

/// Another client may have an address in the same /64 as kube-apiserver.
#[test]
fn only_the_exact_address_of_kube_apiserver_is_reserved_and_exempt() {
    let at = |host: u16| IpAddr::from(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host));
    for is_expected in [true, false] {
        let table = table();
        if is_expected {
            table.expect_api_server(at(1));
        }
        let own = table.admit(at(1)).unwrap();
        own.connection().mark(if is_expected { Trust::Webhook } else { Trust::ApiServer });
        assert_eq!(own.connection().trust(), Trust::ApiServer);
        let (beside, neighbour) = (table.admit(at(1)).unwrap(), table.admit(at(2)).unwrap());
        assert_eq!(beside.connection().standing(), Standing::AtApiServerAddress);
        neighbour.connection().mark(Trust::Webhook);
        assert_eq!(neighbour.connection().trust(), Trust::Webhook);
        assert_eq!(neighbour.connection().standing(), Standing::Unknown);
        // It neither uses up the slots of kube-apiserver's address, nor has them.
        let idle = |address: IpAddr| {
            let open = table.admit(address).expect("there is a slot");
            drop(busy(&open));
            open
        };
        let neighbours: Vec<_> = (0..SMALL.anonymous_of_network + 2).map(|_| idle(at(2))).collect();
        assert_eq!(neighbours.iter().filter(|open| is_evicted(open)).count(), 2);
        let own: Vec<_> = (1..SMALL.anonymous_of_api_server_network).map(|_| idle(at(1))).collect();
        assert!(!own.iter().any(is_evicted) && !is_evicted(&beside));
    }
}

/// The address may have a new owner, who has learned a path.
#[test]
fn a_path_does_not_renew_the_reservation_of_a_former_address() {
    let table = table();
    let certified = table.admit(address(9)).unwrap();
    certified.connection().mark(Trust::ApiServer);
    let beside = table.admit(address(9)).unwrap();
    beside.connection().mark(Trust::Webhook);
    assert_eq!(beside.connection().trust(), Trust::ApiServer);
    drop(certified);
    let reserved = table.state().api_servers[&address(9)];
    std::thread::sleep(Duration::from_millis(2));
    let later = table.admit(address(9)).unwrap();
    later.connection().mark(Trust::Webhook);
    assert_eq!(later.connection().trust(), Trust::ApiServer, "within the hour");
    drop((beside, later));
    assert_eq!(table.state().api_servers[&address(9)], reserved);
    let long_ago = reserved.checked_sub(RESERVATION_TTL).expect("Linux has instants before its start");
    table.state().api_servers.insert(address(9), long_ago);
    let later = table.admit(address(9)).unwrap();
    later.connection().mark(Trust::Webhook);
    assert_eq!(later.connection().trust(), Trust::Webhook, "no connection with the certificate was open for an hour");
    assert_eq!(later.connection().standing(), Standing::Unknown);
}

/// kube-apiserver opens its connections in any order.
#[test]
fn a_connection_with_a_path_is_proven_once_its_address_is_known() {
    let table = table();
    let webhook = table.admit(address(9)).unwrap();
    webhook.connection().mark(Trust::Webhook);
    assert_eq!(webhook.connection().trust(), Trust::Webhook);
    let certified = table.admit(address(9)).unwrap();
    certified.connection().mark(Trust::ApiServer);
    webhook.connection().mark(Trust::Webhook);
    assert_eq!(webhook.connection().trust(), Trust::ApiServer);
}

#[derive(Clone, Debug)]
enum Event {
    Open(u8),
    Close(usize),
    Mark(usize, Trust),
    Begin(usize),
    End(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let at = || 0usize..64;
    prop_oneof![
        4 => (0u8..6).prop_map(Event::Open),
        1 => at().prop_map(Event::Close),
        1 => (at(), 1u8..4).prop_map(|(at, trust)| Event::Mark(at, Trust::from_u8(trust))),
        1 => at().prop_map(Event::Begin),
        1 => at().prop_map(Event::End),
    ]
}

proptest! {
    #[test]
    fn limits_hold_and_counts_are_exact(events in prop::collection::vec(event(), 0..300)) {
        let table = table();
        let mut open: Vec<(OpenConnection, Option<InFlight>)> = Vec::new();
        for event in events {
            match event {
                Event::Open(last) => {
                    let others = || table.state().unreserved().all;
                    let before = others();
                    let address = IpAddr::from([192, 0, last % 3, last]);
                    let admitted = table.admit(address);
                    let is_reserved = table.state().is_reserved(&address);
                    let has_webhook = table.state().held(&network_of(address))[Trust::Webhook as usize] > 0;
                    let slots = SMALL.untrusted + if has_webhook { SMALL.webhooks } else { 0 };
                    prop_assert!(is_reserved || others() <= before.max(slots));
                    open.extend(admitted.map(|connection| (connection, None)));
                }
                Event::Close(at) if at < open.len() => drop(open.remove(at)),
                Event::Mark(at, trust) if at < open.len() => open[at].0.connection().mark(trust),
                Event::Begin(at) if at < open.len() => open[at].1 = Some(busy(&open[at].0)),
                Event::End(at) if at < open.len() => open[at].1 = None,
                _ => {}
            }
            let state = table.state();
            let mut networks: HashMap<IpNet, ByTrust> = HashMap::new();
            for connection in state.open.values() {
                networks.entry(connection.network).or_default()[connection.trust() as usize] += 1;
            }
            let held: HashMap<_, _> = state.networks.iter().map(|(network, entry)| (*network, entry.held)).collect();
            prop_assert_eq!(&networks, &held);
            let mut addresses: HashMap<IpAddr, (ByTrust, usize)> = HashMap::new();
            for connection in state.open.values() {
                let (held, certified) = addresses.entry(connection.address).or_default();
                held[connection.trust() as usize] += 1;
                *certified += usize::from(connection.is_certified());
            }
            let held: HashMap<_, _> =
                state.addresses.iter().map(|(address, entry)| (*address, (entry.held, entry.certified))).collect();
            prop_assert_eq!(&addresses, &held);
            for (network, entry) in &state.networks {
                prop_assert_eq!(entry.open.len(), entry.held.iter().sum::<usize>());
                prop_assert!(entry.open.values().all(|connection| connection.network == *network));
            }
            prop_assert!(state.open.len() <= SMALL.total);
            let mut sites: HashMap<IpNet, usize> = HashMap::new();
            for connection in state.open.values().filter(|connection| connection.trust() < Trust::ApiServer) {
                *sites.entry(site_of(connection.network)).or_default() += 1;
            }
            prop_assert_eq!(&sites, &state.sites);
            for [anonymous, authenticated, webhooks, _] in networks.values() {
                prop_assert!(*anonymous <= SMALL.anonymous_of_api_server_network);
                prop_assert!(*authenticated <= SMALL.authenticated_of_network);
                prop_assert!(*webhooks <= SMALL.webhooks_of_network);
            }
            let evicted = open.iter().filter(|(connection, _)| is_evicted(connection));
            prop_assert!(evicted.clone().all(|(connection, _)| connection.connection().trust() < Trust::ApiServer));
            prop_assert_eq!(evicted.count(), state.closing);
        }
        drop(open);
        let state = table.state();
        prop_assert!(state.open.is_empty() && state.networks.is_empty() && state.sites.is_empty() && state.closing == 0);
        prop_assert!(state.addresses.is_empty());
        prop_assert_eq!(state.total, ByTrust::default());
    }
}
