//! Clients for kube-apiserver.
//!
//! Each component has its own client. It names itself in the `User-Agent`, which kube-apiserver writes to its audit
//! log, and it has its own connections, so that no component waits for another one.
//!
//! A peer can vanish without closing its connections, for example if its node crashes or a firewall forgets them. TCP
//! keepalive detects this while the connection is idle, and `TCP_USER_TIMEOUT` while data is in flight. The kernel then
//! closes the connection, so that requests fail instead of waiting for minutes.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::http::header::{RETRY_AFTER, USER_AGENT};
use axum::http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use roster_api::user_agent;
use thiserror::Error;
use tower::retry::RetryLayer;
use tower::util::MapResultLayer;
use tower::{BoxError, ServiceBuilder};

use super::json::parsable_body;

/// Idle time after which the kernel sends a keepalive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);

/// Time between two probes without an answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// Probes without an answer after which the kernel closes the connection.
const KEEPALIVE_PROBES: u32 = 3;

/// How long data may remain unacknowledged until the kernel closes the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of connecting, including the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Part of Roster that sends requests to kube-apiserver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Component {
    /// Watches that feed the directory. They have their own backoff, so the client does not retry.
    Informers,
    /// Admission webhooks, the aggregated API and logins.
    Server,
    /// The leader's controllers.
    Controllers,
    /// Leader election.
    LeaderElection,
}

impl Component {
    const fn name(self) -> &'static str {
        match self {
            Self::Informers => "informers",
            Self::Server => "server",
            Self::Controllers => "controllers",
            Self::LeaderElection => "leader-election",
        }
    }
}

/// Sets the `User-Agent` of requests.
///
/// # Errors
/// If the name of the component is not a valid header value.
pub fn identify(config: &mut Config, component: &str) -> Result<()> {
    config.headers.push((USER_AGENT, HeaderValue::try_from(user_agent(component))?));
    Ok(())
}

/// Creates a client. Its connections belong to the Tokio runtime of the caller.
///
/// It is built like kube's own, which has no option for TCP keepalive.
///
/// # Errors
/// If the configuration names a proxy or has invalid certificates or credentials.
pub fn connect(config: &Config, component: Component) -> Result<Client> {
    if let Some(proxy) = &config.proxy_url {
        bail!("proxy-url {proxy} in the kubeconfig: connections to kube-apiserver through a proxy are not supported");
    }
    let mut config = config.clone();
    identify(&mut config, component.name())?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(KEEPALIVE_IDLE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    tcp.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let tls = config.rustls_https_connector_with_connector(tcp).context("TLS to kube-apiserver")?;
    let mut connector = TimeoutConnector::new(tls);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .map_response(|response: Response<Incoming>| response.map(parsable_body))
        .service(http);
    let builder = ClientBuilder::new(service, config.default_namespace);
    Ok(if component == Component::Informers {
        builder.with_layer(&MapResultLayer::new(throttled)).build()
    } else {
        builder.with_layer(&RetryLayer::new(RetryPolicy::server_retry())).build()
    })
}

/// kube-apiserver is overloaded and asked to retry later.
#[derive(Debug, Error)]
#[error("kube-apiserver returned {status}: retry after {after:?}")]
pub struct Throttled {
    status: StatusCode,
    after: Duration,
}

/// Turns a 429 or 503 response with `Retry-After` into an error, because kube's errors do not contain headers.
///
/// # Errors
/// [`Throttled`], or the error of `outcome`.
pub fn throttled<B>(outcome: Result<Response<B>, BoxError>) -> Result<Response<B>, BoxError> {
    let response = outcome?;
    let status = response.status();
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return Ok(response);
    }
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(Ok(response), |seconds| Err(Throttled { status, after: Duration::from_secs(seconds) }.into()))
}

/// Returns how long kube-apiserver asks to wait before the next attempt, if it does.
pub fn retry_after(error: &kube::Error) -> Option<Duration> {
    match error {
        kube::Error::Service(error) => error.downcast_ref::<Throttled>().map(|throttled| throttled.after),
        kube::Error::Api(status) => retry_after_of(status),
        _ => None,
    }
}

/// Returns how long an error in the body of a response asks to wait.
pub fn retry_after_of(status: &kube::core::Status) -> Option<Duration> {
    let seconds = status.details.as_ref()?.retry_after_seconds;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

const fn is_silence(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
}

/// Whether the connection is dead or can't be established: the peer does not answer.
pub fn is_unreachable(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let outer = error.downcast_ref::<io::Error>();
        // An I/O error can contain another one, which `source` skips.
        let inner = outer.and_then(|error| error.get_ref()?.downcast_ref::<io::Error>());
        if [outer, inner].into_iter().flatten().any(|error| is_silence(error.kind())) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use futures::StreamExt;
    use kube::api::{Api, WatchParams};
    use roster_api::User;
    use socket2::{SockFilter, SockRef};

    use super::*;

    /// Drops every packet of its socket: BPF's "return 0".
    fn blackhole() -> [SockFilter; 1] {
        [SockFilter::new(6, 0, 0, 0)]
    }

    /// Without keepalive, the client would wait forever, because no packet informs it that the server is gone.
    #[tokio::test]
    async fn a_connection_whose_peer_vanishes_is_closed_and_counts_as_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
            SockRef::from(&stream).attach_filter(&blackhole()).unwrap();
            SockRef::from(&listener).attach_filter(&blackhole()).unwrap();
            (stream, listener, String::from_utf8(request).unwrap())
        });
        let config = Config::new(format!("http://{address}").parse().unwrap());
        let client = connect(&config, Component::Informers).unwrap();
        let api: Api<User> = Api::all(client);
        let mut events = Box::pin(api.watch(&WatchParams::default(), "0").await.unwrap());
        let (_stream, _listener, request) = server.join().unwrap();
        let agent = format!("user-agent: roster/{} (informers)\r\n", env!("CARGO_PKG_VERSION"));
        assert!(request.to_lowercase().contains(&agent), "{request}");
        let patience = Duration::from_secs(60);
        let watched = tokio::time::timeout(patience, events.next()).await.expect("the connection is closed");
        let error = watched.expect("an error, not the end").unwrap_err();
        assert!(is_unreachable(&error), "{error:?}");
        let connected = tokio::time::timeout(patience, api.watch(&WatchParams::default(), "0")).await;
        let error = connected.expect("the attempt ends").err().expect("the server is unreachable");
        assert!(is_unreachable(&error), "{error:?}");
    }

    #[test]
    fn a_dead_connection_is_noticed_within_15_seconds() {
        let probes = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES;
        assert!(probes < Duration::from_secs(15) && USER_TIMEOUT < Duration::from_secs(15));
    }

    #[tokio::test]
    async fn a_proxy_is_refused_and_not_ignored() {
        let mut config = Config::new("https://127.0.0.1:6443".parse().unwrap());
        config.proxy_url = Some("http://proxy:3128".parse().unwrap());
        let error = connect(&config, Component::Server).err().unwrap().to_string();
        assert!(error.contains("http://proxy:3128"), "{error}");
    }
}
