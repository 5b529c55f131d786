//! A page for each custom resource, from the schema that kube-apiserver enforces.

use anyhow::{Context, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::fields::Schemas;
use super::markdown::{code, head};

pub(super) fn page(definition: &CustomResourceDefinition) -> Result<String> {
    let names = &definition.spec.names;
    let version = definition.spec.versions.first().context("a CRD has a version")?;
    let schema = serde_json::to_value(&version.schema)?;
    let schema = &schema["openAPIV3Schema"];
    let mut parts = vec![head(&names.kind)];
    parts.push(format!(
        "\n{}\n\n`{}/{}`, {}; `kubectl get {}.{}`",
        schema["description"].as_str().unwrap_or_default(),
        definition.spec.group,
        version.name,
        if definition.spec.scope == "Cluster" { "cluster-scoped" } else { "namespaced" },
        names.plural,
        definition.spec.group,
    ));
    let short: Vec<String> = names.short_names.iter().flatten().map(|name| code(name)).collect();
    parts.push(if short.is_empty() { ".\n".to_owned() } else { format!("; short name {}.\n", short.join(", ")) });
    let selectable = version.selectable_fields.iter().flatten();
    let selectable: Vec<String> = selectable.map(|field| code(field.json_path.trim_start_matches('.'))).collect();
    if !selectable.is_empty() {
        parts.push(format!("\nField selectors: {}.\n", selectable.join(", ")));
    }
    let schemas = Schemas { named: &Value::Null };
    for part in ["spec", "status"] {
        parts.push(format!("\n## {part}\n\n{}", schemas.table(part, &schema["properties"][part])));
    }
    Ok(parts.concat())
}
