//! `make cluster` and `make cluster-down` work, and a crash leaves nothing behind. Needs root and the image from
//! `make image`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use roster_harness::target_dir;
use rustix::process::{Pid, Signal, kill_process};

const DEV: &str = env!("CARGO_BIN_EXE_roster-dev");

fn dev(target: &Path, args: &[&str]) -> String {
    // A separate target folder, because the developer's may be in use.
    let output = Command::new(DEV).args(args).env("CARGO_TARGET_DIR", target).output().unwrap();
    let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "roster-dev {}: {printed}{errors}", args.join(" "));
    printed.into_owned()
}

/// Returns the processes that name the folder.
fn processes(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    commands.filter(|command| command.contains(&*folder)).map(|command| command.replace('\0', " ")).collect()
}

/// Returns the cgroups of nodes that the process `serve` has started.
fn cgroups(serve: u32) -> Vec<PathBuf> {
    let name = format!("roster-node-{serve}-");
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::from("/sys/fs/cgroup")]);
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if entry.file_name().to_string_lossy().starts_with(&name) {
                found.push(entry.path());
            } else {
                folders.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_cluster_starts_and_a_crash_leaves_no_process_and_down_no_cgroup() {
    let image = target_dir().canonicalize().unwrap().join("image/roster.tar");
    let target = tempfile::tempdir().unwrap();
    let printed = dev(target.path(), &["cluster", "--nodes", "1", "--image", image.to_str().unwrap()]);
    assert!(printed.contains("cluster/env"), "{printed}");
    let script = "source cluster/env; set -eu; helm status roster -n roster-system >/dev/null; \
        kubectl wait --for=condition=Ready node/node-1 --timeout=1s; kubectl get users.directory.roster.dev; \
        kubectl wait --for=condition=Ready pod -l app.kubernetes.io/name=roster -n roster-system --timeout=1s";
    let used = Command::new("bash").args(["-c", script]).current_dir(target.path()).output().unwrap();
    assert!(used.status.success(), "{}", String::from_utf8_lossy(&used.stderr));

    let serve = std::fs::read_to_string(target.path().join("cluster/pid")).unwrap();
    let serve: u32 = serve.parse().unwrap();
    assert!(processes(target.path()).len() >= 8, "a control plane and a node: {:?}", processes(target.path()));
    assert!(!cgroups(serve).is_empty());
    kill_process(Pid::from_raw(serve.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !processes(target.path()).is_empty() {
        assert!(Instant::now() < deadline, "{:?} are still running", processes(target.path()));
        std::thread::sleep(Duration::from_millis(50));
    }
    dev(target.path(), &["cluster-down"]);
    assert_eq!(cgroups(serve), Vec::<PathBuf>::new());
    // There is nothing to stop any more.
    dev(target.path(), &["cluster-down"]);
}
