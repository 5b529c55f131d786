//! Users in the index.

use std::fmt::Debug;

use roster_api::User;
use roster_api::directory::{DirectoryUserStatus, PermissionLevel};
use roster_api::user::{State, UserStatus};

use crate::directory::index::field::{Field, FieldKind};
use crate::directory::index::record::Record;

use super::Writer;

const STATES: FieldKind = FieldKind::Choice(&["Active", "Pending", "Disabled", "Banned", "Expired"]);
const DESIRED_STATES: FieldKind = FieldKind::Choice(&["Active", "Disabled", "Banned"]);
const LEVELS: FieldKind = FieldKind::Choice(&["Banned", "User", "Admin"]);
const SECOND_FACTORS: FieldKind = FieldKind::Choice(&["Optional", "Required"]);

/// Prefix of the fields for a user's resource use. The rest of the name is the resource name in the quota.
const USED: &str = "used.";

/// Fields to filter and sort users by.
pub static FIELDS: &[Field] = &[
    Field::one("name", "metadata.name", FieldKind::Text).searched(),
    Field::one("uid", "metadata.uid", FieldKind::Text),
    Field::one("creationTimestamp", "metadata.creationTimestamp", FieldKind::Time),
    Field::one("username", "status.username", FieldKind::Text).searched(),
    Field::many("email", "spec.email", true).searched(),
    Field::one("displayName", "spec.displayName", FieldKind::Text).searched().with_spaces(),
    Field::one("firstName", "spec.firstName", FieldKind::Text).searched().with_spaces(),
    Field::one("lastName", "spec.lastName", FieldKind::Text).searched().with_spaces(),
    Field::one("mobile", "spec.mobile", FieldKind::Text).with_spaces(),
    Field::shared("language", "spec.language", FieldKind::Text),
    Field::shared("timezone", "spec.timezone", FieldKind::Text),
    Field::shared("preferredShell", "spec.preferredShell", FieldKind::Text),
    Field::one("githubUsername", "spec.githubUsername", FieldKind::Text),
    Field::shared("domain", "spec.domain", FieldKind::Text),
    Field::shared("zone", "spec.zone", FieldKind::Text),
    Field::shared("state", "status.state", STATES),
    Field::shared("desiredState", "spec.state", DESIRED_STATES),
    Field::shared("admin", "spec.admin", FieldKind::Flag),
    Field::shared("permissionLevel", "status.permissionLevel", LEVELS),
    Field::many("groups", "status.groups", false),
    Field::shared("connector", "spec.connector.type", FieldKind::Text),
    Field::shared("connectorID", "spec.connector.id", FieldKind::Text).with_spaces(),
    Field::many("identity", "spec.identities.id", false).with_spaces(),
    Field::one("notBefore", "spec.validity.notBefore", FieldKind::Time),
    Field::one("notAfter", "spec.validity.notAfter", FieldKind::Time),
    Field::shared("requirePasswordChange", "spec.requirePasswordChange", FieldKind::Flag),
    Field::shared("secondFactor", "spec.secondFactor", SECOND_FACTORS),
    Field::shared("secondFactorEnabled", "status.secondFactorEnabled", FieldKind::Flag),
    Field::one("lastLoginTime", "status.lastLoginTime", FieldKind::Time),
    Field::one("failedLogins", "status.failedLogins", FieldKind::Number),
    Field::one("lockedUntil", "status.lockedUntil", FieldKind::Time),
    Field::one("passwordChangedTime", "status.passwordChangedTime", FieldKind::Time),
    Field::one("passwordExpiresTime", "status.passwordExpiresTime", FieldKind::Time),
    Field::one("used.namespaces", "status.quota.used.namespaces", FieldKind::Quantity),
    Field::one("used.namespaces.running", "status.quota.used.namespaces.running", FieldKind::Quantity),
    Field::one("used.pods", "status.quota.used.pods", FieldKind::Quantity),
    Field::one("used.persistentvolumeclaims", "status.quota.used.persistentvolumeclaims", FieldKind::Quantity),
    Field::one("used.requests.cpu", "status.quota.used.requests.cpu", FieldKind::Quantity),
    Field::one("used.requests.memory", "status.quota.used.requests.memory", FieldKind::Quantity),
    Field::one("used.requests.storage", "status.quota.used.requests.storage", FieldKind::Quantity),
    Field::one("used.services.loadbalancers", "status.quota.used.services.loadbalancers", FieldKind::Quantity),
];

/// Returns the index of the field with this name.
///
/// # Panics
/// If there is no such field.
pub fn field(name: &str) -> usize {
    FIELDS.iter().position(|field| field.name == name).expect("the field is in the list")
}

/// Builds the index record of a User.
pub fn record(user: &User) -> Record {
    let (spec, metadata) = (&user.spec, &user.metadata);
    let observed = UserStatus {
        username: Some(user.username()),
        state: user.status.as_ref().and_then(|status| status.state).or(Some(State::Pending)),
        ..user.status.clone().unwrap_or_default()
    };
    let status =
        DirectoryUserStatus { permission_level: PermissionLevel::of(spec), roles: None, current: None, observed };
    let observed = &status.observed;
    let mut fields = Writer::new(FIELDS);
    fields.texts("name", &metadata.name);
    fields.texts("uid", &metadata.uid);
    fields.time("creationTimestamp", metadata.creation_timestamp.as_ref());
    fields.texts("username", &observed.username);
    fields.texts("email", user.emails());
    fields.texts("displayName", &spec.display_name);
    fields.texts("firstName", &spec.first_name);
    fields.texts("lastName", &spec.last_name);
    fields.texts("mobile", &spec.mobile);
    fields.texts("language", &spec.language);
    fields.texts("timezone", &spec.timezone);
    fields.texts("preferredShell", &spec.preferred_shell);
    fields.texts("githubUsername", &spec.github_username);
    fields.texts("domain", [&spec.domain.0]);
    fields.texts("zone", &spec.zone);
    fields.word("state", &debug(observed.state.unwrap_or(State::Pending)));
    fields.word("desiredState", &debug(spec.state));
    fields.word("admin", &spec.admin);
    fields.word("permissionLevel", &debug(status.permission_level));
    fields.texts("groups", &observed.groups);
    fields.texts("connector", spec.connector.as_ref().map(|connector| &connector.kind));
    fields.texts("connectorID", spec.connector.as_ref().and_then(|connector| connector.id.as_ref()));
    fields.texts("identity", spec.identities.iter().map(|identity| &identity.id));
    fields.time("notBefore", spec.validity.as_ref().and_then(|validity| validity.not_before.as_ref()));
    fields.time("notAfter", spec.validity.as_ref().and_then(|validity| validity.not_after.as_ref()));
    fields.word("requirePasswordChange", &spec.require_password_change);
    fields.word("secondFactor", &debug(spec.second_factor));
    fields.word("secondFactorEnabled", &observed.second_factor_enabled.unwrap_or(false));
    fields.time("lastLoginTime", observed.last_login_time.as_ref());
    fields.number("failedLogins", Some(observed.failed_logins.unwrap_or(0)));
    fields.time("lockedUntil", observed.locked_until.as_ref());
    fields.time("passwordChangedTime", observed.password_changed_time.as_ref());
    fields.time("passwordExpiresTime", observed.password_expires_time.as_ref());
    for field in FIELDS.iter().filter(|field| field.name.starts_with(USED)) {
        let used = observed.quota.as_ref().and_then(|quota| quota.used.get(&field.name[USED.len()..]));
        fields.quantity(field.name, used);
    }
    fields.finish("User", metadata, spec, &status)
}

/// Returns the name of a variant, which is also what serde writes.
fn debug(variant: impl Debug) -> String {
    format!("{variant:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::index::query::Query;
    use crate::directory::index::table::Table;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn user(value: Value) -> User {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn every_declared_field_can_be_queried() {
        let jane = user(json!({
            "apiVersion": "roster.dev/v1alpha1", "kind": "User",
            "metadata": {"name": "jane", "uid": "u-1", "resourceVersion": "7", "creationTimestamp": "2027-01-01T00:00:00Z",
                "labels": {"team": "a"}, "managedFields": [{}], "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x"}},
            "spec": {"username": "Jane", "email": "jane@example.com", "additionalEmails": ["J@example.com"], "displayName": "Jane Doe",
                "state": "Banned", "admin": true, "zone": "eu-west", "connector": {"type": "ldap", "id": "corp"},
                "identities": [{"type": "ldap", "id": "uid=jane,ou=people"}]},
            "status": {"groups": ["a", "b"], "state": "Banned", "lastLoginTime": "2027-02-01T00:00:00Z"},
        }));
        let table = Table::new(FIELDS, vec![Arc::new(record(&jane))]);
        for (filter, expected) in [
            ("username,JANE", 1),
            ("email,j@example.com", 1),
            ("state,Banned,zone,eu-*", 1),
            ("permissionLevel,Banned", 1),
            ("permissionLevel,Admin", 0),
            ("groups,b", 1),
            ("connector,ldap,connectorID,corp", 1),
            (r"identity,uid=jane\,ou=people", 1),
            ("lastLoginTime,gte:2027-02-01T01:00:00+01:00", 1),
            ("secondFactorEnabled,false,failedLogins,0", 1),
            ("mobile,", 1),
            ("mobile,*", 0),
        ] {
            let mut query = Query::default();
            query.filter_by(FIELDS, filter).unwrap();
            assert_eq!(table.select(&query, 0, None).total, expected, "{filter}");
        }
        let record = table.get("jane").unwrap();
        let json: Value = serde_json::from_slice(&[record.json(), b"}}".as_slice()].concat()).unwrap();
        assert_eq!(json["status"]["permissionLevel"], "Banned");
        assert_eq!(json["metadata"]["annotations"], Value::Null);
        assert_eq!(json["metadata"]["managedFields"], Value::Null);
        let metadata: Value = serde_json::from_slice(record.metadata_json()).unwrap();
        assert_eq!(metadata, json["metadata"]);
    }

    /// From the object, from its metadata, and from what selectors match.
    #[test]
    fn case_c10_tracking_labels_and_annotations_are_left_out() {
        let tracked = user(json!({
            "apiVersion": "roster.dev/v1alpha1", "kind": "User",
            "metadata": {"name": "jane", "uid": "u-1", "resourceVersion": "7",
                "labels": {"app.kubernetes.io/instance": "people", "kapp.k14s.io/app": "1", "team": "a"},
                "annotations": {"argocd.argoproj.io/tracking-id": "people:roster.dev/User:/jane", "note": "x"}},
            "spec": {},
        }));
        let table = Table::new(FIELDS, vec![Arc::new(record(&tracked))]);
        for (selector, expected) in [("team=a", 1), ("app.kubernetes.io/instance", 0), ("kapp.k14s.io/app=1", 0)] {
            let mut query = Query::default();
            query.label_selector(selector).unwrap();
            assert_eq!(table.select(&query, 0, None).total, expected, "{selector}");
        }
        let metadata: Value = serde_json::from_slice(table.get("jane").unwrap().metadata_json()).unwrap();
        assert_eq!((&metadata["labels"], &metadata["annotations"]), (&json!({"team": "a"}), &json!({"note": "x"})));
    }

    #[test]
    fn case_c8_search_ignores_composition_and_case() {
        let odysseus = user(json!({
            "apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {"name": "odysseus", "uid": "u-2"},
            "spec": {"displayName": "Οδυσσεύς Jose\u{301}", "firstName": "ΟΔΥΣΣΕΎΣ"},
        }));
        let table = Table::new(FIELDS, vec![Arc::new(record(&odysseus))]);
        for filter in [
            "displayName,ΟΔΥΣΣΕΎΣ JOSÉ",
            "displayName,οδυσσεύσ*",
            "displayName,*ΎΣ jos*",
            "displayName,*josé",
            "firstName,οδυσσεύς",
            "firstName,in:x|Οδυσσεύσ",
            "firstName,gte:οδυσσεύς",
        ] {
            let mut query = Query::default();
            query.filter_by(FIELDS, filter).unwrap();
            assert_eq!(table.select(&query, 0, None).total, 1, "{filter}");
        }
    }
}
