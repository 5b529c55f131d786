//! The aggregated API, through kube-apiserver and directly, with two replicas.

mod authentication;
mod keys;
mod kubectl;
mod options;
mod permissions;
mod profile;
mod queries;
mod schema;
mod selectors;
mod watching;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::shared_cluster::SharedCluster;
use crate::support::Cluster;

pub(crate) const BASE: &str = "/apis/directory.roster.dev/v1alpha1";

/// Shared control plane with two operators. Tests use separate domains and must not stop the operators.
pub(crate) fn directory() -> &'static Cluster {
    static DIRECTORY: SharedCluster = SharedCluster::new(|| {
        let cluster = Cluster::create("directory", &["bindableRoles={deployer}"]);
        cluster.start_operator(&["--bindable-roles", "deployer"]);
        cluster.start_operator(&["--bindable-roles", "deployer"]);
        wait_until_served(&cluster);
        cluster
    });
    DIRECTORY.get()
}

/// Identity headers of a cluster administrator, as the aggregator sends them.
pub(crate) const IDENTITY: &[(&str, &str)] = &[("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")];

/// The aggregator's client certificate.
pub(crate) fn front_proxy(cluster: &Cluster) -> (String, String) {
    let read = |file: &str| std::fs::read_to_string(cluster.plane.dir.join("pki").join(file)).unwrap();
    (read("front-proxy.crt"), read("front-proxy.key"))
}

/// Waits until kube-apiserver proxies requests.
pub(crate) fn wait_until_served(cluster: &Cluster) {
    let what = "the aggregated API is served";
    let probe = || cluster.plane.kubectl.run(&["get", "--raw", &format!("{BASE}/users?limit=1")]);
    roster_harness::kubectl::eventually(what, Duration::from_secs(90), probe)
        .unwrap_or_else(|error| panic!("{error:#}"));
}

/// Returns the response for a path under the group-version.
pub(crate) fn get(cluster: &Cluster, path: &str) -> Value {
    serde_json::from_str(&cluster.kubectl(&["get", "--raw", &format!("{BASE}/{path}")])).expect("the answer is JSON")
}

/// Returns the names of the items of a response.
pub(crate) fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap_or_else(|| panic!("no items: {list}"));
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Percent-encodes a query value.
pub(crate) fn encoded(value: &str) -> String {
    form_urlencoded::byte_serialize(value.as_bytes()).collect()
}

/// Response to a request on its own connection: status, headers and body.
pub(crate) struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Client of a replica's port, with or without a certificate.
pub(crate) struct Direct {
    address: String,
    tls: Arc<ClientConfig>,
}

impl Direct {
    pub(crate) async fn new(cluster: &Cluster, replica: usize, certificate: Option<(&str, &str)>) -> Self {
        // Installs the TLS provider.
        let secrets = cluster.secrets("roster-system").await;
        let authority = secrets.get("roster-ca").await.expect("the authority exists").data.unwrap_or_default();
        let mut roots = RootCertStore::empty();
        for pem in authority.values() {
            // Keys are ignored.
            for certificate in CertificateDer::pem_slice_iter(&pem.0) {
                roots.add(certificate.unwrap()).unwrap();
            }
        }
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match certificate {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        let address = cluster.operators()[replica].url().trim_start_matches("https://").to_owned();
        Self { address, tls: Arc::new(config) }
    }

    /// Sends a GET with additional headers.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", path, headers).await.unwrap_or_else(|error| panic!("{path}: {error:#}"))
    }

    pub(crate) async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.send(method, path, headers, "").await
    }

    /// Opens a connection from that local address, including the handshake.
    pub(crate) async fn connect_from(&self, source: Ipv4Addr) -> Result<TlsStream<TcpStream>> {
        self.connect(TcpSocket::new_v4()?, source).await
    }

    /// Like [`Direct::connect_from`], with the smallest receive buffer that the kernel allows.
    pub(crate) async fn connect_unread(&self, source: Ipv4Addr) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(1)?;
        self.connect(socket, source).await
    }

    async fn connect(&self, socket: TcpSocket, source: Ipv4Addr) -> Result<TlsStream<TcpStream>> {
        socket.bind((source, 0).into())?;
        let stream = socket.connect(self.address.parse()?).await?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        Ok(connector.connect(ServerName::try_from("localhost")?, stream).await?)
    }

    /// Sends a request with a JSON body.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
        let mut stream = self.connect_from(Ipv4Addr::LOCALHOST).await?;
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.extend([name, ": ", value, "\r\n"]);
        }
        if !body.is_empty() {
            let length = body.len().to_string();
            request.extend(["Content-Type: application/json\r\nContent-Length: ", &length, "\r\n"]);
        }
        request.push_str("\r\n");
        request.push_str(body);
        // Flush what the TLS session has buffered, because reading does not. A server that rejects a request early
        // responds and closes while the rest is still being sent, so ignore errors: the response can be read.
        let written = async {
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await
        };
        let written = written.await;
        let mut bytes = Vec::new();
        // A server that closes without `close_notify` has still responded.
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes)).await?;
        let text = String::from_utf8_lossy(&bytes);
        let answer = text.split_once("\r\n\r\n");
        let (head, body) = answer.with_context(|| format!("no HTTP answer but {text:?}, {written:?}, {read:?}"))?;
        let status = head.split_whitespace().nth(1).context("no status")?.parse()?;
        Ok(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
    }
}
