//! Compares the performance of Roster with alternatives and with the theoretical limit. `make bench` runs it.
//!
//! ```text
//!  main ─▶ cluster, population          a control plane and its users
//!    ├──▶ compare ─▶ queries, load      each query, each contender in turn
//!    │       └─────▶ stand_ins ─▶ scan, sqlite ─▶ found
//!    ├──▶ index                         the index without a server
//!    ├──▶ start, rest, fanout           cost of a replica; many watches
//!    ├──▶ convergence, logins           work of the leader; passwords and tokens
//!    └──▶ goals, report, chart          the results as table, JSON and chart
//! ```

mod chart;
mod cluster;
mod compare;
mod convergence;
mod fanout;
mod found;
mod goals;
mod hashing;
mod index;
mod load;
mod logins;
mod population;
mod process;
mod queries;
mod report;
mod rest;
mod scan;
mod sqlite;
mod stand_ins;
mod start;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use roster_harness::target_dir;

use crate::cluster::Cluster;
use crate::compare::Servers;
use crate::population::Population;
use crate::report::Report;

#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Compare the performance of Roster with alternatives and with the theoretical limit.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Measure only these parts.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Numbers of users to measure with.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    sizes: Vec<u64>,
    /// Number of rounds. Each round measures every contender once.
    #[arg(long, default_value = "5")]
    rounds: usize,
    /// Path of the results as JSON [default: target/bench/results.json].
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the stand-ins that Roster is compared with. The benchmark starts this itself.
    #[command(hide = true)]
    StandIns {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        port: u16,
        #[arg(long)]
        users: u64,
    },
    /// Measure the index without a server. The benchmark starts this itself.
    #[command(hide = true)]
    Index {
        #[arg(long)]
        users: u64,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Part {
    /// Queries, watches, and the cost of a replica and its index.
    Queries,
    /// Time from declaration to Ready, and the cost of an idle leader.
    Convergence,
    /// Passwords and tokens.
    Logins,
}

impl Cli {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

fn main() -> Result<()> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    assert!(provider.install_default().is_ok(), "no other TLS provider is installed");
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match &cli.command {
        Some(Command::StandIns { dir, port, users }) => runtime.block_on(stand_ins::run(dir, *port, *users)),
        Some(Command::Index { users }) => {
            println!("{}", serde_json::to_string(&index::run(*users)?)?);
            Ok(())
        }
        None => runtime.block_on(measure(&cli)),
    }
}

async fn measure(cli: &Cli) -> Result<()> {
    let mut report = Report::default();
    let dir = target_dir().join("bench");
    eprintln!("{}", report::machine());
    if cli.wants(Part::Logins) {
        logins::measure(&mut report, &dir.join("logins"), cli.rounds).await?;
    }
    for users in &cli.sizes {
        let population = Population { users: *users };
        if cli.wants(Part::Convergence) {
            convergence::measure(&mut report, &dir.join(format!("convergence-{users}")), *users).await?;
        }
        if cli.wants(Part::Queries) {
            index::measure(&mut report, *users)?;
            queries_at(&mut report, &dir.join(users.to_string()), population, cli.rounds).await?;
        }
    }
    report.add_keystone();
    goals::evaluate(&mut report);
    chart::draw(&report, &dir.join("growth.svg"))?;
    println!("{}\n\n{}", report::machine(), report.table());
    report.write(&cli.out.clone().unwrap_or_else(|| dir.join("results.json")))
}

async fn queries_at(report: &mut Report, dir: &Path, population: Population, rounds: usize) -> Result<()> {
    let cluster = Cluster::create(dir, &[]).await?;
    let (leader, _) = cluster.start_operator(&[]).await?;
    cluster.add_groups(population).await?;
    leader.stop()?;
    // From here on, a follower serves the requests: claims and credentials for all these users need not be written
    // first.
    cluster.hold_lease()?;
    let base = start::base(&cluster).await?;
    cluster.add_users(population).await?;
    let operator = start::start(report, &cluster, population, base).await?;
    cluster.wait_until_served().await?;
    let servers = Servers { roster: cluster.roster(&operator)?, api_server: cluster.api_server()? };
    rest::idle(report, &cluster, &operator, "a replica", population.users).await?;
    compare::measure(report, &servers, &dir.join("stand-ins"), population, rounds).await?;
    rest::change(report, &cluster, &operator, &servers, population).await?;
    fanout::measure(report, &cluster, &servers, population, rounds.min(3)).await?;
    operator.stop()
}
