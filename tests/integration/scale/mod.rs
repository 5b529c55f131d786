//! What holds for a few holds for many. These tests have the machine to themselves, one at a time.

mod bindings;
mod hashing;
mod import;
mod limits;
mod logins;
mod queries;
mod quota;
mod unread;

/// The number of objects of a scale test: `full` with `ROSTER_SCALE=full`, which `make test-scale` sets, and a fifth of it
/// otherwise. Every assertion holds at either size.
fn size(full: usize) -> usize {
    if std::env::var("ROSTER_SCALE").is_ok_and(|scale| scale == "full") { full } else { full / 5 }
}

fn seconds(metrics: &str, name: &str) -> f64 {
    sample(metrics, name).unwrap().parse().unwrap()
}

fn sample<'a>(metrics: &'a str, name: &str) -> Option<&'a str> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// A count in the metrics; zero where it is not there yet.
fn count(metrics: &str, name: &str) -> u32 {
    sample(metrics, name).map_or(0, |count| count.parse().unwrap())
}

/// Peak resident memory of a process, in MiB.
fn peak_memory(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

/// Resident memory of a process at this moment, in MiB.
fn resident_memory(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
