//! Reads custom resources of Rancher: `kubectl get users.management.cattle.io,userattributes.management.cattle.io -o json`,
//! and the Secrets in its namespace for passwords.

use std::collections::HashMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Map, Value, json};

use super::documents::{Located, Text};
use super::draft::{GroupRef, Input, SourceId, UserDraft};
use super::hashes;

const PASSWORD_NAMESPACE: &str = "cattle-local-user-passwords";
const HASH_ANNOTATION: &str = "cattle.io/password-hash";

/// A password Secret that can't be read.
#[derive(Debug, thiserror::Error)]
enum SecretError {
    #[error("data.{0}: is missing or not base64")]
    Data(&'static str),
    #[error("data.password: is not a bcrypt hash")]
    NotText,
    #[error("the annotation {HASH_ANNOTATION} must be pbkdf2sha3512 or bcrypt")]
    Annotation,
}

/// Reads Users, UserAttributes (the user's groups at an identity provider) and password Secrets. Roles are not imported:
/// RoleBindings define the permissions in this cluster.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let Some(text) = Text::new(bytes, &mut input) else { return input };
    let (mut users, mut attributes, mut passwords) = (Vec::new(), Vec::new(), HashMap::new());
    let objects = text.objects(&mut input);
    // What can't be read may be a group.
    input.unclear.others = !input.rejected.is_empty();
    for object in objects {
        let value = &object.value;
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default()) {
            ("management.cattle.io/v3", "User") => users.push(object),
            ("management.cattle.io/v3", "UserAttribute") => attributes.push(object),
            ("v1", "Secret") if value["metadata"]["namespace"] == PASSWORD_NAMESPACE => match hash(value) {
                Ok(hash) => drop(passwords.insert(name, hash)),
                Err(error) => input.reject(object.place, error.to_string()),
            },
            _ => input.reject(
                object.place,
                format!(
                    "must be a User or UserAttribute of Rancher, or a Secret in the namespace {PASSWORD_NAMESPACE}"
                ),
            ),
        }
    }
    input.describes_memberships = !attributes.is_empty();
    let mut by_id = HashMap::new();
    for object in &users {
        user(object, &passwords, &mut by_id, &mut input);
    }
    for object in &attributes {
        groups(object, &by_id, &mut input);
    }
    input
}

/// Returns the hash in a Secret: PBKDF2 with SHA3-512, or bcrypt for users who have not logged in since version 2.12.
fn hash(secret: &Value) -> Result<String, SecretError> {
    let data = |key: &str| BASE64_STANDARD.decode(secret["data"][key].as_str()?).ok();
    let password = data("password").ok_or(SecretError::Data("password"))?;
    match secret["metadata"]["annotations"][HASH_ANNOTATION].as_str() {
        Some("pbkdf2sha3512") => Ok(hashes::rancher(&data("salt").ok_or(SecretError::Data("salt"))?, &password)),
        Some("bcrypt") => String::from_utf8(password).map_err(|_| SecretError::NotText),
        _ => Err(SecretError::Annotation),
    }
}

fn user(object: &Located, passwords: &HashMap<String, String>, by_id: &mut HashMap<String, usize>, input: &mut Input) {
    let value = &object.value;
    let principals: Vec<&str> =
        value["principalIds"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if principals.iter().any(|principal| principal.starts_with("system:")) {
        return;
    }
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let id = value["metadata"]["name"].as_str().unwrap_or_default();
    let mut person = UserDraft::new(object.place, if text("username").is_empty() { id } else { text("username") });
    // Rancher generates the names of its objects.
    person.identify("rancher", id);
    person.set("displayName", text("displayName"));
    if value["enabled"] == false {
        person.set("state", "Disabled");
    }
    if value["mustChangePassword"] == true {
        person.set("requirePasswordChange", true);
    }
    let identities: Vec<(&str, &str)> = principals.iter().filter_map(|principal| identity(principal)).collect();
    if let Some((provider, _)) = identities.first() {
        person.set("connector", json!({"type": provider, "id": provider}));
        person
            .set("identities", identities.iter().map(|(kind, id)| json!({"type": kind, "id": id})).collect::<Vec<_>>());
    }
    let hash = passwords.get(id).map_or_else(|| text("password"), String::as_str);
    super::text::take_password(&mut person, hash);
    // Of identical entries, the first one counts.
    by_id.entry(id.to_owned()).or_insert(input.users.len());
    input.add_user(person);
}

/// Parses the ID of an external identity, such as `github_user://4711`. Returns `None` for local ones (`local://u-abcde`).
fn identity(principal: &str) -> Option<(&str, &str)> {
    let (scheme, id) = principal.split_once("://")?;
    Some((scheme.strip_suffix("_user")?, id))
}

/// Reads the groups that the identity provider reported at the last login.
fn groups(object: &Located, by_id: &HashMap<String, usize>, input: &mut Input) {
    let id = object.value["metadata"]["name"].as_str().unwrap_or_default();
    let Some(person) = by_id.get(id).copied() else { return };
    // The Go type has no JSON tags, so fields have their Go names, or lower-case names if older tools wrote them.
    let field = |map: &Map<String, Value>, name: &str| {
        map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let providers = object.value.as_object().map(|fields| field(fields, "GroupPrincipals")).unwrap_or_default();
    let lists = providers.as_object().into_iter().flatten().filter_map(|(_, list)| list.as_object());
    for principal in lists.flat_map(|list| field(list, "Items").as_array().cloned().unwrap_or_default()) {
        // Teams of different organizations can have the same display name.
        let Some(principal_id) = principal["metadata"]["name"].as_str().filter(|id| !id.is_empty()) else {
            let reason = format!("GroupPrincipals: a group of {id} has no metadata.name, which identifies it");
            input.reject(object.place, reason);
            input.users[person].unclear.others = true;
            continue;
        };
        let names = [&principal["displayName"], &principal["loginName"]];
        let name = names.iter().filter_map(|name| name.as_str()).find(|name| !name.is_empty()).unwrap_or(principal_id);
        input.users[person].join(GroupRef { id: SourceId::new("rancher", principal_id), name: name.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::Credential;
    use secrecy::ExposeSecret;

    #[test]
    fn users_attributes_and_secrets_are_combined() {
        let input = read(include_bytes!("../../../examples/import/rancher.yaml"));
        assert_eq!(input.rejected, []);
        let [admin, dana] = &input.users[..] else { panic!("two users: system users are skipped") };
        assert_eq!(admin.login(), "admin");
        let Some(Credential::Hash(hash)) = &admin.credential else { panic!("a hash") };
        assert!(hash.expose_secret().starts_with("$pbkdf2-sha3-512$i=210000$"));
        assert_eq!(hashes::usable(hash.expose_secret()).as_deref(), Ok(hash.expose_secret()));
        assert_eq!(dana.login(), "u-dana5");
        assert_eq!(dana.spec["identities"], json!([{"type": "github", "id": "4711"}]));
        assert_eq!(dana.group_names(), ["Platform"]);
    }
}
