//! Reads OpenShift's user API: `oc get users,groups,identities -o yaml`, and the files of its htpasswd identity providers:
//! `oc get oauth -o yaml` and `oc get secrets -n openshift-config -o yaml`.

use std::collections::{HashMap, HashSet};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use super::documents::{Located, Text};
use super::draft::{GroupDraft, GroupRef, Input, Place, Rejected, SourceId, UserDraft};
use super::text::take_password;

/// Namespace of the Secrets of identity providers.
const SECRET_NAMESPACE: &str = "openshift-config";

/// Key of an htpasswd file in its Secret.
const HTPASSWD: &str = "htpasswd";

/// Objects by kind.
#[derive(Default)]
struct Objects {
    users: Vec<Located>,
    groups: Vec<Located>,
    identities: Vec<Located>,
    /// Names of htpasswd identity providers, with their Secrets.
    providers: Vec<(String, String)>,
    /// htpasswd files by the names of their Secrets.
    files: HashMap<String, (Place, String)>,
}

/// Indexes of users in [`Input::users`].
#[derive(Default)]
struct People {
    by_name: HashMap<String, usize>,
    /// By identity provider and username at that provider.
    by_identity: HashMap<(String, String), usize>,
    /// Identities of the file that belong to no User, by provider and username.
    orphans: HashSet<(String, String)>,
}

/// Reads Users, Groups, Identities (which have email addresses) and htpasswd files.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let Some(text) = Text::new(bytes, &mut input) else { return input };
    let (mut objects, mut people) = (Objects::default(), People::default());
    let found = text.objects(&mut input);
    // What can't be read may be a group.
    input.unclear.others = !input.rejected.is_empty();
    for object in found {
        sort(object, &mut objects, &mut input);
    }
    let identities: HashMap<&str, &Value> =
        objects.identities.iter().map(|object| (name(&object.value), &object.value)).collect();
    for object in &objects.users {
        user(object, &identities, &mut people, &mut input);
    }
    let users: HashMap<&str, &Value> =
        objects.users.iter().rev().map(|object| (name(&object.value), &object.value)).collect();
    input.describes_memberships = !objects.groups.is_empty();
    for object in &objects.identities {
        identity(object, &users, &mut people, &mut input);
    }
    for object in &objects.groups {
        group(object, &people, &mut input);
    }
    for (provider, secret) in &objects.providers {
        // If the Secret is not in this file, users are imported without its hashes.
        if let Some((place, file)) = objects.files.get(secret) {
            htpasswd(provider, *place, file, &people, &mut input);
        }
    }
    let is_used = |name: &str| objects.providers.iter().any(|(_, secret)| secret == name);
    for (name, (place, _)) in objects.files.iter().filter(|(name, _)| !is_used(name)) {
        input.reject(
            *place,
            format!("no htpasswd identity provider of an OAuth in this file refers to the Secret {name}"),
        );
    }
    input
}

fn sort(object: Located, objects: &mut Objects, input: &mut Input) {
    let value = &object.value;
    // `v1` is the version of OpenShift 3.
    match (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default()) {
        ("user.openshift.io/v1" | "v1", "User") => objects.users.push(object),
        ("user.openshift.io/v1" | "v1", "Group") => objects.groups.push(object),
        ("user.openshift.io/v1" | "v1", "Identity") => objects.identities.push(object),
        ("config.openshift.io/v1", "OAuth") => objects.providers.extend(providers(value)),
        ("v1", "Secret") if value["metadata"]["namespace"] == SECRET_NAMESPACE => {
            // The namespace has Secrets of other identity providers, too.
            let Some(data) = value["data"][HTPASSWD].as_str() else { return };
            let file = BASE64_STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            match file {
                Some(file) => drop(objects.files.insert(name(value).to_owned(), (object.place, file))),
                None => input.reject(object.place, "data.htpasswd: must be UTF-8 text in base64"),
            }
        }
        _ => input.reject(
            object.place,
            format!("must be a User, Group or Identity of user.openshift.io/v1, an OAuth, or a Secret in the namespace {SECRET_NAMESPACE}"),
        ),
    }
}

fn providers(oauth: &Value) -> impl Iterator<Item = (String, String)> {
    oauth["spec"]["identityProviders"].as_array().into_iter().flatten().filter_map(|provider| {
        let secret = provider["htpasswd"]["fileData"]["name"].as_str()?;
        Some((provider["name"].as_str()?.to_owned(), secret.to_owned()))
    })
}

fn name(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}

fn strings<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    value[field].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Refers to a group by the name of its object, which is unique and case-sensitive.
fn reference(name: &str) -> GroupRef {
    GroupRef { id: SourceId::new("openshift", name), name: name.to_owned() }
}

/// Returns why an Identity does not belong to a User, or `None` if it does. OpenShift also requires that both refer to each
/// other. A User that was deleted and created again has another UID, and may be another person.
fn mismatch(identity: &Value, user: Option<&Value>) -> Option<String> {
    let reference = &identity["user"];
    let title = reference["name"].as_str().unwrap_or_default();
    let Some(user) = user.filter(|user| name(user) == title) else {
        return Some(format!("{title:?} is not a User in this file"));
    };
    let uids = reference["uid"].as_str().zip(user["metadata"]["uid"].as_str());
    if uids.is_some_and(|(wanted, uid)| wanted != uid) {
        return Some(format!("the Identity belongs to an earlier User {title:?} with another UID"));
    }
    let is_listed = strings(user, "identities").any(|listed| listed == name(identity));
    (!is_listed).then(|| format!("the User {title:?} does not list this Identity"))
}

fn user(object: &Located, identities: &HashMap<&str, &Value>, people: &mut People, input: &mut Input) {
    let mut person = UserDraft::new(object.place, name(&object.value));
    person.identify("openshift", object.uid_or_name());
    let index = input.users.len();
    person.set("displayName", object.value["fullName"].as_str().unwrap_or_default());
    // Identities that are not in this file can't be compared.
    let is_mutual =
        |listed: &&str| identities.get(listed).is_none_or(|identity| mismatch(identity, Some(&object.value)).is_none());
    for identity in strings(&object.value, "identities").filter(is_mutual) {
        // Names of identities are PROVIDER:USER, and names of providers have no colon.
        if let Some((provider, id)) = identity.split_once(':') {
            add_identity(&mut person, provider, id);
            people.by_identity.entry((provider.to_owned(), id.to_owned())).or_insert(index);
        }
    }
    // Deprecated field: Groups list their users now.
    strings(&object.value, "groups").for_each(|group| person.join(reference(group)));
    // Of identical entries, the first one counts.
    people.by_name.entry(person.login().to_owned()).or_insert(index);
    input.add_user(person);
}

fn add_identity(person: &mut UserDraft, provider: &str, id: &str) {
    if !person.spec.contains_key("connector") {
        person.set("connector", json!({"type": provider, "id": provider}));
    }
    person.add("identities", json!({"type": provider, "id": id}));
}

fn identity(object: &Located, users: &HashMap<&str, &Value>, people: &mut People, input: &mut Input) {
    let value = &object.value;
    let user = value["user"]["name"].as_str().unwrap_or_default();
    let key = value["providerName"].as_str().zip(value["providerUserName"].as_str());
    let index = match (mismatch(value, users.get(user).copied()), people.by_name.get(user)) {
        (None, Some(index)) => *index,
        (reason, _) => {
            people.orphans.extend(key.map(|(provider, id)| (provider.to_owned(), id.to_owned())));
            return reject(object, name(value), "user", reason.unwrap_or_default(), input);
        }
    };
    let person = &mut input.users[index];
    if let Some((provider, id)) = key {
        add_identity(person, provider, id);
        people.by_identity.entry((provider.to_owned(), id.to_owned())).or_insert(index);
    }
    let extra = |field: &str| value["extra"][field].as_str().unwrap_or_default();
    person.add_email(extra("email"));
    if !person.spec.contains_key("displayName") {
        person.set("displayName", extra("name"));
    }
}

fn group(object: &Located, people: &People, input: &mut Input) {
    let reference = reference(name(&object.value));
    input.groups.push(GroupDraft::new(object.place, reference.id.clone(), &reference.name));
    for user in strings(&object.value, "users") {
        if let Some(index) = people.by_name.get(user) {
            input.users[*index].join(reference.clone());
        } else {
            let group = &reference.name;
            let reason = format!("the group {group} has a member that is not a User in this file: {user}");
            reject(object, user, "users", reason, input);
        }
    }
}

/// Reads the hashes of an identity provider. OpenShift creates a User at the first login, so users without one are
/// added. They have no identifier before that. Of several lines with one name, the first one counts, as for Apache.
fn htpasswd(provider: &str, place: Place, file: &str, people: &People, input: &mut Input) {
    let mut names = HashSet::new();
    for line in file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some((name, hash)) = line.split_once(':') else {
            input.reject(place, "data.htpasswd: each line must be a name, a colon and a hash");
            continue;
        };
        if !names.insert(name) {
            let reason = format!("data.htpasswd: {name} occurs more than once, and only the first line is imported");
            input.reject(place, reason);
            continue;
        }
        let key = (provider.to_owned(), name.to_owned());
        if let Some(index) = people.by_identity.get(&key) {
            take_password(&mut input.users[*index], hash);
        } else if people.orphans.contains(&key) {
            let reason =
                format!("data.htpasswd: {name} is not imported, because its Identity belongs to no User in this file");
            input.reject(place, reason);
        } else {
            let mut person = UserDraft::new(place, name);
            add_identity(&mut person, provider, name);
            take_password(&mut person, hash);
            input.add_user(person);
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
        let [ines, theo, vera] = &input.users[..] else { panic!("three users") };
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
        assert!(ines.credential.is_none());
        assert!(theo.credential.is_some() && vera.credential.is_some());
        assert_eq!(vera.spec["identities"], json!([{"type": "staff-file", "id": "vera"}]));
    }

    #[test]
    fn case_a20_members_and_identities_without_a_user_are_reported() {
        let text = "apiVersion: user.openshift.io/v1\nkind: Group\nmetadata: {name: ops}\nusers: [ghost]\n---\n\
            apiVersion: user.openshift.io/v1\nkind: Identity\nmetadata: {name: 'x:y'}\nuser: {name: ghost}\n---\n\
            apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\n---\n\
            apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: openshift-config}\ndata: {htpasswd: YTpi}\n";
        let found: Vec<(usize, String)> =
            read(text.as_bytes()).rejected.iter().map(|rejected| (rejected.place.line, rejected.to_string())).collect();
        assert_eq!(
            found,
            [
                (
                    11,
                    "must be a User, Group or Identity of user.openshift.io/v1, an OAuth, or a Secret in the namespace openshift-config"
                        .to_owned()
                ),
                (6, "user: \"ghost\" is not a User in this file".to_owned()),
                (1, "users: the group ops has a member that is not a User in this file: ghost".to_owned()),
                (15, "no htpasswd identity provider of an OAuth in this file refers to the Secret s".to_owned()),
            ]
        );
    }

    /// Otherwise, someone who gets the name of a former user at the provider would log in as that user's successor.
    #[test]
    fn passwords_belong_to_users_and_identities_that_refer_to_each_other() {
        let head = "---\napiVersion: user.openshift.io/v1\nkind:";
        let user = |listed: &str| format!("{head} User\nmetadata: {{name: ada, uid: '1'}}\nidentities: [{listed}]\n");
        let identity = |user: &str| {
            format!(
                "{head} Identity\nmetadata: {{name: 'staff:eve'}}\nproviderName: staff\nproviderUserName: eve\n\
                     user: {{{user}}}\n"
            )
        };
        let file = "---\napiVersion: config.openshift.io/v1\nkind: OAuth\nspec: {identityProviders: [{name: staff, htpasswd: \
                    {fileData: {name: s}}}]}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: \
                    openshift-config}\ndata: {htpasswd: ZXZlOiQyeSQxMCR4}\n";
        let of = |objects: &[String]| read(format!("{}{file}", objects.concat()).as_bytes());
        for objects in [
            [user("'staff:eve'"), identity("name: ada, uid: '1'")],
            [user("'staff:eve'"), identity("name: ada")],
            [user("'staff:eve'"), String::new()],
        ] {
            let input = of(&objects);
            assert_eq!(
                (input.users.len(), input.users[0].credential.is_some(), &input.rejected[..]),
                (1, true, &[][..])
            );
        }
        for objects in [
            [user(""), identity("name: ada, uid: '1'")],
            [user("'staff:eve'"), identity("name: ada, uid: '0'")],
            [user("'staff:eve'"), identity("name: bob")],
        ] {
            let input = of(&objects);
            assert_eq!((input.users.len(), input.rejected.len()), (1, 2), "{objects:?}");
            let ada = &input.users[0];
            assert_eq!((ada.credential.is_some(), ada.spec.get("identities")), (false, None), "{objects:?}");
        }
    }
}
