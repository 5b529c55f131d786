//! cgroups of a node: in each hierarchy one below the cgroup of this process.
//!
//! A node's processes see their cgroup as the root, through a cgroup namespace. With cgroup v1, they are in that cgroup.
//! With v2, a cgroup whose children have controllers can't contain processes, so they are in a child of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::command::wrapped;
use crate::kubectl::eventually;

/// Names are `roster-node-<process ID>-<number>`, so that those of a process that was killed can be found.
const PREFIX: &str = "roster-node-";

/// cgroup v2: child that contains the node's processes besides those of pods.
const DAEMONS: &str = "daemons";

/// cgroup v2: controllers that kubelet needs.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// A hierarchy of cgroups.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hierarchy {
    /// Mount options: controllers, or `name=…`. Empty for cgroup v2.
    pub(super) options: String,
    mount_point: PathBuf,
    /// Folder of this process's cgroup.
    own: PathBuf,
}

impl Hierarchy {
    pub(super) fn is_v2(&self) -> bool {
        self.options.is_empty()
    }
}

/// Returns the hierarchies that a node needs: those of cgroup v1 if they have the memory controller, otherwise cgroup
/// v2. `own` is `/proc/self/cgroup` and `mounts` is `/proc/self/mountinfo`.
fn hierarchies(own: &str, mounts: &str) -> Result<Vec<Hierarchy>> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(options), Some(path)) = (fields.next(), fields.next()) else { bail!("/proc/self/cgroup: {line}") };
        found.extend(mounts.lines().find_map(|mount| mounted(mount, options, path)));
    }
    let has_memory = |hierarchy: &Hierarchy| hierarchy.options.split(',').any(|controller| controller == "memory");
    let is_v1 = found.iter().any(has_memory);
    found.retain(|hierarchy| hierarchy.is_v2() != is_v1);
    ensure!(!found.is_empty(), "no cgroup hierarchy is mounted below /sys/fs/cgroup");
    Ok(found)
}

/// Returns the hierarchy with these options, in which this process is in the cgroup `path`, if this line of mountinfo
/// mounts it.
fn mounted(mount: &str, options: &str, path: &str) -> Option<Hierarchy> {
    let (place, kind) = mount.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, mount_point) = (place.next()?, Path::new(place.next()?));
    let mut kind = kind.split(' ');
    let (file_system, flags) = (kind.next()?, kind.nth(1)?);
    let matches = if options.is_empty() {
        file_system == "cgroup2"
    } else {
        file_system == "cgroup" && options.split(',').all(|option| flags.split(',').any(|flag| flag == option))
    };
    let below = if root == "/" { path } else { path.strip_prefix(root).unwrap_or_default() };
    let own = mount_point.join(below.trim_start_matches('/'));
    matches.then(|| Hierarchy { options: options.to_owned(), mount_point: mount_point.to_owned(), own })
}

fn own_hierarchies() -> Result<Vec<Hierarchy>> {
    hierarchies(&std::fs::read_to_string("/proc/self/cgroup")?, &std::fs::read_to_string("/proc/self/mountinfo")?)
}

/// The cgroups of a node. Dropping them removes them, once their processes have ended.
#[derive(Debug)]
pub(super) struct Cgroups {
    pub(super) hierarchies: Vec<Hierarchy>,
    /// The node's folder in each hierarchy.
    folders: Vec<PathBuf>,
    /// Folder of the node's processes in each hierarchy.
    members: Vec<PathBuf>,
}

impl Cgroups {
    /// Creates cgroups for a node.
    pub(super) fn create() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let hierarchies = own_hierarchies()?;
        let mut created = Self { hierarchies: hierarchies.clone(), folders: Vec::new(), members: Vec::new() };
        for hierarchy in &hierarchies {
            let parent = if hierarchy.is_v2() { delegating(&hierarchy.own)? } else { hierarchy.own.clone() };
            let folder = parent.join(&name);
            std::fs::create_dir(&folder)
                .with_context(|| format!("the cgroup {} can't be created", folder.display()))?;
            created.folders.push(folder.clone());
            created.members.push(folder.clone());
            if hierarchy.options.split(',').any(|controller| controller == "cpuset") {
                // A new cpuset is empty, and takes no process.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    std::fs::write(folder.join(file), std::fs::read(parent.join(file))?)?;
                }
                std::fs::write(folder.join("cgroup.clone_children"), "1")?;
            }
        }
        Ok(created)
    }

    /// Returns a command that runs `command` in the node's cgroups.
    pub(super) fn join(&self, command: &Command) -> Command {
        // Writing 0 moves the process that writes.
        let move_in = self.members.iter().map(|folder| format!("echo 0 > '{}/cgroup.procs'", folder.display()));
        let script = move_in.chain(["exec \"$@\"".to_owned()]).collect::<Vec<_>>().join(" && ");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]);
        wrapped(shell, command)
    }

    /// cgroup v2: once the processes' cgroup namespace has its root at the node's cgroup, moves them to a child, so that
    /// pods can have controllers.
    pub(super) fn delegate(&mut self) -> Result<()> {
        for (hierarchy, member) in self.hierarchies.iter().zip(&mut self.members) {
            if hierarchy.is_v2() {
                let folder = member.clone();
                member.push(DAEMONS);
                std::fs::create_dir(&member)?;
                for process in std::fs::read_to_string(folder.join("cgroup.procs"))?.lines() {
                    std::fs::write(member.join("cgroup.procs"), process)?;
                }
                let available = std::fs::read_to_string(folder.join("cgroup.controllers"))?;
                let enabled: Vec<_> = available.split_whitespace().map(|controller| format!("+{controller}")).collect();
                std::fs::write(folder.join("cgroup.subtree_control"), enabled.join(" "))?;
            }
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for folder in &self.folders {
            let _ = remove(folder);
        }
    }
}

/// cgroup v2: returns the nearest cgroup, from `own` up, whose children have the controllers that kubelet needs.
fn delegating(own: &Path) -> Result<PathBuf> {
    let enabled = |folder: &Path| {
        let controllers = std::fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
        CONTROLLERS.iter().all(|needed| controllers.split_whitespace().any(|enabled| enabled == *needed))
    };
    let found = own.ancestors().find(|folder| enabled(folder));
    found.map(Path::to_owned).with_context(|| {
        format!(
            "no cgroup from {} up gives its children the controllers {}: enable them, for example with echo '+{}' > \
             /sys/fs/cgroup/cgroup.subtree_control",
            own.display(),
            CONTROLLERS.join(", "),
            CONTROLLERS.join(" +")
        )
    })
}

/// Removes a cgroup and those below it, once their processes have ended. Succeeds if it does not exist.
fn remove(folder: &Path) -> Result<()> {
    eventually("a node's processes have ended", Duration::from_secs(10), || {
        try_remove(folder).with_context(|| folder.display().to_string())
    })
}

fn try_remove(folder: &Path) -> std::io::Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            try_remove(&entry.path())?;
        }
    }
    std::fs::remove_dir(folder)
}

/// Removes cgroups that processes which were killed have left, anywhere in the hierarchies.
pub(super) fn remove_leftovers() -> Result<()> {
    for hierarchy in own_hierarchies()? {
        remove_leftovers_below(&hierarchy.mount_point)?;
    }
    Ok(())
}

fn remove_leftovers_below(folder: &Path) -> Result<()> {
    // Other programs remove cgroups at any time.
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let (name, path) = (entry.file_name(), entry.path());
        match name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()) {
            Some(owner) if is_running(owner) => {}
            Some(_) => remove(&path)?,
            None => remove_leftovers_below(&path)?,
        }
    }
    Ok(())
}

/// Returns whether a process runs. One that has ended and whose parent has not noticed does not.
fn is_running(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_MOUNTS: &str = "\
30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 24 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:5 - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    fn found(own: &str, mounts: &str) -> Vec<(String, String)> {
        let found = hierarchies(own, mounts).unwrap();
        found.into_iter().map(|each| (each.options, each.own.display().to_string())).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(options, folder)| ((*options).to_owned(), (*folder).to_owned())).collect()
    }

    #[test]
    fn v1_hierarchies_are_found_by_their_controllers_and_names() {
        let own = "4:name=systemd:/\n3:memory:/user/1\n2:cpu,cpuacct:/\n1:freezer:/\n0::/\n";
        let expected = [
            ("name=systemd", "/sys/fs/cgroup/systemd/"),
            ("memory", "/sys/fs/cgroup/memory/user/1"),
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/"),
        ];
        assert_eq!(found(own, V1_MOUNTS), pairs(&expected));
    }

    #[test]
    fn paths_are_relative_to_the_root_of_the_mount() {
        let mounts = "31 24 0:27 /docker/a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(found("3:memory:/docker/a/b\n", mounts), pairs(&[("memory", "/sys/fs/cgroup/memory/b")]));
    }

    #[test]
    fn v2_is_used_without_a_v1_memory_controller() {
        let mounts = "33 24 0:29 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let expected = pairs(&[("", "/sys/fs/cgroup/user.slice/session-1.scope")]);
        assert_eq!(found("0::/user.slice/session-1.scope\n", mounts), expected);
        assert!(hierarchies("0::/\n", "").unwrap_err().to_string().contains("no cgroup hierarchy"));
    }
}
