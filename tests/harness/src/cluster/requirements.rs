//! Checks what a cluster needs of the machine.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};

/// Programs, and the Debian packages that contain them.
const PROGRAMS: &[(&str, &str)] = &[
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("runc", "runc"),
];

/// Folders with programs of the system, which are not on every user's PATH.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the PATH of the node's programs, which begins with `first`.
pub(super) fn path(first: &str) -> String {
    format!("{first}:{SYSTEM_PATH}")
}

/// Checks that this process is root and that every program is installed.
///
/// # Errors
/// If not. The message says what to do.
pub fn check() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a cluster with nodes needs root, for namespaces, mounts and cgroups: run the command with sudo"
    );
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).collect();
    if !missing.is_empty() {
        let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
        let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
        packages.dedup();
        bail!(
            "a cluster with nodes needs {}: install them (Debian: apt-get install {})",
            programs.join(", "),
            packages.join(" ")
        );
    }
    Ok(())
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(SYSTEM_PATH).map(|dir| dir.join(program)).find(|path| path.is_file())
}
