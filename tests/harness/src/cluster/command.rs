//! Runs commands to completion.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command and returns its output.
///
/// # Errors
/// If it can't be started or fails; the message contains its standard error.
pub(super) fn run(command: Command) -> Result<String> {
    let text = format!("{command:?}");
    run_named(&text, command)
}

/// Like [`run`], with `text` as the command in messages.
///
/// # Errors
/// If it can't be started or fails; the message contains its standard error.
pub(super) fn run_named(text: &str, mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{text} can't be started"))?;
    if !output.status.success() {
        bail!("{text} ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Returns a command that executes `command` through `wrapper`, whose arguments come first.
pub(super) fn wrapped(mut wrapper: Command, command: &Command) -> Command {
    wrapper.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapper.env(name, value),
            None => wrapper.env_remove(name),
        };
    }
    wrapper
}
