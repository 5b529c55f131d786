//! Workflows and issue forms, which only GitHub runs and shows.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

use roster_harness::assets::linters;
use roster_harness::{project_root, python_with_packages};
use rstest::rstest;

/// Returns the files in a folder of `.github`.
fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(project_root().join(".github").join(folder)).unwrap().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Runs actionlint, without linters of scripts that may be installed here and not elsewhere.
fn actionlint(workflows: impl IntoIterator<Item: AsRef<OsStr>>) -> Output {
    let mut command = Command::new(linters().unwrap().join("actionlint"));
    command.args(["-no-color", "-shellcheck=", "-pyflakes="]).args(workflows).current_dir(project_root());
    command.output().unwrap()
}

#[test]
fn workflows_are_valid() {
    let output = actionlint(files("workflows"));
    assert!(output.status.success(), "{}", said(&output));
    let folder = tempfile::tempdir().unwrap();
    let workflow = folder.path().join("broken.yaml");
    std::fs::write(&workflow, "on: push\njobs: {a: {runs-on: ubuntu-lates, steps: [{run: 'echo ${{ gitub.ref }}'}]}}")
        .unwrap();
    let said = said(&actionlint([workflow]));
    assert!(said.contains("ubuntu-lates") && said.contains("undefined variable \"gitub\""), "{said}");
}

/// Workflows may read the repository. Jobs that need more say so themselves.
#[test]
fn workflows_have_few_permissions_and_a_timeout() {
    for file in files("workflows") {
        let workflow: serde_yaml::Value = serde_yaml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let permissions = workflow["permissions"].as_mapping().unwrap_or_else(|| panic!("{}", file.display()));
        assert!(permissions.values().all(|access| access == "read"), "{}", file.display());
        let jobs = workflow["jobs"].as_mapping().unwrap();
        assert!(jobs.values().all(|job| job["timeout-minutes"].as_u64() <= Some(90)), "{}", file.display());
        assert!(jobs.values().all(|job| job["timeout-minutes"].is_u64()), "{}", file.display());
    }
}

fn check_schema(schema: &str, file: &OsStr) -> Output {
    let program = python_with_packages().unwrap().with_file_name("check-jsonschema");
    Command::new(program).args(["--builtin-schema", schema]).arg(file).output().unwrap()
}

#[rstest]
#[case("ISSUE_TEMPLATE/bug_report.yml", "vendor.github-issue-forms", "body:")]
#[case("ISSUE_TEMPLATE/feature_request.yml", "vendor.github-issue-forms", "body:")]
#[case("ISSUE_TEMPLATE/config.yml", "vendor.github-issue-config", "about:")]
#[case("actions/toolchains/action.yaml", "vendor.github-actions", "steps:")]
fn forms_and_actions_match_githubs_schemas(#[case] file: &str, #[case] schema: &str, #[case] required: &str) {
    let path = project_root().join(".github").join(file);
    let output = check_schema(schema, path.as_os_str());
    assert!(output.status.success(), "{}", said(&output));
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.yaml");
    std::fs::write(&broken, std::fs::read_to_string(path).unwrap().replace(required, "unknown:")).unwrap();
    assert!(!check_schema(schema, broken.as_os_str()).status.success(), "{file} passes without {required}");
}

#[test]
fn every_issue_form_is_checked() {
    let tests = include_str!("github.rs");
    for form in files("ISSUE_TEMPLATE") {
        let name = form.file_name().unwrap().to_string_lossy();
        assert!(tests.contains(&format!("#[case(\"ISSUE_TEMPLATE/{name}\"")), "{name} is not checked");
    }
}
