//! Paths of the project.

use std::path::PathBuf;

/// Returns the project's root folder, found from the working directory or the executable. (Not from the build path: two
/// checkouts may share a target folder.)
///
/// # Panics
/// If the process runs outside of the project.
pub fn project_root() -> PathBuf {
    let here = std::env::current_dir().expect("there is a working directory");
    let root = here.ancestors().find(|folder| folder.join("controlplane/build.sh").is_file());
    root.expect("run this inside the project").to_owned()
}

/// Returns the operator under test: `ROSTER_TEST_BINARY`, or the one that cargo built with the tests. `make test`
/// sets the release build, which is what ships, while the tests themselves are compiled without optimization.
pub fn operator_under_test(built: &str) -> PathBuf {
    std::env::var_os("ROSTER_TEST_BINARY").map_or_else(|| PathBuf::from(built), PathBuf::from)
}

/// Returns the folder for files of test runs.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project_root().join("target"), PathBuf::from)
}
