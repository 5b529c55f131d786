use kube::CustomResourceExt;
use roster_api::{Group, User};
use rstest::rstest;

use super::*;

/// Returns what is made up at 2026-01-01T00:10:00Z.
fn made_up_at_ten<'a>(old: Option<&'a User>, new: &'a User) -> Option<&'a str> {
    made_up(old, new, "2026-01-01T00:10:00Z".parse().unwrap())
}

/// A User with this spec and these annotations. The entries are `[manager, operation, minute, fieldsV1]`.
fn user(spec: &Value, annotations: &Value, entries: &Value) -> User {
    let entry = |entry: &Value| {
        json!({
            "manager": entry[0], "operation": entry[1], "apiVersion": "roster.dev/v1alpha1", "fieldsType": "FieldsV1",
            "time": format!("2026-01-01T00:{:02}:00Z", entry[2].as_u64().unwrap()), "fieldsV1": entry[3],
        })
    };
    let entries: Vec<Value> = entries.as_array().unwrap().iter().map(entry).collect();
    let metadata =
        json!({"name": "jane", "generation": entries.len(), "annotations": annotations, "managedFields": entries});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// `kubectl` owns `spec.groups` and the annotation `a`.
fn before() -> User {
    let owned = json!({"f:spec": {"f:groups": {}}, "f:metadata": {"f:annotations": {".": {}, "f:a": {}}}});
    user(&json!({"groups": ["x"]}), &json!({"a": "1"}), &json!([["kubectl", "Update", 1, owned]]))
}

fn annotated(value: &str, own: &Value, more: &[Value]) -> User {
    let owned = json!({"f:spec": {"f:groups": {}}, "f:metadata": {"f:annotations": {".": {}}}});
    let entries: Vec<Value> = [&[json!(["kubectl", "Update", 1, owned]), own.clone()], more].concat();
    user(&json!({"groups": ["x"]}), &json!({"a": value}), &entries.into())
}

fn own(minute: u64) -> Value {
    json!(["own", "Update", minute, {"f:metadata": {"f:annotations": {"f:a": {}}}}])
}

#[rstest]
#[case::only_the_writer(json!([]), None)]
#[case::of_a_field_that_stays(json!([["x", "Update", 59, {"f:spec": {"f:groups": {}}}]]), Some("x"))]
#[case::of_nothing(json!([["x", "Update", 59, {}]]), Some("x"))]
#[case::of_a_missing_field(json!([["x", "Update", 59, {"f:spec": {"f:state": {}}}]]), Some("x"))]
#[case::of_all_annotations(json!([["x", "Update", 59, {"f:metadata": {"f:annotations": {}}}]]), Some("x"))]
#[case::of_the_map_itself(json!([["x", "Update", 59, {"f:metadata": {"f:annotations": {".": {}}}}]]), Some("x"))]
#[case::of_all_metadata(json!([["x", "Update", 59, {"f:metadata": {}}]]), Some("x"))]
#[case::of_what_every_write_changes(json!([["x", "Update", 59, {"f:metadata": {"f:generation": {}}}]]), Some("x"))]
#[case::an_apply(json!([["x", "Apply", 59, {"f:spec": {"f:groups": {}}}]]), None)]
#[case::in_the_past(json!([["x", "Update", 1, {"f:spec": {"f:groups": {}}}]]), Some("x"))]
#[case::of_any_element_of_a_list(json!([["x", "Update", 59, {"f:metadata": {"f:ownerReferences": {"k:{}": {}}}}]]), Some("x"))]
fn a_new_manager_owns_what_the_write_changes(#[case] more: Value, #[case] expected: Option<&str>) {
    let after = annotated("2", &own(2), more.as_array().unwrap());
    assert_eq!(made_up_at_ten(Some(&before()), &after), expected);
}

#[test]
fn merged_managers_have_the_time_of_one_that_is_gone() {
    let (groups, language) = (json!({"f:spec": {"f:groups": {}}}), json!({"f:spec": {"f:language": {}}}));
    let applied = json!(["tool", "Apply", 59, language]);
    let with = |entries: Value| user(&json!({"groups": ["x"]}), &json!({"a": "2"}), &entries);
    let old = with(json!([["one", "Update", 1, groups], ["two", "Update", 2, language], applied]));
    let merged = |minute: u64| with(json!([["ancient-changes", "Update", minute, groups], applied]));
    assert_eq!(made_up_at_ten(Some(&old), &merged(2)), None);
    assert_eq!(made_up_at_ten(Some(&old), &merged(59)), Some("ancient-changes"), "the time of one that applies");
    let both = with(json!([["two", "Update", 2, language], ["ancient-changes", "Update", 2, groups], own(3)]));
    assert_eq!(made_up_at_ten(Some(&old), &both), Some("ancient-changes"), "two is not gone");
    let mut of_status = with(json!([["ancient-changes", "Update", 2, groups], own(3)]));
    of_status.metadata.managed_fields.as_mut().unwrap()[0].subresource = Some("status".to_owned());
    assert_eq!(made_up_at_ten(Some(&old), &of_status), Some("ancient-changes"));
}

#[test]
fn one_entry_may_own_no_visible_change_if_its_time_is_possible() {
    let with = |value, minute| annotated(value, &own(minute), &[]);
    assert_eq!(made_up_at_ten(Some(&with("1", 2)), &with("2", 30)), None, "a visible change");
    assert_eq!(made_up_at_ten(Some(&with("1", 2)), &with("1", 2)), None);
    assert_eq!(made_up_at_ten(Some(&with("1", 2)), &with("1", 10)), None, "such as an empty list that was absent");
    assert_eq!(made_up_at_ten(Some(&with("1", 2)), &with("1", 11)), Some("own"), "in the future");
    assert_eq!(made_up_at_ten(Some(&with("1", 2)), &with("1", 1)), Some("own"), "an earlier one");
    let two = annotated("1", &own(3), &[json!(["x", "Update", 3, {"f:spec": {"f:groups": {}}}])]);
    assert!(made_up_at_ten(Some(&with("1", 2)), &two).is_some(), "kube-apiserver writes one");
}

#[test]
fn objects_with_one_owner_count_as_a_whole() {
    let quota = |pods: &str| json!({"quota": {"hard": {"pods": pods}}});
    let entry = |fields: Value| json!([["x", "Update", 29, {"f:spec": fields}]]);
    let (old, all, own) = (
        user(&quota("1"), &json!({}), &json!([])),
        user(&quota("2"), &json!({}), &entry(json!({"f:quota": {}}))),
        user(&quota("2"), &json!({}), &entry(json!({"f:quota": {"f:hard": {"f:pods": {}}}}))),
    );
    assert_eq!((made_up_at_ten(Some(&old), &all), made_up_at_ten(Some(&old), &own)), (Some("x"), None));
    let until = |year: u16| json!({"validity": {"notAfter": format!("{year}-01-01T00:00:00Z")}});
    let (old, new) =
        (user(&until(2090), &json!({}), &json!([])), user(&until(2080), &json!({}), &entry(json!({"f:validity": {}}))));
    assert_eq!(made_up_at_ten(Some(&old), &new), None);
}

#[test]
fn elements_of_lists_count_by_their_key() {
    let owned = |name: &str, key: &str| {
        let entries = json!([["x", "Update", 29, {"f:metadata": {"f:ownerReferences": {".": {}, key: {}}}}]]);
        let mut user = user(&json!({}), &json!({}), &entries);
        let owner = json!([{"apiVersion": "v1", "kind": "Namespace", "name": name, "uid": "u"}]);
        user.metadata.owner_references = serde_json::from_value(owner).unwrap();
        user
    };
    let mut old = owned("a", "");
    old.metadata.managed_fields = None;
    assert_eq!(made_up_at_ten(Some(&old), &owned("b", r#"k:{"uid":"u"}"#)), None, "it has one owner");
    old.metadata.owner_references = owned("b", "").metadata.owner_references;
    assert_eq!(made_up_at_ten(Some(&old), &owned("b", r#"k:{"uid":"u"}"#)), Some("x"));
    old.metadata.owner_references = None;
    assert_eq!(made_up_at_ten(Some(&old), &owned("b", r#"k:{"uid":"u"}"#)), None);
}

#[test]
fn a_new_object_has_one_manager() {
    let with = |entries: Value| {
        made_up_at_ten(None, &user(&json!({"groups": ["x"]}), &json!({}), &entries)).map(str::to_owned)
    };
    let entry = |name: &str, operation: &str| json!([name, operation, 1, {"f:spec": {"f:groups": {}}}]);
    assert_eq!(with(json!([entry("a", "Update")])), None);
    assert_eq!(with(json!([entry("a", "Apply"), entry("b", "Update")])), None);
    assert_eq!(with(json!([entry("a", "Update"), entry("b", "Update")])), Some("b".to_owned()));
}

/// The names in [`ATOMIC`] are those in the schema.
#[test]
fn objects_with_one_owner_are_those_of_the_schema() {
    let crds = [User::crd(), Group::crd()].map(|crd| serde_json::to_value(crd).unwrap());
    let mut atomic: Vec<String> = Vec::new();
    for crd in &crds {
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        let is_atomic = |(_, schema): &(&String, &Value)| schema["x-kubernetes-map-type"] == "atomic";
        atomic.extend(spec.as_object().unwrap().iter().filter(is_atomic).map(|(name, _)| name.clone()));
    }
    atomic.sort();
    assert_eq!(atomic, ATOMIC);
}
