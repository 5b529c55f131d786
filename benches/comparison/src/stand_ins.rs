//! What Roster's answers are compared with, served by the very stack that serves Roster's: its accept loop, axum, the
//! same runtime and allocator, in a process of its own.
//!
//! ```text
//!  /buffer/{n}   the bytes that Roster answered query n with: the limit
//!  /scan/{n}     a look at each object
//!  /sqlite/{n}   SQLite
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Path as Segment, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use roster_harness::free_port;
use roster_harness::pki::Authority;
use roster_harness::process::Process;
use roster_runtime::metrics::Metrics;
use roster_runtime::tls::connections::LIMITS;
use roster_runtime::tls::listener::{Port, serve};
use roster_runtime::tls::peer::AnyClientCertificate;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::load::Server;
use crate::population::Population;
use crate::queries::{Query, queries};
use crate::scan::Scan;
use crate::sqlite::Sqlite;

/// What a stand-in found.
pub(crate) struct Found {
    /// How many there are in all.
    pub total: usize,
    /// Those that are shown, as JSON.
    pub items: Vec<Vec<u8>>,
}

/// A list as Roster writes it.
pub(crate) fn list(found: &Found) -> Vec<u8> {
    let total = found.total;
    let head = format!(r#"{{"apiVersion":"directory.roster.dev/v1alpha1","kind":"UserList","total":{total},"items":["#);
    let mut out = head.into_bytes();
    out.reserve(found.items.iter().map(|item| item.len() + 1).sum());
    for (at, item) in found.items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.extend(b"]}\n");
    out
}

/// Everything that is served.
struct Shelf {
    queries: Vec<Query>,
    buffers: Vec<Bytes>,
    scan: Scan,
    sqlite: Sqlite,
}

/// Paths of what the server reads: the answers, and its certificate.
fn buffer(dir: &Path, at: usize) -> PathBuf {
    dir.join(format!("answer-{at}.json"))
}

/// Writes what the stand-ins need, starts them, and waits until they answer.
///
/// # Errors
/// If they don't.
pub(crate) async fn start(dir: &Path, users: u64, answers: &[Bytes], everybody: &Bytes) -> Result<(Process, Server)> {
    std::fs::create_dir_all(dir)?;
    for (at, answer) in answers.iter().enumerate() {
        std::fs::write(buffer(dir, at), answer)?;
    }
    std::fs::write(dir.join("users.json"), everybody)?;
    let authority = Authority::create(dir, "ca")?;
    authority.server(dir, "server", &["localhost"])?;
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["stand-ins", "--port", &port.to_string(), "--users", &users.to_string(), "--dir"]).arg(dir);
    let mut process = Process::spawn("stand-ins", command, dir.join("stand-ins.log"))?;
    let ca = std::fs::read_to_string(&authority.cert)?;
    let server = Server::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &ca, None)?;
    let deadline = Instant::now() + Duration::from_secs(300);
    while let Err(error) = server.get("/buffer/0").await {
        process.check()?;
        anyhow::ensure!(Instant::now() < deadline, error.context("the stand-ins do not answer"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok((process, server))
}

/// Serves until the process is ended.
///
/// # Errors
/// If a file is missing.
pub(crate) async fn run(dir: &Path, port: u16, users: u64) -> Result<()> {
    let mut everybody: Value = serde_json::from_slice(&std::fs::read(dir.join("users.json"))?)?;
    let Value::Array(everybody) = everybody["items"].take() else { bail!("there are no users") };
    let queries = queries(Population { users });
    let shelf = Shelf {
        buffers: (0..queries.len()).map(|at| Ok(std::fs::read(buffer(dir, at))?.into())).collect::<Result<_>>()?,
        sqlite: Sqlite::create(&dir.join("users.sqlite"), &everybody)?,
        scan: Scan::new(everybody)?,
        queries,
    };
    let app = Router::new()
        .route("/buffer/{at}", get(buffered))
        .route("/scan/{at}", get(scanned))
        .route("/sqlite/{at}", get(selected))
        .with_state(Arc::new(shelf));
    let chain = CertificateDer::pem_file_iter(dir.join("server.crt"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key"))?;
    let builder = ServerConfig::builder().with_client_cert_verifier(Arc::new(AnyClientCertificate::new()?));
    let mut tls = builder.with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let never = CancellationToken::new();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let port = Port {
        tls: Some(Arc::new(ArcSwap::from_pointee(tls))),
        limits: LIMITS,
        app,
        // The load generator is one peer, like kube-apiserver.
        is_api_server: Arc::new(|_| true),
        api_servers: Vec::new(),
        shed: Metrics::default().connections_shed,
        leaving: never.clone(),
    };
    serve(listener, port, never).await
}

async fn buffered(State(shelf): State<Arc<Shelf>>, Segment(at): Segment<usize>) -> Response {
    json(shelf.buffers[at].clone())
}

async fn scanned(State(shelf): State<Arc<Shelf>>, Segment(at): Segment<usize>) -> Response {
    aside(move || shelf.scan.answer(&shelf.queries[at])).await
}

async fn selected(State(shelf): State<Arc<Shelf>>, Segment(at): Segment<usize>) -> Response {
    aside(move || shelf.sqlite.answer(&shelf.queries[at])).await
}

/// Does what takes long where Roster does it, too.
async fn aside(work: impl FnOnce() -> Result<Vec<u8>> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(bytes)) => json(bytes.into()),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn json(bytes: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}
