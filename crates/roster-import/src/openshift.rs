//! Reads OpenShift's user API: `oc get users,groups,identities -o yaml`.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::documents::{Located, Text};
use super::draft::{GroupDraft, GroupRef, Input, Rejected, SourceId, UserDraft};

/// API versions: the second one is that of OpenShift 3.
const VERSIONS: [&str; 2] = ["user.openshift.io/v1", "v1"];

/// Reads Users, Groups and Identities. Identities have the users' email addresses, and their IDs at identity providers.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let Some(text) = Text::new(bytes, &mut input) else { return input };
    let (mut groups, mut identities) = (Vec::new(), Vec::new());
    for object in text.objects(&mut input) {
        let is_openshift = object.value["apiVersion"].as_str().is_some_and(|version| VERSIONS.contains(&version));
        match object.value["kind"].as_str().filter(|_| is_openshift) {
            Some("User") => user(&object, &mut input),
            Some("Group") => groups.push(object),
            Some("Identity") => identities.push(object),
            _ => input.reject(object.place, "must be a User, Group or Identity of user.openshift.io/v1"),
        }
    }
    let people: HashMap<String, usize> =
        input.users.iter().enumerate().map(|(index, person)| (person.login().to_owned(), index)).collect();
    for object in &identities {
        identity(object, &people, &mut input);
    }
    for object in &groups {
        group(object, &people, &mut input);
    }
    input
}

fn name(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}

fn strings<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    value[field].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Refers to a group. Names of objects are unique, and upper case counts.
fn reference(name: &str) -> GroupRef {
    GroupRef { id: SourceId::new("openshift", name), name: name.to_owned() }
}

fn user(object: &Located, input: &mut Input) {
    let mut person = UserDraft::new(object.place, name(&object.value));
    person.set("displayName", object.value["fullName"].as_str().unwrap_or_default());
    for identity in strings(&object.value, "identities") {
        // Names of identities are PROVIDER:USER, and names of providers have no colon.
        if let Some((provider, id)) = identity.split_once(':') {
            add_identity(&mut person, provider, id);
        }
    }
    // Deprecated: Groups list their users.
    strings(&object.value, "groups").for_each(|group| person.join(reference(group)));
    input.users.push(person);
}

fn add_identity(person: &mut UserDraft, provider: &str, id: &str) {
    if !person.spec.contains_key("connector") {
        person.set("connector", json!({"type": provider, "id": provider}));
    }
    person.add("identities", json!({"type": provider, "id": id}));
}

fn identity(object: &Located, people: &HashMap<String, usize>, input: &mut Input) {
    let value = &object.value;
    let user = value["user"]["name"].as_str().unwrap_or_default();
    let Some(index) = people.get(user) else {
        return reject(object, name(value), "user", format!("{user:?} is not a User in this file"), input);
    };
    let person = &mut input.users[*index];
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    if !text("providerName").is_empty() && !text("providerUserName").is_empty() {
        add_identity(person, text("providerName"), text("providerUserName"));
    }
    let extra = |field: &str| value["extra"][field].as_str().unwrap_or_default();
    person.add_email(extra("email"));
    if !person.spec.contains_key("displayName") {
        person.set("displayName", extra("name"));
    }
}

fn group(object: &Located, people: &HashMap<String, usize>, input: &mut Input) {
    let reference = reference(name(&object.value));
    input.groups.push(GroupDraft::new(object.place, reference.id.clone(), &reference.name));
    for user in strings(&object.value, "users") {
        match people.get(user) {
            Some(index) => input.users[*index].join(reference.clone()),
            None => {
                let group = &reference.name;
                let reason = format!("the group {group} has a member that is not a User in this file: {user}");
                reject(object, user, "users", reason, input);
            }
        }
    }
}

fn reject(object: &Located, who: &str, field: &str, reason: String, input: &mut Input) {
    input.rejected.push(Rejected { place: object.place, who: who.to_owned(), field: field.to_owned(), reason });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_a20_users_groups_and_identities_are_combined() {
        let input = read(include_bytes!("../../../examples/import/openshift.yaml"));
        assert_eq!(input.rejected, []);
        let [ines, theo] = &input.users[..] else { panic!("two users") };
        assert_eq!(
            Value::from(ines.spec.clone()),
            json!({
                "username": "ines", "email": "ines@example.com", "displayName": "Inês Lima",
                "connector": {"type": "corporate", "id": "corporate"},
                "identities": [{"type": "corporate", "id": "1f0c-77"}],
            })
        );
        assert_eq!(ines.group_names(), ["Operators", "operators"]);
        assert_eq!(theo.group_names(), ["operators"]);
        assert_eq!(theo.spec["displayName"], "Theo Roth");
    }

    #[test]
    fn case_a20_members_and_identities_without_a_user_are_reported() {
        let text = "apiVersion: user.openshift.io/v1\nkind: Group\nmetadata: {name: ops}\nusers: [ghost]\n---\n\
            apiVersion: user.openshift.io/v1\nkind: Identity\nmetadata: {name: 'x:y'}\nuser: {name: ghost}\n---\n\
            apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
        let found: Vec<(usize, String)> =
            read(text.as_bytes()).rejected.iter().map(|rejected| (rejected.place.line, rejected.to_string())).collect();
        assert_eq!(
            found,
            [
                (11, "must be a User, Group or Identity of user.openshift.io/v1".to_owned()),
                (6, "user: \"ghost\" is not a User in this file".to_owned()),
                (1, "users: the group ops has a member that is not a User in this file: ghost".to_owned()),
            ]
        );
    }
}
