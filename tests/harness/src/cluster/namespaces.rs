//! Namespaces of a node: mount, network, UTS, IPC, cgroup and PID.
//!
//! pause is the first process of the PID namespace. When it ends, the kernel kills all other processes of the namespace,
//! and with the last process the network interfaces and mounts disappear. It ends with this process, however this process
//! ends.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cgroups::Cgroups;
use super::command::{run, wrapped};
use crate::kubectl::eventually;
use crate::process::Process;

/// Namespaces with a first process. Dropping them ends everything in them.
#[derive(Debug)]
pub(super) struct Namespaces {
    // In the order in which they are dropped: a cgroup can be removed when its processes have ended.
    _unshare: Process,
    /// Process ID of pause, outside.
    pub(super) pid: u32,
    pub(super) cgroups: Cgroups,
}

impl Namespaces {
    /// Creates namespaces that contain only `pause`, with its log in `log`.
    pub(super) fn create(pause: &Path, log: PathBuf) -> Result<Self> {
        let mut cgroups = Cgroups::create()?;
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation=private", "--net", "--uts", "--ipc", "--cgroup", "--pid"]);
        unshare.args(["--fork", "--kill-child"]).arg(pause);
        let mut unshare = Process::spawn("unshare", cgroups.join(&unshare), log)?;
        let pid = eventually("the first process of the node runs", Duration::from_secs(10), || {
            unshare.check()?;
            first_child(unshare.id(), pause)
        })?;
        cgroups.delegate()?;
        Ok(Self { _unshare: unshare, pid, cgroups })
    }

    /// Returns a command that runs `command` on the node: in its namespaces and its cgroups.
    pub(super) fn on_node(&self, command: &Command) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.arg(format!("--target={}", self.pid));
        nsenter.args(["--mount", "--net", "--uts", "--ipc", "--cgroup", "--pid", "--"]);
        self.cgroups.join(&wrapped(nsenter, command))
    }

    /// Returns a command that runs `command` in the node's network namespace only.
    pub(super) fn in_network(&self, command: &Command) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.arg(format!("--net={}", self.network().display())).arg("--");
        wrapped(nsenter, command)
    }

    /// Returns the file that stands for the network namespace.
    pub(super) fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid))
    }

    /// Runs a command on the node and returns its output.
    pub(super) fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(args[0]);
        command.args(&args[1..]);
        run(self.on_node(&command))
    }

    /// Writes a file of the node.
    pub(super) fn write(&self, path: &str, content: &str) -> Result<()> {
        let mut tee = Command::new("tee");
        tee.arg(path);
        let mut child = self.on_node(&tee).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        std::io::Write::write_all(&mut child.stdin.take().context("stdin is piped")?, content.as_bytes())?;
        ensure!(child.wait()?.success(), "{path} can't be written");
        Ok(())
    }
}

/// Returns the child of `parent` once it executes `program`: by then its namespaces are set up.
fn first_child(parent: u32, program: &Path) -> Result<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let child = children.split_whitespace().next().context("unshare has no child yet")?;
    let executed = std::fs::read_link(format!("/proc/{child}/exe"))?;
    ensure!(executed == program, "process {child} does not execute {} yet", program.display());
    Ok(child.parse()?)
}
