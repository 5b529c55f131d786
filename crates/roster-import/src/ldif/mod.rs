//! Reads users, groups and memberships from LDIF, as written by `slapcat`, `ldapsearch` and `ldifde`.

mod parser;

use std::collections::HashMap;

use jiff::{Timestamp, ToSpan};

use super::draft::{GroupDraft, Input, Place, Rejected, UserDraft};
use parser::{Attribute, Record};

const PEOPLE: &[&str] = &["inetorgperson", "organizationalperson", "person", "posixaccount", "account", "user"];
const GROUPS: &[&str] = &["groupofnames", "groupofuniquenames", "groupofmembers", "posixgroup", "group"];

/// Flag ACCOUNTDISABLE of Active Directory's userAccountControl.
const ACCOUNT_DISABLED: u32 = 2;

/// Reads LDIF. Skips entries that are neither users nor groups.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let (records, faults) = parser::parse(bytes);
    for fault in faults {
        input.reject(Place::line(fault.line), fault.error.to_string());
    }
    let mut entries = Entries::default();
    let mut groups = Vec::new();
    for record in &records {
        if is_one_of(record, GROUPS) {
            groups.extend(group(record, &mut entries, &mut input).map(|index| (index, record)));
        } else if is_one_of(record, PEOPLE) {
            user_draft(record, &mut entries, &mut input);
        }
    }
    for (index, record) in groups {
        members(index, record, &entries, &mut input);
    }
    input
}

/// Indexes of users and groups in [`Input`].
#[derive(Default)]
struct Entries {
    /// Users by normalized DN.
    users: HashMap<String, usize>,
    /// Users by lower-case username.
    usernames: HashMap<String, usize>,
    /// Users by the GID of their primary group.
    by_gid: HashMap<String, Vec<usize>>,
    /// Groups by normalized DN.
    groups: HashMap<String, usize>,
}

fn is_one_of(record: &Record, classes: &[&str]) -> bool {
    // In Active Directory, computers have the object class `user` too.
    let is = |name: &str| record.all("objectclass").any(|class| class.value.eq_ignore_ascii_case(name));
    classes.iter().any(|class| is(class)) && !is("computer")
}

/// Normalizes a distinguished name: lower case, without spaces around `,` and `=`.
fn normalized(dn: &str) -> String {
    let parts = dn.split(',').map(|part| part.split('=').map(str::trim).collect::<Vec<_>>().join("="));
    parts.collect::<Vec<_>>().join(",").to_lowercase()
}

/// Returns the value of the first RDN of a distinguished name.
fn first_value(dn: &str) -> Option<&str> {
    Some(dn.split(',').next()?.split_once('=')?.1.trim()).filter(|value| !value.is_empty())
}

fn user_draft(record: &Record, entries: &mut Entries, input: &mut Input) {
    let place = Place::line(record.line);
    let username = ["uid", "samaccountname", "cn"].iter().find_map(|name| record.first(name));
    let Some(username) = username else {
        return input.reject(place, "uid: is required, because it becomes the username");
    };
    let mut person = UserDraft::new(place, username);
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
    if let Some(dn) = record.first("dn") {
        person.set("identities", serde_json::json!([{"type": "ldap", "id": dn}]));
        entries.users.insert(normalized(dn), input.users.len());
    }
    if is_disabled(record) {
        person.set("state", "Disabled");
    }
    if let Some(time) = record.first("shadowexpire").and_then(expiration) {
        person.set("validity.notAfter", time);
    }
    for group in record.all("memberof").filter_map(|group| first_value(&group.value)) {
        person.add("groups", group);
    }
    let hashes = || record.all("userpassword").map(|hash| hash.value.as_str());
    let usable = hashes().find(|hash| super::hashes::usable(hash).is_ok());
    super::text::take_password(&mut person, usable.or_else(|| hashes().next()).unwrap_or_default());
    entries.usernames.insert(username.to_lowercase(), input.users.len());
    if let Some(gid) = record.first("gidnumber") {
        entries.by_gid.entry(gid.to_owned()).or_default().push(input.users.len());
    }
    input.users.push(person);
}

fn is_disabled(record: &Record) -> bool {
    let control =
        record.first("useraccountcontrol").and_then(|control| control.parse::<u32>().ok()).unwrap_or_default();
    let is_locked = record.first("nsaccountlock").is_some_and(|lock| lock.eq_ignore_ascii_case("true"));
    // OpenLDAP writes this time for accounts that an administrator locked permanently.
    let is_banned = record.first("pwdaccountlockedtime").is_some_and(|time| time.starts_with("000001010000"));
    control & ACCOUNT_DISABLED != 0 || is_locked || is_banned
}

/// Converts an expiration in days since 1970, as in `/etc/shadow`, to RFC 3339. Negative numbers mean no expiration.
pub(super) fn expiration(days: &str) -> Option<String> {
    let hours = days.parse::<i64>().ok().filter(|days| (0..2_900_000).contains(days))? * 24;
    Timestamp::UNIX_EPOCH.checked_add(hours.hours()).ok().map(|time| time.to_string())
}

fn group(record: &Record, entries: &mut Entries, input: &mut Input) -> Option<usize> {
    let place = Place::line(record.line);
    let Some(name) = record.first("cn").or_else(|| first_value(record.first("dn")?)) else {
        input.reject(place, "cn: is required, because it becomes the name of the group");
        return None;
    };
    let mut group = GroupDraft::new(place, name);
    group.set("description", record.first("description").unwrap_or_default());
    entries.groups.insert(normalized(record.first("dn").unwrap_or_default()), input.groups.len());
    input.groups.push(group);
    Some(input.groups.len() - 1)
}

fn members(index: usize, record: &Record, entries: &Entries, input: &mut Input) {
    let name = input.groups[index].name.clone();
    for member in ["member", "uniquemember"].iter().flat_map(|attribute| record.all(attribute)) {
        let dn = normalized(&member.value);
        if let Some(person) = entries.users.get(&dn) {
            input.users[*person].add("groups", name.as_str());
        } else if let Some(nested) = entries.groups.get(&dn) {
            let nested = input.groups[*nested].name.clone();
            let list = input.groups[index].spec.entry("memberGroups").or_insert_with(|| serde_json::json!([]));
            list.as_array_mut().into_iter().for_each(|list| list.push(nested.as_str().into()));
        } else {
            reject_member(member, &name, input);
        }
    }
    for member in record.all("memberuid") {
        match entries.usernames.get(&member.value.to_lowercase()) {
            Some(person) => input.users[*person].add("groups", name.as_str()),
            None => reject_member(member, &name, input),
        }
    }
    let gid = record.first("gidnumber").unwrap_or_default();
    for person in entries.by_gid.get(gid).into_iter().flatten() {
        input.users[*person].add("groups", name.as_str());
    }
}

fn reject_member(member: &Attribute, group: &str, input: &mut Input) {
    input.rejected.push(Rejected {
        place: Place::line(member.line),
        who: group.to_owned(),
        field: member.name.clone(),
        reason: format!(
            "the group {group} has a member that is neither a user nor a group in this file: {}",
            member.value
        ),
    });
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
                "groups": ["Compiler Team", "navy"],
            })
        );
        assert!(grace.credential.is_some());
        let alan = input.users.iter().find(|person| person.login() == "alan").unwrap();
        assert_eq!(alan.spec["state"], "Disabled");
        let everyone = input.groups.iter().find(|group| group.name == "everyone").unwrap();
        assert_eq!(everyone.spec["memberGroups"], json!(["Compiler Team"]));
    }

    #[test]
    fn active_directory_is_supported() {
        let text = "dn: CN=Ada,DC=example\nobjectClass: top\nobjectClass: user\nsAMAccountName: ada\nuserAccountControl: 514\n\
                    memberOf: CN=Domain Admins,DC=example\n\ndn: CN=PC,DC=example\nobjectClass: user\nobjectClass: computer\ncn: PC\n";
        let input = read(text.as_bytes());
        assert_eq!(input.users.len(), 1);
        assert_eq!(input.users[0].spec["state"], "Disabled");
        assert_eq!(input.users[0].spec["groups"], json!(["Domain Admins"]));
    }

    #[test]
    fn unknown_members_are_rejected_with_their_line() {
        let input = read(b"dn: cn=a,dc=x\nobjectClass: groupOfNames\ncn: a\nmember: uid=ghost,dc=x\n");
        assert_eq!((input.rejected[0].place.line, input.rejected[0].field.as_str()), (4, "member"));
    }

    #[test]
    fn expirations_are_days_since_1970() {
        assert_eq!(expiration("20000").as_deref(), Some("2024-10-04T00:00:00Z"));
        assert_eq!((expiration("-1"), expiration("x"), expiration("99999999999")), (None, None, None));
    }
}
