//! Compares queries. In each round, every contender is measured for a short time, one after the other.

use std::path::Path;
use std::slice::from_ref;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::Value;

use crate::load::{Call, Measured, Server};
use crate::population::Population;
use crate::queries::{Answer, Query, queries};
use crate::report::{Line, Report, median, millis, ratio};
use crate::stand_ins;

/// Section of the report.
pub(crate) const SECTION: &str = "queries";

/// The limit: the same bytes from a buffer, served by the same HTTP and TLS stack.
pub(crate) const BUFFER: &str = "buffer";
/// The limit of the 99th percentile.
pub(crate) const BUFFER_P99: &str = "buffer's p99";
/// SQLite with a column and an index for each field.
pub(crate) const SQLITE: &str = "SQLite";
/// A scan over all objects.
pub(crate) const SCAN: &str = "scan";
/// kube-apiserver, queried for the custom resources.
pub(crate) const API_SERVER: &str = "kube-apiserver";
/// Roster, behind kube-apiserver.
const AGGREGATED: &str = "through kube-apiserver";

/// Duration of one measurement of a contender.
const SLICE: Duration = Duration::from_millis(300);

const CONCURRENCIES: [usize; 2] = [1, 16];

/// Servers that are measured.
pub(crate) struct Servers {
    /// Roster, on its own port.
    pub roster: Server,
    /// kube-apiserver, which proxies requests for the directory to Roster.
    pub api_server: Server,
}

struct Contender {
    name: &'static str,
    server: Server,
    call: Call,
    /// Whether a single response takes long. Slow contenders are not measured with concurrent requests.
    is_slow: bool,
}

/// Results of a contender by round, in milliseconds for the percentiles.
struct Rounds {
    name: &'static str,
    per_second: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// Measures every query. `dir`: folder for the files of the stand-ins.
///
/// # Errors
/// If a system does not respond, or responds differently from the others.
pub(crate) async fn measure(
    report: &mut Report,
    servers: &Servers,
    dir: &Path,
    population: Population,
    rounds: usize,
) -> Result<()> {
    let queries = queries(population);
    let mut answers: Vec<Bytes> = Vec::new();
    for query in &queries {
        answers.push(servers.roster.get(&query.roster).await?);
    }
    let all_users = servers.roster.get(&all(&queries)?.roster).await?;
    let (_process, stand_ins) = stand_ins::start(dir, population.users, &answers, &all_users).await?;
    for (at, (query, answer)) in queries.iter().zip(&answers).enumerate() {
        if query.answer != Answer::Permissions {
            for other in ["sqlite", "scan"] {
                agree(query, answer, &stand_ins.get(&format!("/{other}/{at}")).await?).context(other)?;
            }
        }
        for concurrency in CONCURRENCIES {
            let contenders = contenders(query, at, servers, &stand_ins);
            let contenders: Vec<_> = contenders.into_iter().filter(|one| concurrency == 1 || !one.is_slow).collect();
            let measured = interleaved(&contenders, concurrency, rounds).await?;
            report.add(line(query, concurrency, population, &measured));
        }
    }
    Ok(())
}

fn all(queries: &[Query]) -> Result<&Query> {
    queries.iter().find(|query| query.answer == Answer::All).context("one of the queries lists all users")
}

/// Returns the contenders for a query: Roster first, then the alternatives.
fn contenders(query: &Query, at: usize, servers: &Servers, stand_ins: &Server) -> Vec<Contender> {
    let contender = |name, server: &Server, path: String, is_slow| Contender {
        name,
        server: server.clone(),
        call: Call::get(path),
        is_slow,
    };
    let mut contenders = vec![
        contender("Roster", &servers.roster, query.roster.clone(), false),
        contender(BUFFER, stand_ins, format!("/buffer/{at}"), false),
        contender(AGGREGATED, &servers.api_server, query.roster.clone(), false),
    ];
    if query.answer != Answer::Permissions {
        contenders.push(contender(SQLITE, stand_ins, format!("/sqlite/{at}"), false));
        contenders.push(contender(SCAN, stand_ins, format!("/scan/{at}"), true));
    }
    if let Some(path) = &query.declared {
        contenders.push(contender(API_SERVER, &servers.api_server, path.clone(), query.declared_is_list));
    }
    contenders
}

async fn interleaved(contenders: &[Contender], concurrency: usize, rounds: usize) -> Result<Vec<Rounds>> {
    let empty = |one: &Contender| Rounds { name: one.name, per_second: vec![], p50: vec![], p99: vec![] };
    let mut all: Vec<Rounds> = contenders.iter().map(empty).collect();
    for _ in 0..rounds {
        for (contender, rounds) in contenders.iter().zip(&mut all) {
            rounds.add(&contender.server.load(from_ref(&contender.call), concurrency, SLICE).await?);
        }
    }
    Ok(all)
}

impl Rounds {
    fn add(&mut self, measured: &Measured) {
        self.per_second.push(measured.per_second);
        self.p50.push(millis(measured.micros.value_at_quantile(0.5)));
        self.p99.push(millis(measured.micros.value_at_quantile(0.99)));
    }
}

fn line(query: &Query, concurrency: usize, population: Population, all: &[Rounds]) -> Line {
    let (roster, others) = all.split_first().expect("Roster comes first");
    let at_once = if concurrency == 1 { String::new() } else { format!(", {concurrency} at once") };
    let mut line = Line::new(SECTION, format!("{}{at_once}", query.name), population.users)
        .figure("p50", median(roster.p50.clone()), "ms")
        .figure("p99", median(roster.p99.clone()), "ms")
        .figure("rate", median(roster.per_second.clone()), "/s");
    for other in others {
        let p50 = (median(other.p50.clone()), "ms");
        if other.name == AGGREGATED {
            line = line.figure(other.name, p50.0, p50.1);
            continue;
        }
        line = line.ratio(other.name, ratio(&roster.per_second, &other.per_second), p50);
        if other.name == BUFFER {
            line = line.ratio(BUFFER_P99, ratio(&roster.p99, &other.p99), (median(other.p99.clone()), "ms"));
        }
    }
    line
}

/// Checks that Roster and another contender return the same result.
fn agree(query: &Query, roster: &Bytes, other: &Bytes) -> Result<()> {
    let summary = |bytes: &Bytes| -> Result<(Value, Vec<Value>)> {
        let answer: Value = serde_json::from_slice(bytes)?;
        let items = answer["items"].as_array().into_iter().flatten().map(|item| item["metadata"]["name"].clone());
        let items = if query.answer == Answer::Count { vec![] } else { items.collect() };
        // For a single user, only the name can be compared.
        let about = if query.answer == Answer::Single { &answer["metadata"]["name"] } else { &answer["total"] };
        Ok((about.clone(), items))
    };
    let (ours, theirs) = (summary(roster)?, summary(other)?);
    ensure!(ours == theirs, "{}: Roster returns {ours:?}, but the other returns {theirs:?}", query.name);
    Ok(())
}
