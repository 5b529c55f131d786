//! The artifacts of a release, from the scripts in `release/`. The programs that they pack are placeholders here: `make
//! release` compiles them, which takes too long for every run of the tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use roster_harness::assets::Assets;
use roster_harness::{ControlPlane, Flags, Installation, project_root, target_dir};
use serde_json::Value;

use crate::support::{Cluster, FAST_LEASE, binary, create, password_secret, stored_hash, user, wait_until_ready};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Rust's name of the target, and the architecture's name in images and archives.
const TARGETS: &[(&str, &str)] = &[("x86_64-unknown-linux-gnu", "amd64"), ("aarch64-unknown-linux-gnu", "arm64")];

/// A folder in the place of `target`, with a placeholder for the program of each architecture.
struct Target(tempfile::TempDir);

impl Target {
    fn create() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (target, arch) in TARGETS {
            let release = folder.path().join("release-build").join(target).join("release");
            std::fs::create_dir_all(&release).unwrap();
            std::fs::write(release.join("roster"), format!("the program for {arch}")).unwrap();
        }
        Self(folder)
    }

    /// Runs a script in `release/` and returns what it prints.
    fn run(&self, script: &str, args: &[&str]) -> String {
        let output = Command::new(project_root().join("release").join(script))
            .args(args)
            .env("CARGO_TARGET_DIR", self.0.path())
            .env("HELM", Assets::resolve().unwrap().helm)
            .env("RELEASE_IMAGE", "registry.example.com/roster")
            .env("RELEASE_URL", "https://example.com/v1")
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn artifact(&self, name: &str) -> PathBuf {
        self.0.path().join("release-artifacts").join(name)
    }

    /// Returns the content of every artifact, by name.
    fn artifacts(&self) -> BTreeMap<String, Vec<u8>> {
        let files = std::fs::read_dir(self.artifact("")).unwrap().map(|file| file.unwrap());
        files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())).collect()
    }

    /// Packages the chart, and returns `install.yaml` for it with additional arguments of `helm template`.
    fn install_yaml(&self, args: &[&str]) -> String {
        self.run("chart.sh", &[]);
        let chart = self.artifact(&format!("roster-{VERSION}.tgz"));
        self.run("manifest.sh", &[&[chart.to_str().unwrap()], args].concat())
    }
}

fn yaml(path: &Path) -> Value {
    serde_yaml::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Returns the output of tar.
fn tar(args: &[&str], archive: &Path) -> String {
    let output = Command::new("tar").args(args).arg("--file").arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    let chart = yaml(&project_root().join("charts/roster/Chart.yaml"));
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field], VERSION, "{field} in charts/roster/Chart.yaml");
    }
}

#[test]
fn the_same_commit_gives_the_same_bytes() {
    let build = || {
        let target = Target::create();
        for script in ["chart.sh", "plugin.sh", "image.sh"] {
            target.run(script, &[]);
        }
        target.artifacts()
    };
    let (first, second) = (build(), build());
    assert_eq!(first.len(), 5, "{:?}", first.keys());
    let page = std::fs::read_to_string(project_root().join("docs/how-to/install.md")).unwrap();
    for (name, content) in &first {
        assert!(second.get(name) == Some(content), "{name} differs");
        assert!(page.contains(&format!("| `{name}` |")), "docs/how-to/install.md does not list {name}");
    }
}

#[test]
fn the_chart_names_the_published_image() {
    let target = Target::create();
    target.run("chart.sh", &[]);
    let package = target.artifact(&format!("roster-{VERSION}.tgz"));
    let file = |name: &str| -> Value {
        serde_yaml::from_str(&tar(&["--extract", "--gzip", "--to-stdout", &format!("roster/{name}")], &package))
            .unwrap()
    };
    assert_eq!(file("values.yaml")["image"]["repository"], "registry.example.com/roster");
    let images = file("Chart.yaml")["annotations"]["artifacthub.io/images"].as_str().unwrap().to_owned();
    let image = serde_json::json!([{"name": "roster", "image": format!("registry.example.com/roster:{VERSION}")}]);
    assert_eq!(serde_yaml::from_str::<Value>(&images).unwrap(), image);
}

#[test]
fn the_krew_manifest_names_an_archive_for_each_architecture() {
    let target = Target::create();
    target.run("plugin.sh", &[]);
    let manifest = yaml(&target.artifact("krew.yaml"));
    assert_eq!(manifest["spec"]["version"], format!("v{VERSION}"));
    let platforms = manifest["spec"]["platforms"].as_array().unwrap();
    assert_eq!(platforms.len(), TARGETS.len());
    for (platform, (_, arch)) in platforms.iter().zip(TARGETS) {
        assert_eq!(platform["selector"]["matchLabels"], serde_json::json!({"os": "linux", "arch": arch}));
        let name = platform["uri"].as_str().unwrap().strip_prefix("https://example.com/v1/").unwrap();
        let archive = target.artifact(name);
        let sum = Command::new("sha256sum").arg(&archive).output().unwrap().stdout;
        assert_eq!(platform["sha256"], String::from_utf8(sum).unwrap()[..64], "{name}");
        assert_eq!(tar(&["--list"], &archive), "LICENSE\nkubectl-roster\n");
        let program = tar(&["--extract", "--to-stdout", "kubectl-roster"], &archive);
        assert_eq!(program, format!("the program for {arch}"));
    }
}

#[test]
fn the_image_is_an_index_of_the_image_of_each_architecture() {
    let target = Target::create();
    target.run("image.sh", &[]);
    let archive = target.artifact(&format!("roster-{VERSION}-image.tar"));
    let file =
        |name: &str| -> Value { serde_json::from_str(&tar(&["--extract", "--to-stdout", name], &archive)).unwrap() };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
        file(&format!("blobs/{digest}"))
    };
    let root = &file("index.json")["manifests"][0];
    let name = &root["annotations"]["org.opencontainers.image.ref.name"];
    assert_eq!(*name, format!("registry.example.com/roster:{VERSION}"));
    let index = blob(root);
    let images = index["manifests"].as_array().unwrap();
    let built: Vec<&str> = images.iter().map(|image| image["platform"]["architecture"].as_str().unwrap()).collect();
    assert_eq!(built, TARGETS.iter().map(|(_, arch)| *arch).collect::<Vec<_>>());
    for image in images {
        let config = blob(&blob(image)["config"]);
        assert_eq!(config["architecture"], image["platform"]["architecture"]);
        assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/roster"]));
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.version"], VERSION);
    }
}

/// Creates a control plane with nothing on it.
fn empty_control_plane(name: &str) -> ControlPlane {
    let dir = target_dir().join("tests").join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    ControlPlane::start(&dir, Flags::default()).unwrap()
}

/// Runs the code block of `docs/how-to/install.md` that contains `text`, in a folder with this `install.yaml`.
fn follow(plane: &ControlPlane, manifest: &str, text: &str) {
    let page = std::fs::read_to_string(project_root().join("docs/how-to/install.md")).unwrap();
    let block = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let commands = block.filter(|block| block.contains(text)).collect::<String>();
    assert!(!commands.is_empty(), "the page has no code block with {text}");
    std::fs::write(plane.dir.join("install.yaml"), manifest).unwrap();
    let output = plane.kubectl.bash(&format!("set -e\n{commands}")).unwrap().current_dir(&plane.dir).output().unwrap();
    assert!(output.status.success(), "{commands}{}", String::from_utf8_lossy(&output.stderr));
}

const APPLY: &[&str] = &["apply", "--server-side", "-f", "-"];
const ROLL_BACK: &str = "kubectl apply --server-side -f install.yaml -l ";
const UNINSTALL: &str = "kubectl delete -f install.yaml";

/// Exactly what a release contains. No node runs its Deployment.
#[test]
fn install_yaml_can_be_applied_again_and_deleted() {
    let target = Target::create();
    let plane = empty_control_plane("install-yaml");
    let manifest = target.install_yaml(&[]);
    plane.kubectl.run_with_input(APPLY, &manifest).unwrap();
    let deployment = plane.kubectl.get(&["deployment", "roster", "-n", "roster-system"]).unwrap();
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(*image, format!("registry.example.com/roster:{VERSION}"));

    // As an operator does. Applying the file again must neither conflict with it nor undo it.
    let webhooks = ["mutatingwebhookconfiguration", "roster"];
    let patch = r#"[{"op": "add", "path": "/webhooks/0/clientConfig/service/path", "value": "/admission/secret"}]"#;
    let patch = ["--type=json", "--field-manager=roster", "-p", patch];
    plane.kubectl.run(&[&["patch"], &webhooks[..], &patch].concat()).unwrap();
    plane.kubectl.run_with_input(APPLY, &manifest).unwrap();
    follow(&plane, &manifest, ROLL_BACK);
    let webhooks = plane.kubectl.get(&webhooks).unwrap();
    assert_eq!(webhooks["webhooks"][0]["clientConfig"]["service"]["path"], "/admission/secret");

    follow(&plane, &manifest, UNINSTALL);
    let kinds = "deployments,apiservices,clusterroles,mutatingwebhookconfigurations,validatingwebhookconfigurations";
    let labelled = ["get", kinds, "-A", "-l", "app.kubernetes.io/instance=roster", "-o", "name"];
    assert_eq!(plane.kubectl.run(&labelled).unwrap(), "");
    plane.kubectl.run(&["get", "crd/users.roster.dev", "namespace/roster-system"]).unwrap();
}

/// Operators of the tests run outside the cluster, so their address is set. Everything else is as in a release.
#[tokio::test(flavor = "multi_thread")]
async fn install_yaml_installs_a_roster_that_works() {
    let target = Target::create();
    let plane = empty_control_plane("install-yaml-operator");
    let [url, logins] = Installation::values(&plane);
    let manifest = target.install_yaml(&["--set", &url, "--set", &logins]);
    plane.kubectl.run_with_input(APPLY, &manifest).unwrap();
    let installation = Installation::existing(&plane).unwrap();
    let cluster = Cluster { plane, installation, operators: Mutex::default() };
    cluster.start_operator(FAST_LEASE);
    create(&cluster.secrets("default").await, &password_secret("jane", "password", "correct horse")).await;
    let users = cluster.users().await;
    create(&users, &user("jane", true)).await;
    let jane = wait_until_ready(&users, "jane").await;
    let hash = stored_hash(&cluster, &jane).await;
    assert!(hash.is_some());
    let kubeconfig = &cluster.plane.kubectl.kubeconfig;
    let check = Command::new(binary()).args(["check", "--timeout", "30s"]).env("KUBECONFIG", kubeconfig).output();
    let check = check.unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

    follow(&cluster.plane, &manifest, UNINSTALL);
    assert_eq!(users.get("jane").await.unwrap().metadata.uid, jane.metadata.uid);
    assert_eq!(stored_hash(&cluster, &jane).await, hash);
}
