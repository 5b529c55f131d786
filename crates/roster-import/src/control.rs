//! Compares an existing User with its manifest: what applying the manifest would change in who controls the User.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jiff::Timestamp;
use kube::CustomResourceExt;
use roster_api::{User, UserSpec};
use roster_core::rbac::control::is_descriptive;
use serde_json::{Map, Value};

/// Fields that are checked for what they gain: membership of Groups, and administration.
const GAINS: [&str; 2] = ["groups", "admin"];

/// Returns the fields of `User.spec` that applying `manifest` would change, and that give someone control of the User
/// or make it more powerful. `owned` contains the fields that this field manager applied before, in the notation of
/// `managedFields`: those that the manifest no longer has are removed. `name` is the name of the User.
pub(super) fn changed(name: &str, live: &Value, manifest: &Value, owned: &Value) -> Vec<String> {
    let (before, after) = (normalized(name, live), normalized(name, &after(live, manifest, owned)));
    let fields: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let is_control = |field: &&String| !is_descriptive(field) && !GAINS.contains(&field.as_str());
    let is_changed = |field: &&String| before.get(*field) != after.get(*field) && !restricts(field, &before, &after);
    fields.into_iter().filter(is_control).filter(is_changed).cloned().collect()
}

/// Fields of `User.spec` with objects that server-side apply replaces as a whole.
static ATOMIC: LazyLock<Vec<String>> = LazyLock::new(|| {
    let crd = serde_json::to_value(User::crd()).unwrap_or_default();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let fields = spec.as_object().into_iter().flatten();
    fields.filter(|(_, field)| field["x-kubernetes-map-type"] == "atomic").map(|(name, _)| name.clone()).collect()
});

/// Returns the `spec` that applying `manifest` results in.
pub(super) fn after(live: &Value, manifest: &Value, owned: &Value) -> Value {
    let mut spec = applied(Some(live), Some(manifest), owned).unwrap_or_default();
    let Some(fields) = spec.as_object_mut() else { return spec };
    for field in &*ATOMIC {
        match manifest.get(field) {
            Some(value) => drop(fields.insert(field.clone(), value.clone())),
            None if owns(owned, field) => drop(fields.remove(field)),
            None => {}
        }
    }
    spec
}

/// Returns whether another field manager owns the field with another value than the manifest. The server then rejects the
/// manifest, unless it takes over fields. In maps, each key has an owner.
pub(super) fn conflicts(live: &Value, manifest: &Value, owned: &Value, field: &str) -> bool {
    let is_leaf = |value: &&Value| !value.is_object() || ATOMIC.iter().any(|atomic| atomic == field);
    let values = live.get(field).filter(is_leaf).zip(manifest.get(field));
    values.is_some_and(|(live, wanted)| live != wanted) && !owns(owned, field)
}

/// Returns whether `owned` contains a field of `spec`.
pub(super) fn owns(owned: &Value, field: &str) -> bool {
    owned.get(format!("f:{field}")).is_some()
}

/// Returns the value that server-side apply results in. It merges maps, and replaces everything else. Fields that
/// another manager owns as well would stay, but count as removed.
fn applied(live: Option<&Value>, manifest: Option<&Value>, owned: &Value) -> Option<Value> {
    let owned_keys = || owned.as_object().into_iter().flatten().filter_map(|(key, _)| key.strip_prefix("f:"));
    let mut fields = live.and_then(Value::as_object).cloned().unwrap_or_default();
    let wanted = match manifest {
        Some(Value::Object(wanted)) => Some(wanted),
        Some(value) => return Some(value.clone()),
        None if owned.is_null() => return live.cloned(),
        None if owned_keys().next().is_none() => return None,
        None => None,
    };
    let removed = owned_keys().filter(|key| wanted.is_none_or(|wanted| !wanted.contains_key(*key)));
    for key in removed {
        match applied(fields.get(key), None, &owned[format!("f:{key}")]) {
            Some(value) => fields.insert(key.to_owned(), value),
            None => fields.remove(key),
        };
    }
    for (key, value) in wanted.into_iter().flatten() {
        let value = applied(fields.get(key), Some(value), &owned[format!("f:{key}")]);
        fields.extend(value.map(|value| (key.clone(), value)));
    }
    (wanted.is_some() || !fields.is_empty()).then(|| fields.into())
}

/// Returns the fields of a `spec`, with default values in the same form whether or not they are declared.
fn normalized(name: &str, spec: &Value) -> Map<String, Value> {
    let declared = if spec.is_null() { Map::new().into() } else { spec.clone() };
    let parsed = serde_json::from_value::<UserSpec>(declared).and_then(serde_json::to_value);
    let mut fields = match parsed {
        Ok(Value::Object(fields)) => fields,
        // Every difference counts if the object cannot be read.
        _ => spec.as_object().cloned().unwrap_or_default(),
    };
    fields.entry("username").or_insert_with(|| name.into());
    fields
}

/// Returns whether a change of this field only restricts the User: sources must be able to disable people.
fn restricts(field: &str, before: &Map<String, Value>, after: &Map<String, Value>) -> bool {
    let is = |fields: &Map<String, Value>, state: &str| fields.get(field).is_some_and(|value| value == state);
    match field {
        "state" => is(after, "Banned") || is(after, "Disabled") && !is(before, "Banned"),
        "requirePasswordChange" => after.get(field).is_some_and(|value| value == true),
        "validity" => match (period(before.get(field)), period(after.get(field))) {
            (Some((begin, end)), Some((new_begin, new_end))) => begin <= new_begin && new_end <= end,
            _ => false,
        },
        _ => false,
    }
}

/// Returns the begin and end of a validity, or `None` if they cannot be read.
fn period(validity: Option<&Value>) -> Option<(Timestamp, Timestamp)> {
    let at = |field: &str, default: Timestamp| match validity.and_then(|validity| validity.get(field)) {
        None => Some(default),
        Some(at) => at.as_str()?.parse().ok(),
    };
    Some((at("notBefore", Timestamp::MIN)?, at("notAfter", Timestamp::MAX)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case(json!({}), json!({"email": "a@example.com"}), &["email"])]
    #[case(json!({"email": "a@example.com"}), json!({"email": "a@example.com", "displayName": "A", "zone": "eu"}), &[])]
    #[case(json!({}), json!({"identities": [{"type": "x", "id": "1"}], "connector": {"type": "x", "id": "x"}}), &["connector", "identities"])]
    #[case(json!({}), json!({"secondFactor": "Required", "allowedCIDRs": ["0.0.0.0/0"], "extra": {"a": ["b"]}}), &["allowedCIDRs", "extra", "secondFactor"])]
    #[case(json!({"state": "Disabled"}), json!({"state": "Active"}), &["state"])]
    #[case(json!({"state": "Banned"}), json!({"state": "Disabled"}), &["state"])]
    #[case(json!({"state": "Active"}), json!({"state": "Disabled"}), &[])]
    #[case(json!({}), json!({"state": "Active", "domain": "default"}), &[])]
    #[case(json!({}), json!({"requirePasswordChange": true}), &[])]
    #[case(json!({"requirePasswordChange": true}), json!({"requirePasswordChange": false}), &["requirePasswordChange"])]
    #[case(json!({}), json!({"validity": {"notAfter": "2030-01-01T00:00:00Z"}}), &[])]
    #[case(json!({"validity": {"notAfter": "2030-01-01T00:00:00Z"}}), json!({"validity": {"notAfter": "2031-01-01T00:00:00Z"}}), &["validity"])]
    #[case(json!({"validity": {"notBefore": "2030-01-01T00:00:00Z"}}), json!({"validity": {"notAfter": "2031-01-01T00:00:00Z"}}), &["validity"])]
    #[case(json!({"connector": {"type": "x", "id": "y"}}), json!({"connector": {"type": "x"}}), &["connector"])]
    #[case(json!({}), json!({"groups": ["a"], "admin": true}), &[])]
    fn fields_that_give_control_are_found(#[case] live: Value, #[case] manifest: Value, #[case] expected: &[&str]) {
        assert_eq!(changed("ada", &live, &manifest, &Value::Null), expected);
    }

    #[test]
    fn fields_that_an_import_removes_count() {
        let owned = json!({
            "f:state": {}, "f:validity": {"f:notAfter": {}}, "f:allowedCIDRs": {}, "f:zone": {}, "f:extra": {"f:a": {}},
        });
        let live = json!({
            "state": "Disabled", "validity": {"notAfter": "2030-01-01T00:00:00Z"}, "allowedCIDRs": ["192.0.2.0/24"],
            "zone": "eu", "extra": {"a": ["b"]}, "email": "a@example.com",
        });
        assert_eq!(changed("ada", &live, &json!({}), &owned), ["allowedCIDRs", "extra", "state", "validity"]);
        assert_eq!(changed("ada", &live, &json!({}), &Value::Null), [""; 0]);
        assert_eq!(changed("ada", &live, &live, &owned), [""; 0]);
    }

    #[test]
    fn every_field_counts_unless_it_is_descriptive() {
        let text = include_str!("../../roster-api/testdata/full_user_spec.json");
        let full: serde_json::Value = serde_json::from_str(text).unwrap();
        let mut expected: Vec<&String> = full.as_object().unwrap().keys().collect();
        expected.retain(|field| !is_descriptive(field) && !GAINS.contains(&field.as_str()));
        let mut found = changed("ada", &json!({}), &full, &Value::Null);
        assert!(!found.contains(&"state".to_owned()));
        found.extend(["requirePasswordChange", "state", "validity"].map(str::to_owned));
        found.sort();
        expected.sort();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    }
}
