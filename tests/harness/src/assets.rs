//! Finds or builds the programs of the control plane and of nodes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::paths::project_root;

/// Paths of the programs in use.
#[derive(Clone, Debug)]
pub struct Assets {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub apiserver: PathBuf,
    /// kube-controller-manager.
    pub controller_manager: PathBuf,
    /// kubectl, at most one minor version away from the API server.
    pub kubectl: PathBuf,
    /// helm.
    pub helm: PathBuf,
}

impl Assets {
    /// Finds the programs, once per process: in `KUBEBUILDER_ASSETS` (kubectl and helm also on PATH), otherwise in the
    /// project's own build, which is built if it is missing.
    ///
    /// # Errors
    /// If a program is not found and can't be built. The message says how to get it.
    pub fn resolve() -> Result<Self> {
        static FOUND: Mutex<Option<Assets>> = Mutex::new(None);
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        match &*found {
            Some(found) => Ok(found.clone()),
            None => Ok(found.insert(Self::find()?).clone()),
        }
    }

    fn find() -> Result<Self> {
        let given = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        if let Some(dir) = &given
            && !dir.is_dir()
        {
            bail!("KUBEBUILDER_ASSETS={} is not a folder: unset it, or set it to a folder", dir.display());
        }
        let mut built = None;
        let mut find = |tool: &str| -> Result<PathBuf> {
            if let Some(path) = given.as_ref().map(|dir| dir.join(tool)).filter(|path| path.is_file()) {
                return Ok(path);
            }
            if built.is_none() {
                built = Some(build()?);
            }
            Ok(built.as_ref().expect("built above").join(tool))
        };
        let (etcd, apiserver) = (find("etcd")?, find("kube-apiserver")?);
        let controller_manager = find("kube-controller-manager")?;
        let server = minor_version(&apiserver, &["--version"])?;
        let kubectl = match on_path("kubectl") {
            Some(path)
                if minor_version(&path, &["version", "--client"]).is_ok_and(|minor| minor.abs_diff(server) <= 1) =>
            {
                path
            }
            _ => find("kubectl")?,
        };
        let helm = match on_path("helm") {
            Some(path) => path,
            None => find("helm")?,
        };
        Ok(Self { etcd, apiserver, controller_manager, kubectl, helm })
    }
}

/// Paths of what a node runs, and of the scheduler.
#[derive(Clone, Debug)]
pub struct NodeParts {
    /// kubelet.
    pub kubelet: PathBuf,
    /// kube-proxy.
    pub kube_proxy: PathBuf,
    /// kube-scheduler.
    pub scheduler: PathBuf,
    /// containerd, in a folder with its shim.
    pub containerd: PathBuf,
    /// ctr, containerd's client.
    pub ctr: PathBuf,
    /// Folder with the CNI plugins.
    pub cni: PathBuf,
    /// First process of a PID namespace, which reaps orphans.
    pub pause: PathBuf,
    /// OCI archive of an image with pause.
    pub pause_image: PathBuf,
    /// OCI archive of an image with CoreDNS.
    pub coredns_image: PathBuf,
}

impl NodeParts {
    /// Returns the project's own build, which is built if it is missing.
    ///
    /// # Errors
    /// If it can't be built. The message says what is missing.
    pub fn resolve() -> Result<Self> {
        // Builds first what both consist of.
        Assets::resolve()?;
        let dir = run("controlplane/node/build.sh")?;
        Ok(Self {
            kubelet: dir.join("kubelet"),
            kube_proxy: dir.join("kube-proxy"),
            scheduler: dir.join("kube-scheduler"),
            containerd: dir.join("containerd"),
            ctr: dir.join("ctr"),
            cni: dir.join("cni"),
            pause: dir.join("pause"),
            pause_image: dir.join("pause.tar"),
            coredns_image: dir.join("coredns.tar"),
        })
    }
}

fn build() -> Result<PathBuf> {
    run("controlplane/build.sh")
}

/// Returns the folder with kubeconform, kube-score, helm-docs and actionlint. They are built if missing, which takes a
/// minute or two, so only tests that need them call this.
///
/// # Errors
/// If they can't be built.
pub fn linters() -> Result<PathBuf> {
    run("controlplane/linters/build.sh")
}

/// Runs a build script and returns the path that it prints.
fn run(script: &str) -> Result<PathBuf> {
    let script = project_root().join(script);
    let output = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} can't be run", script.display()))?;
    if !output.status.success() {
        bail!("{} failed; see above", script.display());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

fn on_path(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|path| path.is_file())
}

/// Returns the minor version in the first `v1.x` of a program's output.
fn minor_version(program: &Path, args: &[&str]) -> Result<u32> {
    let output = Command::new(program).args(args).output().with_context(|| program.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let minor = text.split("v1.").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    minor
        .and_then(|minor| minor.parse().ok())
        .with_context(|| format!("the output of {} contains no version: {text}", program.display()))
}
