//! Reads Dex's local users: `kubectl get passwords.dex.coreos.com -n dex -o yaml`.

use std::collections::BTreeSet;

use serde_json::json;

use super::documents::{Located, Text};
use super::draft::{GroupRef, Input, SourceId, UserDraft};

/// Reads Passwords, which are users. All must be in one namespace: a Dex reads only those of its own. Anyone who may create
/// Passwords in another namespace could otherwise choose groups, and the `userID` of someone else.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let Some(text) = Text::new(bytes, &mut input) else { return input };
    let mut passwords = Vec::new();
    for object in text.objects(&mut input) {
        let is_dex = object.value["apiVersion"].as_str().is_some_and(|version| version.starts_with("dex.coreos.com/"));
        match object.value["kind"].as_str().filter(|_| is_dex) {
            Some("Password") => passwords.push(object),
            _ => input.reject(object.place, "must be a Password of dex.coreos.com/v1"),
        }
    }
    if let Some(stranger) = passwords.iter().find(|object| namespace(object) != namespace(&passwords[0])) {
        let namespaces: BTreeSet<&str> = passwords.iter().map(namespace).collect();
        let named: Vec<&str> = namespaces.iter().map(|name| if name.is_empty() { "(none)" } else { name }).collect();
        let reason = format!(
            "metadata.namespace: the Passwords must be in one namespace, because each Dex reads only its own: export them \
             with kubectl -n NAMESPACE. This file has several: {}",
            named.join(", ")
        );
        input.reject(stranger.place, reason);
        return input;
    }
    // A Password that names no group may be of a Dex without groups of local users.
    input.describes_memberships = passwords.iter().any(|object| object.value.get("groups").is_some());
    for object in &passwords {
        user(object, &mut input);
    }
    input
}

fn namespace(object: &Located) -> &str {
    object.value["metadata"]["namespace"].as_str().unwrap_or_default()
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
    input.add_user(person);
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

    fn password(namespace: &str, email: &str, id: &str, more: &str) -> String {
        format!(
            "---\n{{apiVersion: dex.coreos.com/v1, kind: Password, metadata: {{name: x, namespace: {namespace:?}}}, \
             email: {email}, userID: {id}{more}}}\n"
        )
    }

    #[test]
    fn passwords_of_several_namespaces_are_rejected() {
        let dex = password("dex", "ada@example.com", "1", "");
        for text in [
            dex.clone() + &password("tenant", "eve@example.com", "2", ", groups: [admins]"),
            password("", "eve@example.com", "2", "") + &dex,
        ] {
            let input = read(text.as_bytes());
            assert_eq!(input.users.len(), 0);
            let [rejected] = &input.rejected[..] else { panic!("{:?}", input.rejected) };
            assert!(
                rejected.reason.contains("several: dex, tenant") || rejected.reason.contains("several: (none), dex")
            );
            assert_eq!(rejected.place.line, 4);
        }
        assert_eq!(read((dex.clone() + &password("dex", "eve@example.com", "2", "")).as_bytes()).users.len(), 2);
    }

    #[test]
    fn other_objects_are_reported() {
        let input = read(b"{\"apiVersion\": \"dex.coreos.com/v1\", \"kind\": \"OAuth2Client\"}");
        assert_eq!(input.rejected[0].reason, "must be a Password of dex.coreos.com/v1");
    }
}
