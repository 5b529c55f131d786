//! `make demo`: a control plane, an operator and a tour of the examples.

use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use roster_harness::{ControlPlane, Operator, project_root, target_dir};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::up::start;

/// Runs the demo until Ctrl-C.
pub(crate) fn demo(binary: &Path) -> Result<()> {
    let dir = target_dir().join(format!("demo-{}", std::process::id()));
    println!(
        "Starting etcd, kube-apiserver and kube-controller-manager, installing the chart, starting the operator …"
    );
    // During the tour, Ctrl-C ends this process by default, and the kernel kills its children.
    let (plane, installation) = start(&dir)?;
    let operator = Operator::start(&installation, binary, "roster-1", &[])?;
    tour(&plane)?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    println!("\nPress Ctrl-C to stop it. To use it from another terminal:\n");
    println!("  export KUBECONFIG={}", plane.kubectl.kubeconfig.display());
    println!("  alias kubectl={}\n", plane.kubectl.assets.kubectl.display());
    println!("The operator's log is {}", operator.log().display());
    signals.forever().next();
    println!("\nStopping …");
    operator.stop()?;
    drop(plane);
    std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())
}

/// Runs the commands of `examples/tour.sh` one by one, shows each with its output, and stops at the first failure.
fn tour(plane: &ControlPlane) -> Result<()> {
    let root = project_root();
    let script = std::fs::File::open(root.join("examples/tour.sh"))?;
    for line in BufReader::new(script).lines().skip(1) {
        let line = line?;
        if let Some(comment) = line.strip_prefix("# ") {
            println!("\n\x1b[1m{comment}\x1b[0m");
        } else if !line.trim().is_empty() {
            println!("$ {line}");
            let status = plane.kubectl.bash(&line)?.status()?;
            ensure!(status.success(), "`{line}` failed");
        }
    }
    Ok(())
}
