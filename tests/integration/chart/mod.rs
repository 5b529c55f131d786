//! The chart: its metadata and values schema, what it renders, and what linters and kube-apiserver say about it.

mod lint;
mod metadata;
mod monitoring;
mod values;

use std::process::{Command, Output};

use roster_harness::project_root;
use serde_json::Value;

use crate::support::shared;

/// Values file that sets every value.
const EVERYTHING: &str = "tests/integration/chart/everything.yaml";

/// Runs helm without a cluster, for the minimum supported Kubernetes version.
fn helm(args: &[&str]) -> Output {
    let helm = &shared().plane.kubectl.assets.helm;
    let output = Command::new(helm).args(args).args(["--kube-version", "1.33"]).current_dir(project_root()).output();
    output.expect("helm runs")
}

/// Renders the chart with these additional arguments, as YAML.
fn rendered(args: &[&str]) -> String {
    let output = helm(&[&["template", "roster", "charts/roster", "--namespace", "roster-system"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("manifests are text")
}

/// Renders the chart as objects.
fn objects(args: &[&str]) -> Vec<Value> {
    let text = rendered(args);
    let documents = serde_yaml::Deserializer::from_str(&text);
    let values = documents.map(|document| serde::Deserialize::deserialize(document).expect("the output is YAML"));
    values.filter(|value: &Value| !value.is_null()).collect()
}

/// Returns the objects of a kind.
fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// The version of Kubernetes that helm assumes by default is set when helm is built. Otherwise helm assumes 1.20.
#[test]
fn helm_renders_the_chart_for_its_default_kubernetes_version() {
    let helm = &shared().plane.kubectl.assets.helm;
    let output = Command::new(helm).args(["template", "charts/roster"]).current_dir(project_root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
