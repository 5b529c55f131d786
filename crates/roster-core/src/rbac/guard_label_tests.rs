//! Labels that a tool may remove later, because of who owns them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, LabelSelectorRequirement, ManagedFieldsEntry};

use super::*;

/// A User with these labels, of which `manager` owns those in `owned`.
fn labelled(labels: &[(&str, &str)], manager: &str, owned: &[&str]) -> User {
    let mut user = user("eve", UserSpec::default());
    user.metadata.labels = Some(map(labels));
    let owned: serde_json::Map<_, _> = owned.iter().map(|name| (format!("f:{name}"), serde_json::json!({}))).collect();
    user.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
        manager: Some(manager.to_owned()),
        operation: Some("Update".to_owned()),
        fields_v1: Some(FieldsV1(serde_json::json!({"f:metadata": {"f:labels": owned}}))),
        ..ManagedFieldsEntry::default()
    }]);
    user
}

fn map(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn expression(key: &str, operator: &str) -> LabelSelectorRequirement {
    LabelSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values: None }
}

/// A directory in which Group `power` holds `edit` and selects Users by these expressions.
fn selecting(expressions: Vec<LabelSelectorRequirement>) -> Directory {
    let mut directory = directory();
    let selector = LabelSelector { match_expressions: Some(expressions), match_labels: None };
    let spec = GroupSpec { member_selector: Some(selector), accept_declared_members: true, ..GroupSpec::default() };
    directory.set_group(&group("power", spec), NOW);
    directory
}

fn required_of(directory: &Directory, old: Option<&User>, new: Option<&User>) -> Vec<String> {
    required(&GuardedChange::User(old, new), directory)
}

/// Otherwise the value of a label could be changed in order to give the label to a pipeline that removes it.
#[test]
fn i4_a_new_owner_of_a_label_requires_control_even_if_the_value_changes() {
    let directory = selecting(vec![expression("team", "Exists")]);
    let old = labelled(&[("team", "a")], "hr", &["team"]);
    let given = labelled(&[("team", "b")], "flux", &["team"]);
    assert_eq!(required_of(&directory, Some(&old), Some(&given)), [EDIT]);
    let changed = labelled(&[("team", "b")], "hr", &["team"]);
    assert_eq!(required_of(&directory, Some(&old), Some(&changed)), [""; 0], "the same owner, and still a member");
}

/// A User that holds no role yet could get one, because a tool removes the label that keeps it out of a group.
#[test]
fn i4_a_label_that_keeps_a_user_out_of_a_group_requires_its_roles() {
    let directory = selecting(vec![expression("company", "Exists"), expression("contractor", "DoesNotExist")]);
    let labels = [("company", "acme"), ("contractor", "true")];
    let old = labelled(&labels, "hr", &["contractor"]);
    let given = labelled(&labels, "flux", &["contractor"]);
    assert_eq!(required_of(&directory, Some(&old), Some(&given)), [EDIT]);
    assert_eq!(required_of(&directory, Some(&old), Some(&old)), [""; 0]);
    let moved =
        labelled(&[("company", "acme"), ("contractor", "true"), ("floor", "3")], "hr", &["contractor", "floor"]);
    assert_eq!(required_of(&directory, Some(&old), Some(&moved)), [""; 0], "a label that no selector mentions");
    assert_eq!(required_of(&directory, Some(&old), None), [EDIT], "it may be created again without the label");
    assert_eq!(required_of(&directory, None, Some(&old)), [EDIT], "the creator chooses who owns the label");
}

/// No change of a label that a selector mentions is free because another label keeps the User out: a pipeline may set or
/// remove that one, and does not know.
#[test]
fn i4_each_condition_of_a_selector_requires_its_roles() {
    let directory = selecting(vec![expression("company", "Exists"), expression("contractor", "DoesNotExist")]);
    let user = |labels: &[(&str, &str)]| labelled(labels, "hr", &[]);
    let (neither, company) = (user(&[]), user(&[("company", "acme")]));
    let (contractor, both) = (user(&[("contractor", "x")]), user(&[("company", "acme"), ("contractor", "x")]));
    for (old, new, expected) in [
        (Some(&both), Some(&contractor), true),
        (Some(&contractor), Some(&neither), true),
        (Some(&neither), Some(&contractor), true),
        (Some(&contractor), Some(&both), true),
        (None, Some(&contractor), true),
        (None, Some(&company), true),
        (None, Some(&neither), false),
        (Some(&neither), None, false),
        // Without the label, a condition would hold that does not hold now.
        (Some(&contractor), None, true),
        (Some(&contractor), Some(&user(&[("contractor", "y")])), false),
        (Some(&neither), Some(&user(&[("floor", "3")])), false),
    ] {
        let required = required_of(&directory, old, new);
        assert_eq!(
            !required.is_empty(),
            expected,
            "{:?} {:?}",
            old.map(ResourceExt::labels),
            new.map(ResourceExt::labels)
        );
    }
}

/// Otherwise a label would be lost by deleting the User: the pipeline sets only its own.
#[test]
fn i4_a_user_is_recreated_with_the_labels_that_decide() {
    let mut directory = selecting(vec![expression("company", "Exists"), expression("clearance", "Exists")]);
    let user = |labels: &[(&str, &str)]| labelled(labels, "hr", &[]);
    let employee = user(&[("company", "acme")]);
    directory.set_user(&employee, NOW);
    assert_eq!(required_of(&directory, Some(&employee), None), [""; 0]);
    let others = user(&[("clearance", "high")]);
    assert_eq!(required_of(&directory, None, Some(&others)), [EDIT], "before the deletion is seen");
    directory.remove_user("eve", NOW);
    assert_eq!(required_of(&directory, None, Some(&others)), [EDIT]);
    assert_eq!(required_of(&directory, None, Some(&user(&[]))), [EDIT]);
}

/// Otherwise a requester could name a label in advance, and a tool would remove it as soon as it is set.
#[test]
fn i4_a_manifest_that_names_an_absent_label_requires_the_roles_that_depend_on_it() {
    let directory = selecting(vec![expression("company", "Exists"), expression("contractor", "DoesNotExist")]);
    let old = labelled(&[("company", "acme"), ("floor", "3")], "hr", &[]);
    let stored = |labels: serde_json::Value| {
        let mut user = old.clone();
        let manifest = serde_json::json!({"metadata": {"labels": labels}}).to_string();
        let name = "kubectl.kubernetes.io/last-applied-configuration".to_owned();
        user.metadata.annotations = Some([(name, manifest)].into());
        user
    };
    let outside = selecting(vec![expression("a", "Exists"), expression("contractor", "DoesNotExist")]);
    let naming = stored(serde_json::json!({"contractor": "x"}));
    assert_eq!(required_of(&outside, Some(&old), Some(&naming)), [EDIT]);
    assert_eq!(required_of(&outside, Some(&old), Some(&stored(serde_json::json!({"floor": "3"})))), [""; 0]);
    assert_eq!(required_of(&directory, Some(&old), Some(&naming)), [EDIT]);
    // kubectl removes all labels.
    for labels in [serde_json::json!({}), serde_json::json!(null), serde_json::json!("x")] {
        let contractor = labelled(&[("company", "acme"), ("contractor", "x")], "hr", &["contractor"]);
        let mut empty = contractor.clone();
        empty.metadata.annotations = stored(labels.clone()).metadata.annotations;
        assert_eq!(required_of(&directory, Some(&contractor), Some(&empty)), [EDIT], "{labels}");
    }
}

#[test]
fn i4_a_label_that_keeps_a_namespace_out_of_a_binding_requires_its_role() {
    let mut bound = binding("apps", SubjectKind::Group, "developers");
    let selector = LabelSelector {
        match_expressions: Some(vec![expression("tier", "Exists"), expression("restricted", "DoesNotExist")]),
        match_labels: None,
    };
    bound.spec.scope = DeclaredScope { namespace_selector: Some(selector), ..DeclaredScope::default() };
    let mut directory = Directory::new(false);
    directory.set_binding(&bound, NOW);
    let labels = map(&[("tier", "app"), ("restricted", "true")]);
    let required_if = |removable: &[&str]| {
        let removable = removable.iter().map(|name| (*name).to_owned()).collect();
        let (name, by) = (Some("apollo"), None);
        let change = GuardedChange::Namespace { name, old: Some(&labels), new: &labels, removable: &removable, by };
        required(&change, &directory)
    };
    assert_eq!(required_if(&[]), [""; 0]);
    assert_eq!(required_if(&["tier"]), [""; 0]);
    assert_eq!(required_if(&["restricted"]), ["ClusterRole edit in namespace apollo"]);
    let required_of = |old: &[(&str, &str)], new: &[(&str, &str)]| {
        let (name, by, removable) = (Some("apollo"), None, &BTreeSet::new());
        let change = GuardedChange::Namespace { name, old: Some(&map(old)), new: &map(new), removable, by };
        required(&change, &directory)
    };
    let bound = ["ClusterRole edit in namespace apollo"];
    assert_eq!(required_of(&[("restricted", "true")], &[]), bound, "a tool may set the other label");
    assert_eq!(required_of(&[("restricted", "true")], &[("restricted", "true"), ("tier", "app")]), bound);
    assert_eq!(required_of(&[("tier", "app")], &[]), [""; 0], "it leaves");
}

/// kube-apiserver sets it again.
#[test]
fn no_tool_removes_the_label_with_the_name_of_a_namespace() {
    let mut bound = binding("apps", SubjectKind::Group, "developers");
    let not_payments = LabelSelectorRequirement {
        values: Some(vec!["payments".to_owned()]),
        ..expression(NAMESPACE_NAME_LABEL, "NotIn")
    };
    let selector = LabelSelector { match_expressions: Some(vec![not_payments]), match_labels: None };
    bound.spec.scope = DeclaredScope { namespace_selector: Some(selector), ..DeclaredScope::default() };
    let mut directory = Directory::new(false);
    directory.set_binding(&bound, NOW);
    let labels = map(&[(NAMESPACE_NAME_LABEL, "payments")]);
    let (name, by, removable) = (Some("payments"), None, &labels.keys().cloned().collect());
    for old in [None, Some(&labels)] {
        let change = GuardedChange::Namespace { name, old, new: &labels, removable, by };
        assert_eq!(required(&change, &directory), [""; 0]);
    }
}
