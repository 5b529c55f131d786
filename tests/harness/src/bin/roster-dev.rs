//! `roster-dev`: a local control plane and operators for developers: `make demo`, `make up`, `make down`.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{Parser, Subcommand};
use roster_harness::assets::Assets;
use roster_harness::control_plane::NAMESPACE;
use roster_harness::{ControlPlane, Flags, Installation, Operator, project_root, target_dir};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

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
    /// What `up` leaves in the background.
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        binary: PathBuf,
        #[arg(long)]
        replicas: u8,
    },
    /// Stop what `up` started.
    Down,
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
            println!("{}", assets.apiserver.parent().context("a program lies in a folder")?.display());
            Ok(())
        }
        Verb::Up { binary, replicas } => up(&binary, replicas),
        Verb::Serve { binary, replicas } => serve(&binary, replicas),
        Verb::Down => down(),
        Verb::Demo { binary } => demo(&binary),
    }
}

fn dev_dir() -> PathBuf {
    target_dir().join("dev")
}

fn up(binary: &Path, replicas: u8) -> Result<()> {
    down()?;
    let dir = dev_dir();
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    Assets::resolve()?;
    let log = std::fs::File::create(dir.join("serve.log"))?;
    let mut serve = Command::new(std::env::current_exe()?);
    serve.args(["serve", "--binary"]).arg(binary).args(["--replicas", &replicas.to_string()]);
    // In its own process group, so that a Ctrl-C for `make` does not reach it.
    serve.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = serve.spawn()?;
    std::fs::write(dir.join("pid"), child.id().to_string())?;
    let deadline = Instant::now() + Duration::from_secs(180);
    while !dir.join("env").exists() {
        if let Some(status) = child.try_wait()? {
            bail!("it did not start ({status}):\n{}", std::fs::read_to_string(dir.join("serve.log"))?);
        }
        if Instant::now() > deadline {
            down()?;
            bail!("it did not start within three minutes; see {}", dir.join("serve.log").display());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("Up. Use it with:  source {}", dir.join("env").display());
    Ok(())
}

fn serve(binary: &Path, replicas: u8) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let dir = dev_dir();
    let (plane, installation) = start(&dir)?;
    let operators = (1..=replicas)
        .map(|i| Operator::start(&installation, binary, &format!("roster-{i}"), &[]))
        .collect::<Result<Vec<_>>>()?;
    std::fs::copy(&plane.kubectl.kubeconfig, dir.join("kubeconfig"))?;
    let ca = plane.kubectl.get(&["secret", "roster-ca", "-n", NAMESPACE])?;
    let mut bundle = Vec::new();
    for (key, value) in ca["data"].as_object().context("the CA Secret has data")? {
        if key.strip_suffix(".crt").is_some() {
            bundle.extend(BASE64_STANDARD.decode(value.as_str().unwrap_or_default())?);
        }
    }
    std::fs::write(dir.join("ca.crt"), bundle)?;
    // Written last and atomically: its existence means that everything is ready.
    std::fs::write(dir.join("env.part"), environment(&dir, &plane, binary, &operators)?)?;
    std::fs::rename(dir.join("env.part"), dir.join("env"))?;
    signals.forever().next();
    Ok(())
}

fn environment(dir: &Path, plane: &ControlPlane, binary: &Path, operators: &[Operator]) -> Result<String> {
    let assets = &plane.kubectl.assets;
    let mut path: Vec<&Path> = [&assets.kubectl, &assets.helm].into_iter().filter_map(|tool| tool.parent()).collect();
    path.dedup();
    let path = std::env::join_paths(path)?.into_string().ok().context("paths are UTF-8")?;
    let mut lines = vec![
        format!("export KUBECONFIG='{}'", dir.join("kubeconfig").display()),
        format!("export PATH='{path}':\"$PATH\""),
        format!("export ETCD_DATA_DIR='{}'", plane.etcd_data_dir().display()),
        format!("export ROSTER_BIN='{}'", binary.canonicalize()?.display()),
        format!("export ROSTER_CA='{}'", dir.join("ca.crt").display()),
    ];
    for (i, operator) in (1..).zip(operators) {
        lines.push(format!("export ROSTER_PID_{i}='{}'", operator.id()));
        lines.push(format!("export ROSTER_URL_{i}='{}'", operator.url()));
        lines.push(format!("export ROSTER_PROBE_URL_{i}='{}'", operator.probe_url()));
        lines.push(format!("export ROSTER_LOG_{i}='{}'", operator.log().display()));
        lines.push(format!("export ROSTER_COMMAND_{i}='{}'", operator.command_line));
    }
    Ok(lines.join("\n") + "\n")
}

fn down() -> Result<()> {
    let file = dev_dir().join("pid");
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
    let pid =
        text.trim().parse().ok().and_then(Pid::from_raw).with_context(|| format!("{} holds no pid", file.display()))?;
    // Pids are reused, so check that the process is still ours.
    let command = std::fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    if command.contains("roster-dev") && command.contains("serve") {
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while test_kill_process(pid).is_ok() {
            ensure!(Instant::now() < deadline, "process {} does not end", pid.as_raw_nonzero());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    std::fs::remove_file(&file)?;
    Ok(())
}

fn start(dir: &Path) -> Result<(ControlPlane, Installation)> {
    let plane = ControlPlane::start(&dir.join("plane"), Flags::default())?;
    let installation = Installation::install(&plane, &[])?;
    Ok((plane, installation))
}

fn demo(binary: &Path) -> Result<()> {
    let dir = target_dir().join(format!("demo-{}", std::process::id()));
    println!(
        "Starting etcd, kube-apiserver and kube-controller-manager, installing the chart, starting the operator …"
    );
    // During the tour, Ctrl-C ends this process by default, and the kernel kills its children.
    let (plane, installation) = start(&dir)?;
    let operator = Operator::start(&installation, binary, "roster-1", &[])?;
    tour(&plane)?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    println!("\nIt stays up until Ctrl-C. In another terminal:\n");
    println!("  export KUBECONFIG={}", plane.kubectl.kubeconfig.display());
    println!("  alias kubectl={}\n", plane.kubectl.assets.kubectl.display());
    println!("The operator's log is {}", operator.log().display());
    signals.forever().next();
    println!("\nEnding.");
    operator.stop()?;
    drop(plane);
    std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())
}

/// Runs the commands of `examples/tour.sh` one by one, shows each with its output, and stops at the first failure.
fn tour(plane: &ControlPlane) -> Result<()> {
    let root = project_root();
    let tools = [&plane.kubectl.assets.kubectl, &plane.kubectl.assets.helm];
    let dirs = tools.into_iter().filter_map(|tool| tool.parent().map(Path::to_owned));
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(dirs.chain(std::env::split_paths(&inherited)))?;
    let script = std::fs::File::open(root.join("examples/tour.sh"))?;
    for line in BufReader::new(script).lines().skip(1) {
        let line = line?;
        if let Some(comment) = line.strip_prefix("# ") {
            println!("\n\x1b[1m{comment}\x1b[0m");
        } else if !line.trim().is_empty() {
            println!("$ {line}");
            let status = Command::new("bash")
                .args(["-c", &line])
                .current_dir(&root)
                .env("PATH", &path)
                .env("KUBECONFIG", &plane.kubectl.kubeconfig)
                .status()?;
            ensure!(status.success(), "`{line}` failed");
        }
    }
    Ok(())
}
