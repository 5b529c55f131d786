//! Scale tests. They run alone on the machine, one at a time.

mod bindings;
mod hashing;
mod import;
mod limits;
mod logins;
mod queries;
mod quota;
mod unread;

/// Returns the number of objects of a scale test: `full` with `ROSTER_SCALE=full`, as set by `make test-scale`, and a
/// fifth otherwise. All assertions hold at both sizes.
fn size(full: usize) -> usize {
    size_divided_by(5, full)
}

/// Like [`size`], with another divisor.
fn size_divided_by(divisor: usize, full: usize) -> usize {
    if std::env::var("ROSTER_SCALE").is_ok_and(|scale| scale == "full") { full } else { full / divisor }
}

fn seconds(metrics: &str, name: &str) -> f64 {
    sample(metrics, name).unwrap().parse().unwrap()
}

fn sample<'a>(metrics: &'a str, name: &str) -> Option<&'a str> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// Returns a counter from the metrics; zero if it is missing.
fn count(metrics: &str, name: &str) -> u32 {
    sample(metrics, name).map_or(0, |count| count.parse().unwrap())
}

/// Returns the peak resident memory of a process, in MiB.
fn peak_memory(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

/// Returns the current resident memory of a process, in MiB.
fn resident_memory(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
