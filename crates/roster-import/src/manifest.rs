//! Reads JSON and YAML: Users, Groups and password Secrets of Roster, or plain objects with the fields of a `spec`.

use std::collections::HashMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use roster_api::SOURCE_ID_ANNOTATION;
use roster_api::{API_VERSION, PASSWORD_SECRET_TYPE};
use roster_credentials::source::{HASH_KEY, PASSWORD_KEY};
use serde_json::{Map, Value};

use super::documents::{Located, Text};
use super::draft::{Credential, GroupDraft, Input, Place, Rejected, UserDraft};

/// Credentials by namespace and name of their Secret.
type Secrets = HashMap<(String, String), (Place, Credential)>;

/// Reads JSON (an array, a List, or one object per line) or YAML.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let Some(text) = Text::new(bytes, &mut input) else { return input };
    let objects = text.objects(&mut input);
    let mut secrets = Secrets::new();
    for object in &objects {
        if is(&object.value, "v1", "Secret") {
            secret(object, &mut secrets, &mut input);
        }
    }
    input.describes_memberships = objects.iter().any(|object| {
        let Located { value, .. } = object;
        value["kind"] == "Group" || value.get("groups").is_some() || value["spec"].get("groups").is_some()
    });
    for object in objects {
        let kind = (object.value["apiVersion"].as_str(), object.value["kind"].as_str());
        match kind {
            (Some(API_VERSION), Some("User")) => user(object, &mut secrets, &mut input),
            (Some(API_VERSION), Some("Group")) => group(object, &mut input),
            (Some("v1"), Some("Secret")) => {}
            (None, None | Some("User" | "Group")) => flat(object, &mut input),
            _ => input.reject(object.place, format!("must be a User or Group of {API_VERSION}, or a password Secret")),
        }
    }
    for ((namespace, name), (place, _)) in secrets {
        input.reject(place, format!("no User in this file refers to the Secret {namespace}/{name}"));
    }
    input
}

fn is(object: &Value, version: &str, kind: &str) -> bool {
    object["apiVersion"] == version && object["kind"] == kind
}

fn secret(object: &Located, secrets: &mut Secrets, input: &mut Input) {
    let Located { place, value } = object;
    if value["type"] != PASSWORD_SECRET_TYPE {
        return input.reject(*place, format!("type: must be {PASSWORD_SECRET_TYPE}"));
    }
    let data = |key: &str| {
        let typed = value["stringData"][key].as_str().map(str::to_owned);
        let stored = || String::from_utf8(BASE64_STANDARD.decode(value["data"][key].as_str()?).ok()?).ok();
        typed.or_else(stored)
    };
    let hash = || data(HASH_KEY).map(|hash| Credential::Hash(hash.into()));
    let credential = data(PASSWORD_KEY).map(|password| Credential::password(&password)).or_else(hash);
    let text = |name: &str| value["metadata"][name].as_str().unwrap_or_default().to_owned();
    match credential {
        Some(credential) => drop(secrets.insert((text("namespace"), text("name")), (*place, credential))),
        None => input.reject(*place, format!("data: must have the key {PASSWORD_KEY} or {HASH_KEY}")),
    }
}

fn object_of(value: &mut Value) -> Map<String, Value> {
    value.as_object_mut().map(std::mem::take).unwrap_or_default()
}

fn name_of(value: &Value) -> Option<String> {
    value["metadata"]["name"].as_str().map(str::to_owned)
}

/// Returns the identity in the source from which the object of a manifest was imported.
fn source_of(value: &Value) -> Option<String> {
    value["metadata"]["annotations"][SOURCE_ID_ANNOTATION].as_str().map(str::to_owned)
}

fn user(mut object: Located, secrets: &mut Secrets, input: &mut Input) {
    let source = source_of(&object.value);
    let mut person = UserDraft {
        place: object.place,
        name: name_of(&object.value),
        spec: object_of(&mut object.value["spec"]),
        labels: object_of(&mut object.value["metadata"]["labels"]),
        source,
        ..UserDraft::default()
    };
    let reference = person.spec.get("passwordSecretRef");
    let text = |name: &str| reference.and_then(|reference| reference[name].as_str()).unwrap_or_default().to_owned();
    person.credential = secrets.remove(&(text("namespace"), text("name"))).map(|(_, credential)| credential);
    input.add_user(person);
}

fn group(mut object: Located, input: &mut Input) {
    let mut group = GroupDraft::named(object.place, &name_of(&object.value).unwrap_or_default());
    group.origin = source_of(&object.value);
    group.spec = object_of(&mut object.value["spec"]);
    group.labels = object_of(&mut object.value["metadata"]["labels"]);
    input.groups.push(group);
}

/// Reads an object with the fields of a `spec` and, in addition, `name`, `labels`, `password` and `passwordHash`.
fn flat(mut object: Located, input: &mut Input) {
    let place = object.place;
    let mut fields = object_of(&mut object.value);
    let is_group = fields.remove("kind").is_some_and(|kind| kind == "Group");
    let labels = fields.remove("labels").map(|mut labels| object_of(&mut labels)).unwrap_or_default();
    let mut take = |field: &str| match fields.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => {
            Err(Rejected { place, who: String::new(), field: field.to_owned(), reason: "must be text".to_owned() })
        }
    };
    let taken = (|| Ok((take("name")?, take(PASSWORD_KEY)?, take(HASH_KEY)?)))();
    let (name, password, hash) = match taken {
        Ok(taken) => taken,
        Err(rejected) => return input.rejected.push(rejected),
    };
    fields.retain(|_, value| !value.is_null());
    if is_group {
        let group = GroupDraft::named(place, &name.unwrap_or_default());
        return input.groups.push(GroupDraft { spec: fields, labels, ..group });
    }
    let credential = password.map(|password| Credential::password(&password));
    let credential = credential.or(hash.map(|hash| Credential::Hash(hash.into())));
    input.add_user(UserDraft { place, name, spec: fields, labels, credential, ..UserDraft::default() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn arrays_lines_lists_and_documents_are_equivalent() {
        let array = "[\n {\"username\": \"ada\"},\n {\"username\": \"bob\", \"passwordHash\": \"$2b$x\"}\n]";
        let lines = "{\"username\": \"ada\"}\n\n{\"username\": \"bob\", \"passwordHash\": \"$2b$x\"}\n";
        let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: roster.dev/v1alpha1\n  kind: User\n  metadata:\n    name: ada\n\
                    - apiVersion: roster.dev/v1alpha1\n  kind: User\n  metadata: {name: bob}\n  spec:\n    groups: [a]\n";
        let documents = "# two\n---\nusername: ada\n---\n\nusername: bob\n...\n";
        let inline = "--- {username: ada}\n--- # the second one\nusername: bob\n";
        let all = [(array, [2, 3]), (lines, [1, 3]), (list, [4, 8]), (documents, [3, 6]), (inline, [1, 3])];
        for (text, expected) in all {
            let input = read(text.as_bytes());
            assert_eq!(input.rejected, [], "{text}");
            let found: Vec<(&str, usize)> =
                input.users.iter().map(|person| (person.login(), person.place.line)).collect();
            assert_eq!(found, [("ada", expected[0]), ("bob", expected[1])], "{text}");
        }
    }

    #[test]
    fn a_secret_belongs_to_the_user_that_refers_to_it() {
        let text = include_str!("../../../examples/user-with-hash.yaml");
        let input = read(text.as_bytes());
        assert_eq!(input.rejected, []);
        let Some(Credential::Hash(hash)) = &input.users[0].credential else { panic!("no hash") };
        assert!(hash.expose_secret().starts_with("$argon2id$"));
        let lonely = read(b"{apiVersion: v1, kind: Secret, type: roster.dev/password, metadata: {name: x}, stringData: {password: y}}");
        // A YAML flow mapping begins like JSON but is not JSON.
        assert!(lonely.rejected[0].reason.starts_with("is not JSON"));
    }

    #[test]
    fn reading_continues_after_a_malformed_line() {
        let input = read(b"{\"username\": \"ada\"}\n{\"username\": ada}\n{\"username\": \"cyd\"}\n[3]\n");
        let lines: Vec<usize> = input.rejected.iter().map(|rejected| rejected.place.line).collect();
        assert_eq!((input.users.len(), lines), (2, vec![2, 4]));
        assert!(read(b"\xff").rejected[0].reason.contains("UTF-8"));
    }

    #[test]
    fn other_kinds_are_rejected() {
        let input = read(b"{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\"}");
        assert!(input.rejected[0].reason.contains("must be a User or Group"));
    }
}
