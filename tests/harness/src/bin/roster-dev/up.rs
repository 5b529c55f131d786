//! `make up` and `make down`: a control plane and operators in the background.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use roster_harness::assets::Assets;
use roster_harness::control_plane::NAMESPACE;
use roster_harness::{ControlPlane, Flags, Installation, Kubectl, Operator, target_dir};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::background::Background;

fn background() -> Background {
    Background { dir: target_dir().join("dev"), verb: "serve" }
}

/// Starts the control plane and operators in the background, in the place of those that run.
pub(crate) fn up(binary: &Path, replicas: u8) -> Result<()> {
    down()?;
    Assets::resolve()?;
    let background = background();
    let replicas = replicas.to_string();
    let args = ["--binary".into(), binary.into(), "--replicas".into(), replicas.into()];
    background.start(&args, Duration::from_secs(180))?;
    println!("Up. Use it with:  source {}", background.env().display());
    Ok(())
}

/// Stops what [`up`] started.
pub(crate) fn down() -> Result<()> {
    background().stop()
}

/// Runs the control plane and operators until a signal arrives.
pub(crate) fn serve(binary: &Path, replicas: u8) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let background = background();
    let dir = &background.dir;
    let (plane, installation) = start(dir)?;
    let operators = (1..=replicas)
        .map(|i| Operator::start(&installation, binary, &format!("roster-{i}"), &[]))
        .collect::<Result<Vec<_>>>()?;
    std::fs::copy(&plane.kubectl.kubeconfig, dir.join("kubeconfig"))?;
    let ca = plane.kubectl.get(&["secret", "roster-ca", "-n", NAMESPACE])?;
    let mut bundle = Vec::new();
    for (key, value) in ca["data"].as_object().context("the Secret roster-ca has no data")? {
        if key.strip_suffix(".crt").is_some() {
            bundle.extend(BASE64_STANDARD.decode(value.as_str().unwrap_or_default())?);
        }
    }
    std::fs::write(dir.join("ca.crt"), bundle)?;
    background.ready(&environment(dir, &plane, binary, &operators)?)?;
    signals.forever().next();
    Ok(())
}

fn environment(dir: &Path, plane: &ControlPlane, binary: &Path, operators: &[Operator]) -> Result<Vec<String>> {
    let mut lines = client_environment(&dir.join("kubeconfig"), &plane.kubectl)?;
    lines.extend([
        format!("export ETCD_DATA_DIR='{}'", plane.etcd_data_dir().display()),
        format!("export ROSTER_BIN='{}'", binary.canonicalize()?.display()),
        format!("export ROSTER_CA='{}'", dir.join("ca.crt").display()),
    ]);
    for (i, operator) in (1..).zip(operators) {
        lines.push(format!("export ROSTER_PID_{i}='{}'", operator.id()));
        lines.push(format!("export ROSTER_URL_{i}='{}'", operator.url()));
        lines.push(format!("export ROSTER_PROBE_URL_{i}='{}'", operator.probe_url()));
        lines.push(format!("export ROSTER_LOG_{i}='{}'", operator.log().display()));
        lines.push(format!("export ROSTER_COMMAND_{i}='{}'", operator.command_line));
    }
    Ok(lines)
}

/// Returns shell exports that point kubectl and helm at a cluster.
pub(crate) fn client_environment(kubeconfig: &Path, kubectl: &Kubectl) -> Result<Vec<String>> {
    let tools = [&kubectl.assets.kubectl, &kubectl.assets.helm];
    let mut path: Vec<&Path> = tools.into_iter().filter_map(|tool| tool.parent()).collect();
    path.dedup();
    let path = std::env::join_paths(path)?.into_string().ok().context("a path is not valid UTF-8")?;
    Ok(vec![format!("export KUBECONFIG='{}'", kubeconfig.display()), format!("export PATH='{path}':\"$PATH\"")])
}

/// Starts a control plane in `dir`, and installs the chart for operators outside the cluster.
pub(crate) fn start(dir: &Path) -> Result<(ControlPlane, Installation)> {
    let plane = ControlPlane::start(&dir.join("plane"), Flags::default())?;
    let installation = Installation::install(&plane, &[])?;
    Ok((plane, installation))
}
