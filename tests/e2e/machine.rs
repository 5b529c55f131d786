//! What a cluster could leave behind on the machine.

use std::collections::BTreeSet;
use std::path::Path;

/// Settings that Kubernetes changes on a node.
const SYSCTLS: &[&str] = &[
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/netfilter/nf_conntrack_max",
    "/proc/sys/vm/overcommit_memory",
];

/// Network interfaces, mounts, settings, and the cgroups and processes of the tests' cluster.
pub(crate) struct Machine(BTreeSet<String>);

impl Machine {
    /// Observes the machine as it is now. `dir` is the folder of the cluster, which its processes name.
    pub(crate) fn observe(dir: &Path) -> Self {
        let mut found = BTreeSet::new();
        for interface in names(Path::new("/sys/class/net")) {
            found.insert(format!("interface {interface}"));
        }
        for mount in read("/proc/self/mounts").lines() {
            found.insert(format!("mount {mount}"));
        }
        for file in SYSCTLS {
            found.insert(format!("setting {file} = {}", read(file).trim()));
        }
        let own = format!("roster-node-{}-", std::process::id());
        cgroups(Path::new("/sys/fs/cgroup"), &own, &mut found);
        let dir = dir.to_string_lossy();
        for process in names(Path::new("/proc")) {
            let command = read(&format!("/proc/{process}/cmdline"));
            if command.contains(&*dir) {
                found.insert(format!("process {process} {}", command.replace('\0', " ")));
            }
        }
        Self(found)
    }

    /// Returns what is only in one of the two.
    pub(crate) fn difference(&self, before: &Self) -> Vec<String> {
        let gone = before.0.difference(&self.0).map(|line| format!("- {line}"));
        gone.chain(self.0.difference(&before.0).map(|line| format!("+ {line}"))).collect()
    }
}

/// Adds the cgroups whose names begin with `own`. Others belong to other programs, which change them at any time.
fn cgroups(folder: &Path, own: &str, found: &mut BTreeSet<String>) {
    for name in names(folder).into_iter().filter(|name| folder.join(name).is_dir() && !folder.join(name).is_symlink()) {
        let path = folder.join(&name);
        if name.starts_with(own) {
            found.insert(format!("cgroup {}", path.display()));
        } else {
            cgroups(&path, own, found);
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Returns the content of a file, or nothing where it does not exist.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
