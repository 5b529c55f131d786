//! Prints, writes or checks generated files.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Flags of the commands that generate files.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Write the files to this folder.
    #[arg(long, value_name = "FOLDER", conflicts_with = "check")]
    write: Option<PathBuf>,

    /// Check that the files in this folder are up to date, and fail if they are not.
    #[arg(long, value_name = "FOLDER")]
    check: Option<PathBuf>,
}

impl Args {
    /// Prints, writes or checks one file.
    ///
    /// # Errors
    /// If the file can't be written or read, or differs.
    pub(super) fn put(&self, name: &str, content: &str) -> Result<()> {
        if let Some(folder) = &self.write {
            let path = folder.join(name);
            std::fs::write(&path, content).with_context(|| path.display().to_string())?;
        } else if let Some(folder) = &self.check {
            let path = folder.join(name);
            let written = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            if written != content {
                bail!("{} is not up to date: run `make generate`", path.display());
            }
        } else {
            print!("{content}");
        }
        Ok(())
    }
}
