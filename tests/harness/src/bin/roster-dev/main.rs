//! `roster-dev`: local clusters for developers: `make demo`, `make up` and `make down`, `make cluster` and
//! `make cluster-down`.

mod background;
mod cluster;
mod demo;
mod up;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use roster_harness::assets::Assets;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build what the control plane needs, if it is missing.
    Assets,
    /// Start a control plane and operators in the background.
    Up {
        /// Path of the operator.
        #[arg(long)]
        binary: PathBuf,
        /// Number of operators.
        #[arg(long, env = "REPLICAS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
        replicas: u8,
    },
    /// Run the control plane and operators; `up` starts this in the background.
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        binary: PathBuf,
        #[arg(long)]
        replicas: u8,
    },
    /// Stop what `up` started.
    Down,
    /// Start a cluster with nodes in the background, with the chart installed and Roster running in pods.
    Cluster(cluster::Options),
    /// Run the cluster; `cluster` starts this in the background.
    #[command(hide = true)]
    ServeCluster(cluster::Options),
    /// Stop what `cluster` started.
    ClusterDown,
    /// Start a control plane and an operator, apply the examples, show what happens, and stay until Ctrl-C.
    Demo {
        /// Path of the operator.
        #[arg(long)]
        binary: PathBuf,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Verb::Assets => {
            let assets = Assets::resolve()?;
            println!(
                "{}",
                assets.apiserver.parent().context("the path of kube-apiserver has no parent folder")?.display()
            );
            Ok(())
        }
        Verb::Up { binary, replicas } => up::up(&binary, replicas),
        Verb::Serve { binary, replicas } => up::serve(&binary, replicas),
        Verb::Down => up::down(),
        Verb::Cluster(options) => cluster::up(&options),
        Verb::ServeCluster(options) => cluster::serve(&options),
        Verb::ClusterDown => cluster::down(),
        Verb::Demo { binary } => demo::demo(&binary),
    }
}
