//! Existing Users that the source restricts further.

use std::fmt;

use kube::ResourceExt;
use kube::api::DynamicObject;
use roster_api::SOURCE_ID_ANNOTATION;
use roster_import::assemble::Plan;
use roster_import::draft::Place;
use serde_json::{Map, Value};

use super::compare::{extracted, owned};
use super::step::{Key, Step};

/// An existing User that the source restricts further.
pub(super) struct Restricted {
    pub place: Place,
    pub name: String,
    /// Identity of the person in the source.
    source: String,
    /// Fields of `spec` that the restriction sets.
    pub fields: Map<String, Value>,
    /// Whether the plan has a manifest for the User, which contains the restriction as well.
    pub is_planned: bool,
    /// What earlier imports have applied.
    applied: Value,
    live: Value,
}

impl Restricted {
    /// Returns the restriction of an existing User whose person the source restricts further.
    pub(super) fn of(object: &DynamicObject, plan: &Plan, is_planned: bool) -> Option<Self> {
        let (name, source) = (object.name_any(), object.annotations().get(SOURCE_ID_ANNOTATION)?);
        let restriction = plan.restrictions.get(source, &name)?;
        let fields = restriction.missing(&object.data["spec"], &owned(object))?;
        let live = serde_json::to_value(object).ok()?;
        let mut applied = extracted(&live);
        // If the User is deleted meanwhile, it must not be created again.
        applied["metadata"]["uid"] = live["metadata"]["uid"].clone();
        Some(Self { place: restriction.place, name, source: source.clone(), fields, is_planned, applied, live })
    }

    /// Returns the step that sets these fields and changes nothing else.
    pub(super) fn step(&self, fields: &Map<String, Value>) -> Step {
        let mut manifest = self.applied.clone();
        if let Some(spec) = manifest["spec"].as_object_mut() {
            spec.extend(fields.clone());
        }
        Step { key: Key::User(self.name.clone()), manifest, live: Some(self.live.clone()), takes: self.takes() }
    }

    /// Returns the fields to take over from other field managers. Creating a User makes the caller the owner of the defaults
    /// of the CRD, although the caller has not chosen them.
    pub(super) fn takes(&self) -> Vec<String> {
        let spec = &self.live["spec"];
        let is_default = |field: &str| match field {
            "state" => spec[field] == "Active",
            "requirePasswordChange" => spec[field] == false,
            _ => false,
        };
        self.fields.keys().filter(|field| is_default(field)).cloned().collect()
    }

    /// Says how the User is restricted. `verb` says whether these fields are written.
    pub(super) fn message(&self, verb: &str, fields: &Map<String, Value>) -> String {
        let Self { name, source, .. } = self;
        format!("User {name} {verb} {}: the source restricts {source}", Effect { fields, live: &self.live["spec"] })
    }
}

/// Fields of a restriction, and the `spec` that they change, for messages.
struct Effect<'a> {
    fields: &'a Map<String, Value>,
    live: &'a Value,
}

impl fmt::Display for Effect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.fields.get("state").and_then(Value::as_str).map(str::to_owned));
        if let Some(validity) = self.fields.get("validity") {
            let end = |field: &str, word: &str| validity[field].as_str().map(|time| format!(" {word} {time}"));
            let ends = [end("notBefore", "from"), end("notAfter", "until")];
            parts.push(format!("valid{}", ends.into_iter().flatten().collect::<String>()));
        }
        if self.fields.contains_key("requirePasswordChange") {
            parts.push("required to change the password".to_owned());
        }
        if let Some(stays) = self.fields.get("groups").and_then(Value::as_array) {
            let groups = self.live["groups"].as_array().into_iter().flatten();
            let ended: Vec<&str> = groups.filter(|group| !stays.contains(group)).filter_map(Value::as_str).collect();
            parts.push(format!("no longer in {}", ended.join(", ")));
        }
        f.write_str(&parts.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster_import::assemble::{Options, assemble};
    use roster_import::rules::Rules;
    use roster_import::{Format, Source, read};
    use serde_json::json;

    fn restricted(spec: &Value, enabled: bool) -> Option<Restricted> {
        let rules = Rules::default();
        let person = json!({"id": "1", "username": "ada", "enabled": enabled, "requiredActions": ["UPDATE_PASSWORD"]});
        let main = json!({"realm": "a", "users": [person]}).to_string().into_bytes();
        let input = read(Format::Keycloak, &Source { main, ..Source::default() }, &rules);
        let plan = assemble(input, &Options::default(), &rules);
        let live = json!({
            "apiVersion": "roster.dev/v1alpha1",
            "kind": "User",
            "metadata": {"name": "ada", "uid": "u-1", "annotations": {SOURCE_ID_ANNOTATION: "keycloak:a/1"}},
            "spec": spec,
        });
        Restricted::of(&serde_json::from_value(live).unwrap(), &plan, true)
    }

    #[test]
    fn a_restriction_changes_only_the_user_that_was_found() {
        let user = restricted(&json!({"state": "Active", "email": "a@example.com"}), false).unwrap();
        let manifest = user.step(&user.fields).manifest;
        assert_eq!(manifest["metadata"], json!({"name": "ada", "uid": "u-1"}));
        assert_eq!(manifest["spec"], json!({"state": "Disabled", "requirePasswordChange": true}));
        assert!(restricted(&json!({"state": "Disabled", "requirePasswordChange": true}), false).is_none());
    }

    #[test]
    fn only_defaults_are_taken_over() {
        let takes = |spec: Value| restricted(&spec, false).unwrap().takes();
        assert_eq!(takes(json!({"state": "Active"})), ["state"]);
        assert_eq!(takes(json!({"state": "Banned"})), [""; 0]);
        assert_eq!(takes(json!({"state": "Active", "requirePasswordChange": true})), ["state"]);
    }

    #[test]
    fn messages_contain_the_new_values_and_the_identity() {
        let user = restricted(&json!({}), false).unwrap();
        let says = "User ada is now Disabled and required to change the password: the source restricts keycloak:a/1";
        assert_eq!(user.message("is now", &user.fields), says);
        let validity = json!({"notBefore": "2030-01-01T00:00:00Z", "notAfter": "2031-01-01T00:00:00Z"});
        let validity = Map::from_iter([("validity".to_owned(), validity)]);
        let says = "valid from 2030-01-01T00:00:00Z until 2031-01-01T00:00:00Z";
        assert_eq!(Effect { fields: &validity, live: &Value::Null }.to_string(), says);
    }
}
