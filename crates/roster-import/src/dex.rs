//! Reads Dex's local users: `kubectl get passwords.dex.coreos.com -o yaml`.

use serde_json::json;

use super::documents::{Located, Text};
use super::draft::{GroupRef, Input, SourceId, UserDraft};

/// Reads Passwords, which are users.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let Some(text) = Text::new(bytes, &mut input) else { return input };
    for object in text.objects(&mut input) {
        let is_dex = object.value["apiVersion"].as_str().is_some_and(|version| version.starts_with("dex.coreos.com/"));
        match object.value["kind"].as_str().filter(|_| is_dex) {
            Some("Password") => user(&object, &mut input),
            _ => input.reject(object.place, "must be a Password of dex.coreos.com/v1"),
        }
    }
    input
}

fn user(object: &Located, input: &mut Input) {
    let text = |field: &str| object.value[field].as_str().unwrap_or_default();
    // In Dex, people log in with their email address, and the username is only a claim.
    let username = [text("preferredUsername"), text("username"), text("email")];
    let username = username.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
    let mut person = UserDraft::new(object.place, username);
    // The email is unique in Dex, but can be given to someone else.
    person.identify("dex", if text("userID").is_empty() { text("email") } else { text("userID") });
    person.add_email(text("email"));
    person.set("displayName", text("name"));
    if !text("userID").is_empty() {
        person.set("identities", json!([{"type": "dex", "id": text("userID")}]));
    }
    for group in object.value["groups"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
        person.join(GroupRef { id: SourceId::new("dex", group), name: group.to_owned() });
    }
    super::text::take_password(&mut person, text("hash"));
    input.users.push(person);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::Credential;
    use secrecy::ExposeSecret;

    #[test]
    fn case_a20_dex_passwords_are_users_with_bcrypt_hashes() {
        let input = read(include_bytes!("../../../examples/import/dex.yaml"));
        assert_eq!(input.rejected, []);
        let [nadia, omar] = &input.users[..] else { panic!("two users") };
        assert_eq!((nadia.login(), &nadia.spec["email"]), ("nadia", &json!("nadia@example.com")));
        assert_eq!(nadia.spec["identities"], json!([{"type": "dex", "id": "08a8684b-db88-4b73-90a9-3cd1661f5466"}]));
        assert_eq!(omar.login(), "omar@example.com");
        for person in [nadia, omar] {
            let Some(Credential::Hash(hash)) = &person.credential else { panic!("a hash") };
            assert!(crate::hashes::usable(hash.expose_secret()).is_ok());
        }
    }

    #[test]
    fn other_objects_are_reported() {
        let input = read(b"{\"apiVersion\": \"dex.coreos.com/v1\", \"kind\": \"OAuth2Client\"}");
        assert_eq!(input.rejected[0].reason, "must be a Password of dex.coreos.com/v1");
    }
}
