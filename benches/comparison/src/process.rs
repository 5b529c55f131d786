//! What a process has used.

use std::fs::read_to_string;

use anyhow::{Context, Result};

/// CPU time of a process so far, in seconds: of all its threads, those that have ended left out.
///
/// # Errors
/// If the process is gone.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanos = 0_u64;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end in between.
        let Ok(stat) = read_to_string(task?.path().join("schedstat")) else { continue };
        nanos += stat.split_whitespace().next().context("it is not empty")?.parse::<u64>()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "nothing runs that long")]
    Ok(nanos as f64 / 1e9)
}

/// Resident memory of a process, in KiB.
///
/// # Errors
/// If the process is gone.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    let status = read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("it says so")?;
    Ok(line.split_whitespace().next().context("it is a number")?.parse()?)
}
