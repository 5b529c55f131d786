//! A control plane with Roster's CRDs and namespace that was started once and stopped. Others start from a copy of its data,
//! which saves them the first start of Kubernetes: its roles, its service accounts, and the CRDs.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::assets::Assets;
use crate::control_plane::{ControlPlane, Flags};
use crate::operator::prepare;
use crate::paths::project_root;

/// What the control planes of tests start from.
#[derive(Debug)]
pub struct Template {
    dir: PathBuf,
}

impl Template {
    /// The template in `parent`. It is made if there is none of these CRDs and this Kubernetes, and anew every week: its
    /// certificates expire.
    ///
    /// # Errors
    /// If the control plane does not start.
    pub fn in_folder(parent: &Path) -> Result<Self> {
        std::fs::create_dir_all(parent)?;
        // Test programs that share the folder wait here for the first of them.
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
        let plane = ControlPlane::start(&dir.join("source"), Flags::default())?;
        prepare(&plane)?;
        let source = plane.dir.clone();
        plane.stop()?;
        Self { dir: source }.copy_to(&dir)?;
        std::fs::remove_dir_all(dir.join("source"))?;
        std::fs::write(made, key)?;
        Ok(Self { dir })
    }

    /// Copies certificates and etcd's data to a folder that has neither.
    pub(crate) fn copy_to(&self, dir: &Path) -> Result<()> {
        let copy = Command::new("cp").arg("-R").arg(self.dir.join("pki")).arg(self.dir.join("etcd")).arg(dir).output();
        let copy = copy.context("cp could not be started")?;
        ensure!(copy.status.success(), "{}: {}", self.dir.display(), String::from_utf8_lossy(&copy.stderr).trim());
        Ok(())
    }
}

/// What a template depends on.
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
    (week, include_str!("control_plane.rs")).hash(&mut hasher);
    Ok(hasher.finish())
}
