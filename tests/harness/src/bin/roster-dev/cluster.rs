//! `make cluster` and `make cluster-down`: a cluster with nodes, on which Roster runs in pods.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use roster_harness::cluster::{Image, NodeCluster, ROSTER_IMAGE, check_requirements};
use roster_harness::target_dir;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::background::Background;
use crate::up::client_environment;

#[derive(Args)]
pub(crate) struct Options {
    /// OCI archive of Roster's image, from `make image`.
    #[arg(long)]
    image: PathBuf,
    /// Number of nodes.
    #[arg(long, env = "NODES", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    nodes: u8,
}

fn background() -> Background {
    Background { dir: target_dir().join("cluster"), verb: "serve-cluster" }
}

/// Starts a cluster in the background, in the place of the one that runs.
pub(crate) fn up(options: &Options) -> Result<()> {
    check_requirements()?;
    down()?;
    NodeCluster::build_parts()?;
    let background = background();
    let args = ["--image".into(), (&options.image).into(), "--nodes".into(), options.nodes.to_string().into()];
    println!("Starting {} node(s), installing the chart, connecting kube-apiserver …", options.nodes);
    background.start(&args, Duration::from_secs(300))?;
    println!(
        "Roster runs in pods. Use the cluster with:\n\n  source {}\n  kubectl get pods -A -o wide\n  \
         kubectl apply -f examples/user-with-password.yaml\n\nLogs are in {}. Stop it with:  make cluster-down",
        background.env().display(),
        background.dir.display()
    );
    Ok(())
}

/// Runs the cluster until a signal arrives.
pub(crate) fn serve(options: &Options) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let background = background();
    let image = Image { archive: options.image.clone(), name: ROSTER_IMAGE.to_owned() };
    let mut cluster = NodeCluster::start(&background.dir.join("nodes"), options.nodes, &[image])?;
    print!("{}", cluster.install()?);
    cluster.accept_tokens()?;
    let kubeconfig = background.dir.join("kubeconfig");
    std::fs::copy(&cluster.kubectl.kubeconfig, &kubeconfig)?;
    background.ready(&client_environment(&kubeconfig, &cluster.kubectl)?)?;
    signals.forever().next();
    Ok(())
}

/// Stops what [`up`] started, and removes what is left if it was killed.
pub(crate) fn down() -> Result<()> {
    background().stop()?;
    NodeCluster::remove_leftovers()
}
