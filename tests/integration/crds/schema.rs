//! What the schemas of the CRDs contain.

use roster_api::crd;
use serde_json::Value;

fn undescribed(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if property["description"].as_str().unwrap_or_default().is_empty() {
            found.push(path.clone());
        }
        undescribed(property, &path, found);
        undescribed(&property["items"], &path, found);
    }
}

/// Returns lists that server-side apply would merge item by item, so that items planted beforehand would stay.
fn mergeable(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        // A list without a type is atomic.
        if !matches!(property["x-kubernetes-list-type"].as_str(), None | Some("atomic")) {
            found.push(path.clone());
        }
        mergeable(property, &path, found);
        mergeable(&property["items"], &path, found);
    }
}

#[test]
fn every_list_of_a_spec_is_atomic() {
    for crd in crd::all() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let mut found = Vec::new();
        mergeable(&schema["openAPIV3Schema"]["properties"]["spec"], "spec", &mut found);
        assert!(found.is_empty(), "{}: {found:?}", crd.spec.names.kind);
    }
}

#[test]
fn every_field_has_a_description() {
    for crd in crd::all() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let mut found = Vec::new();
        for part in ["spec", "status"] {
            undescribed(&schema["openAPIV3Schema"]["properties"][part], part, &mut found);
        }
        assert!(found.is_empty(), "{}: {found:?}", crd.spec.names.kind);
    }
}
