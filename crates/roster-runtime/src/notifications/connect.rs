//! Outgoing connections: HTTPS only, to permitted addresses only.
//!
//! Names are resolved here, and connections go to the address that was checked: a separate check would be useless,
//! since a name may resolve differently a moment later. Connections are not reused, and redirects are not followed.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;
use std::vec::IntoIter;

use anyhow::{Context, Result};
use axum::body::Body;
use axum::http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use super::target::Targets;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Pending<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Client that only connects to permitted receivers.
pub(super) type HttpsClient = Client<HttpsConnector<RestrictedConnector>, Body>;

/// The receiver has no permitted address, so no connection was made.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the receiver has no address that notifications may be sent to")]
pub(super) struct NoPermittedAddress;

/// Creates a client that trusts Mozilla's certificate authorities and those in the file.
pub(super) fn client(targets: Targets, ca_file: Option<&Path>) -> Result<HttpsClient> {
    let tls = ClientConfig::builder().with_root_certificates(roots(ca_file)?).with_no_client_auth();
    let guarded = RestrictedConnector::new(targets);
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().wrap_connector(guarded);
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(path) = ca_file else { return Ok(roots) };
    let what = || format!("--notification-ca-file {}", path.display());
    let known = roots.len();
    for certificate in CertificateDer::pem_file_iter(path).with_context(what)? {
        roots.add(certificate.with_context(what)?).with_context(what)?;
    }
    anyhow::ensure!(roots.len() > known, "{}: contains no certificate", what());
    Ok(roots)
}

/// Connects only to permitted addresses.
#[derive(Clone)]
pub(super) struct RestrictedConnector {
    targets: Arc<Targets>,
    tcp: HttpConnector<Resolver>,
}

impl RestrictedConnector {
    fn new(targets: Targets) -> Self {
        let targets = Arc::new(targets);
        let mut tcp = HttpConnector::new_with_resolver(Resolver(Arc::clone(&targets)));
        // URLs are https; TLS is handled by the layer above.
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self { targets, tcp }
    }

    /// Whether the host is an IP address, which needs no resolver, and not permitted.
    fn refuses_literal(&self, uri: &Uri) -> bool {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        host.parse().is_ok_and(|address: IpAddr| !self.targets.permits(address))
    }
}

impl Service<Uri> for RestrictedConnector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pending<Self::Response>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if self.refuses_literal(&uri) {
            return Box::pin(std::future::ready(Err(NoPermittedAddress.into())));
        }
        let connecting = self.tcp.call(uri);
        Box::pin(async move { Ok(connecting.await?) })
    }
}

/// Resolves a name to its permitted addresses.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Targets>);

impl Service<Name> for Resolver {
    type Response = IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pending<Self::Response>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let targets = Arc::clone(&self.0);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let permitted: Vec<_> = found.filter(|address| targets.permits(address.ip())).collect();
            if permitted.is_empty() { Err(NoPermittedAddress.into()) } else { Ok(permitted.into_iter()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("https://127.0.0.1/", true)]
    #[case("https://[::1]:8443/", true)]
    #[case("https://[::ffff:169.254.169.254]/", true)]
    #[case("https://8.8.8.8/", false)]
    #[case("https://hooks.example.com/", false)]
    fn addresses_in_urls_are_checked(#[case] url: &str, #[case] refused: bool) {
        assert_eq!(RestrictedConnector::new(Targets::default()).refuses_literal(&url.parse().unwrap()), refused);
    }

    #[rstest]
    #[case::loopback("localhost")]
    #[case::decimal("2130706433")]
    #[case::short("127.1")]
    #[case::hexadecimal("0x7f000001")]
    #[tokio::test]
    async fn names_that_resolve_to_internal_addresses_are_refused(#[case] name: &str) {
        let mut resolver = Resolver(Arc::new(Targets::default()));
        let error = resolver.call(name.parse().unwrap()).await.unwrap_err();
        assert!(error.downcast_ref::<NoPermittedAddress>().is_some(), "{name}: {error}");
    }

    #[test]
    fn a_file_without_certificates_is_an_error_that_names_the_flag() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path(), Path::new("/nowhere/ca.pem")] {
            let error = format!("{:#}", roots(Some(path)).unwrap_err());
            assert!(error.contains("--notification-ca-file"), "{error}");
        }
    }
}
