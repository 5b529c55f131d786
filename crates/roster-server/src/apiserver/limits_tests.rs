use super::*;
use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures::stream;
use roster_runtime::informers::callers::CREDENTIAL_ID;
use roster_runtime::metrics::Metrics;
use roster_runtime::tls::connections::{ConnectionTable, LIMITS, OpenConnection};
use roster_runtime::tls::peer::Peer;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tower::ServiceExt;

/// Size of a response that is larger than all buffers, in bytes.
const LARGE: usize = 32 << 20;

const FEW: PermitLimits = PermitLimits { total: 6, direct: 4, of_one: 2, of_program: 3 };

fn caller(username: &str, groups: &[&str]) -> Caller {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Caller { username: username.to_owned(), uid: String::new(), groups, extra: BTreeMap::new() }
}

fn source(username: &str, is_api_server: bool) -> RequestSource {
    let standing = if is_api_server { Standing::ApiServer } else { Standing::Unknown };
    RequestSource { share: PermitHolder::of(&caller(username, &[])), second: None, standing }
}

/// A request of Jane with this credential, through kube-apiserver.
fn source_with(credential: &str) -> RequestSource {
    let mut caller = caller("jane", &[]);
    caller.extra.insert(CREDENTIAL_ID.to_owned(), vec![credential.to_owned()]);
    let (share, second) = (PermitHolder::of(&caller), PermitHolder::of_credential(&caller));
    RequestSource { share, second, standing: Standing::ApiServer }
}

fn admitted(permits: &Permits, username: &str, is_api_server: bool) -> Vec<RequestPermit> {
    (0..100).map_while(|_| permits.admit(source(username, is_api_server)).ok()).collect()
}

#[rstest]
#[case::person("jane", &[], PermitHolder::User("jane".to_owned()))]
#[case::service_account("system:serviceaccount:apps:web", &[], PermitHolder::ServiceAccounts("apps".to_owned()))]
#[case::component("system:kube-controller-manager", &[], PermitHolder::System("system:kube-controller-manager".to_owned()))]
#[case::administrator("jane", &["system:masters"], PermitHolder::Exempt)]
fn shares_go_by_username(#[case] username: &str, #[case] groups: &[&str], #[case] share: PermitHolder) {
    assert_eq!(PermitHolder::of(&caller(username, groups)), share);
}

#[test]
fn one_caller_takes_at_most_its_share() {
    let permits = Permits::new(FEW, "requests");
    let mut held = admitted(&permits, "jane", true);
    assert_eq!(held.len(), FEW.of_one);
    let refused = permits.admit(source("jane", true)).unwrap_err();
    assert_eq!(refused.code(), StatusCode::TOO_MANY_REQUESTS);
    assert!(permits.admit(source("jane", false)).is_err(), "a direct connection uses the same share");
    assert!(permits.admit(source("john", true)).is_ok());
    held.pop();
    assert!(permits.admit(source("jane", true)).is_ok());
}

/// The owner of a stolen API key or session must be able to revoke it.
#[rstest]
#[case::api_keys(["APIKey=1", "APIKey=2"], "the API keys of user jane have 4 requests")]
#[case::session(["JTI=stolen", "JTI=stolen"], "one session has 4 requests")]
fn a_stolen_credential_leaves_a_part_of_its_owners_share(#[case] stolen: [&str; 2], #[case] message: &str) {
    let permits = Permits::new(PermitLimits { total: 100, direct: 100, of_one: 8, of_program: 8 }, "requests");
    let take = |credential: &str| permits.admit(source_with(credential));
    let held: Vec<_> = (0..100).filter_map(|at| take(stolen[at % 2]).ok()).collect();
    assert_eq!(held.len(), 4);
    let refused = take(stolen[0]).unwrap_err();
    assert!(format!("{refused:?}").contains(message), "{refused:?}");
    let own: Vec<_> = (0..100).map_while(|_| take("JTI=own").ok()).collect();
    assert_eq!(own.len(), 4);
    assert!(take("JTI=another").is_err(), "all credentials together have the share of the user");
    drop(held);
    assert!(take(stolen[0]).is_ok());
}

#[rstest]
#[case::without_credential("", None)]
#[case::session("JTI=1", Some(PermitHolder::Session("1".to_owned())))]
#[case::api_key("APIKey=1", Some(PermitHolder::ApiKeys("jane".to_owned())))]
#[case::certificate("X509SHA256=1", None)]
fn credentials_of_persons_have_shares(#[case] credential: &str, #[case] expected: Option<PermitHolder>) {
    assert_eq!(source_with(credential).second, expected);
    let mut account = caller("system:serviceaccount:apps:web", &[]);
    account.extra.insert(CREDENTIAL_ID.to_owned(), vec![credential.to_owned()]);
    assert_eq!(PermitHolder::of_credential(&account), None, "many people may use one ServiceAccount");
}

#[test]
fn the_service_accounts_of_a_namespace_share_a_limit() {
    let permits = Permits::new(FEW, "requests");
    let held = admitted(&permits, "system:serviceaccount:apps:one", true);
    assert_eq!(held.len(), FEW.of_program);
    assert!(permits.admit(source("system:serviceaccount:apps:two", true)).is_err());
    assert!(permits.admit(source("system:serviceaccount:other:one", true)).is_ok());
}

#[test]
fn callers_that_connect_directly_leave_permits_for_kube_apiserver() {
    let permits = Permits::new(FEW, "requests");
    let held: Vec<_> = (0..9).flat_map(|at| admitted(&permits, &format!("direct-{at}"), false)).collect();
    assert_eq!(held.len(), FEW.direct);
    let through: Vec<_> = (0..9).flat_map(|at| admitted(&permits, &format!("through-{at}"), true)).collect();
    assert_eq!(through.len(), FEW.total - FEW.direct);
    drop(held);
    assert_eq!(permits.direct.available_permits(), FEW.direct);
}

#[test]
fn a_share_can_be_held_for_longer_than_the_permit() {
    let permits = Permits::new(FEW, "lists");
    let held: Vec<_> = admitted(&permits, "jane", true).iter().map(RequestPermit::share).collect();
    assert_eq!(permits.total.available_permits(), FEW.total);
    assert!(permits.admit(source("jane", true)).is_err());
    drop(held);
    assert!(permits.admit(source("jane", true)).is_ok());
}

/// A router with a limiter that has few permits. The handlers of `/` wait for the notification.
fn limited_router(
    source_of: fn(&Request) -> Result<RequestSource, ApiError>,
) -> (Router, Arc<RequestLimiter>, Arc<Notify>) {
    limited_router_within(REQUEST_TIMEOUT, source_of)
}

fn limited_router_within(
    timeout: Duration,
    source_of: fn(&Request) -> Result<RequestSource, ApiError>,
) -> (Router, Arc<RequestLimiter>, Arc<Notify>) {
    let limiter = Arc::new(RequestLimiter { timeout, ..RequestLimiter::new(FEW, "requests", source_of) });
    let go_on = Arc::new(Notify::new());
    let waiting = Arc::clone(&go_on);
    let wait = async move || waiting.notified().await;
    let router = Router::new()
        .route("/", post(wait.clone()).get(wait))
        .route("/quick", post(async || "done").get(async || "done"))
        .route("/large", post(async || vec![0; LARGE]).get(async || vec![0; LARGE]))
        .route("/watch", get(async || (Extension(HoldsOwnPermit), vec![0; LARGE])))
        .layer(middleware::from_fn_with_state(Arc::clone(&limiter), limited));
    (router, limiter, go_on)
}

fn request(method: &str, path: &str, username: &str, body: Body) -> Request {
    let request = Request::builder().method(method).uri(path).extension(Arc::new(caller(username, &[])));
    request.extension(Trust::ApiServer).body(body).unwrap()
}

/// A body that never ends.
fn trickle() -> Body {
    Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>())
}

async fn status(router: &Router, request: Request) -> StatusCode {
    router.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn slow_bodies_take_the_share_of_their_caller_and_no_permit() {
    let (router, limiter, _) = limited_router(RequestSource::of_caller);
    let mut sending: Vec<_> = (0..FEW.of_one)
        .map(|_| Box::pin(router.clone().oneshot(request("POST", "/quick", "jane", trickle()))))
        .collect();
    for sent in &mut sending {
        assert!(futures::poll!(sent).is_pending());
    }
    assert_eq!(limiter.permits.total.available_permits(), FEW.total);
    assert_eq!(status(&router, request("POST", "/quick", "jane", Body::empty())).await, 429);
    assert_eq!(status(&router, request("GET", "/quick", "jane", Body::empty())).await, 429);
    assert_eq!(status(&router, request("POST", "/quick", "john", Body::from("{}"))).await, 200);
    drop(sending);
    assert_eq!(status(&router, request("POST", "/quick", "jane", Body::empty())).await, 200);
}

#[tokio::test]
async fn a_client_that_disconnects_keeps_its_permit_until_the_work_ends() {
    let (router, limiter, go_on) = limited_router(RequestSource::of_caller);
    let budget = BODIES.budget;
    for sent in 1..=FEW.of_one {
        let body = Body::from("x".repeat(BODIES.free_bytes + 1));
        let mut answer = Box::pin(router.clone().oneshot(request("POST", "/", "jane", body)));
        while limiter.permits.total.available_permits() > FEW.total - sent {
            assert!(futures::poll!(&mut answer).is_pending());
            tokio::task::yield_now().await;
        }
    }
    // Wait until the handlers are running.
    tokio::task::yield_now().await;
    assert_eq!(limiter.permits.total.available_permits(), FEW.total - FEW.of_one);
    assert_eq!(limiter.bodies_of_api_server.available_budget(), budget - FEW.of_one * (BODIES.free_bytes + 1));
    assert_eq!(status(&router, request("POST", "/quick", "jane", Body::empty())).await, 429);
    go_on.notify_waiters();
    while limiter.permits.total.available_permits() < FEW.total {
        tokio::task::yield_now().await;
    }
    assert_eq!(limiter.bodies_of_api_server.available_budget(), budget);
    assert_eq!(status(&router, request("POST", "/quick", "jane", Body::empty())).await, 200);
}

#[tokio::test]
async fn work_that_times_out_is_answered_and_keeps_its_permit() {
    let (router, limiter, go_on) = limited_router_within(Duration::from_millis(50), RequestSource::of_caller);
    assert_eq!(status(&router, request("POST", "/", "jane", Body::empty())).await, 503);
    assert_eq!(limiter.permits.total.available_permits(), FEW.total - 1);
    go_on.notify_waiters();
    while limiter.permits.total.available_permits() < FEW.total {
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&router, request("GET", "/", "jane", Body::empty())).await, 503);
    assert_eq!(limiter.permits.total.available_permits(), FEW.total, "a GET is cancelled when it times out");
}

/// Opens a connection from a network in its own site.
fn connect(table: &Arc<ConnectionTable>, site: u8) -> OpenConnection {
    table.admit([192, 0, site, 1].into()).unwrap()
}

fn from_network(open: &OpenConnection, site: u8, path: &str) -> Request {
    from_address(open, [192, 0, site, 1].into(), path)
}

fn from_address(open: &OpenConnection, address: std::net::IpAddr, path: &str) -> Request {
    let peer = Peer { remote: (address, 1).into(), certificates: Vec::new() };
    let connection = Arc::clone(open.connection());
    Request::post(path).extension(Arc::new(peer)).extension(connection).body(Body::from("{}")).unwrap()
}

#[tokio::test]
async fn networks_are_limited_except_that_of_kube_apiserver() {
    let (router, limiter, go_on) = limited_router(RequestSource::of_network);
    let table = ConnectionTable::new(LIMITS, Metrics::default().connections_shed);
    let (api_server, one, two, three) =
        (connect(&table, 1), connect(&table, 2), connect(&table, 3), connect(&table, 4));
    // Proven on a connection other than the one with the TokenReviews.
    let proven = connect(&table, 1);
    proven.connection().mark(Trust::ApiServer);
    let mut held = Vec::new();
    for (open, last) in [(&one, 2), (&one, 2), (&two, 3), (&two, 3)] {
        held.push(tokio::spawn(router.clone().oneshot(from_network(open, last, "/"))));
    }
    while limiter.permits.total.available_permits() > FEW.total - FEW.direct {
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&router, from_network(&one, 2, "/quick")).await, 429, "its share is used up");
    assert_eq!(status(&router, from_network(&three, 4, "/quick")).await, 429, "other networks leave a reserve");
    assert_eq!(status(&router, from_network(&api_server, 1, "/quick")).await, 200);
    go_on.notify_waiters();
    for answer in held {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(status(&router, from_network(&three, 4, "/quick")).await, 200);
}

/// Clients may share an address with kube-apiserver, for example behind a Service that hides their addresses.
#[test]
fn unproven_connections_at_an_address_of_kube_apiserver_leave_a_reserve() {
    let permits = Permits::new(FEW, "TokenReviews");
    let admit = |standing| permits.admit(RequestSource { share: PermitHolder::Exempt, second: None, standing }).ok();
    let all = |standing| (0..100).map_while(|_| admit(standing)).collect::<Vec<_>>();
    let beside = all(Standing::AtApiServerAddress);
    assert_eq!(beside.len(), FEW.direct);
    let direct = all(Standing::Unknown);
    assert_eq!(beside.len() + direct.len(), unproven(FEW.total, FEW.direct), "others have permits, too");
    let proven = all(Standing::ApiServer);
    assert_eq!(proven.len(), FEW.total - unproven(FEW.total, FEW.direct));
    drop((beside, direct, proven));
    let direct = all(Standing::Unknown);
    assert_eq!(direct.len(), FEW.direct);
    assert!(admit(Standing::AtApiServerAddress).is_some(), "other addresses leave a reserve for it");
}

/// Bodies of a client that shares an address with kube-apiserver must not delay those of proven connections.
#[tokio::test]
async fn bodies_at_an_address_of_kube_apiserver_have_a_budget_of_their_own() {
    let (router, limiter, go_on) = limited_router(RequestSource::of_network);
    let table = ConnectionTable::new(LIMITS, Metrics::default().connections_shed);
    let (open, proven) = (connect(&table, 1), connect(&table, 1));
    proven.connection().mark(Trust::ApiServer);
    let mut request = from_network(&open, 1, "/");
    *request.body_mut() = Body::from("x".repeat(BODIES.free_bytes + 1));
    let mut answer = Box::pin(router.clone().oneshot(request));
    while limiter.bodies_at_api_server_address.available_budget() == BODIES.budget {
        assert!(futures::poll!(&mut answer).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(limiter.bodies_of_api_server.available_budget(), BODIES.budget);
    assert_eq!(status(&router, from_network(&proven, 1, "/quick")).await, 200);
    while limiter.permits.total.available_permits() == FEW.total {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    go_on.notify_waiters();
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_networks_of_a_site_share_a_limit() {
    let (router, limiter, go_on) = limited_router(RequestSource::of_network);
    let table = ConnectionTable::new(LIMITS, Metrics::default().connections_shed);
    let of_site = |last: u16| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, last, 0, 0, 0, 1).into();
    let (mut open, mut held) = (Vec::new(), Vec::new());
    for last in 0..=FEW.of_program {
        let address = of_site(u16::try_from(last).unwrap());
        open.push(table.admit(address).unwrap());
        let request = from_address(&open[last], address, "/");
        if last < FEW.of_program {
            held.push(tokio::spawn(router.clone().oneshot(request)));
            while limiter.permits.total.available_permits() >= FEW.total - last {
                tokio::task::yield_now().await;
            }
        } else {
            assert_eq!(status(&router, request).await, 429);
        }
    }
    let other = connect(&table, 1);
    assert_eq!(status(&router, from_network(&other, 1, "/quick")).await, 200);
    go_on.notify_waiters();
    for answer in held {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
}

/// The address may have been reassigned.
#[tokio::test]
async fn a_network_recently_used_by_kube_apiserver_is_limited() {
    let (router, limiter, go_on) = limited_router(RequestSource::of_network);
    let table = ConnectionTable::new(LIMITS, Metrics::default().connections_shed);
    let (open, proven) = (connect(&table, 1), connect(&table, 1));
    proven.connection().mark(Trust::ApiServer);
    drop(proven);
    let held: Vec<_> =
        (0..FEW.of_one).map(|_| tokio::spawn(router.clone().oneshot(from_network(&open, 1, "/")))).collect();
    while limiter.permits.total.available_permits() > FEW.total - FEW.of_one {
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&router, from_network(&open, 1, "/quick")).await, 429);
    go_on.notify_waiters();
    for answer in held {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
}

#[rstest]
#[case("GET")]
#[case("POST")]
#[tokio::test]
async fn a_response_counts_towards_its_callers_share_until_its_end(#[case] method: &str) {
    let (router, limiter, _) = limited_router(RequestSource::of_caller);
    let send =
        async |path, username| router.clone().oneshot(request(method, path, username, Body::empty())).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..FEW.of_one {
        answers.push(send("/large", "jane").await);
    }
    assert_eq!(limiter.permits.total.available_permits(), FEW.total, "the work has ended");
    assert_eq!(send("/quick", "jane").await.status(), 429);
    assert_eq!(send("/quick", "john").await.status(), 200);
    let read = axum::body::to_bytes(answers.pop().unwrap().into_body(), usize::MAX).await.unwrap();
    assert_eq!(read.len(), LARGE);
    assert_eq!(send("/quick", "jane").await.status(), 200, "one answer was read");
}

#[tokio::test]
async fn responses_with_permits_of_their_own_do_not_count_towards_the_share() {
    let (router, ..) = limited_router(RequestSource::of_caller);
    let mut answers = Vec::new();
    for _ in 0..=FEW.of_one {
        answers.push(router.clone().oneshot(request("GET", "/watch", "jane", Body::empty())).await.unwrap());
    }
    assert!(answers.iter().all(|answer| answer.status() == 200));
}

/// Sends a request and reads the status.
async fn begin_to_read(stream: &mut TcpStream, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    String::from_utf8_lossy(&status[9..]).into_owned()
}

/// hyper must not buffer the whole response.
#[tokio::test]
async fn clients_that_do_not_read_hold_their_share_on_a_real_connection() {
    let (router, ..) = limited_router(RequestSource::of_caller);
    let jane = Arc::new(caller("jane", &[]));
    let router = router.layer(Extension(jane)).layer(Extension(Trust::ApiServer));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let mut reading = Vec::new();
    for _ in 0..FEW.of_one {
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(begin_to_read(&mut stream, "/large").await, "200");
        reading.push(stream);
    }
    let quick = async || begin_to_read(&mut TcpStream::connect(address).await.unwrap(), "/quick").await;
    assert_eq!(quick().await, "429");
    let mut whole = Vec::new();
    reading.pop().unwrap().read_to_end(&mut whole).await.unwrap();
    assert!(whole.len() > LARGE);
    assert_eq!(quick().await, "200");
    serving.abort();
}
