//! CPU time and memory of a process.

use std::fs::read_to_string;

use anyhow::{Context, Result};

/// Returns the CPU time of a process so far, in seconds: the sum over its threads, without those that have ended.
///
/// # Errors
/// If the process has ended.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanos = 0_u64;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end in between.
        let Ok(stat) = read_to_string(task?.path().join("schedstat")) else { continue };
        nanos += stat.split_whitespace().next().context("schedstat is empty")?.parse::<u64>()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "2^52 nanoseconds are 52 days")]
    Ok(nanos as f64 / 1e9)
}

/// Returns the resident memory of a process, in KiB.
///
/// # Errors
/// If the process has ended.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    let status = read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the status has no VmRSS")?;
    Ok(line.split_whitespace().next().context("VmRSS is empty")?.parse()?)
}
