//! Paths of the project, of the operator under test, and of test output.

use std::path::PathBuf;

/// Returns the root folder of the project that contains the working directory. (The path at build time may be wrong:
/// two checkouts can share a target folder.)
///
/// # Panics
/// If the process runs outside of the project.
pub fn project_root() -> PathBuf {
    let here = std::env::current_dir().expect("there is a working directory");
    let root = here.ancestors().find(|folder| folder.join("controlplane/build.sh").is_file());
    root.expect("run this inside the project").to_owned()
}

/// Returns the operator under test: `ROSTER_TEST_BINARY`, or else the one that cargo built with the tests. `make
/// test` sets it to the release build, which is what ships.
pub fn operator_under_test(built: &str) -> PathBuf {
    std::env::var_os("ROSTER_TEST_BINARY").map_or_else(|| PathBuf::from(built), PathBuf::from)
}

/// Returns the folder for test output.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project_root().join("target"), PathBuf::from)
}
