//! `make demo`, `make up` and `make down` work, and leave nothing behind.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use roster_harness::operator_under_test;
use rustix::process::{Pid, Signal, kill_process};

const DEV: &str = env!("CARGO_BIN_EXE_roster-dev");

/// Returns the operator that cargo builds into the folder of roster-dev.
fn operator() -> PathBuf {
    let built = Path::new(DEV).with_file_name("roster");
    let binary = operator_under_test(built.to_str().unwrap());
    assert!(binary.is_file(), "build the operator first: make build");
    binary
}

fn dev(target: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(DEV);
    // A separate target folder, because the developer's may be in use.
    command.args(args).env("CARGO_TARGET_DIR", target).stdin(Stdio::null());
    command
}

/// Returns the descendants of the process `root`.
fn descendants(root: u32) -> BTreeSet<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = BTreeSet::from([root]);
    while let Some((pid, _)) = parents.iter().find(|(pid, parent)| found.contains(parent) && !found.contains(pid)) {
        found.insert(*pid);
    }
    found.remove(&root);
    found
}

fn wait_until_gone(pids: &BTreeSet<u32>) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let alive = |pid: &&u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie has ended, but its parent has not reaped it yet.
        !stat.is_empty() && !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
    };
    while let Some(pid) = pids.iter().find(alive) {
        assert!(Instant::now() < deadline, "process {pid} is still running");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// Starts the demo and waits for the end of its tour.
fn demo(target: &Path) -> (Child, BTreeSet<u32>) {
    let operator = operator();
    let mut demo =
        dev(target, &["demo", "--binary", operator.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("Press Ctrl-C to stop it")), "the tour did not complete");
    // Keep reading, so that the demo is not killed by SIGPIPE.
    std::thread::spawn(move || lines.for_each(drop));
    let children = descendants(demo.id());
    assert!(children.len() >= 4, "etcd, kube-apiserver, kube-controller-manager and an operator: {children:?}");
    (demo, children)
}

#[test]
fn ctrl_c_ends_the_demo_and_leaves_nothing_behind() {
    let target = tempfile::tempdir().unwrap();
    let (mut demo, children) = demo(target.path());
    signal(demo.id(), Signal::INT);
    assert!(demo.wait().unwrap().success());
    wait_until_gone(&children);
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0, "its files must be deleted too");
}

#[test]
fn a_crash_leaves_no_process_behind() {
    let target = tempfile::tempdir().unwrap();
    let (mut demo, children) = demo(target.path());
    signal(demo.id(), Signal::KILL);
    demo.wait().unwrap();
    wait_until_gone(&children);
}

#[test]
fn up_writes_the_environment_and_down_stops_everything() {
    let (target, operator) = (tempfile::tempdir().unwrap(), operator());
    let up = dev(target.path(), &["up", "--replicas", "2", "--binary", operator.to_str().unwrap()]).output().unwrap();
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let serve: u32 = std::fs::read_to_string(target.path().join("dev/pid")).unwrap().parse().unwrap();
    let children = descendants(serve);
    let script = "source dev/env; set -eu; test \"$(kubectl get users.roster.dev -o name)\" = ''; helm version >/dev/null; \
        test -d \"$ETCD_DATA_DIR\"; test -x \"$ROSTER_BIN\"; test -s \"$ROSTER_LOG_2\"; kill -0 $ROSTER_PID_1 $ROSTER_PID_2; \
        test \"$(curl -sf $ROSTER_PROBE_URL_1/readyz)\" = ok; test \"$(curl -sf $ROSTER_PROBE_URL_2/readyz)\" = ok; \
        test \"$(curl -sf --cacert $ROSTER_CA $ROSTER_URL_2/readyz)\" = ok; \
        test \"$(curl -s --cacert $ROSTER_CA -o /dev/null -w '%{http_code}' $ROSTER_URL_1/)\" = 401";
    let used = Command::new("bash").args(["-c", script]).current_dir(target.path()).output().unwrap();
    assert!(used.status.success(), "{}", String::from_utf8_lossy(&used.stderr));
    let down = dev(target.path(), &["down"]).status().unwrap();
    assert!(down.success());
    wait_until_gone(&children);
}
