//! kubectl and helm, run as commands.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::assets::Assets;
use crate::paths::project_root;

/// kubectl with the kubeconfig of one control plane.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// Paths of the programs in use.
    pub assets: Assets,
    /// Path of the kubeconfig.
    pub kubeconfig: PathBuf,
}

impl Kubectl {
    /// Runs kubectl and returns its output.
    ///
    /// # Errors
    /// If it fails; the message is its output.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.run_with_input(args, "")
    }

    /// Runs kubectl with `input` on its standard input.
    ///
    /// # Errors
    /// If it fails; the message is its output.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        let output = self.output(args, input)?;
        if !output.status.success() {
            bail!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs kubectl and returns its exit status and output.
    ///
    /// # Errors
    /// If the program can't be run.
    pub fn output(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut child = self
            .command(&self.assets.kubectl)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("kubectl can't be started")?;
        child.stdin.take().context("stdin is piped")?.write_all(input.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// Returns a command for kubectl or helm, without a discovery cache: an earlier control plane may have had the same
    /// port, and the aggregated API is registered after the first calls.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", "/dev/null");
        // A call is too short for garbage collection to pay off.
        command.env("GOGC", "off");
        command
    }

    /// Runs `kubectl apply -f -` with a manifest.
    ///
    /// # Errors
    /// If the API server rejects it.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.run_with_input(&["apply", "-f", "-"], manifest)
    }

    /// Returns an object as JSON.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let args: Vec<&str> = ["get"].into_iter().chain(args.iter().copied()).chain(["-o", "json"]).collect();
        Ok(serde_json::from_str(&self.run(&args)?)?)
    }

    /// Runs helm.
    ///
    /// # Errors
    /// If it fails; the message is its output.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        let output = self.command(&self.assets.helm).args(args).output()?;
        if !output.status.success() {
            bail!("helm {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
    /// Returns the folders of kubectl and helm, followed by the PATH of this process.
    ///
    /// # Errors
    /// If a folder contains a colon.
    pub fn path(&self) -> Result<OsString> {
        let tools = [&self.assets.kubectl, &self.assets.helm];
        let mut dirs: Vec<_> = tools.into_iter().filter_map(|tool| tool.parent().map(Path::to_owned)).collect();
        dirs.dedup();
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        Ok(std::env::join_paths(dirs.into_iter().chain(std::env::split_paths(&inherited)))?)
    }

    /// Returns a command that runs a script with kubectl and helm, in the project's root folder.
    ///
    /// # Errors
    /// If PATH can't be set.
    pub fn bash(&self, script: &str) -> Result<Command> {
        let mut command = self.command(Path::new("bash"));
        command.args(["-c", script]).current_dir(project_root()).env("PATH", self.path()?);
        Ok(command)
    }

    /// Runs a script until its first error, and returns its output.
    ///
    /// # Errors
    /// If it fails; the message contains its output.
    pub fn script(&self, script: &str) -> Result<String> {
        let output = self.bash(&format!("set -euo pipefail\n{script}"))?.stdin(Stdio::null()).output()?;
        let text = String::from_utf8(output.stdout)?;
        if !output.status.success() {
            bail!("{script} ({}): {text}{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(text)
    }
}

/// Retries `probe` until it succeeds.
///
/// # Errors
/// The last error, once `timeout` has elapsed.
pub fn eventually<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    let mut pauses = Pauses::default();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{what}: not within {timeout:?}")));
            }
            Err(_) => std::thread::sleep(pauses.next()),
        }
    }
}

/// Pauses between two probes: from 30 ms to 250 ms, each longer than the one before. A probe can cost as much CPU time as
/// the work that it waits for.
#[derive(Debug)]
pub struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(Duration::from_millis(30))
    }
}

impl Pauses {
    /// Returns the next pause.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 3 / 2).min(Duration::from_millis(250));
        pause
    }
}
