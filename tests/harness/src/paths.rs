//! Where things are.

use std::path::PathBuf;

/// The project's root folder: the one that this process works in, or lies in. (Where it was built is no answer: two
/// checkouts may share a target folder.)
///
/// # Panics
/// If the process runs outside of the project.
pub fn project_root() -> PathBuf {
    let here = std::env::current_dir().expect("there is a working directory");
    let root = here.ancestors().find(|folder| folder.join("controlplane/build.sh").is_file());
    root.expect("run this inside the project").to_owned()
}

/// The operator under test: `ROSTER_TEST_BINARY`, or else the one that cargo built beside the tests. `make test` names the
/// release build, which is what ships, while the tests themselves are compiled quickly.
pub fn operator_under_test(built: &str) -> PathBuf {
    std::env::var_os("ROSTER_TEST_BINARY").map_or_else(|| PathBuf::from(built), PathBuf::from)
}

/// The folder for what a run leaves behind.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project_root().join("target"), PathBuf::from)
}
