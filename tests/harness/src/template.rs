//! Certificates and etcd data of a control plane that has Roster's CRDs and namespace. Other control planes start from a copy,
//! which saves them the first start of Kubernetes (its roles and service accounts) and the installation of the CRDs.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::assets::Assets;
use crate::paths::project_root;

/// Data that the tests' control planes start from.
#[derive(Debug)]
pub struct Template {
    dir: PathBuf,
}

impl Template {
    /// Returns the template in `parent`. If there is none for these CRDs and this Kubernetes, `make` runs a control plane in
    /// the folder that it is given, stops it, and returns where its files are. A template is replaced every week, because its
    /// certificates expire.
    ///
    /// # Errors
    /// If `make` fails, or files can't be copied.
    pub(crate) fn in_folder(parent: &Path, make: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<Self> {
        std::fs::create_dir_all(parent)?;
        // Concurrent test programs that share the folder wait for the first one.
        let lock = File::create(parent.join("template.lock"))?;
        lock.lock()?;
        let dir = parent.join("template");
        let (key, made) = (key()?.to_string(), dir.join("key"));
        if std::fs::read_to_string(&made).is_ok_and(|made| made == key) {
            return Ok(Self { dir });
        }
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        Self { dir: make(&dir.join("source"))? }.copy_to(&dir)?;
        std::fs::remove_dir_all(dir.join("source"))?;
        std::fs::write(made, key)?;
        Ok(Self { dir })
    }

    /// Copies certificates and etcd's data to a folder that has neither.
    pub(crate) fn copy_to(&self, dir: &Path) -> Result<()> {
        let copy = Command::new("cp").arg("-R").arg(self.dir.join("pki")).arg(self.dir.join("etcd")).arg(dir).output();
        let copy = copy.context("cp can't be started")?;
        ensure!(copy.status.success(), "{}: {}", self.dir.display(), String::from_utf8_lossy(&copy.stderr).trim());
        Ok(())
    }
}

/// Hash of everything that a template depends on.
fn key() -> Result<u64> {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    let mut hasher = DefaultHasher::new();
    let week = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / WEEK.as_secs();
    let assets = Assets::resolve()?;
    let mut files = vec![assets.etcd, assets.apiserver, assets.controller_manager];
    for program in &files {
        (std::fs::metadata(program)?.modified()?, program).hash(&mut hasher);
    }
    files = std::fs::read_dir(project_root().join("crds"))?.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    files.sort();
    for crd in &files {
        std::fs::read(crd)?.hash(&mut hasher);
    }
    let sources = [
        include_str!("control_plane/mod.rs"),
        include_str!("control_plane/certificates.rs"),
        include_str!("control_plane/components.rs"),
        include_str!("operator.rs"),
    ];
    (week, sources).hash(&mut hasher);
    Ok(hasher.finish())
}
