//! Reads users, groups and memberships from LDIF, as written by `slapcat`, `ldapsearch` and `ldifde`.

mod account;
mod dn;
mod members;
mod parser;

use super::draft::{GroupDraft, Input, Place, UserDraft};
use dn::Dn;
use members::{Entries, read_groups, reference};
use parser::Record;

const PEOPLE: &[&str] = &["inetorgperson", "organizationalperson", "person", "posixaccount", "account", "user"];
const GROUPS: &[&str] = &["groupofnames", "groupofuniquenames", "groupofmembers", "posixgroup", "group"];

/// Reads LDIF. Skips entries that are neither users nor groups.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let (records, faults) = parser::parse(bytes);
    for fault in faults {
        input.reject(Place::line(fault.line), fault.error.to_string());
    }
    let mut entries = Entries::default();
    // Records of each group, by its index in `input`.
    let mut groups: Vec<(usize, Vec<&Record>)> = Vec::new();
    let mut more = Vec::new();
    for record in &records {
        if is_one_of(record, GROUPS) {
            let index = input.groups.len();
            if read_dn(record, &mut input).is_some_and(|dn| group(&dn, record, &mut entries, &mut input)) {
                groups.push((index, vec![record]));
            }
        } else if is_one_of(record, PEOPLE) {
            if let Some(dn) = read_dn(record, &mut input) {
                user_draft(&dn, record, &mut entries, &mut input);
            }
        } else if record.attributes.iter().any(|attribute| attribute.range.is_some()) {
            more.push(record);
        }
    }
    for record in more {
        // The response to a search for further members has no object class.
        let index = read_dn(record, &mut input).and_then(|dn| entries.group(&dn));
        let known = groups.iter_mut().find(|(group, _)| Some(*group) == index);
        match known {
            Some((_, records)) => records.push(record),
            None => input.reject(
                Place::line(record.line),
                "dn: is not a group in this file, but the entry has further values of a group",
            ),
        }
    }
    for (index, records) in &groups {
        entries.read_members(*index, records, &mut input);
    }
    for (index, records) in groups {
        entries.read_parents(index, records[0], &mut input);
    }
    input
}

fn is_one_of(record: &Record, classes: &[&str]) -> bool {
    // In Active Directory, computers have the object class `user` too.
    let is = |name: &str| record.all("objectclass").any(|class| class.value.eq_ignore_ascii_case(name));
    classes.iter().any(|class| is(class)) && !is("computer")
}

/// Reads the DN of an entry, which identifies it.
fn read_dn(record: &Record, input: &mut Input) -> Option<Dn> {
    let place = Place::line(record.line);
    let Some(text) = record.first("dn") else {
        input.reject(place, "dn: is required, because it identifies the entry");
        return None;
    };
    match Dn::parse(text) {
        Ok(dn) => Some(dn),
        Err(error) => {
            input.reject(place, format!("dn: {error}: {text}"));
            None
        }
    }
}

/// Attributes with an identifier that is never assigned twice: RFC 4530, Active Directory, FreeIPA, 389 Directory
/// Server. The server returns most of them only on request.
const IDENTIFIERS: [(&str, &str); 4] = [
    ("entryuuid", "entryUUID"),
    ("objectguid", "objectGUID"),
    ("ipauniqueid", "ipaUniqueID"),
    ("nsuniqueid", "nsUniqueId"),
];

/// Returns what identifies a user: an identifier that survives a move and is not given to another entry or, without
/// one, the DN.
fn identifier(dn: &Dn, record: &Record) -> String {
    let known = IDENTIFIERS.iter().find_map(|(name, attribute)| Some((attribute, record.first(name)?)));
    known.map_or_else(|| dn.to_string(), |(attribute, id)| format!("{attribute}={}", id.to_ascii_lowercase()))
}

fn user_draft(dn: &Dn, record: &Record, entries: &mut Entries, input: &mut Input) {
    let place = Place::line(record.line);
    let username = ["uid", "samaccountname", "cn"].iter().find_map(|name| record.first(name));
    let Some(username) = username else {
        return input.reject(place, "uid: is required, because it becomes the username");
    };
    let mut person = UserDraft::new(place, username);
    person.identify("ldap", &identifier(dn, record));
    for mail in record.all("mail") {
        person.add_email(&mail.value);
    }
    for (attribute, field) in [
        ("givenname", "firstName"),
        ("sn", "lastName"),
        ("mobile", "mobile"),
        ("preferredlanguage", "language"),
        ("loginshell", "preferredShell"),
    ] {
        person.set(field, record.first(attribute).unwrap_or_default());
    }
    person.set("displayName", record.first("displayname").or(record.first("cn")).unwrap_or_default());
    person.set("identities", serde_json::json!([{"type": "ldap", "id": record.first("dn")}]));
    account::read(record, &mut person);
    let hashes = || record.all("userpassword").map(|hash| hash.value.as_str());
    let usable = hashes().find(|hash| super::hashes::usable(hash).is_ok());
    super::text::take_password(&mut person, usable.or_else(|| hashes().next()).unwrap_or_default());
    let index = input.users.len();
    entries.add_user(dn, username, record, index);
    input.add_user(person);
    read_groups(record, index, input);
}

/// Adds a group. Returns whether to read its members, which is `false` for a duplicate entry with the same DN.
fn group(dn: &Dn, record: &Record, entries: &mut Entries, input: &mut Input) -> bool {
    let place = Place::line(record.line);
    let name = record.first("cn").unwrap_or(dn.name());
    if name.is_empty() {
        input.reject(place, "cn: is required, because it becomes the name of the group");
        return false;
    }
    let mut group = GroupDraft::new(place, reference(dn).id, name);
    group.set("description", record.first("description").unwrap_or_default());
    let is_first = entries.add_group(dn, record, input.groups.len());
    input.groups.push(group);
    is_first
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const FIXTURE: &str = include_str!("../../../../examples/import/people.ldif");

    #[test]
    fn users_have_the_attributes_and_groups_of_the_directory() {
        let input = read(FIXTURE.as_bytes());
        assert_eq!(input.rejected, []);
        let grace = input.users.iter().find(|person| person.login() == "grace").unwrap();
        assert_eq!(
            Value::from(grace.spec.clone()),
            json!({
                "username": "grace",
                "email": "grace@example.com",
                "additionalEmails": ["g.hopper@example.com"],
                "displayName": "Grace Hopper",
                "firstName": "Grace",
                "lastName": "Hopper",
                "preferredShell": "/bin/zsh",
                "identities": [{"type": "ldap", "id": "uid=grace,ou=people,dc=example,dc=com"}],
            })
        );
        assert!(grace.credential.is_some());
        assert_eq!(grace.group_names(), ["Compiler Team", "navy"]);
        let alan = input.users.iter().find(|person| person.login() == "alan").unwrap();
        assert_eq!(alan.spec["state"], "Disabled");
        let everyone = input.groups.iter().find(|group| group.name == "everyone").unwrap();
        let nested: Vec<&str> = everyone.member_groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(nested, ["Compiler Team"]);
    }

    #[test]
    fn active_directory_is_supported() {
        let text = "dn: CN=Ada,DC=example\nobjectClass: top\nobjectClass: user\nsAMAccountName: ada\nuserAccountControl: 514\n\
                    memberOf: CN=Domain Admins,DC=example\n\ndn: CN=PC,DC=example\nobjectClass: user\nobjectClass: computer\ncn: PC\n";
        let input = read(text.as_bytes());
        assert_eq!(input.users.len(), 1);
        assert_eq!(input.users[0].spec["state"], "Disabled");
        assert_eq!(input.users[0].group_names(), ["Domain Admins"]);
    }

    #[test]
    fn unknown_members_are_rejected_with_their_line() {
        let input = read(b"dn: cn=a,dc=x\nobjectClass: groupOfNames\ncn: a\nmember: uid=ghost,dc=x\n");
        assert_eq!((input.rejected[0].place.line, input.rejected[0].field.as_str()), (4, "member"));
    }
}
