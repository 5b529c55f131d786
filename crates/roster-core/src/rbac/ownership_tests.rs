use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use roster_api::User;
use rstest::rstest;
use serde_json::{Map, Value, json};

use super::*;

/// A User with this spec, these entries `[manager, operation, fieldsV1]`, and these annotations and labels.
fn user(spec: &Value, managed: &Value, annotations: &Value, labels: &Value) -> User {
    let object = json!({"metadata": {"name": "jane", "annotations": annotations, "labels": labels}, "spec": spec});
    let mut user: User = serde_json::from_value(object).unwrap();
    let entry = |entry: &Value| ManagedFieldsEntry {
        manager: entry[0].as_str().map(str::to_owned),
        operation: entry[1].as_str().map(str::to_owned),
        subresource: entry[3].as_str().map(str::to_owned),
        fields_v1: Some(FieldsV1(entry[2].clone())),
        ..ManagedFieldsEntry::default()
    };
    user.metadata.managed_fields = Some(managed.as_array().unwrap().iter().map(entry).collect());
    user
}

fn with_managers(managed: &Value) -> User {
    user(&json!({"state": "Banned", "displayName": "Jane"}), managed, &json!({}), &json!({"team": "a"}))
}

fn between<'a>(old: &'a User, new: &'a User) -> Ownership<'a> {
    Ownership::between(Some(&old.metadata), Some(&new.metadata))
}

fn changes(old: &User, new: &User) -> bool {
    between(old, new).changed_field(Some(old), Some(new), |field| field == "displayName").is_some()
}

#[rstest]
#[case::the_same(json!([["flux", "Apply", {"f:spec": {"f:groups": {}}}]]), false)]
#[case::reordered(json!([["x", "Update", {}], ["flux", "Apply", {"f:spec": {"f:groups": {}}}]]), false)]
#[case::a_ban(json!([["flux", "Apply", {"f:spec": {"f:groups": {}, "f:state": {}}}]]), true)]
#[case::below_a_field(json!([["flux", "Apply", {"f:spec": {"f:groups": {"f:x": {}}}}]]), true)]
#[case::a_descriptive_field(json!([["flux", "Apply", {"f:spec": {"f:groups": {}, "f:displayName": {}}}]]), false)]
#[case::the_map_itself(json!([["flux", "Apply", {"f:spec": {"f:groups": {}, ".": {}}}]]), false)]
#[case::a_label(json!([["flux", "Apply", {"f:spec": {"f:groups": {}}, "f:metadata": {"f:labels": {"f:team": {}}}}]]), true)]
#[case::an_annotation(json!([["flux", "Apply", {"f:spec": {"f:groups": {}}, "f:metadata": {"f:annotations": {"f:a": {}}}}]]), false)]
#[case::another_manager(json!([["flux", "Apply", {"f:spec": {"f:groups": {}}}], ["kubectl", "Update", {"f:spec": {"f:state": {}}}]]), true)]
#[case::merged(json!([["flux", "Apply", {"f:spec": {"f:groups": {}}}], ["ancient-changes", "Update", {"f:spec": {"f:state": {}}}]]), true)]
#[case::a_subresource(json!([["flux", "Apply", {"f:spec": {"f:groups": {}}}], ["flux", "Apply", {"f:spec": {"f:state": {}}}, "status"]]), true)]
#[case::reset(json!([]), true)]
#[case::now_an_update(json!([["flux", "Update", {"f:spec": {"f:groups": {}}}]]), true)]
fn owners_of_fields_count(#[case] managed: Value, #[case] expected: bool) {
    let before = with_managers(&json!([["flux", "Apply", {"f:spec": {"f:groups": {}}}]]));
    assert_eq!(changes(&before, &with_managers(&managed)), expected);
}

#[test]
fn fields_of_managers_that_update_count_as_well() {
    let before = with_managers(&json!([["kubectl-edit", "Update", {"f:spec": {"f:groups": {}, "f:displayName": {}}}]]));
    let moved = json!([["kubectl-edit", "Update", {"f:spec": {"f:groups": {}, "f:displayName": {}}}, "status"]]);
    assert!(changes(&before, &with_managers(&json!([]))) && changes(&before, &with_managers(&moved)));
    let descriptive = json!([["kubectl-edit", "Update", {"f:spec": {"f:groups": {}}}]]);
    assert!(!changes(&before, &with_managers(&descriptive)));
}

#[rstest]
#[case::the_manifest("kubectl.kubernetes.io/last-applied-configuration", true)]
#[case::a_mark("helm.sh/resource-policy", true)]
#[case::the_identity_of_a_group("roster.dev/source-id", true)]
#[case::another("example.com/floor", false)]
fn managers_that_tools_adopt_count(#[case] annotation: &str, #[case] expected: bool) {
    let managed = |annotations: &Value| json!([["kubectl-patch", "Update", {"f:spec": {"f:state": {}}, "f:metadata": {"f:annotations": annotations}}]]);
    let before = with_managers(&managed(&json!({"f:x": {}})));
    let after = with_managers(&managed(&json!({"f:x": {}, format!("f:{annotation}"): {}})));
    assert_eq!(changes(&before, &after), expected);
}

#[test]
fn a_manifest_that_changes_still_gains_no_manager() {
    let name = MANIFEST_ANNOTATIONS[0];
    let with = |manager: &str, blanks: &str| {
        let managed = json!([[manager, "Update", {"f:metadata": {"f:annotations": {format!("f:{name}"): {}}}}]]);
        user(&json!({}), &managed, &json!({name: format!("{{}}{blanks}")}), &json!({}))
    };
    assert!(!changes(&with("kubectl-client-side-apply", ""), &with("kubectl-client-side-apply", " ")));
    assert!(changes(&with("kubectl-client-side-apply", ""), &with("kubectl-patch", " ")));
}

#[rstest]
#[case::an_update(json!([["kubectl-patch", "Update", {"f:spec": {"f:state": {}}}]]), false)]
#[case::an_apply(json!([["flux", "Apply", {"f:spec": {"f:state": {}}}]]), true)]
#[case::descriptive(json!([["flux", "Apply", {"f:spec": {"f:displayName": {}}}]]), false)]
#[case::adopted(json!([
    ["x", "Update", {"f:spec": {"f:state": {}}}],
    ["x", "Update", {"f:metadata": {"f:annotations": {"f:kubectl.kubernetes.io/last-applied-configuration": {}}}}, "status"],
]), true)]
fn a_restriction_may_be_given_to_an_applier(#[case] managed: Value, #[case] expected: bool) {
    let (old, new) = (with_managers(&json!([])), with_managers(&managed));
    let given = |restricts: &str| {
        between(&old, &new).is_given_to_applier(|field| field == "displayName", |field| field == restricts)
    };
    assert_eq!(given(""), expected);
    assert!(!given("state") || new.metadata.managed_fields.is_some(), "any other manager, if the field restricts");
}

#[test]
fn the_owner_of_a_field_that_changes_does_not_count() {
    let before = user(&json!({"state": "Active"}), &json!([]), &json!({}), &json!({}));
    let managed =
        json!([["kubectl-patch", "Update", {"f:spec": {"f:state": {}}, "f:metadata": {"f:labels": {"f:team": {}}}}]]);
    let after = user(&json!({"state": "Banned"}), &managed, &json!({}), &json!({"team": "a"}));
    assert!(!changes(&before, &after), "the guard judges the change of the field itself");
}

#[rstest]
#[case::added(None, Some(json!({"spec": {}}).to_string()), true)]
#[case::removed(Some(json!({"spec": {}}).to_string()), None, true)]
#[case::the_same(Some(json!({"spec": {"state": "Active"}}).to_string()), Some(json!({"spec": {"state": "Banned"}}).to_string()), false)]
#[case::a_ban(Some(json!({"spec": {}}).to_string()), Some(json!({"spec": {"state": "Banned"}}).to_string()), true)]
#[case::a_field_that_does_not_exist_yet(Some(json!({"spec": {}}).to_string()), Some(json!({"spec": {"validity": {}}}).to_string()), true)]
#[case::below_a_field(Some(json!({"spec": {"validity": {}}}).to_string()), Some(json!({"spec": {"validity": {"notAfter": 1}}}).to_string()), true)]
#[case::a_descriptive_field(Some(json!({"spec": {}}).to_string()), Some(json!({"spec": {"displayName": "J"}}).to_string()), false)]
#[case::a_label(Some(json!({"spec": {}}).to_string()), Some(json!({"metadata": {"labels": {"team": "a"}}, "spec": {}}).to_string()), true)]
#[case::a_new_label(Some(json!({"spec": {}}).to_string()), Some(json!({"metadata": {"labels": {"new": "a"}}, "spec": {}}).to_string()), true)]
#[case::no_manifest(Some("x".to_owned()), Some("y".to_owned()), true)]
fn manifests_in_annotations_count(
    #[case] before: Option<String>,
    #[case] after: Option<String>,
    #[case] expected: bool,
) {
    for name in MANIFEST_ANNOTATIONS {
        let with = |manifest: &Option<String>| {
            let annotations = manifest.as_ref().map_or(json!({}), |manifest| json!({name: manifest}));
            user(&json!({"state": "Banned"}), &json!([]), &annotations, &json!({"team": "a"}))
        };
        assert_eq!(changes(&with(&before), &with(&after)), expected, "{name}");
    }
}

#[rstest]
#[case(json!({"app.kubernetes.io/instance": "roster"}), json!({}), true)]
#[case(json!({"app.kubernetes.io/name": "roster"}), json!({}), false)]
#[case(json!({"applyset.kubernetes.io/part-of": "x"}), json!({}), true)]
#[case(json!({"example-helm.sh/x": "x"}), json!({}), false)]
#[case(json!({}), json!({"helm.sh/resource-policy": "keep"}), true)]
#[case(json!({}), json!({"kustomize.toolkit.fluxcd.io/prune": "disabled"}), true)]
#[case(json!({}), json!({"argocd.argoproj.io/tracking-id": "x"}), true)]
#[case(json!({}), json!({"example.com/x": "x"}), false)]
fn marks_for_pruning_count(#[case] labels: Value, #[case] annotations: Value, #[case] expected: bool) {
    let without = user(&json!({}), &json!([]), &json!({}), &json!({}));
    let with = user(&json!({}), &json!([]), &annotations, &labels);
    assert_eq!(changes(&without, &with), expected);
    assert_eq!(changes(&with, &without), expected, "a tool keeps what it no longer recognizes");
    assert!(!changes(&with, &with));
}

#[test]
fn the_label_of_a_namespace_may_be_lost() {
    let managed = |fields: Value| with_managers(&json!([["flux", "Apply", fields]])).metadata;
    let owns = managed(json!({"f:metadata": {"f:labels": {"f:team": {}}}}));
    let other = managed(json!({"f:metadata": {"f:labels": {"f:other": {}}}}));
    assert!(
        Ownership::between(Some(&other), Some(&owns)).may_lose_label("team")
            && Ownership::between(Some(&owns), Some(&other)).may_lose_label("team")
    );
    assert!(
        !Ownership::between(Some(&owns), Some(&owns)).may_lose_label("team")
            && !Ownership::between(Some(&other), Some(&owns)).may_lose_label("color")
    );
    let adopted = json!({"f:annotations": {"f:kubectl.kubernetes.io/last-applied-configuration": {}}});
    assert!(
        Ownership::between(Some(&owns), Some(&managed(json!({"f:metadata": adopted, "f:spec": {}}))))
            .may_lose_label("team")
    );
}

#[test]
fn the_metadata_that_changes_is_named() {
    let name = MANIFEST_ANNOTATIONS[0];
    let plain = user(&json!({}), &json!([]), &json!({}), &json!({}));
    let managed = json!([["flux", "Apply", {"f:spec": {"f:state": {}}}]]);
    for (changed, expected) in [
        (user(&json!({}), &managed, &json!({}), &json!({})), "metadata.managedFields".to_owned()),
        (user(&json!({}), &json!([]), &json!({name: "{}"}), &json!({})), format!("metadata.annotations[{name}]")),
        (
            user(&json!({}), &json!([]), &json!({}), &json!({"app.kubernetes.io/instance": "x"})),
            "metadata.labels[app.kubernetes.io/instance]".to_owned(),
        ),
    ] {
        assert_eq!(between(&plain, &changed).changed_field(Some(&plain), Some(&changed), |_| false), Some(expected));
    }
}

#[test]
fn maps_of_labels_and_annotations_count() {
    let before = user(&json!({}), &json!([]), &json!({}), &json!({"team": "a"}));
    for (operation, fields, expected) in [
        ("Apply", json!({"f:labels": {}}), true),
        ("Apply", json!({"f:labels": {".": {}}}), true),
        ("Apply", json!({"f:annotations": {}}), true),
        // Every update that adds the first label. It remains when another manager changes the label.
        ("Update", json!({"f:labels": {".": {}}}), false),
        ("Update", json!({"f:labels": {}}), false),
    ] {
        let managed = json!([["x", operation, {"f:metadata": fields}]]);
        let after = user(&json!({}), &managed, &json!({}), &json!({"team": "a"}));
        assert_eq!(changes(&before, &after), expected, "{operation} {fields}");
        let removable = Ownership::between(Some(&before.metadata), Some(&after.metadata)).removable_labels();
        assert_eq!(removable.contains("team"), expected, "{operation} {fields}");
    }
    let name = MANIFEST_ANNOTATIONS[0];
    let manifest = |text: &str| user(&json!({}), &json!([]), &json!({name: text}), &json!({}));
    assert!(!changes(&manifest("{}"), &manifest(r#"{"metadata": {"annotations": {}}}"#)), "kubectl always writes that");
    for labels in ["{}", "null", r#""x""#] {
        let empty = format!(r#"{{"metadata": {{"labels": {labels}}}}}"#);
        assert!(changes(&manifest("{}"), &manifest(&empty)), "kubectl removes all labels: {labels}");
    }
}

#[test]
fn a_label_is_removable_if_its_owners_change_even_if_its_value_does_too() {
    let with = |manager: &str, operation: &str, value: &str| {
        let owns = |label: &str| json!({"f:metadata": {"f:labels": {format!("f:{label}"): {}}}});
        let managed = json!([[manager, operation, owns("team")], ["desk", "Update", owns("floor")]]);
        user(&json!({}), &managed, &json!({}), &json!({"team": value, "floor": "3"}))
    };
    let old = with("hr", "Update", "a");
    let removable = |new: &User| Ownership::between(Some(&old.metadata), Some(&new.metadata)).removable_labels();
    assert_eq!(removable(&with("flux", "Apply", "b")), ["team".to_owned()].into());
    assert_eq!(removable(&with("hr", "Apply", "a")), ["team".to_owned()].into());
    assert_eq!(removable(&with("hr", "Update", "b")), BTreeSet::new());
    let name = MANIFEST_ANNOTATIONS[0];
    let mut applied = with("hr", "Update", "b");
    let manifest = json!({"metadata": {"labels": {"team": "b"}}}).to_string();
    applied.metadata.annotations = Some([(name.to_owned(), manifest)].into());
    // If the next manifest has no labels, kubectl removes all.
    assert_eq!(removable(&applied), ["floor".to_owned(), "team".to_owned()].into());
    let planted = json!({"metadata": {"labels": {"planted": "x"}}}).to_string();
    applied.metadata.annotations = Some([(name.to_owned(), planted)].into());
    let all = ["floor".to_owned(), "planted".to_owned(), "team".to_owned()];
    assert_eq!(removable(&applied), all.into(), "the object does not have it yet");
}

/// Server-side apply removes the whole map if none of its labels has an owner left.
#[test]
fn labels_without_an_owner_are_removable_with_the_label_of_an_applier() {
    let with = |managed: &Value, labels: &Value| user(&json!({}), managed, &json!({}), labels);
    let old = with(&json!([]), &json!({"team": "a"}));
    let labels = json!({"team": "a", "floor": "3"});
    let gained = |operation: &str| {
        let managed = json!([["flux", operation, {"f:metadata": {"f:labels": {"f:floor": {}}}}]]);
        Ownership::between(Some(&old.metadata), Some(&with(&managed, &labels).metadata)).removable_labels()
    };
    assert_eq!(gained("Apply"), ["floor".to_owned(), "team".to_owned()].into());
    assert_eq!(gained("Update"), ["floor".to_owned()].into());
}

#[test]
fn what_kube_apiserver_merges_keeps_its_owner() {
    let state = json!({"f:spec": {"f:state": {}}, "f:metadata": {"f:labels": {"f:team": {}}}});
    let managed = |entries: &Value| user(&json!({}), entries, &json!({}), &json!({"team": "a"}));
    let before =
        managed(&json!([["m1", "Update", state], ["m2", "Update", {"f:metadata": {"f:labels": {"f:x": {}}}}]]));
    let merged = json!({"f:spec": {"f:state": {}}, "f:metadata": {"f:labels": {"f:team": {}, "f:x": {}}}});
    assert!(!changes(&before, &managed(&json!([["ancient-changes", "Update", merged]]))));
    let of_applier = managed(&json!([["m1", "Apply", state]]));
    assert!(changes(&of_applier, &managed(&json!([["ancient-changes", "Update", state]]))), "it was an applier's");
    assert!(changes(&before, &managed(&json!([["ancient-changes", "Apply", merged]]))), "it is an applier's");
    let more = json!({"f:spec": {"f:state": {}, "f:groups": {}}, "f:metadata": merged["f:metadata"]});
    assert!(changes(&before, &managed(&json!([["ancient-changes", "Update", more]]))), "it had no owner");
}

/// A manifest, or another manager, that gains the field at the same time takes no part in the merge.
#[test]
fn a_merge_hides_no_other_owner_of_the_same_field() {
    let fields = json!({"f:spec": {"f:state": {}}, "f:metadata": {"f:labels": {"f:team": {}}}});
    let labels = json!({"team": "a"});
    let before = user(&json!({}), &json!([["m1", "Update", fields]]), &json!({}), &labels);
    let merged = json!(["ancient-changes", "Update", fields]);
    let name = MANIFEST_ANNOTATIONS[0];
    let manifest = json!({"spec": {"state": "Banned"}, "metadata": {"labels": {"team": "a"}}}).to_string();
    let (none, stored) = (json!({}), json!({name: manifest}));
    for (managers, annotations, expected) in [
        (json!([merged]), &none, false),
        (json!([merged]), &stored, true),
        (json!([merged, ["flux", "Apply", fields]]), &none, true),
        (json!([merged, ["other", "Update", fields]]), &none, true),
    ] {
        let after = user(&json!({}), &managers, annotations, &labels);
        assert_eq!(changes(&before, &after), expected, "{managers} {annotations}");
        let removable = Ownership::between(Some(&before.metadata), Some(&after.metadata)).removable_labels();
        assert_eq!(removable.contains("team"), expected, "{managers} {annotations}");
    }
}

/// With a manifest, `kubectl apply --server-side` adopts everything that the manager owns, and without it nothing.
#[test]
fn a_merge_that_changes_what_is_adopted_counts() {
    let manifest = json!({"f:metadata": {"f:annotations": {format!("f:{}", MANIFEST_ANNOTATIONS[0]): {}}}});
    let (state, groups) = (json!({"f:spec": {"f:state": {}}}), json!({"f:spec": {"f:groups": {}}}));
    let both = |one: &Value, other: &Value| {
        let mut both = one.clone();
        both.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        both
    };
    let kubectl = |fields: &Value| json!(["kubectl-client-side-apply", "Update", fields]);
    let ancient = |fields: &Value| json!(["ancient-changes", "Update", fields]);
    let with = |managers: &[Value]| user(&json!({}), &json!(managers), &json!({}), &json!({"team": "a"}));
    let owned = with(&[kubectl(&both(&manifest, &groups)), ancient(&state)]);
    let given = with(&[kubectl(&groups), ancient(&both(&manifest, &state))]);
    assert!(changes(&owned, &given), "the state is adopted");
    assert!(Ownership::between(Some(&owned.metadata), Some(&given.metadata)).removable_labels().contains("team"));
    let released = with(&[kubectl(&manifest), ancient(&both(&state, &groups))]);
    let released_before = with(&[kubectl(&both(&manifest, &groups)), ancient(&state)]);
    assert!(changes(&released_before, &released), "the groups are no longer adopted");
}

/// `kubectl apply --server-side` adopts the merged manager, if one of those that were merged owns a manifest.
#[test]
fn what_kube_apiserver_merges_with_the_owner_of_a_manifest_counts() {
    let manifest = json!({"f:annotations": {format!("f:{}", MANIFEST_ANNOTATIONS[0]): {}}});
    let managed = |entries: &Value| user(&json!({}), entries, &json!({}), &json!({"team": "a"}));
    let merge = |other: &Value, merged: &Value| {
        let kubectl =
            json!(["kubectl-client-side-apply", "Update", {"f:metadata": manifest, "f:spec": {"f:groups": {}}}]);
        // The order of managers does not matter.
        let before = managed(&json!([kubectl, ["another", "Update", other]]));
        (before, managed(&json!([["ancient-changes", "Update", merged]])))
    };
    let (before, after) = merge(
        &json!({"f:spec": {"f:state": {}}}),
        &json!({"f:metadata": manifest, "f:spec": {"f:groups": {}, "f:state": {}}}),
    );
    assert!(changes(&before, &after), "kubectl would remove the state");
    let (before, after) =
        merge(&json!({"f:spec": {"f:groups": {}}}), &json!({"f:metadata": manifest, "f:spec": {"f:groups": {}}}));
    assert!(changes(&before, &after), "the other owner kept the groups");
    let mut metadata = manifest.clone();
    metadata["f:labels"] = json!({"f:team": {}});
    let (before, after) = merge(
        &json!({"f:metadata": {"f:labels": {"f:team": {}}}}),
        &json!({"f:metadata": metadata, "f:spec": {"f:groups": {}}}),
    );
    assert!(!changes(&before, &after), "only what depends on the label counts");
    assert!(Ownership::between(Some(&before.metadata), Some(&after.metadata)).removable_labels().contains("team"));
    let (before, after) = merge(&json!({}), &json!({"f:metadata": manifest, "f:spec": {"f:groups": {}}}));
    assert!(!changes(&before, &after), "kubectl would have removed the groups before");
}

#[test]
fn the_owner_of_a_lock_counts_unless_the_lock_itself_changes() {
    let lock = LOCKED_BY_ANNOTATION;
    let with = |manager: &str, locked: bool, manifest: &str| {
        let managed = json!([[manager, "Update", {"f:metadata": {"f:annotations": {format!("f:{lock}"): {}}}}]]);
        let mut annotations = json!({MANIFEST_ANNOTATIONS[0]: manifest});
        if locked {
            annotations[lock] = json!("jane");
        }
        let managed = if locked { managed } else { json!([]) };
        user(&json!({}), &managed, &annotations, &json!({})).metadata
    };
    let naming = json!({"metadata": {"annotations": {lock: "x"}}}).to_string();
    assert!(
        Ownership::between(Some(&with("a", false, "{}")), Some(&with("a", false, &naming))).transfers_lock(),
        "planted before the lock"
    );
    assert!(Ownership::between(Some(&with("a", true, "{}")), Some(&with("a", true, &naming))).transfers_lock());
    assert!(Ownership::between(Some(&with("a", true, "{}")), Some(&with("b", true, "{}"))).transfers_lock());
    assert!(
        !Ownership::between(Some(&with("a", false, "{}")), Some(&with("a", true, &naming))).transfers_lock(),
        "the lock is set"
    );
    assert!(
        !Ownership::between(Some(&with("a", true, "{}")), Some(&with("a", true, r#"{"kind": "Namespace"}"#)))
            .transfers_lock()
    );
}

/// Texts that a Go program reads and serde_json does not, or in another way: what a tool makes of them is unknown.
#[rstest]
#[case::half_a_surrogate_pair(r#"{"metadata": {"annotations": {"z": "\ud800"}, "labels": {"team": "a"}}}"#.to_owned())]
#[case::deeply_nested(format!(r#"{{"metadata": {}1{}}}"#, r#"{"x": "#.repeat(200), "}".repeat(200)))]
#[case::not_an_object("[]".to_owned())]
#[case::two_objects("{} {}".to_owned())]
#[case::a_duplicate_field(r#"{"metadata": {"labels": {}, "labels": {"team": "a"}}}"#.to_owned())]
#[case::not_json("kind: User".to_owned())]
fn an_unreadable_manifest_is_reported(#[case] text: String) {
    for name in MANIFEST_ANNOTATIONS {
        let with = |text: &str| user(&json!({}), &json!([]), &json!({name: text}), &json!({}));
        let (readable, unreadable) = (with("{}"), with(&text));
        for old in [Some(&readable.metadata), None] {
            assert_eq!(Ownership::between(old, Some(&unreadable.metadata)).unreadable_manifest(), Some(name), "{text}");
        }
        assert_eq!(between(&unreadable, &readable).unreadable_manifest(), Some(name), "{text}");
        assert_eq!(between(&unreadable, &unreadable).unreadable_manifest(), None);
        assert_eq!(between(&readable, &with(r#"{"a": 1.5, "b": [{}], "c": null}"#)).unreadable_manifest(), None);
    }
}

/// With these keys, `serde_json::Value` replaces an object by another one.
#[test]
fn keys_of_a_manifest_have_no_special_meaning() {
    let hidden = r#"{"metadata": {"labels": {"$serde_json::private::RawValue": "{\"team\": \"a\"}"}}}"#;
    let named = r#"{"metadata": {"labels": {"team": "a"}}}"#;
    let with = |text: &str| {
        let labels = json!({"team": "a"});
        user(&json!({}), &json!([]), &json!({MANIFEST_ANNOTATIONS[0]: text}), &labels)
    };
    assert!(between(&with(hidden), &with(named)).removable_labels().contains("team"));
    assert!(!between(&with(hidden), &with(hidden)).removable_labels().contains("team"));
}

/// The parts of a long path are not repeated for each field below it, and no work is done for each pair of labels.
#[test]
fn time_and_memory_grow_linearly_with_the_object() {
    let long = "k".repeat(100_000);
    let names: Map<String, Value> = (0..20_000).map(|at| (format!("f:l{at}"), json!({}))).collect();
    let manifest = json!({"metadata": {"labels": {long.as_str(): names}}, "spec": {long.as_str(): names}}).to_string();
    let labels: Map<String, Value> = (0..60).map(|at| (format!("l{at}"), json!("x"))).collect();
    let managed = json!([
        ["a", "Apply", {"f:metadata": {"f:labels": names}, "f:spec": {format!("f:{long}"): names}}],
        ["b", "Update", {"f:metadata": {"f:labels": names}}],
    ]);
    let large = user(&json!({}), &managed, &json!({MANIFEST_ANNOTATIONS[0]: manifest}), &Value::Object(labels));
    let size = serde_json::to_string(&large).unwrap().len();
    let owned = owned(&large.metadata);
    let texts: BTreeMap<*const u8, usize> = owned.iter().filter_map(|(_, field, _)| text_of(field)).collect();
    assert!(owned.len() > 80_000 && texts.values().sum::<usize>() < 2 * size, "{} fields", owned.len());
    // With work for each pair of labels, this would take minutes.
    let removable = Ownership::between(None, Some(&large.metadata)).removable_labels();
    assert_eq!(removable.len(), 61);
}

fn text_of(field: &Field) -> Option<(*const u8, usize)> {
    match field {
        Field::Spec(name) | Field::Label(name) | Field::Annotation(name) | Field::Metadata(name) => {
            Some((name.as_ptr(), name.len()))
        }
        _ => None,
    }
}
