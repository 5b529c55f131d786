//! A process of `roster-dev` that goes on in the background after the command has returned.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// A process in the background, with its files in a folder.
pub(crate) struct Background {
    /// Folder with `pid`, `serve.log`, and `env` once everything is ready.
    pub(crate) dir: PathBuf,
    /// Command of `roster-dev` that it runs.
    pub(crate) verb: &'static str,
}

impl Background {
    /// Empties the folder, starts the process with `args`, and waits until it has written `env`.
    ///
    /// # Errors
    /// If it ends, or is not ready in time. The message contains its log.
    pub(crate) fn start(&self, args: &[OsString], timeout: Duration) -> Result<()> {
        if self.dir.exists() {
            std::fs::remove_dir_all(&self.dir)?;
        }
        std::fs::create_dir_all(&self.dir)?;
        let path = self.dir.join("serve.log");
        let log = File::create(&path)?;
        let mut serve = Command::new(std::env::current_exe()?);
        // In its own process group, so that a Ctrl-C for `make` does not reach it.
        serve.arg(self.verb).args(args).process_group(0);
        let mut child = serve.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        std::fs::write(self.dir.join("pid"), child.id().to_string())?;
        let deadline = Instant::now() + timeout;
        while !self.env().exists() {
            if let Some(status) = child.try_wait()? {
                bail!("it did not start ({status}):\n{}", std::fs::read_to_string(path)?);
            }
            if Instant::now() > deadline {
                self.stop()?;
                bail!("it did not start within {timeout:?}; see {}", path.display());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Stops the process, if it runs.
    ///
    /// # Errors
    /// If it does not end within a minute.
    pub(crate) fn stop(&self) -> Result<()> {
        let file = self.dir.join("pid");
        let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{} does not contain a process ID", file.display()))?;
        // Process IDs are reused, so check that the process is still ours.
        let command = std::fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        if command.contains("roster-dev") && command.contains(self.verb) {
            kill_process(pid, Signal::TERM)?;
            let deadline = Instant::now() + Duration::from_secs(60);
            while test_kill_process(pid).is_ok() {
                ensure!(Instant::now() < deadline, "process {} did not exit within a minute", pid.as_raw_nonzero());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        std::fs::remove_file(&file)?;
        Ok(())
    }

    /// Returns the path of the file with shell exports.
    pub(crate) fn env(&self) -> PathBuf {
        self.dir.join("env")
    }

    /// Writes `env` atomically. Its existence means that everything is ready.
    ///
    /// # Errors
    /// If it can't be written.
    pub(crate) fn ready(&self, lines: &[String]) -> Result<()> {
        let part = self.dir.join("env.part");
        std::fs::write(&part, lines.join("\n") + "\n")?;
        std::fs::rename(part, self.env())?;
        Ok(())
    }
}
