//! `roster crds`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::api::crd;

/// Flags of `roster crds`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Write one file a CRD to this folder.
    #[arg(long, value_name = "FOLDER", conflicts_with = "check")]
    write: Option<PathBuf>,

    /// Compare the files in this folder with the types, and fail where they differ.
    #[arg(long, value_name = "FOLDER")]
    check: Option<PathBuf>,
}

pub(super) fn execute(args: &Args) -> Result<()> {
    for definition in crd::all() {
        let (name, content) = crd::file(&definition)?;
        if let Some(folder) = &args.write {
            let path = folder.join(name);
            std::fs::write(&path, content).with_context(|| path.display().to_string())?;
        } else if let Some(folder) = &args.check {
            let path = folder.join(name);
            let written = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            if written != content {
                bail!("{} differs from the types in src/api: run `make generate`", path.display());
            }
        } else {
            print!("{content}");
        }
    }
    Ok(())
}
