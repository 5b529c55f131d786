//! What catalogues and people read about the chart: `Chart.yaml`, its README, and the table of its values.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use roster_api::crd;
use roster_harness::project_root;
use serde_json::{Value, json};

use crate::support::shared;

/// Pages that `charts/generate` writes.
const PAGES: [&str; 2] = ["charts/roster/README.md", "docs/reference/values.md"];

fn read(path: &str) -> String {
    std::fs::read_to_string(project_root().join(path)).unwrap()
}

fn metadata() -> Value {
    serde_yaml::from_str(&read("charts/roster/Chart.yaml")).unwrap()
}

/// Returns the annotation `artifacthub.io/{name}`, which contains YAML.
fn annotation(name: &str) -> Vec<Value> {
    let metadata = metadata();
    let text = metadata["annotations"][format!("artifacthub.io/{name}")].as_str().unwrap_or_else(|| panic!("{name}"));
    serde_yaml::from_str(text).unwrap()
}

#[test]
fn generated_pages_are_up_to_date() {
    let output = Command::new(project_root().join("charts/generate")).arg("--check").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "run `make generate`:\n{}", String::from_utf8_lossy(&said));
}

/// helm-docs leaves the description empty if it cannot read a comment, for example because it contains `--` after a space
/// in its first line.
#[test]
fn every_value_has_a_description() {
    for page in PAGES {
        let text = read(page);
        let rows: Vec<&str> =
            text.lines().filter(|line| line.starts_with("| ") && !line.contains("| Type |")).collect();
        assert!(rows.len() > 30, "{page}");
        let silent: Vec<&&str> = rows.iter().filter(|row| row.ends_with("|  |")).collect();
        assert!(silent.is_empty(), "{page}: {silent:#?}");
    }
}

/// A test runs the commands of the page on installing.
#[test]
fn the_readme_has_the_commands_of_the_page_on_installing() {
    let (readme, page) = (read("charts/roster/README.md"), read("docs/how-to/install.md"));
    let blocks = readme.split("```").skip(1).step_by(2).map(|block| block.strip_prefix("sh\n").unwrap());
    let commands: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert!(commands.len() > 4, "{commands:?}");
    for command in commands {
        assert!(page.contains(command), "{command} is not in docs/how-to/install.md");
    }
}

#[test]
fn the_icon_is_the_logo() {
    let logo = std::fs::read(project_root().join("docs/logo.svg")).unwrap();
    let icon = metadata()["icon"].as_str().unwrap().to_owned();
    assert_eq!(icon, format!("data:image/svg+xml;base64,{}", STANDARD.encode(logo)));
    assert!(icon.len() < 2048, "it is stored in every index of charts, and in every release");
}

#[test]
fn annotations_list_the_image_and_every_crd() {
    let version = metadata()["appVersion"].as_str().unwrap().to_owned();
    let defaults: Value = serde_yaml::from_str(&read("charts/roster/values.yaml")).unwrap();
    let image = format!("{}:{version}", defaults["image"]["repository"].as_str().unwrap());
    assert_eq!(annotation("images"), [json!({"name": "roster", "image": image, "whitelisted": true})]);

    let listed: BTreeMap<String, Value> =
        annotation("crds").into_iter().map(|crd| (crd["name"].as_str().unwrap().to_owned(), crd)).collect();
    let expected = crd::all().into_iter().map(|definition| {
        let definition = serde_json::to_value(definition).unwrap();
        let (spec, name) = (&definition["spec"], &definition["metadata"]["name"]);
        let version = &spec["versions"][0];
        let kind = &spec["names"]["kind"];
        let description = &version["schema"]["openAPIV3Schema"]["description"];
        let entry = json!({
            "name": name, "version": version["name"], "kind": kind, "displayName": kind, "description": description,
        });
        (name.as_str().unwrap().to_owned(), entry)
    });
    assert_eq!(listed, expected.collect());
    let files = std::fs::read_dir(project_root().join("charts/roster/crds")).unwrap().flatten();
    let files: BTreeSet<String> = files.map(|file| file.file_name().into_string().unwrap()).collect();
    assert_eq!(files, crd::all().iter().map(|definition| crd::file(definition).unwrap().0).collect());
}

#[test]
fn every_crd_has_an_example_that_the_cluster_accepts() {
    let examples = annotation("crdsExamples");
    let kinds = |objects: &[Value]| objects.iter().map(|object| object["kind"].to_string()).collect::<BTreeSet<_>>();
    assert_eq!(kinds(&examples), kinds(&annotation("crds")));
    for example in examples {
        let command = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        shared().plane.kubectl.run_with_input(&command, &example.to_string()).unwrap();
    }
}
