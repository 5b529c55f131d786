//! Mounts of a node: it sees the machine's files, except for those that belong to its namespaces or that it writes.

use std::path::Path;

use anyhow::Result;

use super::namespaces::Namespaces;

/// Settings of the whole machine that kubelet would change. The node sees them with the values that it wants.
const SYSCTLS: &[(&str, &str)] =
    &[("vm/overcommit_memory", "1"), ("kernel/panic", "10"), ("kernel/panic_on_oops", "1")];

/// Folders of the machine that a node does not see.
pub(super) const HIDDEN: [&str; 2] = ["/run", "/var/log"];

/// Mounts the node's own `/proc`, `/sys`, `/run` and `/var/log`. Logs are kept in `dir`; everything else that a node
/// writes is in memory, and disappears with it.
pub(super) fn prepare(namespaces: &Namespaces, dir: &Path) -> Result<()> {
    let mount =
        |kind: &str, options: &str, path: &str| namespaces.run(&["mount", "-t", kind, "-o", options, kind, path]);
    mount("proc", "rw", "/proc")?;
    namespaces.run(&["umount", "--recursive", "/sys"])?;
    mount("sysfs", "rw", "/sys")?;
    mount("tmpfs", "mode=755", "/run")?;
    for hierarchy in &namespaces.cgroups.hierarchies {
        if hierarchy.is_v2() {
            mount("cgroup2", "rw", "/sys/fs/cgroup")?;
            continue;
        }
        if hierarchy == &namespaces.cgroups.hierarchies[0] {
            mount("tmpfs", "mode=755", "/sys/fs/cgroup")?;
        }
        let name = hierarchy.options.trim_start_matches("name=");
        let path = format!("/sys/fs/cgroup/{name}");
        namespaces.run(&["mkdir", &path])?;
        let none = if name == hierarchy.options { "" } else { "none," };
        mount("cgroup", &format!("{none}{}", hierarchy.options), &path)?;
        for controller in name.split(',').filter(|controller| *controller != name) {
            namespaces.run(&["ln", "-s", name, &format!("/sys/fs/cgroup/{controller}")])?;
        }
    }
    let bind = |from: &Path, to: &str| namespaces.run(&["mount", "--bind", &from.to_string_lossy(), to]);
    let logs = dir.join("log");
    std::fs::create_dir_all(&logs)?;
    bind(&logs, "/var/log")?;
    for (name, value) in SYSCTLS {
        let file = dir.join(name.replace('/', "."));
        std::fs::write(&file, format!("{value}\n"))?;
        bind(&file, &format!("/proc/sys/{name}"))?;
    }
    Ok(())
}
