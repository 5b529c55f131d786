//! Who is a member of a Group: by its own lists, or because it accepts declared members.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use serde::Deserialize;
use serde_json::Value;

/// Condition under which a Group accepts declared members.
#[derive(Clone, Default)]
pub(super) struct Acceptance {
    pub(super) accepts_declared: bool,
    pub(super) selector: Option<Selector>,
}

impl Acceptance {
    pub(super) fn of(spec: &Value) -> Self {
        let selector = LabelSelector::deserialize(&spec["memberSelector"]).ok();
        Self {
            accepts_declared: spec["acceptDeclaredMembers"] == true,
            selector: selector.and_then(|selector| selector.try_into().ok()),
        }
    }

    pub(super) fn accepts(&self, group: &str, labels: &BTreeMap<String, String>, spec: &Value) -> bool {
        self.accepts_declared && (names(spec, group) || self.has_selected(labels))
    }

    /// Returns whether the Group accepts a User because of these labels.
    pub(super) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.accepts_declared && self.has_selected(labels)
    }

    fn has_selected(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

/// Returns whether a User's `spec.groups` contains the Group.
pub(super) fn names(spec: &Value, group: &str) -> bool {
    spec["groups"].as_array().is_some_and(|groups| groups.iter().any(|name| name == group))
}

/// Returns the Users that a Group's `spec` lists in `members` or `memberships`.
pub(super) fn members(spec: &Value) -> impl Iterator<Item = &str> {
    let items = |field: &str| spec[field].as_array().into_iter().flatten();
    let limited = items("memberships").map(|membership| &membership["user"]);
    items("members").chain(limited).filter_map(Value::as_str)
}

/// Returns the labels of a manifest.
pub(super) fn labels(object: &Value) -> BTreeMap<String, String> {
    BTreeMap::deserialize(&object["metadata"]["labels"]).unwrap_or_default()
}
