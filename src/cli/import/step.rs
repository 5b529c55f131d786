//! One object to apply.

use kube::core::Status;
use serde_json::Value;

/// Identifies an object.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Key {
    /// A User.
    User(String),
    /// A Group.
    Group(String),
    /// A Secret, by namespace and name.
    Secret(String, String),
}

/// One object of an item, and its current state in the cluster.
pub(super) struct Step {
    pub key: Key,
    pub manifest: Value,
    /// The current object, if it exists and differs.
    pub live: Option<Value>,
    /// Fields of `spec` to take over from other field managers.
    pub takes: Vec<String>,
}

impl Step {
    /// Returns whether other field managers own nothing in the manifest, with another value, but fields that this step takes
    /// over.
    pub(super) fn may_force(&self, status: &Status) -> bool {
        let mut fields = conflicts(status).peekable();
        let is_taken = |field: &str| self.takes.iter().any(|taken| field.strip_prefix(".spec.") == Some(taken));
        fields.peek().is_some() && fields.all(is_taken)
    }
}

/// Returns the fields that other field managers own with another value.
pub(super) fn conflicts(status: &Status) -> impl Iterator<Item = &str> {
    let causes = status.details.iter().filter(|_| status.code == 409).flat_map(|details| &details.causes);
    causes.filter(|cause| cause.reason == "FieldManagerConflict").map(|cause| &*cause.field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_conflicts_of_fields_to_take_over_are_forced() {
        let step = |takes: &[&str]| Step {
            key: Key::User("ada".to_owned()),
            manifest: Value::Null,
            live: None,
            takes: takes.iter().map(ToString::to_string).collect(),
        };
        let status = |code: u16, reason: &str, fields: &[&str]| -> Status {
            let causes: Vec<Value> = fields.iter().map(|field| json!({"reason": reason, "field": field})).collect();
            serde_json::from_value(json!({"code": code, "reason": "Conflict", "details": {"causes": causes}})).unwrap()
        };
        let conflict = |fields: &[&str]| status(409, "FieldManagerConflict", fields);
        assert!(step(&["state"]).may_force(&conflict(&[".spec.state"])));
        assert!(!step(&["state"]).may_force(&conflict(&[".spec.state", ".spec.validity"])));
        assert!(!step(&["state"]).may_force(&conflict(&[".spec.email"])));
        assert!(!step(&[]).may_force(&conflict(&[".spec.state"])));
        // The User was deleted, or the server rejects it.
        assert!(!step(&["state"]).may_force(&conflict(&[])));
        assert!(!step(&["state"]).may_force(&status(422, "FieldManagerConflict", &[".spec.state"])));
        assert!(!step(&["state"]).may_force(&status(409, "FieldValueInvalid", &[".spec.state"])));
    }
}
