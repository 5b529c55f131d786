//! Images that nodes have from the start: there is no registry.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::namespaces::Namespaces;

/// An image, as an OCI archive.
#[derive(Clone, Debug)]
pub struct Image {
    /// Path of the archive.
    pub archive: PathBuf,
    /// Name with tag by which Pods refer to it.
    pub name: String,
}

impl Image {
    /// Imports the image into containerd, in the place of a pull.
    pub(super) fn import(&self, node: &Namespaces, ctr: &Path) -> Result<()> {
        let (ctr, archive) = (ctr.to_string_lossy(), self.archive.to_string_lossy());
        let import = [&*ctr, "--namespace=k8s.io", "images", "import", "--local"];
        // The base name skips the name that the archive contains.
        node.run(&[&import, &["--base-name", &self.name, "--index-name", &self.name, &archive][..]].concat())?;
        Ok(())
    }
}
