//! The command-line program.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use roster_credentials::hash::{Memory, PasswordHash};
use roster_harness::project_root;

use crate::support::binary;

fn run(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(binary())
        .args(args)
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that rejects its arguments does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn refusal(args: &[&str], input: &[u8]) -> String {
    let output = run(args, input);
    assert!(!output.status.success() && output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn hash_password_reads_standard_input_and_prints_a_hash_that_verifies() {
    for input in ["correct horse", "correct horse\n", "correct horse\r\n"] {
        let output = run(&["hash-password"], input.as_bytes());
        assert!(output.status.success() && output.stderr.is_empty());
        let text = String::from_utf8(output.stdout).unwrap();
        let hash = PasswordHash::parse(text.trim()).unwrap();
        assert!(hash.verify("correct horse", &mut Memory::default()));
    }
}

#[test]
fn hash_password_refuses_passwords_that_cannot_be_typed() {
    assert!(refusal(&["hash-password"], b"").contains("is empty"));
    assert!(refusal(&["hash-password"], b"two\nlines\n").contains("control character"));
    assert!(refusal(&["hash-password"], b"\xff\xfe").contains("UTF-8"));
    assert!(refusal(&["hash-password"], &[b'x'; 5000]).contains("longer than 1024 bytes"));
    assert!(refusal(&["hash-password", "--memory-kib", "8"], b"x").contains("at least memory 19456"));
}

#[test]
fn crds_in_the_repository_match_the_types() {
    let crds = project_root().join("crds");
    let output = run(&["crds", "--check", crds.to_str().unwrap()], b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let elsewhere = tempfile::tempdir().unwrap();
    let folder = elsewhere.path().to_str().unwrap();
    assert!(run(&["crds", "--write", folder], b"").status.success());
    std::fs::write(elsewhere.path().join("roster.dev_users.yaml"), "edited by hand").unwrap();
    assert!(refusal(&["crds", "--check", folder], b"").contains("run `make generate`"));
}

#[test]
fn reference_pages_in_the_repository_match_the_types() {
    let pages = project_root().join("docs/reference/api");
    let output = run(&["reference", "--check", pages.to_str().unwrap()], b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let elsewhere = tempfile::tempdir().unwrap();
    let folder = elsewhere.path().to_str().unwrap();
    assert!(run(&["reference", "--write", folder], b"").status.success());
    let written = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(written, std::fs::read_dir(pages).unwrap().count(), "no page is left over");
    std::fs::write(elsewhere.path().join("users.md"), "edited by hand").unwrap();
    assert!(refusal(&["reference", "--check", folder], b"").contains("run `make generate`"));
}

#[test]
fn run_refuses_invalid_flags_before_it_starts() {
    assert!(refusal(&["run", "--retry-period", "1h"], b"").contains("--retry-period must be shorter"));
    assert!(refusal(&["run", "--log", "a=b=c"], b"").contains("--log"));
    let error = refusal(&["run", "--listen", "127.0.0.1:0", "--probe-listen", "127.0.0.1:0"], b"");
    assert!(error.contains("no access to a cluster"), "{error}");
}

/// Imports standard input into a new folder. Returns whether it succeeded, and both outputs.
fn import(format: &str, flags: &[&str], input: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let args = ["import", "--from", format, "-", "--write", folder.path().to_str().unwrap()];
    let output = run(&[&args[..], flags].concat(), input.as_bytes());
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.success(), said)
}

#[test]
fn case_a9_an_import_without_users_and_groups_fails_whatever_is_allowed() {
    let formats = [
        "csv",
        "json",
        "yaml",
        "ldif",
        "htpasswd",
        "openstack",
        "kubesphere",
        "rancher",
        "passwd",
        "keycloak",
        "openshift",
        "deckhouse",
        "dex",
    ];
    for format in formats {
        for input in ["", "\u{feff}", "The quick brown fox.\n"] {
            for flags in [&[][..], &["--allow-rejected"]] {
                let (is_fine, said) = import(format, flags, input);
                assert!(
                    !is_fine && said.contains("0 written, 0 unchanged") && said.contains("-:1: "),
                    "{format}: {said}"
                );
            }
        }
    }
    let (is_fine, said) = import("htpasswd", &["--allow-rejected"], "ada\n");
    assert!(!is_fine, "{said}");
}

#[test]
fn case_a13_and_a14_have_flags() {
    let rows = "username^hat size\nada^56\n";
    let (is_fine, said) = import("csv", &["--delimiter", "^", "--ignore-unknown-columns"], rows);
    assert!(is_fine && said.contains("1 written"), "{said}");
    let (is_fine, said) = import("csv", &["--delimiter", "tab"], "username\tzone\nada\teu\n");
    assert!(is_fine && said.contains("1 written"), "{said}");
    for delimiter in ["", "ab", "\"", "é"] {
        let (is_fine, said) = import("csv", &["--delimiter", delimiter], rows);
        assert!(!is_fine && said.contains("must be one ASCII character"), "{said}");
    }
    for flag in [&["--delimiter", ";"][..], &["--ignore-unknown-columns"], &["--map", "a=b"]] {
        let (is_fine, said) = import("htpasswd", flag, "ada:x\n");
        assert!(!is_fine && said.contains("requires --from csv"), "{said}");
    }
}
