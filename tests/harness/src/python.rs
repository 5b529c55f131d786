//! Python with packages, for interoperability tests of the API, hashes and tokens.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::paths::{project_root, target_dir};

/// Returns the path of a Python with the packages of `tests/requirements.txt`, in a virtual environment under the
/// target folder. The first call creates it.
///
/// # Errors
/// If there is no Python 3 with venv, or PyPI can't be reached.
pub fn python_with_packages() -> Result<PathBuf> {
    let requirements = project_root().join("tests/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)?;
    let dir = target_dir().join("python");
    std::fs::create_dir_all(target_dir())?;
    // Tests that run at the same time wait for the first one.
    let lock = File::create(target_dir().join("python.lock"))?;
    lock.lock()?;
    let (python, installed) = (dir.join("bin/python"), dir.join("installed.txt"));
    if std::fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    let advice = "install Python 3 with venv (Debian: apt-get install python3-venv)";
    run(Path::new("python3"), &["-m", "venv", "--clear", &dir.to_string_lossy()]).context(advice)?;
    run(&python, &["-m", "pip", "install", "--quiet", "--requirement", &requirements.to_string_lossy()])?;
    std::fs::write(installed, wanted)?;
    Ok(python)
}

fn run(program: &Path, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {}: {}", program.display(), args.join(" "), said.trim());
    Ok(())
}
