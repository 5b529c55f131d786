//! The custom resources of Rancher: `kubectl get users.management.cattle.io,userattributes.management.cattle.io -o json`,
//! and the Secrets of its namespace for passwords.

use std::collections::HashMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Map, Value, json};

use super::documents::{Located, Text};
use super::draft::{Input, Person, Team};
use super::hashes;

const PASSWORDS: &str = "cattle-local-user-passwords";
const HASH_ANNOTATION: &str = "cattle.io/password-hash";

/// Reads Users, UserAttributes (which groups of an identity provider they are in) and password Secrets. Roles are not
/// carried over: what somebody may do here is for a RoleBinding.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let Some(text) = Text::new(bytes, &mut input) else { return input };
    let (mut users, mut attributes, mut passwords) = (Vec::new(), Vec::new(), HashMap::new());
    for object in text.objects(&mut input) {
        let value = &object.value;
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default()) {
            ("management.cattle.io/v3", "User") => users.push(object),
            ("management.cattle.io/v3", "UserAttribute") => attributes.push(object),
            ("v1", "Secret") if value["metadata"]["namespace"] == PASSWORDS => match hash(value) {
                Ok(hash) => drop(passwords.insert(name, hash)),
                Err(reason) => input.reject(object.place, reason),
            },
            _ => input
                .reject(object.place, format!("is no User or UserAttribute of Rancher, and no Secret of {PASSWORDS}")),
        }
    }
    let mut people = HashMap::new();
    for object in &users {
        user(object, &mut passwords, &mut people, &mut input);
    }
    for object in &attributes {
        groups(object, &people, &mut input);
    }
    input
}

/// The hash in a Secret: PBKDF2 with SHA3-512 since version 2.12, bcrypt for those who have not logged in since.
fn hash(secret: &Value) -> Result<String, &'static str> {
    let data = |key: &str| BASE64_STANDARD.decode(secret["data"][key].as_str()?).ok();
    let password = data("password").ok_or("data.password: is missing")?;
    match secret["metadata"]["annotations"][HASH_ANNOTATION].as_str() {
        Some("pbkdf2sha3512") => Ok(hashes::rancher(&data("salt").ok_or("data.salt: is missing")?, &password)),
        Some("bcrypt") => String::from_utf8(password).map_err(|_| "data.password: is no hash"),
        _ => Err("the annotation cattle.io/password-hash names neither pbkdf2sha3512 nor bcrypt"),
    }
}

fn user(
    object: &Located,
    passwords: &mut HashMap<String, String>,
    people: &mut HashMap<String, usize>,
    input: &mut Input,
) {
    let value = &object.value;
    let principals: Vec<&str> =
        value["principalIds"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if principals.iter().any(|principal| principal.starts_with("system:")) {
        return;
    }
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let id = value["metadata"]["name"].as_str().unwrap_or_default();
    let mut person = Person::new(object.place, if text("username").is_empty() { id } else { text("username") });
    person.set("displayName", text("displayName"));
    if value["enabled"] == false {
        person.set("state", "Disabled");
    }
    if value["mustChangePassword"] == true {
        person.set("requirePasswordChange", true);
    }
    let foreign: Vec<(&str, &str)> = principals.iter().filter_map(|principal| identity(principal)).collect();
    if let Some((provider, _)) = foreign.first() {
        person.set("connector", json!({"type": provider, "id": provider}));
        person.set("identities", foreign.iter().map(|(kind, id)| json!({"type": kind, "id": id})).collect::<Vec<_>>());
    }
    let hash = passwords.remove(id).unwrap_or_else(|| text("password").to_owned());
    super::text::take_password(&mut person, &hash);
    people.insert(id.to_owned(), input.people.len());
    input.people.push(person);
}

/// `github_user://4711` is an identity elsewhere, `local://u-abcde` is none.
fn identity(principal: &str) -> Option<(&str, &str)> {
    let (scheme, id) = principal.split_once("://")?;
    Some((scheme.strip_suffix("_user")?, id))
}

/// The groups that the identity provider has told at the last login.
fn groups(object: &Located, people: &HashMap<String, usize>, input: &mut Input) {
    let id = object.value["metadata"]["name"].as_str().unwrap_or_default();
    let Some(person) = people.get(id).copied() else { return };
    // The type has no names for JSON: its fields are written as in Go, or in lower case by older tools.
    let field = |map: &Map<String, Value>, name: &str| {
        map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let providers = object.value.as_object().map(|fields| field(fields, "GroupPrincipals")).unwrap_or_default();
    let lists = providers.as_object().into_iter().flatten().filter_map(|(_, list)| list.as_object());
    for principal in lists.flat_map(|list| field(list, "Items").as_array().cloned().unwrap_or_default()) {
        let names = [&principal["displayName"], &principal["loginName"], &principal["metadata"]["name"]];
        let Some(name) = names.iter().filter_map(|name| name.as_str()).find(|name| !name.is_empty()) else { continue };
        input.people[person].add("groups", name);
        if !input.teams.iter().any(|team| team.name == name) {
            let mut team = Team::new(object.place, name);
            team.set("description", principal["metadata"]["name"].as_str().unwrap_or_default());
            input.teams.push(team);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::Credential;
    use secrecy::ExposeSecret;

    #[test]
    fn users_attributes_and_secrets_go_together() {
        let input = read(include_bytes!("../../../examples/import/rancher.yaml"));
        assert_eq!(input.rejected, []);
        let [admin, dana] = &input.people[..] else { panic!("two people: system users are left out") };
        assert_eq!(admin.login(), "admin");
        let Some(Credential::Hash(hash)) = &admin.credential else { panic!("a hash") };
        assert!(hash.expose_secret().starts_with("$pbkdf2-sha3-512$i=210000$"));
        assert_eq!(hashes::usable(hash.expose_secret()).as_deref(), Ok(hash.expose_secret()));
        assert_eq!(dana.login(), "u-dana5");
        assert_eq!(dana.spec["identities"], json!([{"type": "github", "id": "4711"}]));
        assert_eq!(dana.spec["groups"], json!(["Platform"]));
        assert_eq!(input.teams[0].name, "Platform");
    }
}
