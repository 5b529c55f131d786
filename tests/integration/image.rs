//! The container image from `make image`: its content, and that it runs as an unprivileged user on a read-only root
//! file system.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use roster_harness::{Kubectl, Operator, target_dir};
use serde_json::Value;

use crate::support::{Cluster, create, user, wait_until_ready};

/// Paths that a container runtime creates in the root file system.
const MOUNT_POINTS: &[&str] = &["dev", "proc", "etc"];

/// Runs the program of a root file system in place of this script, so that signals reach it. Without root, uses the
/// ids from `/etc/subuid`.
const CONTAIN: &str = r#"#!/bin/sh
set -eu
. "${0%.sh}.env"
ids="--map-root-user --map-auto"
if [ "$(id -u)" = 0 ]; then ids=""; fi
exec unshare $ids --mount /bin/sh -euc '
    root=$1 kubeconfig=$2; shift 2
    mount --bind "$root" "$root"
    for each in dev proc etc/hosts etc/resolv.conf; do mount --bind "/$each" "$root/$each"; done
    mount --bind "$kubeconfig" "$root/kubeconfig"
    mount -o remount,bind,ro "$root"
    exec env -i KUBECONFIG=/kubeconfig HOSTNAME="$HOSTNAME" ROSTER_DRAIN="$ROSTER_DRAIN" \
        ROSTER_ISSUER_URL="$ROSTER_ISSUER_URL" \
        "$(PATH=$PATH:/usr/sbin command -v chroot)" --userspec=65532:65532 "$root" /roster "$@"
' sh "$root" "$kubeconfig" "$@"
"#;

/// Unpacks an archive into a new folder.
fn unpack(archive: &Path, folder: &Path) {
    if folder.exists() {
        std::fs::remove_dir_all(folder).unwrap();
    }
    std::fs::create_dir_all(folder).unwrap();
    let done = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder).status().unwrap();
    assert!(done.success(), "{} could not be unpacked", archive.display());
}

fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// Returns the image's configuration, its layers, and its root file system.
fn image() -> (Value, Vec<PathBuf>, PathBuf) {
    let folder = target_dir().join("image");
    let archive = folder.join("roster.tar");
    assert!(archive.exists(), "{} is missing: run `make image`", archive.display());
    let oci = folder.join("oci");
    unpack(&archive, &oci);
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
        oci.join("blobs").join(digest)
    };
    let manifest = json(&blob(&json(&oci.join("index.json"))["manifests"][0]));
    let layers: Vec<PathBuf> = manifest["layers"].as_array().unwrap().iter().map(blob).collect();
    let rootfs = folder.join("rootfs");
    // The image has one layer, as asserted below.
    unpack(&layers[0], &rootfs);
    (json(&blob(&manifest["config"])), layers, rootfs)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_has_one_program_and_runs_unprivileged_on_a_read_only_file_system() {
    const MAX_MIB: u64 = 64;
    let (config, layers, rootfs) = image();
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/roster"]));
    assert_eq!(layers.len(), 1);
    let files: Vec<_> = std::fs::read_dir(&rootfs).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["roster"]);
    let program = std::fs::metadata(rootfs.join("roster")).unwrap();
    assert_eq!(program.permissions().mode() & 0o7777, 0o755);
    assert!(program.len() < MAX_MIB << 20, "{} bytes", program.len());

    let cluster = Cluster::create("image", &[]);
    let script = contain(&cluster, &rootfs);
    let operator = Operator::start(&cluster.installation, &script, "operator-image", &[]).expect("the image runs");
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.id())).unwrap();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert_eq!(line("CapEff:").split_whitespace().nth(1), Some("0000000000000000"), "no capabilities: {status}");
    assert!(line("Name:").ends_with("roster"), "{status}");
    assert!(line("Uid:").split_whitespace().skip(1).all(|id| id != "0"), "not root: {status}");
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", operator.id())).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("there is a root file system");
    assert!(root.split(' ').nth(5).is_some_and(|options| options.starts_with("ro")), "read-only: {mounts}");
    let users = cluster.users().await;
    create(&users, &user("contained", false)).await;
    wait_until_ready(&users, "contained").await;
    operator.stop().expect("SIGTERM stops the operator in time");
}

/// Returns a script that runs the program as a container runtime does: in the image's root file system, read-only, as
/// its user, without capabilities, with the resolver configuration mounted.
fn contain(cluster: &Cluster, rootfs: &Path) -> PathBuf {
    for name in MOUNT_POINTS {
        std::fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    for name in ["etc/hosts", "etc/resolv.conf", "kubeconfig"] {
        std::fs::write(rootfs.join(name), "").unwrap();
    }
    // By host name: a static program resolves names itself.
    let own = Kubectl { kubeconfig: cluster.installation.kubeconfig.clone(), ..cluster.plane.kubectl.clone() };
    let kubeconfig = own.run(&["config", "view", "--raw", "--flatten"]).unwrap();
    let by_name = cluster.plane.dir.join("by-name.kubeconfig");
    std::fs::write(&by_name, kubeconfig.replace("https://127.0.0.1:", "https://localhost:")).unwrap();
    std::fs::set_permissions(&by_name, std::fs::Permissions::from_mode(0o644)).unwrap();
    let script = cluster.plane.dir.join("contain.sh");
    std::fs::write(&script, CONTAIN).unwrap();
    let settings = format!("root={}\nkubeconfig={}\n", rootfs.display(), by_name.display());
    std::fs::write(script.with_extension("env"), settings).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}
