//! Stand-ins for alternatives to Roster. A separate process serves them with the same stack as Roster: its accept loop,
//! axum, the same runtime and allocator.
//!
//! ```text
//!  /buffer/{n}   the bytes of Roster's response to query n: the limit
//!  /scan/{n}     a scan over all objects
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

/// State of the server.
struct Served {
    queries: Vec<Query>,
    buffers: Vec<Bytes>,
    scan: Scan,
    sqlite: Sqlite,
}

/// Returns the path of the file with Roster's response to a query.
fn buffer(dir: &Path, at: usize) -> PathBuf {
    dir.join(format!("answer-{at}.json"))
}

/// Writes the files that the stand-ins need, starts them, and waits until they respond.
///
/// # Errors
/// If they do not respond within five minutes.
pub(crate) async fn start(dir: &Path, users: u64, answers: &[Bytes], all_users: &Bytes) -> Result<(Process, Server)> {
    std::fs::create_dir_all(dir)?;
    for (at, answer) in answers.iter().enumerate() {
        std::fs::write(buffer(dir, at), answer)?;
    }
    std::fs::write(dir.join("users.json"), all_users)?;
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
        anyhow::ensure!(Instant::now() < deadline, error.context("the stand-ins do not respond"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok((process, server))
}

/// Serves until the process is killed.
///
/// # Errors
/// If a file is missing.
pub(crate) async fn run(dir: &Path, port: u16, users: u64) -> Result<()> {
    let mut all_users: Value = serde_json::from_slice(&std::fs::read(dir.join("users.json"))?)?;
    let Value::Array(all_users) = all_users["items"].take() else { bail!("there are no users") };
    let queries = queries(Population { users });
    let served = Served {
        buffers: (0..queries.len()).map(|at| Ok(std::fs::read(buffer(dir, at))?.into())).collect::<Result<_>>()?,
        sqlite: Sqlite::create(&dir.join("users.sqlite"), &all_users)?,
        scan: Scan::new(all_users)?,
        queries,
    };
    let app = Router::new()
        .route("/buffer/{at}", get(buffered))
        .route("/scan/{at}", get(scanned))
        .route("/sqlite/{at}", get(selected))
        .with_state(Arc::new(served));
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

async fn buffered(State(served): State<Arc<Served>>, Segment(at): Segment<usize>) -> Response {
    json(served.buffers[at].clone())
}

async fn scanned(State(served): State<Arc<Served>>, Segment(at): Segment<usize>) -> Response {
    on_blocking_thread(move || served.scan.answer(&served.queries[at])).await
}

async fn selected(State(served): State<Arc<Served>>, Segment(at): Segment<usize>) -> Response {
    on_blocking_thread(move || served.sqlite.answer(&served.queries[at])).await
}

/// Runs a query on a blocking thread, as Roster does for long queries.
async fn on_blocking_thread(work: impl FnOnce() -> Result<Vec<u8>> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(bytes)) => json(bytes.into()),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn json(bytes: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}
