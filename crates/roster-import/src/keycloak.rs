//! Reads a Keycloak realm: `kc.sh export --realm NAME --users realm_file`, or the files of other exports one after another.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::documents::{Container, Located, Text};
use super::draft::{Credential, GroupDraft, GroupRef, Input, Place, Rejected, SourceId, UserDraft};
use super::hashes::is_hash;
use super::membership::make_unclear;

const USERS: &str = "users";
const GROUPS: &str = "groups";

/// A credential that can't be read. The messages never contain it.
#[derive(Debug, thiserror::Error)]
enum CredentialError {
    #[error("secretData must be JSON with value and salt")]
    Secret,
    #[error(
        "credentialData must be JSON with algorithm and hashIterations, and with memory and parallelism for argon2"
    )]
    Data,
}

/// Reads users and the tree of groups. Roles are not imported: RoleBindings define the permissions in this cluster.
pub(super) fn read(bytes: &[u8]) -> Input {
    // Each user describes its own memberships.
    let mut input = Input { describes_memberships: true, ..Input::default() };
    let Some(text) = Text::new(bytes, &mut input) else { return input };
    let realms = text.containers("realm", &[USERS, GROUPS], &mut input);
    // Groups are read before users, so that the order of the files does not matter.
    let mut paths = Paths::default();
    for realm in &realms {
        for group in realm.lists.get(GROUPS).into_iter().flatten() {
            tree(&realm.name, "", group.place, &group.value, &mut paths, &mut input);
        }
    }
    paths.reject_shared_identities(&mut input);
    let disabled: HashSet<&str> =
        realms.iter().filter(|realm| realm.is_disabled).map(|realm| realm.name.as_str()).collect();
    for realm in &realms {
        let users = || realm.lists.get(USERS).into_iter().flatten();
        for object in users() {
            user(&realm.name, disabled.contains(&*realm.name), object, &paths, &mut input);
        }
        report_missing_groups(users(), &mut input);
    }
    let has_users = |realm: &Container| realm.lists.contains_key(USERS);
    if let Some(first) = realms.first().filter(|_| !realms.iter().any(has_users)) {
        let reason =
            "users: is missing. The admin console exports no users: use kc.sh export --realm NAME --users realm_file";
        input.reject(first.place, reason);
    }
    input
}

/// Warns of users without a list of groups, which kc.sh always writes.
fn report_missing_groups<'a>(users: impl Iterator<Item = &'a Located>, input: &mut Input) {
    let mut without = users.filter(|object| !object.value[GROUPS].is_array() && !is_service_account(&object.value));
    let Some(first) = without.next() else { return };
    let reason = format!(
        "users without a list of groups: {}. Use kc.sh export, which writes the list of each user. None of them is removed \
         from a Group by this import",
        without.count() + 1
    );
    input.warnings.push(Rejected { place: first.place, who: String::new(), field: GROUPS.to_owned(), reason });
}

/// Returns whether the user is the account of a client, which is not imported.
fn is_service_account(value: &Value) -> bool {
    value["serviceAccountClientId"].as_str().is_some_and(|client| !client.is_empty())
}

/// Groups of the file by realm and path. Users name groups by their paths.
///
/// A path is not an identity: groups can be renamed, and the group `R&D/Labs` has the same path as the group `Labs` below
/// `R&D~`. So groups are identified by their IDs, if the export has them.
#[derive(Default)]
struct Paths {
    groups: HashMap<(String, String), Vec<GroupRef>>,
    realms: HashSet<String>,
}

/// Why a path does not name a group.
#[derive(Debug, thiserror::Error)]
enum PathError {
    #[error("is the path of several groups, of which none is joined: rename all but one")]
    Shared,
    #[error("is not the path of a group in this file")]
    Unknown,
    #[error(
        "can mean a group with a slash in its name or a group below another one: append the export of the realm's groups"
    )]
    Ambiguous,
}

impl Paths {
    /// Adds a group of the file. The same group can occur in several files of an export.
    fn add(&mut self, realm: &str, path: &str, group: &GroupRef, has_id: bool) {
        self.realms.insert(realm.to_owned());
        let known = self.groups.entry((realm.to_owned(), path.to_owned())).or_default();
        if !has_id || !known.contains(group) {
            known.push(group.clone());
        }
    }

    /// Returns all groups with this path.
    fn of(&self, realm: &str, path: &str) -> &[GroupRef] {
        self.groups.get(&(realm.to_owned(), path.to_owned())).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the group with this path. If the file has no groups of the realm, the path has to do.
    fn find(&self, realm: &str, path: &str) -> Result<GroupRef, PathError> {
        match self.of(realm, path) {
            [group] => Ok(group.clone()),
            [_, ..] => Err(PathError::Shared),
            [] if self.realms.contains(realm) => Err(PathError::Unknown),
            [] if path.contains("~/") => Err(PathError::Ambiguous),
            [] => Ok(reference(realm, path, "", &last_name(path))),
        }
    }

    /// Removes and reports the groups that have neither an ID nor a path of their own.
    fn reject_shared_identities(&self, input: &mut Input) {
        let is_shared = |groups: &&Vec<GroupRef>| groups.len() > 1;
        let counted = self.groups.values().filter(is_shared).flatten();
        let mut counts: HashMap<&SourceId, usize> = HashMap::new();
        counted.for_each(|group| *counts.entry(&group.id).or_default() += 1);
        let is_unclear = |id: &SourceId| counts.get(id).is_some_and(|count| *count > 1);
        let rejected: Vec<_> = input.groups.extract_if(.., |group| is_unclear(&group.id)).collect();
        make_unclear(input, &counts.into_iter().filter(|(_, count)| *count > 1).map(|(id, _)| id.clone()).collect());
        for GroupDraft { place, name, .. } in rejected {
            let reason = "is also the path of another group, and neither has an ID: rename one of them".to_owned();
            input.rejected.push(Rejected { place, who: name, field: "path".to_owned(), reason });
        }
    }
}

/// Refers to a group by its ID or, without one, by its path, which begins with a slash. IDs follow a colon, so that no path
/// can look like an ID.
fn reference(realm: &str, path: &str, id: &str, name: &str) -> GroupRef {
    let id = if id.is_empty() { format!("{realm}{path}") } else { format!("{realm}:{id}") };
    GroupRef { id: SourceId::new("keycloak", &id), name: name.to_owned() }
}

/// Reads a group and its subgroups. In Keycloak, members of a subgroup also have the roles of its parent, so each
/// subgroup becomes a member of its parent.
fn tree(realm: &str, parent: &str, place: Place, value: &Value, paths: &mut Paths, input: &mut Input) -> GroupRef {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let name = text("name");
    // In paths, a slash within a name is escaped with a tilde.
    let path = value["path"].as_str().map_or_else(|| format!("{parent}/{}", name.replace('/', "~/")), str::to_owned);
    let reference = reference(realm, &path, text("id"), name);
    paths.add(realm, &path, &reference, !text("id").is_empty());
    let mut group = GroupDraft::new(place, reference.id.clone(), name);
    group.set("description", text("description"));
    let index = input.groups.len();
    input.groups.push(group);
    for below in value["subGroups"].as_array().into_iter().flatten() {
        let below = tree(realm, &path, place, below, paths, input);
        input.groups[index].nest(below);
    }
    reference
}

/// Returns the name at the end of a path.
fn last_name(path: &str) -> String {
    let text = path.replace("~/", "\0");
    text.rsplit('/').next().unwrap_or_default().replace('\0', "/")
}

/// Reads a user. In a disabled realm, no one can log in.
fn user(realm: &str, is_disabled: bool, object: &Located, paths: &Paths, input: &mut Input) {
    let value = &object.value;
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    if is_service_account(value) {
        return;
    }
    let mut person = UserDraft::new(object.place, text("username"));
    if !text("id").is_empty() {
        person.identify("keycloak", &format!("{realm}/{}", text("id")));
    }
    person.add_email(text("email"));
    person.set("firstName", text("firstName"));
    person.set("lastName", text("lastName"));
    person.set("displayName", format!("{} {}", text("firstName"), text("lastName")).trim());
    person.set("language", value["attributes"]["locale"][0].as_str().unwrap_or_default());
    if is_disabled || value["enabled"] == false {
        person.set("state", "Disabled");
    }
    let mut actions = value["requiredActions"].as_array().into_iter().flatten();
    if actions.any(|action| action == "UPDATE_PASSWORD") {
        person.set("requirePasswordChange", true);
    }
    for identity in value["federatedIdentities"].as_array().into_iter().flatten() {
        let (provider, id) = (&identity["identityProvider"], &identity["userId"]);
        if !person.spec.contains_key("connector") {
            person.set("connector", json!({"type": provider, "id": provider}));
        }
        person.add("identities", json!({"type": provider, "id": id}));
    }
    join_groups(realm, object, paths, &mut person, input);
    let mut credentials = value["credentials"].as_array().into_iter().flatten();
    if let Some(password) = credentials.find(|credential| credential["type"] == "password") {
        set_password(password, &mut person);
    }
    input.add_user(person);
}

/// Reads the groups of a user. What cannot be read may be any group.
fn join_groups(realm: &str, object: &Located, paths: &Paths, person: &mut UserDraft, input: &mut Input) {
    let Some(list) = object.value[GROUPS].as_array() else {
        person.unclear.all = true;
        return;
    };
    let who = person.login().to_owned();
    let mut reject = |reason: String| {
        let (place, who, field) = (object.place, who.clone(), GROUPS.to_owned());
        input.rejected.push(Rejected { place, who, field, reason });
    };
    for item in list {
        let Some(path) = item.as_str() else {
            person.unclear.all = true;
            reject("must be a list of paths".to_owned());
            continue;
        };
        match paths.find(realm, path) {
            Ok(group) => person.join(group),
            Err(error) => {
                match paths.of(realm, path) {
                    [] => person.unclear.others = true,
                    groups => person.unclear.groups.extend(groups.iter().map(|group| group.id.clone())),
                }
                reject(format!("{path} {error}"));
            }
        }
    }
}

fn set_password(credential: &Value, person: &mut UserDraft) {
    // Handwritten files contain passwords instead of hashes.
    if let Some(plain) = credential["value"].as_str() {
        person.credential = Some(Credential::password(plain));
    } else {
        match hash(credential) {
            Ok(hash) => person.set_hash(&hash),
            Err(error) => person.fault("credentials", error.to_string()),
        }
    }
    if credential["temporary"] == true {
        person.set("requirePasswordChange", true);
    }
}

/// Converts a hash to a PHC string.
fn hash(credential: &Value) -> Result<String, CredentialError> {
    // Both fields contain JSON as a string. Before version 8, their content was in the credential itself.
    let nested = |field: &str| credential[field].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let is_old = credential["hashedSaltedValue"].is_string();
    let secret = if is_old { credential.clone() } else { nested("secretData").ok_or(CredentialError::Secret)? };
    let data = if is_old { credential.clone() } else { nested("credentialData").ok_or(CredentialError::Data)? };
    let value = secret[if is_old { "hashedSaltedValue" } else { "value" }].as_str().ok_or(CredentialError::Secret)?;
    let salt = secret["salt"].as_str().unwrap_or_default();
    // PHC strings have base64 without padding.
    let (digest, salt) = (value.trim_end_matches('='), salt.trim_end_matches('='));
    let iterations = || data["hashIterations"].as_u64().ok_or(CredentialError::Data);
    match data["algorithm"].as_str().ok_or(CredentialError::Data)? {
        name @ ("pbkdf2" | "pbkdf2-sha256" | "pbkdf2-sha512") => {
            Ok(format!("${name}$i={}${salt}${digest}", iterations()?))
        }
        "argon2" => {
            let parameter = |name: &str| data["additionalParameters"][name][0].as_str();
            let number =
                |name: &str| parameter(name).and_then(|text| text.parse::<u32>().ok()).ok_or(CredentialError::Data);
            let version = if parameter("version") == Some("1.0") { 16 } else { 19 };
            let kind = parameter("type").unwrap_or("id");
            let (memory, lanes) = (number("memory")?, number("parallelism")?);
            Ok(format!("$argon2{kind}$v={version}$m={memory},t={},p={lanes}${salt}${digest}", iterations()?))
        }
        // Extensions such as bcrypt store the usual notation.
        _ if is_hash(value) => Ok(value.to_owned()),
        name => Ok(format!("{{{name}}}{value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hashes::usable;
    use rstest::rstest;
    use secrecy::ExposeSecret;

    fn hash_of(person: &UserDraft) -> &str {
        let Some(Credential::Hash(hash)) = &person.credential else { panic!("a hash") };
        hash.expose_secret()
    }

    #[test]
    fn case_a20_users_and_the_tree_of_groups_are_read() {
        let input = read(include_bytes!("../../../examples/import/keycloak.json"));
        assert_eq!(input.rejected, []);
        let [agnes, boris, carl] = &input.users[..] else { panic!("three users: accounts of clients are skipped") };
        assert_eq!(
            Value::from(agnes.spec.clone()),
            json!({
                "username": "agnes", "email": "agnes@example.com", "firstName": "Agnes", "lastName": "Pockels",
                "displayName": "Agnes Pockels", "language": "de",
            })
        );
        assert_eq!(agnes.place.line, 28);
        assert_eq!(
            (boris.spec["state"].as_str(), &boris.spec["requirePasswordChange"]),
            (Some("Disabled"), &json!(true))
        );
        assert_eq!(carl.spec["identities"], json!([{"type": "github", "id": "4711"}]));
        assert!(hash_of(agnes).starts_with("$argon2id$v=19$m=7168,t=5,p=1$"));
        assert!(hash_of(boris).starts_with("$pbkdf2-sha512$i=210000$"));
        assert!(hash_of(carl).starts_with("$pbkdf2-sha256$i=27500$"));
        assert!([agnes, boris, carl].iter().all(|person| usable(hash_of(person)).is_ok()));
        let ids = |groups: &[GroupRef]| groups.iter().map(|group| group.id.clone()).collect::<Vec<_>>();
        let id = |path| SourceId::new("keycloak", path);
        let berlin_admins = id("acme:4f0f5b0e-6a3d-4f7e-b3f5-0a5c1b3f8f02");
        let labs = id("acme:e7c2d1f0-5b7a-4d3c-a1f6-c8e9b0a2d305");
        assert_eq!(ids(&agnes.groups), std::slice::from_ref(&berlin_admins));
        assert_eq!(ids(&carl.groups), [id("acme:b1e0a1c6-0c1a-4b0e-9df4-57c2a6b1d504"), labs.clone()]);
        let berlin = input.groups.iter().find(|group| group.name == "berlin").unwrap();
        assert_eq!(ids(&berlin.member_groups), [berlin_admins]);
        assert!(input.groups.iter().any(|group| group.id == labs && group.name == "R&D/Labs"));
    }

    #[test]
    fn case_a20_the_files_of_an_export_can_be_given_in_any_order() {
        let users = "{\"realm\": \"acme\", \"users\": [{\"username\": \"ada\", \"groups\": [\"/a/b\"]}]}\n";
        let realm = "{\"realm\": \"acme\", \"groups\": [{\"name\": \"a\", \"subGroups\": [{\"name\": \"b\"}]}]}\n";
        for text in [format!("{users}{realm}"), format!("{realm}{users}")] {
            let input = read(text.as_bytes());
            assert_eq!(input.rejected, []);
            assert_eq!(input.users[0].groups, [input.groups[1].reference()]);
        }
        let input = read(realm.as_bytes());
        assert!(input.rejected[0].reason.starts_with("users: is missing. The admin console exports no users"));
        assert_eq!(read(b"[3]").rejected.len(), 1);
    }

    /// The group `R&D/Labs`, and the group `Labs` below `R&D~`.
    #[test]
    fn a_path_of_several_groups_names_none_of_them() {
        let file = |first: Value, second: Value, below: Value| {
            let groups = json!([first, {"id": "3", "name": "R&D~", "path": "/R&D~", "subGroups": [below]}, second]);
            json!({"realm": "acme", "groups": groups, "users": [{"username": "ada", "groups": ["/R&D~/Labs", "/ops"]}]})
                .to_string()
        };
        let (labs, below) = (json!({"name": "R&D/Labs"}), json!({"name": "Labs"}));
        let with = |mut value: Value, id: &str| {
            value["id"] = id.into();
            value
        };
        let found = |text: &str| {
            let input = read(text.as_bytes());
            let rejected: Vec<String> = input.rejected.iter().map(ToString::to_string).collect();
            (input.groups.len(), input.users[0].groups.len(), rejected)
        };
        let ops = json!({"id": "4", "name": "ops"});
        let says = "groups: /R&D~/Labs is the path of several groups, of which none is joined: rename all but one";
        assert_eq!(
            found(&file(with(labs.clone(), "1"), ops.clone(), with(below.clone(), "2"))),
            (4, 1, vec![says.to_owned()])
        );
        // Without IDs, they could not even be told from each other.
        let (groups, joined, rejected) = found(&file(labs.clone(), ops.clone(), below));
        assert_eq!((groups, joined, rejected.len()), (2, 1, 3));
        // The same group in two files.
        let text = file(with(labs, "1"), ops, json!({"id": "5", "name": "x"}));
        let twice = read(format!("{text}\n{text}").as_bytes());
        assert_eq!((twice.rejected.len(), twice.users[1].groups.len()), (0, 2));
    }

    #[test]
    fn paths_must_name_groups_of_the_file() {
        let user = |path: &str| {
            format!("{{\"realm\": \"acme\", \"users\": [{{\"username\": \"ada\", \"groups\": [\"{path}\"]}}]}}\n")
        };
        let groups = "{\"realm\": \"acme\", \"groups\": [{\"id\": \"1\", \"name\": \"a\"}]}\n";
        let found = |text: String| {
            let input = read(text.as_bytes());
            let ids: Vec<SourceId> = input.users[0].groups.iter().map(|group| group.id.clone()).collect();
            (ids, input.rejected.len())
        };
        assert_eq!(found(user("/a") + groups), (vec![SourceId::new("keycloak", "acme:1")], 0));
        assert_eq!(found(user("/b") + groups), (vec![], 1));
        // The file has no groups.
        assert_eq!(found(user("/a")), (vec![SourceId::new("keycloak", "acme/a")], 0));
        assert_eq!(found(user("/a~/b")), (vec![], 1));
    }

    fn credential(data: &Value, secret: &Value) -> Value {
        json!({"type": "password", "credentialData": data.to_string(), "secretData": secret.to_string()})
    }

    #[rstest]
    #[case(json!({"algorithm": "pbkdf2", "hashIterations": 20000}), "PBKDF2 with SHA-1")]
    #[case(json!({"algorithm": "pbkdf2-sha256", "hashIterations": 1}), "iterations")]
    #[case(json!({"algorithm": "argon2", "hashIterations": 5, "additionalParameters":
        {"type": ["i"], "version": ["1.3"], "memory": ["7168"], "parallelism": ["1"]}}), "argon2i")]
    #[case(json!({"algorithm": "gc-aes"}), "unknown scheme")]
    fn case_a20_hashes_that_are_not_supported_are_named(#[case] data: Value, #[case] says: &str) {
        let secret =
            json!({"value": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "salt": "AAECAwQFBgcICQoLDA0ODw=="});
        let error = usable(&hash(&credential(&data, &secret)).unwrap()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }

    #[test]
    fn case_a20_malformed_credentials_are_reported_and_not_shown() {
        let mut person = UserDraft::default();
        set_password(&json!({"type": "password", "secretData": "hunter2"}), &mut person);
        set_password(
            &credential(&json!({"algorithm": "argon2", "hashIterations": 5}), &json!({"value": "hunter2"})),
            &mut person,
        );
        assert_eq!(person.faults.len(), 2);
        assert!(person.credential.is_none() && !format!("{person:?}").contains("hunter2"));
    }

    #[test]
    fn case_a20_older_exports_and_plaintext_are_read() {
        let old = json!({"type": "password", "hashedSaltedValue": "eA==", "salt": "eQ==", "hashIterations": 27500, "algorithm": "pbkdf2-sha256"});
        assert_eq!(hash(&old).unwrap(), "$pbkdf2-sha256$i=27500$eQ$eA");
        let mut person = UserDraft::default();
        set_password(&json!({"type": "password", "value": "hunter2", "temporary": true}), &mut person);
        assert!(matches!(person.credential, Some(Credential::Plain(_))));
        assert_eq!(person.spec["requirePasswordChange"], true);
    }

    #[test]
    fn the_users_of_a_disabled_realm_are_disabled() {
        let users = json!({"realm": "x", "users": [{"id": "1", "username": "ada", "enabled": true, "groups": []}]});
        for (enabled, expected) in [(json!(false), Some(json!("Disabled"))), (json!(true), None)] {
            let realm = json!({"realm": "x", "enabled": enabled, "groups": []});
            let input = read(format!("{users}\n{realm}\n").as_bytes());
            assert_eq!(input.users[0].spec.get("state"), expected.as_ref());
        }
    }
}
