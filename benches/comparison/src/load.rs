//! A closed loop of requests over TLS with keep-alive: each connection sends a request, reads the whole response, and
//! sends the next request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A server, and the identity with which it is called.
#[derive(Clone)]
pub(crate) struct Server {
    /// Address that it listens on.
    pub address: SocketAddr,
    /// Headers of each request.
    pub headers: Vec<(&'static str, String)>,
    tls: Arc<ClientConfig>,
}

/// Results of a load test.
pub(crate) struct Measured {
    /// Requests per second.
    pub per_second: f64,
    /// Time until the response was read, in microseconds.
    pub micros: Histogram<u64>,
}

impl Server {
    /// Creates a server at `address` with a certificate issued by the authority `ca` (PEM). `client`: certificate and
    /// key of the client (PEM).
    ///
    /// # Errors
    /// If an argument is not valid PEM.
    pub(crate) fn new(address: SocketAddr, ca: &str, client: Option<(&str, &str)>) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match client {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>()?;
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { address, headers: Vec::new(), tls: Arc::new(config) })
    }

    /// Adds headers to each request.
    pub(crate) fn with_headers(mut self, headers: &[(&'static str, &str)]) -> Self {
        self.headers.extend(headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
        self
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// If the connection or the TLS handshake fails.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream =
            TlsConnector::from(Arc::clone(&self.tls)).connect(ServerName::try_from("localhost")?, stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender, headers: self.headers.clone() })
    }

    /// Sends a GET and returns the response body.
    ///
    /// # Errors
    /// If the response has an error status.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes> {
        self.connect().await?.body("GET", path, Bytes::new()).await
    }

    /// Sends requests for the duration of `slice` over `connections` connections, at least one over each. Each
    /// connection repeats one of the calls, assigned round-robin.
    ///
    /// # Errors
    /// If a response has an error status.
    pub(crate) async fn load(&self, calls: &[Call], connections: usize, slice: Duration) -> Result<Measured> {
        let mut open = try_join_all((0..connections).map(|_| self.connect())).await?;
        // One request over each connection as a warm-up.
        try_join_all(open.iter_mut().zip(calls.iter().cycle()).map(|(connection, call)| connection.drain(call)))
            .await?;
        let start = Instant::now();
        let tasks = open.into_iter().zip(calls.iter().cycle().cloned()).map(|(mut connection, call)| {
            tokio::spawn(async move {
                let mut micros = Histogram::<u64>::new(3)?;
                loop {
                    let before = Instant::now();
                    connection.drain(&call).await?;
                    micros.record(before.elapsed().as_micros().try_into()?)?;
                    if start.elapsed() > slice {
                        return anyhow::Ok(micros);
                    }
                }
            })
        });
        let mut micros = Histogram::<u64>::new(3)?;
        for done in try_join_all(tasks).await? {
            micros.add(done?)?;
        }
        #[expect(clippy::cast_precision_loss, reason = "the number of requests is far below 2^52")]
        let per_second = micros.len() as f64 / start.elapsed().as_secs_f64();
        Ok(Measured { per_second, micros })
    }
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The method.
    pub method: &'static str,
    /// The path, with its query string.
    pub path: String,
    /// The JSON body; empty for none.
    pub body: Bytes,
}

impl Call {
    /// Creates a GET.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), body: Bytes::new() }
    }

    /// Creates a POST with a JSON body.
    pub(crate) fn post(path: impl Into<String>, body: &serde_json::Value) -> Self {
        Self { method: "POST", path: path.into(), body: body.to_string().into() }
    }
}

/// An HTTP/1.1 connection over TLS.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    headers: Vec<(&'static str, String)>,
}

impl Connection {
    /// Sends a request, and returns the response body as soon as it begins.
    ///
    /// # Errors
    /// If the response has an error status.
    pub(crate) async fn begin(&mut self, method: &str, path: &str, body: Bytes) -> Result<hyper::body::Incoming> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        if !status.is_success() {
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::bail!("{path}: {status} {}", String::from_utf8_lossy(&body));
        }
        Ok(response.into_body())
    }

    /// Sends a request, and reads the response body.
    ///
    /// # Errors
    /// If the response has an error status.
    pub(crate) async fn body(&mut self, method: &str, path: &str, body: Bytes) -> Result<Bytes> {
        Ok(self.begin(method, path, body).await?.collect().await?.to_bytes())
    }

    /// Sends a request, and discards the response body as it arrives.
    async fn drain(&mut self, call: &Call) -> Result<()> {
        let mut body = self.begin(call.method, &call.path, call.body.clone()).await?;
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        ensure!(bytes > 0, "{}: the response body is empty", call.path);
        Ok(())
    }
}

/// Returns the host and port of a URL.
///
/// # Errors
/// If the host is not an IP address with a port.
pub(crate) fn address(url: &str) -> Result<SocketAddr> {
    url.rsplit('/').next().unwrap_or_default().parse().with_context(|| url.to_owned())
}
