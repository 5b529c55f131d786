//! Reads custom resources of KubeSphere: `kubectl get users.iam.kubesphere.io,groups.iam.kubesphere.io,
//! groupbindings.iam.kubesphere.io -o json`.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::documents::{Located, Text};
use super::draft::{GroupDraft, GroupRef, Input, Rejected, SourceId, UserDraft};

const GROUP: &str = "iam.kubesphere.io/";
const PARENT_LABEL: &str = "iam.kubesphere.io/group-parent";
const ALIAS_ANNOTATION: &str = "kubesphere.io/alias-name";
/// Labels of version 3 with the identity provider and the user's ID there.
const PROVIDER_LABEL: &str = "iam.kubesphere.io/identify-provider";
const ORIGIN_LABEL: &str = "iam.kubesphere.io/origin-uid";
/// Prefix of the annotations of version 4: one per identity provider, with the user's ID there as its value.
const PROVIDER_ANNOTATION: &str = "iam.kubesphere.io/identity-provider.";

/// Reads Users, Groups and GroupBindings. Roles are not imported: RoleBindings define the permissions in this cluster.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let Some(text) = Text::new(bytes, &mut input) else { return input };
    let mut bindings = Vec::new();
    let objects = text.objects(&mut input);
    let is_complete = input.rejected.is_empty();
    for object in objects {
        let is_kubesphere = object.value["apiVersion"].as_str().is_some_and(|version| version.starts_with(GROUP));
        match object.value["kind"].as_str().filter(|_| is_kubesphere) {
            Some("User") => user(&object, &mut input),
            Some("Group") => group(&object, &mut input),
            Some("GroupBinding") => bindings.push(object),
            _ => input.reject(object.place, "must be a User, Group or GroupBinding of iam.kubesphere.io"),
        }
    }
    let has_groups = |person: &UserDraft| !person.groups.is_empty();
    input.describes_memberships = !bindings.is_empty() || input.users.iter().any(has_groups);
    nest(&mut input);
    bind(&bindings, &mut input);
    if !is_complete {
        input.lose_members();
    }
    input
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().fold(value, |value, name| &value[*name]).as_str().unwrap_or_default()
}

/// Refers to a group by the name of its object, which is unique.
fn reference(name: &str) -> GroupRef {
    GroupRef { id: SourceId::new("kubesphere", name), name: name.to_owned() }
}

fn user(object: &Located, input: &mut Input) {
    let value = &object.value;
    let name = text(value, &["metadata", "name"]);
    if name.starts_with("system:") {
        // KubeSphere creates these for users who have not finished their first login.
        return;
    }
    let mut person = UserDraft::new(object.place, name);
    person.identify("kubesphere", object.uid_or_name());
    person.add_email(text(value, &["spec", "email"]));
    person.set("displayName", text(value, &["spec", "displayName"]));
    person.set("language", text(value, &["spec", "lang"]));
    for group in value["spec"]["groups"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        person.join(reference(group));
    }
    let state = [text(value, &["status", "state"]), text(value, &["spec", "state"])];
    if state.contains(&"Disabled") {
        person.set("state", "Disabled");
    }
    let identities = identities(value);
    if let Some((provider, _)) = identities.first() {
        person.set("connector", json!({"type": "oidc", "id": provider}));
        let all: Vec<Value> = identities.iter().map(|(kind, id)| json!({"type": kind, "id": id})).collect();
        person.set("identities", all);
    }
    super::text::take_password(&mut person, text(value, &["spec", "password"]));
    input.add_user(person);
}

fn identities(value: &Value) -> Vec<(String, String)> {
    let annotations = value["metadata"]["annotations"].as_object().into_iter().flatten();
    let annotated = annotations
        .filter_map(|(key, id)| Some((key.strip_prefix(PROVIDER_ANNOTATION)?.to_owned(), id.as_str()?.to_owned())));
    let label = |name: &str| text(value, &["metadata", "labels", name]).to_owned();
    let labelled = Some((label(PROVIDER_LABEL), label(ORIGIN_LABEL)))
        .filter(|(provider, id)| !provider.is_empty() && !id.is_empty());
    annotated.chain(labelled).collect()
}

fn group(object: &Located, input: &mut Input) {
    let value = &object.value;
    let name = text(value, &["metadata", "name"]);
    let mut group = GroupDraft::new(object.place, reference(name).id, name);
    group.set("displayName", text(value, &["metadata", "annotations", ALIAS_ANNOTATION]));
    // Stored in the labels until all groups are known; `nest` removes it.
    if let Some(parent) =
        value["metadata"]["labels"].get(PARENT_LABEL).filter(|parent| *parent != "" && *parent != "root")
    {
        group.labels.insert(PARENT_LABEL.to_owned(), parent.clone());
    }
    input.groups.push(group);
}

/// Makes each group that has a parent a member of it.
fn nest(input: &mut Input) {
    let by_name: HashMap<String, usize> =
        input.groups.iter().enumerate().map(|(index, group)| (group.name.clone(), index)).collect();
    for index in 0..input.groups.len() {
        let Some(parent) = input.groups[index].labels.remove(PARENT_LABEL) else { continue };
        let child = input.groups[index].reference();
        if let Some(parent) = parent.as_str().and_then(|parent| by_name.get(parent)) {
            input.groups[*parent].nest(child);
        }
    }
}

fn bind(bindings: &[Located], input: &mut Input) {
    let people = input.users_by_login();
    for Located { place, value } in bindings {
        let group = text(value, &["groupRef", "name"]);
        for user in value["users"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            match people.get(user) {
                Some(index) => input.users[*index].join(reference(group)),
                None => input.rejected.push(Rejected {
                    place: *place,
                    who: user.to_owned(),
                    field: "users".to_owned(),
                    reason: format!("the group {group} has a member that is not a user in this file: {user}"),
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_groups_and_bindings_are_combined() {
        let input = read(include_bytes!("../../../examples/import/kubesphere.yaml"));
        assert_eq!(input.rejected, []);
        let [lin, mei] = &input.users[..] else { panic!("two users") };
        assert_eq!(
            Value::from(lin.spec.clone()),
            json!({
                "username": "lin", "email": "lin@example.com", "displayName": "Lin", "language": "zh",
            })
        );
        assert!(lin.credential.is_some());
        assert_eq!(lin.group_names(), ["backend-7xk2p"]);
        assert_eq!(mei.spec["state"], "Disabled");
        assert_eq!(mei.spec["identities"], json!([{"type": "corporate", "id": "8842"}]));
        let groups: Vec<Value> = input.groups.iter().map(|group| group.spec.clone().into()).collect();
        assert_eq!(groups, [json!({"displayName": "Engineering"}), json!({"displayName": "Backend"})]);
        assert_eq!(input.groups[0].member_groups, [input.groups[1].reference()]);
        assert_eq!(lin.place.line, 4);
    }
}
