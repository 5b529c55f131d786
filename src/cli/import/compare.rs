//! Decides without a request whether applying a manifest would change an object.
//!
//! An object stays as it is if this field manager owns exactly the fields of the manifest, and each has the manifest's
//! value. If in doubt, the manifest is applied, which costs a request but changes nothing.

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Map, Value, json};

use super::args::FIELD_MANAGER;

/// Returns whether applying `manifest` would leave `live` as it is.
pub(super) fn is_applied(manifest: &Value, live: &Value) -> bool {
    let Some(owned) = own(live) else { return false };
    let desired = content(manifest);
    owned.as_object().is_some_and(|owned| owns(owned, &Value::Object(desired), live))
}

/// Returns the fields that this field manager has applied, in the notation of managedFields. Entries of subresources are of
/// others: anyone who may write the status can use the name of this field manager there.
fn own(live: &Value) -> Option<&Value> {
    let managers = live["metadata"]["managedFields"].as_array().into_iter().flatten();
    let mut own = managers.filter(|entry| {
        let is_main = entry["subresource"].as_str().is_none_or(str::is_empty);
        entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply" && is_main
    });
    own.next().map(|entry| &entry["fieldsV1"])
}

/// Returns the fields of `spec` that this field manager has applied, in the notation of managedFields. Null if it has
/// never applied the object.
pub(super) fn owned(object: &DynamicObject) -> Value {
    let mut own = object.managed_fields().iter().filter(|entry| {
        let is_main = entry.subresource.as_deref().is_none_or(str::is_empty);
        let is_own = entry.manager.as_deref() == Some(FIELD_MANAGER);
        is_own && is_main && entry.operation.as_deref() == Some("Apply")
    });
    let fields = own.next().and_then(|entry| entry.fields_v1.as_ref());
    fields.map_or(Value::Null, |fields| fields.0.get("f:spec").cloned().unwrap_or_else(|| Map::new().into()))
}

/// Returns a manifest with everything that this field manager has applied to an object. Applying it with further fields sets
/// these and removes nothing, unlike a manifest with these fields alone.
pub(super) fn extracted(live: &Value) -> Value {
    let metadata = json!({"name": live["metadata"]["name"]});
    let mut manifest =
        json!({"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": metadata, "spec": {}});
    let owned = own(live).and_then(Value::as_object);
    for part in ["spec", "metadata"] {
        let Some(Value::Object(fields)) = owned.and_then(|owned| owned.get(&format!("f:{part}"))) else { continue };
        let found = owned_values(fields, &live[part]);
        manifest[part].as_object_mut().into_iter().for_each(|known| known.extend(found.clone()));
    }
    manifest
}

/// Returns the values of owned fields. A field without a list of its own fields is owned as a whole.
fn owned_values(owned: &Map<String, Value>, live: &Value) -> Map<String, Value> {
    let names = owned.iter().filter_map(|(key, owned)| Some((key.strip_prefix("f:")?, owned.as_object()?)));
    let value = |owned: &Map<String, Value>, live: &Value| match live {
        Value::Object(_) if owned.keys().any(|key| key.starts_with("f:")) => owned_values(owned, live).into(),
        live => live.clone(),
    };
    let values = names.filter_map(|(name, owned)| Some((name.to_owned(), value(owned, live.get(name)?))));
    values.collect()
}

/// Returns the fields that managedFields track: not apiVersion, kind, name and namespace.
fn content(manifest: &Value) -> Map<String, Value> {
    let mut content = manifest.as_object().cloned().unwrap_or_default();
    content.retain(|name, _| name != "apiVersion" && name != "kind");
    let metadata = content.get_mut("metadata").and_then(Value::as_object_mut);
    let is_empty = metadata.is_some_and(|metadata| {
        metadata.retain(|name, _| name != "name" && name != "namespace");
        metadata.is_empty()
    });
    if is_empty {
        content.remove("metadata");
    }
    content
}

fn owns(owned: &Map<String, Value>, desired: &Value, live: &Value) -> bool {
    let keys: Vec<&String> = owned.keys().filter(|key| *key != ".").collect();
    match desired {
        // Owned as a whole. An empty object only has to exist.
        _ if keys.is_empty() => desired == live || (desired.as_object().is_some_and(Map::is_empty) && live.is_object()),
        Value::Object(fields) => {
            keys.len() == fields.len()
                && fields.iter().all(|(name, value)| {
                    let owned = owned.get(&format!("f:{name}")).and_then(Value::as_object);
                    owned.is_some_and(|owned| owns(owned, value, &live[name]))
                })
        }
        // Lists are atomic. Objects that an earlier version applied may have managedFields with an entry for each item.
        Value::Array(_) => desired == live,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(spec: &Value, owned: &Value) -> Value {
        let managers = json!([
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:zone": {}}}},
            {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": owned}},
        ]);
        json!({"metadata": {"name": "ada", "managedFields": managers}, "spec": spec})
    }

    fn manifest(spec: &Value) -> Value {
        json!({"apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {"name": "ada"}, "spec": spec})
    }

    #[test]
    fn an_object_with_the_manifests_fields_and_values_is_applied() {
        let spec = json!({
            "email": "ada@example.com", "groups": ["a"], "domain": "default", "zone": "eu", "extra": {"x": ["1", "2"]},
            "identities": [{"type": "ldap", "id": "1"}, {"type": "oidc", "id": "2"}],
        });
        let owned = json!({
            "f:email": {}, "f:groups": {}, "f:extra": {"f:x": {}},
            // As an earlier version wrote it.
            "f:identities": {
                "k:{\"id\":\"1\",\"type\":\"ldap\"}": {".": {}, "f:id": {}, "f:type": {}},
                "k:{\"id\":\"2\",\"type\":\"oidc\"}": {".": {}, "f:id": {}, "f:type": {}},
            },
        });
        let desired = json!({
            "email": "ada@example.com", "groups": ["a"], "extra": {"x": ["1", "2"]},
            "identities": [{"type": "ldap", "id": "1"}, {"type": "oidc", "id": "2"}],
        });
        assert!(is_applied(&manifest(&desired), &live(&spec, &owned)));
        for (field, value) in [
            ("email", json!("a@example.com")),
            ("groups", json!(["b"])),
            ("groups", json!(["a", "b"])),
            ("extra", json!({"x": ["1"]})),
            ("extra", json!({})),
            ("identities", json!([])),
            ("identities", json!([{"type": "ldap", "id": "1"}])),
            ("state", json!("Active")),
        ] {
            let mut other = desired.clone();
            other[field] = value;
            assert!(!is_applied(&manifest(&other), &live(&spec, &owned)), "{field}");
        }
        // A field that is no longer in the manifest must be removed.
        let mut fewer = desired;
        fewer.as_object_mut().unwrap().remove("email");
        assert!(!is_applied(&manifest(&fewer), &live(&spec, &owned)));
    }

    #[test]
    fn an_empty_spec_is_applied_if_it_was_applied_before() {
        let object = live(&json!({"domain": "default"}), &json!({}));
        assert!(is_applied(&manifest(&json!({})), &object));
        assert!(!is_applied(&manifest(&json!({"zone": "x"})), &object));
        assert!(!is_applied(&manifest(&json!({})), &json!({"metadata": {"name": "ada"}, "spec": {}})));
    }

    /// Anyone who may write the status can use the name of the field manager there.
    #[test]
    fn fields_of_subresources_do_not_count() {
        let status = json!({
            "manager": FIELD_MANAGER, "operation": "Apply", "subresource": "status", "fieldsV1": {"f:spec": {"f:email": {}}},
        });
        let (spec, desired) = (json!({"zone": "eu", "email": "a@example.com"}), manifest(&json!({"zone": "eu"})));
        let mut object = live(&spec, &json!({"f:zone": {}}));
        object["metadata"]["managedFields"].as_array_mut().unwrap().insert(0, status.clone());
        let typed = |object: &Value| serde_json::from_value::<DynamicObject>(object.clone()).unwrap();
        assert!(is_applied(&desired, &object));
        assert_eq!(owned(&typed(&object)), json!({"f:zone": {}}));
        assert_eq!(extracted(&object)["spec"], json!({"zone": "eu"}));
        object["metadata"]["managedFields"] = json!([status]);
        assert_eq!((owned(&typed(&object)), &extracted(&object)["spec"]), (Value::Null, &json!({})));
    }

    #[test]
    fn what_was_applied_can_be_applied_again_unchanged() {
        let spec = json!({
            "email": "ada@example.com", "zone": "eu", "groups": ["a"], "state": "Active", "passwordSecretRef": {"name": "x"},
            "validity": {"notBefore": "2030-01-01T00:00:00Z", "notAfter": "2031-01-01T00:00:00Z"},
        });
        let owned = json!({
            "f:email": {}, "f:groups": {}, "f:passwordSecretRef": {}, "f:validity": {".": {}, "f:notAfter": {}}, "f:gone": {},
        });
        let mut object = live(&spec, &owned);
        object["metadata"]["annotations"] = json!({"a": "1", "b": "2"});
        object["metadata"]["managedFields"][1]["fieldsV1"]["f:metadata"] =
            json!({"f:annotations": {".": {}, "f:a": {}}});
        let found = extracted(&object);
        let expected = json!({
            "email": "ada@example.com", "groups": ["a"], "passwordSecretRef": {"name": "x"},
            "validity": {"notAfter": "2031-01-01T00:00:00Z"},
        });
        assert_eq!(found["spec"], expected);
        assert_eq!(found["metadata"], json!({"name": "ada", "annotations": {"a": "1"}}));
        // Nothing was applied before, or nothing but an empty `spec`.
        assert_eq!(extracted(&live(&spec, &json!({})))["spec"], json!({}));
        assert_eq!(extracted(&json!({"metadata": {"name": "ada"}, "spec": spec}))["spec"], json!({}));
    }
}
