//! Reference page of the aggregated API, from its OpenAPI document.

use roster_api::directory::API_VERSION;
use serde_json::Value;

use super::fields::Schemas;
use super::markdown::{code, head, table};

/// Fields that are documented on the pages of the custom resources: kind, field and page.
const DOCUMENTED_ELSEWHERE: &[(&str, &str, &str)] =
    &[("User", "spec", "users.md"), ("Group", "spec", "groups.md"), ("Group", "status", "groups.md")];

const METHODS: &[&str] = &["get", "post", "patch", "delete"];

pub(super) fn page(document: &Value) -> String {
    let parts = [
        head("Directory API"),
        format!("\n`{API_VERSION}`. Paths are below `/apis/{API_VERSION}`; for their use, see\n"),
        "[the directory](../../how-to/directory.md) and [logins](../../how-to/logins.md).\n\n## Paths\n\n".to_owned(),
        paths(document),
        "\n## Parameters\n".to_owned(),
        parameters(document),
        "\n## Kinds\n\n`metadata` is the standard ObjectMeta of Kubernetes. Lists have `items`. Lists that accept queries also have\n\
         `total`, `page`, `limit` and `pages`.\n"
            .to_owned(),
        kinds(document),
    ];
    parts.concat()
}

/// Returns each operation with its path below the API's base path.
fn operations(document: &Value) -> Vec<(String, &'static str, &Value)> {
    let base = format!("/apis/{API_VERSION}/");
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .flat_map(|(path, item)| {
            let path = path.trim_start_matches(base.as_str()).to_owned();
            METHODS.iter().filter_map(move |method| Some((path.clone(), *method, item.get(*method)?)))
        })
        .collect()
}

fn paths(document: &Value) -> String {
    let row = |(path, _, operation): (String, &str, &Value)| {
        let text = |key: &str| operation[key].as_str().unwrap_or_default();
        let answers = answer(operation).unwrap_or_default();
        vec![code(&path), text("x-kubernetes-action").to_owned(), code(answers), text("description").to_owned()]
    };
    let rows: Vec<Vec<String>> = operations(document).into_iter().map(row).collect();
    table(&["path", "verb", "response", "description"], &rows)
}

/// Returns the kind of an operation's response.
fn answer(operation: &Value) -> Option<&str> {
    let mut answers = operation["responses"].as_object()?.values();
    answers.find_map(|answer| answer["content"]["application/json"]["schema"]["$ref"].as_str()?.rsplit('.').next())
}

/// Documents each set of parameters once, for all operations that have the same set.
fn parameters(document: &Value) -> String {
    let mut sets: Vec<(&Value, Vec<String>)> = Vec::new();
    for (path, _, operation) in operations(document) {
        let parameters = &operation["parameters"];
        if parameters.is_null() {
            continue;
        }
        let what = format!("{} of `{path}`", operation["x-kubernetes-action"].as_str().unwrap_or_default());
        match sets.iter_mut().find(|(set, _)| *set == parameters) {
            Some((_, users)) => users.push(what),
            None => sets.push((parameters, vec![what])),
        }
    }
    let section = |(set, users): (&Value, Vec<String>)| {
        let row = |parameter: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            vec![code(&text(&parameter["name"])), text(&parameter["schema"]["type"]), text(&parameter["description"])]
        };
        let rows: Vec<Vec<String>> = set.as_array().into_iter().flatten().map(row).collect();
        format!("\nParameters of {}:\n\n{}", users.join(", "), table(&["parameter", "type", "description"], &rows))
    };
    sets.into_iter().map(section).collect()
}

fn kinds(document: &Value) -> String {
    let named = &document["components"]["schemas"];
    let schemas = Schemas { named };
    let mut parts = Vec::new();
    let of_group = named.as_object().into_iter().flatten();
    for (name, schema) in of_group.filter(|(_, schema)| schema["x-kubernetes-group-version-kind"].is_array()) {
        let kind = name.rsplit('.').next().unwrap_or_default();
        if kind.ends_with("List") {
            continue;
        }
        parts.push(format!("\n### {kind}\n\n{}\n", schema["description"].as_str().unwrap_or_default()));
        for (part, inner) in schema["properties"].as_object().into_iter().flatten() {
            if ["apiVersion", "kind", "metadata"].contains(&part.as_str()) {
                continue;
            }
            let elsewhere = DOCUMENTED_ELSEWHERE.iter().find(|(of, name, _)| *of == kind && name == part);
            parts.push(match elsewhere {
                Some((.., page)) => format!("\n`{part}`: see [the custom resource]({page}#{part}).\n"),
                None => format!("\n{}", schemas.table(part, inner)),
            });
        }
    }
    parts.concat()
}
