//! Reads the static users of Deckhouse (module user-authn): `kubectl get users.deckhouse.io,groups.deckhouse.io -o yaml`.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde_json::Value;

use super::documents::{Located, Text};
use super::draft::{GroupDraft, GroupRef, Input, Rejected, SourceId, UserDraft};
use super::expiry::is_never;
use super::membership::make_unclear;

/// Reads Users and Groups.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let Some(text) = Text::new(bytes, &mut input) else { return input };
    let mut groups = Vec::new();
    let objects = text.objects(&mut input);
    // What can't be read may be a group.
    input.unclear.others = !input.rejected.is_empty();
    for object in objects {
        let is_deckhouse =
            object.value["apiVersion"].as_str().is_some_and(|version| version.starts_with("deckhouse.io/"));
        match object.value["kind"].as_str().filter(|_| is_deckhouse) {
            Some("User") => user(&object, &mut input),
            Some("Group") => groups.push(object),
            _ => input.reject(object.place, "must be a User or Group of deckhouse.io"),
        }
    }
    input.describes_memberships = !groups.is_empty();
    // Groups are identified by `spec.name`, not by `metadata.name`.
    let indexes: HashMap<String, usize> =
        groups.iter().enumerate().map(|(index, object)| (group_name(&object.value).to_owned(), index)).collect();
    for object in &groups {
        let reference = reference(group_name(&object.value));
        input.groups.push(GroupDraft::new(object.place, reference.id, &reference.name));
    }
    let people = input.users_by_login();
    for (index, object) in groups.iter().enumerate() {
        members(index, object, &people, &indexes, &mut input);
    }
    reject_shared_names(&groups, &mut input);
    input
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().fold(value, |value, name| &value[*name]).as_str().unwrap_or_default()
}

fn group_name(value: &Value) -> &str {
    text(value, &["spec", "name"])
}

/// Removes and reports the Groups that share a `spec.name` with a different one. Kubernetes only keeps `metadata.name`
/// unique, so someone could otherwise add members to a Group with a second one, or remove them.
fn reject_shared_names(groups: &[Located], input: &mut Input) {
    let mut first: HashMap<&str, &Value> = HashMap::new();
    let mut shared = HashSet::new();
    for Located { value, .. } in groups {
        let known = *first.entry(group_name(value)).or_insert(value);
        let is_same = known["metadata"]["name"] == value["metadata"]["name"] && known["spec"] == value["spec"];
        if !is_same {
            shared.insert(reference(group_name(value)).id);
        }
    }
    for group in input.groups.extract_if(.., |group| shared.contains(&group.id)) {
        let GroupDraft { place, name, .. } = group;
        let reason = format!(
            "{name} is the name of several Groups, and all of them are rejected: rename all but one. Until then, no membership \
             in them changes"
        );
        input.rejected.push(Rejected { place, who: name, field: "spec.name".to_owned(), reason });
    }
    make_unclear(input, &shared);
}

/// Refers to a group by its `spec.name`, which is unique.
fn reference(name: &str) -> GroupRef {
    GroupRef { id: SourceId::new("deckhouse", name), name: name.to_owned() }
}

fn user(object: &Located, input: &mut Input) {
    let value = &object.value;
    let mut person = UserDraft::new(object.place, text(value, &["metadata", "name"]));
    person.identify("deckhouse", object.uid_or_name());
    person.add_email(text(value, &["spec", "email"]));
    super::text::take_password(&mut person, text(value, &["spec", "password"]));
    // Deprecated field: Groups list their members now.
    for group in value["spec"]["groups"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        person.join(reference(group));
    }
    expiry(value, &mut person);
    // A lock after failed logins expires by itself, so only a lock by an administrator disables the user.
    if value["status"]["lock"]["state"] == true && text(value, &["status", "lock", "reason"]) == "LockedByAdministrator"
    {
        person.set("state", "Disabled");
    }
    input.add_user(person);
}

fn expiry(value: &Value, person: &mut UserDraft) {
    let end = text(value, &["status", "expireAt"]);
    if end.is_empty() {
        if !text(value, &["spec", "ttl"]).is_empty() {
            person.fault("status.expireAt", "is required if spec.ttl is set: export the User from the cluster");
        }
        return;
    }
    match end.parse::<Timestamp>() {
        Ok(time) if is_never(time) => {}
        Ok(time) => person.set("validity.notAfter", time.to_string()),
        Err(_) => person.fault("status.expireAt", "must be a time such as 2030-12-31T23:59:59Z"),
    }
}

fn members(
    index: usize,
    object: &Located,
    people: &HashMap<String, usize>,
    groups: &HashMap<String, usize>,
    input: &mut Input,
) {
    let group = input.groups[index].reference();
    for member in object.value["spec"]["members"].as_array().into_iter().flatten() {
        let name = text(member, &["name"]);
        match (text(member, &["kind"]), people.get(name), groups.get(name)) {
            ("User", Some(person), _) => input.users[*person].join(group.clone()),
            ("Group", _, Some(nested)) => {
                let nested = input.groups[*nested].reference();
                input.groups[index].nest(nested);
            }
            (kind, ..) => {
                if kind == "Group" {
                    // It may have been imported from another file.
                    input.groups[index].unclear.groups.insert(reference(name).id);
                }
                let kind = if kind == "Group" { "Group" } else { "User" };
                input.rejected.push(Rejected {
                    place: object.place,
                    who: name.to_owned(),
                    field: "spec.members".to_owned(),
                    reason: format!("the group {} has a member that is not a {kind} in this file: {name}", group.name),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::Credential;
    use secrecy::ExposeSecret;
    use serde_json::json;

    #[test]
    fn case_a20_users_and_nested_groups_are_combined() {
        let input = read(include_bytes!("../../../examples/import/deckhouse.yaml"));
        assert_eq!(input.rejected, []);
        let [petra, ravi] = &input.users[..] else { panic!("two users") };
        assert_eq!(
            Value::from(petra.spec.clone()),
            json!({"username": "petra", "email": "petra@example.com", "validity": {"notAfter": "2031-01-01T00:00:00Z"}})
        );
        assert_eq!(ravi.spec["state"], "Disabled");
        assert_eq!((petra.group_names(), ravi.group_names()), (vec!["admins"], vec!["staff"]));
        assert_eq!(input.groups[0].name, "staff");
        assert_eq!(input.groups[0].member_groups, [reference("admins")]);
        for person in [petra, ravi] {
            let Some(Credential::Hash(hash)) = &person.credential else { panic!("a hash") };
            assert!(crate::hashes::usable(hash.expose_secret()).is_ok());
        }
    }

    #[test]
    fn groups_that_share_a_name_are_rejected() {
        let user = "apiVersion: deckhouse.io/v1\nkind: User\nmetadata: {name: eve}\nspec: {groups: [admins]}\n";
        let group = |name: &str, members: &str| {
            let head = "---\napiVersion: deckhouse.io/v1alpha1\nkind: Group\n";
            format!("{head}metadata: {{name: {name}}}\nspec: {{name: admins, members: [{members}]}}\n")
        };
        let eve = "{kind: User, name: eve}";
        let input = read(format!("{user}{}{}", group("admins", ""), group("planted", eve)).as_bytes());
        assert_eq!((input.groups.len(), input.rejected.len()), (0, 2));
        assert_eq!(input.users[0].group_names(), [""; 0]);
        // The same object twice.
        let input = read(format!("{user}{}{}", group("admins", eve), group("admins", eve)).as_bytes());
        assert_eq!((input.rejected.len(), input.users[0].group_names()), (0, vec!["admins"]));
    }

    #[test]
    fn case_a20_an_expiry_that_is_not_known_is_reported() {
        let user = |rest: &str| {
            format!(
                "{{\"apiVersion\": \"deckhouse.io/v1\", \"kind\": \"User\", \"metadata\": {{\"name\": \"a\"}}, {rest}}}"
            )
        };
        for (rest, says) in [
            ("\"spec\": {\"ttl\": \"24h\"}", "is required if spec.ttl is set"),
            ("\"status\": {\"expireAt\": \"soon\"}", "must be a time such as"),
        ] {
            let input = read(user(rest).as_bytes());
            assert!(input.users[0].faults[0].reason.starts_with(says), "{:?}", input.users[0].faults);
        }
    }

    #[test]
    fn case_a20_unknown_members_are_reported() {
        let text = "apiVersion: deckhouse.io/v1alpha1\nkind: Group\nmetadata: {name: x}\nspec:\n  name: ops\n  members:\n  - {kind: User, name: ghost}\n  - {kind: Group, name: x}\n";
        let found: Vec<String> = read(text.as_bytes()).rejected.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "spec.members: the group ops has a member that is not a User in this file: ghost",
                "spec.members: the group ops has a member that is not a Group in this file: x",
            ]
        );
    }
}
