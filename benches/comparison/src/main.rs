//! Measures Roster beside what people would use instead, and beside the limit. `make bench` runs it.
//!
//! ```text
//!  main ─▶ cluster, population          a control plane, and who is on it
//!    ├──▶ compare ─▶ queries, load      each query, each contender in turn
//!    │       └─────▶ stand_ins ─▶ scan, sqlite
//!    ├──▶ index                         the index without a server
//!    ├──▶ start, rest, fanout           what a replica costs; many watches
//!    ├──▶ convergence, logins           what the leader does; passwords and tokens
//!    └──▶ goals, report, chart          the table, as JSON, as a picture
//! ```

mod chart;
mod cluster;
mod compare;
mod convergence;
mod fanout;
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

/// Measures Roster beside what people would use instead, and beside the limit.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Measure these parts alone.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// How many users.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    sizes: Vec<u64>,
    /// Rounds in which every contender has its turn.
    #[arg(long, default_value = "5")]
    rounds: usize,
    /// Where the results go, as JSON. target/bench/results.json if it is not given.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves what Roster's answers are compared with. The benchmark starts it by itself.
    #[command(hide = true)]
    StandIns {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        port: u16,
        #[arg(long)]
        users: u64,
    },
    /// Measures the index by itself. The benchmark starts it by itself.
    #[command(hide = true)]
    Index {
        #[arg(long)]
        users: u64,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Part {
    /// Queries, watches and what a replica and its index cost.
    Queries,
    /// From the declaration to Ready, and what the leader costs at rest.
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
    report.quote_keystone();
    goals::judge(&mut report);
    chart::draw(&report, &dir.join("growth.svg"))?;
    println!("{}\n\n{}", report::machine(), report.table());
    report.write(&cli.out.clone().unwrap_or_else(|| dir.join("results.json")))
}

async fn queries_at(report: &mut Report, dir: &Path, population: Population, rounds: usize) -> Result<()> {
    let cluster = Cluster::create(dir, &[]).await?;
    let (leader, _) = cluster.start_operator(&[]).await?;
    cluster.add_groups(population).await?;
    leader.stop()?;
    // From here on a replica that follows answers: nobody has to make claims and credentials for so many users first.
    cluster.hold_the_lease()?;
    let base = start::base(&cluster).await?;
    cluster.add_users(population).await?;
    let operator = start::start(report, &cluster, population, base).await?;
    cluster.wait_until_served().await?;
    let servers = Servers { roster: cluster.roster(&operator)?, api_server: cluster.api_server()? };
    rest::quiet(report, &cluster, &operator, "a replica", population.users).await?;
    compare::measure(report, &servers, &dir.join("stand-ins"), population, rounds).await?;
    rest::change(report, &cluster, &operator, &servers, population).await?;
    fanout::measure(report, &cluster, &servers, population, rounds.min(3)).await?;
    operator.stop()
}
