//! Alerts and the dashboard query existing metrics, and link to existing pages.

use std::collections::BTreeSet;

use roster_harness::project_root;
use serde_json::Value;

use crate::support::shared;

/// Metrics of kube-apiserver that alerts may query.
const FOREIGN: &[&str] = &["aggregator_unavailable_apiservice"];

fn read(path: &str) -> String {
    std::fs::read_to_string(project_root().join(path)).unwrap()
}

/// Returns the metrics that the operator exposes, and the queried ones that kube-apiserver exposes.
fn exposed() -> BTreeSet<String> {
    let mut series = BTreeSet::new();
    let own = shared().operators()[0].probe("/metrics").unwrap();
    let foreign = shared().kubectl(&["get", "--raw", "/metrics"]);
    for line in own.lines().chain(foreign.lines()).filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffixes: &[&str] = match kind {
            "counter" if name.ends_with("_total") => &[""],
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        series.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    series
}

/// Returns the names of metrics in a query.
fn metrics(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("roster_") || FOREIGN.contains(word))
}

fn alerts() -> Vec<Value> {
    let file: Value = serde_yaml::from_str(&read("charts/roster/files/alerts.yaml")).unwrap();
    file["groups"][0]["rules"].as_array().unwrap().clone()
}

#[test]
fn every_queried_metric_is_exposed() {
    let exposed = exposed();
    let dashboard: Value = serde_json::from_str(&read("charts/roster/files/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    let queries = queries.chain(alerts().into_iter().map(|alert| alert["expr"].as_str().unwrap().to_owned()));
    let mut asked_for = BTreeSet::new();
    for query in queries {
        assert!(metrics(&query).next().is_some(), "{query} contains no metric");
        for metric in metrics(&query) {
            assert!(exposed.contains(metric), "{query}: {metric} is not among {exposed:#?}");
            asked_for.insert(metric.to_owned());
        }
    }
    // Every metric is on the dashboard or in an alert.
    let unseen: Vec<&String> = exposed
        .iter()
        .filter(|name| name.starts_with("roster_"))
        .map(|name| (name, ["_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix))))
        .filter(|(name, family)| {
            let name = family.map_or_else(|| (*name).clone(), |family| format!("{family}_bucket"));
            !asked_for.contains(&name)
        })
        .map(|(name, _)| name)
        .collect();
    assert!(unseen.is_empty(), "neither an alert nor the dashboard queries {unseen:?}");
}

#[test]
fn every_metric_is_in_the_page_on_operations() {
    let page = read("docs/reference/operations.md");
    for name in exposed().iter().filter(|name| name.starts_with("roster_")) {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        assert!(page.contains(&format!("`{family}")), "docs/reference/operations.md does not list {family}");
    }
}

/// Returns the anchor of a Markdown heading, as on GitHub.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_alert_says_what_to_do() {
    let page = read("docs/how-to/troubleshooting.md");
    let anchors: BTreeSet<String> = page.lines().filter(|line| line.starts_with("##")).map(anchor).collect();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let runbook = alert["annotations"]["runbook_url"].as_str().unwrap();
        let at = runbook.strip_prefix("docs/how-to/troubleshooting.md#").unwrap_or_else(|| panic!("{name}: {runbook}"));
        assert!(anchors.contains(at), "{name}: {runbook} is not among {anchors:#?}");
        assert!(matches!(alert["labels"]["severity"].as_str(), Some("critical" | "warning")), "{name}");
        assert!(page.contains(name), "docs/how-to/troubleshooting.md does not mention {name}");
    }
}
