//! Child processes that are killed when their parent ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// A running child process. Dropping it kills it at once: the data of a test's control plane is not needed again, and
/// kube-apiserver and kube-controller-manager take seconds to stop gracefully.
#[derive(Debug)]
pub struct Process {
    name: String,
    command_line: Vec<OsString>,
    /// Variables that its environment sets or lacks, in comparison with that of this process.
    environment: Vec<(OsString, Option<OsString>)>,
    child: Child,
    /// File with its standard output and error.
    pub log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `log`.
    ///
    /// The kernel kills the child when this process ends, however it ends.
    ///
    /// # Errors
    /// If the log can't be created or the program can't be started.
    pub fn spawn(name: &str, mut command: Command, log: PathBuf) -> Result<Self> {
        let command_line = [command.get_program()].into_iter().chain(command.get_args()).map(OsStr::to_owned).collect();
        let environment =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(OsStr::to_owned))).collect();
        let file = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // In its own process group: Ctrl-C in the terminal only reaches this process, which then stops its children in
        // order.
        command.process_group(0);
        let child = spawn_with_parent(command).with_context(|| format!("{name} can't be started"))?;
        Ok(Self { name: name.to_owned(), command_line, environment, child, log })
    }

    /// Kills the process and restarts it with the same arguments.
    ///
    /// # Errors
    /// If it can't be started again.
    pub fn restart(&mut self) -> Result<()> {
        self.restart_with(&[])
    }

    /// Kills the process and restarts it with additional arguments.
    ///
    /// # Errors
    /// If it can't be started again.
    pub fn restart_with(&mut self, arguments: &[&str]) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let mut command = Command::new(&self.command_line[0]);
        command.args(&self.command_line[1..]).args(arguments);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        *self = Self::spawn(&self.name, command, self.log.clone())?;
        Ok(())
    }

    /// Returns the process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if the process has ended, with the last lines of its log.
    ///
    /// # Errors
    /// If it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            bail!("{} ended ({status}); its log {} ends with:\n{tail}", self.name, self.log.display());
        }
        Ok(())
    }

    /// Returns whether the process is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills the process, like a crash.
    pub fn kill(self) {
        drop(self);
    }

    /// Sends SIGTERM and waits for the process to end.
    ///
    /// # Errors
    /// If it has to be killed.
    pub fn stop(mut self, timeout: Duration) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            if !self.is_running() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} did not end within {timeout:?} of SIGTERM", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts children from one thread that lives as long as this process: the kernel ties the death signal to the
/// *thread* that forked, and a test's thread ends with the test.
fn spawn_with_parent(command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in receiver {
                // SAFETY: the closure runs between fork and exec and makes one system call, which allocates nothing.
                unsafe {
                    command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
                }
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, result) = mpsc::channel();
    spawner.send((command, reply)).map_err(io::Error::other)?;
    result.recv().map_err(io::Error::other)?
}
