//! LDIF: what `slapcat`, `ldapsearch` and `ldifde` write. People, groups, and who is in which.

mod parser;

use std::collections::HashMap;

use jiff::{Timestamp, ToSpan};

use super::draft::{Input, Person, Place, Rejected, Team};
use parser::{Attribute, Record};

const PEOPLE: &[&str] = &["inetorgperson", "organizationalperson", "person", "posixaccount", "account", "user"];
const GROUPS: &[&str] = &["groupofnames", "groupofuniquenames", "groupofmembers", "posixgroup", "group"];

/// Flag of Active Directory's userAccountControl: disabled.
const ACCOUNT_DISABLED: u32 = 2;

/// Reads LDIF. Entries that are neither people nor groups are passed over.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let (records, faults) = parser::parse(bytes);
    for (line, reason) in faults {
        input.reject(Place::line(line), reason);
    }
    let mut known = Known::default();
    let mut groups = Vec::new();
    for record in &records {
        if is_one_of(record, GROUPS) {
            groups.extend(group(record, &mut known, &mut input).map(|index| (index, record)));
        } else if is_one_of(record, PEOPLE) {
            person(record, &mut known, &mut input);
        }
    }
    for (index, record) in groups {
        members(index, record, &known, &mut input);
    }
    input
}

/// Whom the entries are about, by their names in the directory.
#[derive(Default)]
struct Known {
    people: HashMap<String, usize>,
    usernames: HashMap<String, usize>,
    by_group_number: HashMap<String, Vec<usize>>,
    groups: HashMap<String, usize>,
}

fn is_one_of(record: &Record, classes: &[&str]) -> bool {
    // A computer of Active Directory is a user as well.
    let is = |name: &str| record.all("objectclass").any(|class| class.value.eq_ignore_ascii_case(name));
    classes.iter().any(|class| is(class)) && !is("computer")
}

/// A distinguished name, such that two spellings of the same one are equal.
fn normal(dn: &str) -> String {
    let parts = dn.split(',').map(|part| part.split('=').map(str::trim).collect::<Vec<_>>().join("="));
    parts.collect::<Vec<_>>().join(",").to_lowercase()
}

/// Value of the first part of a distinguished name.
fn leaf(dn: &str) -> Option<&str> {
    Some(dn.split(',').next()?.split_once('=')?.1.trim()).filter(|leaf| !leaf.is_empty())
}

fn person(record: &Record, known: &mut Known, input: &mut Input) {
    let place = Place::line(record.line);
    let username = ["uid", "samaccountname", "cn"].iter().find_map(|name| record.first(name));
    let Some(username) = username else {
        return input.reject(place, "uid: is missing: it becomes the username");
    };
    let mut person = Person::new(place, username);
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
        known.people.insert(normal(dn), input.people.len());
    }
    if is_disabled(record) {
        person.set("state", "Disabled");
    }
    if let Some(end) = record.first("shadowexpire").and_then(end_of) {
        person.set("validity.notAfter", end);
    }
    for group in record.all("memberof").filter_map(|group| leaf(&group.value)) {
        person.add("groups", group);
    }
    let hashes = || record.all("userpassword").map(|hash| hash.value.as_str());
    let usable = hashes().find(|hash| super::hashes::usable(hash).is_ok());
    super::text::take_password(&mut person, usable.or_else(|| hashes().next()).unwrap_or_default());
    known.usernames.insert(username.to_lowercase(), input.people.len());
    if let Some(number) = record.first("gidnumber") {
        known.by_group_number.entry(number.to_owned()).or_default().push(input.people.len());
    }
    input.people.push(person);
}

fn is_disabled(record: &Record) -> bool {
    let control =
        record.first("useraccountcontrol").and_then(|control| control.parse::<u32>().ok()).unwrap_or_default();
    let is_locked = record.first("nsaccountlock").is_some_and(|lock| lock.eq_ignore_ascii_case("true"));
    // The time that OpenLDAP writes for accounts that an administrator has locked for good.
    let is_banned = record.first("pwdaccountlockedtime").is_some_and(|time| time.starts_with("000001010000"));
    control & ACCOUNT_DISABLED != 0 || is_locked || is_banned
}

/// The end of a day that is counted from 1970, as /etc/shadow does. A negative one means never.
pub(super) fn end_of(days: &str) -> Option<String> {
    let hours = days.parse::<i64>().ok().filter(|days| (0..2_900_000).contains(days))? * 24;
    Timestamp::UNIX_EPOCH.checked_add(hours.hours()).ok().map(|end| end.to_string())
}

fn group(record: &Record, known: &mut Known, input: &mut Input) -> Option<usize> {
    let place = Place::line(record.line);
    let Some(name) = record.first("cn").or_else(|| leaf(record.first("dn")?)) else {
        input.reject(place, "cn: is missing: it becomes the name of the group");
        return None;
    };
    let mut team = Team::new(place, name);
    team.set("description", record.first("description").unwrap_or_default());
    known.groups.insert(normal(record.first("dn").unwrap_or_default()), input.teams.len());
    input.teams.push(team);
    Some(input.teams.len() - 1)
}

fn members(index: usize, record: &Record, known: &Known, input: &mut Input) {
    let name = input.teams[index].name.clone();
    for member in ["member", "uniquemember"].iter().flat_map(|attribute| record.all(attribute)) {
        let dn = normal(&member.value);
        if let Some(person) = known.people.get(&dn) {
            input.people[*person].add("groups", name.as_str());
        } else if let Some(nested) = known.groups.get(&dn) {
            let nested = input.teams[*nested].name.clone();
            let list = input.teams[index].spec.entry("memberGroups").or_insert_with(|| serde_json::json!([]));
            list.as_array_mut().into_iter().for_each(|list| list.push(nested.as_str().into()));
        } else {
            stranger(member, &name, input);
        }
    }
    for member in record.all("memberuid") {
        match known.usernames.get(&member.value.to_lowercase()) {
            Some(person) => input.people[*person].add("groups", name.as_str()),
            None => stranger(member, &name, input),
        }
    }
    let number = record.first("gidnumber").unwrap_or_default();
    for person in known.by_group_number.get(number).into_iter().flatten() {
        input.people[*person].add("groups", name.as_str());
    }
}

fn stranger(member: &Attribute, group: &str, input: &mut Input) {
    input.rejected.push(Rejected {
        place: Place::line(member.line),
        who: group.to_owned(),
        field: member.name.clone(),
        reason: format!(
            "the group {group} has a member that is neither a person nor a group of this file: {}",
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
    fn people_come_with_what_the_directory_says_of_them() {
        let input = read(FIXTURE.as_bytes());
        assert_eq!(input.rejected, []);
        let grace = input.people.iter().find(|person| person.login() == "grace").unwrap();
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
        let alan = input.people.iter().find(|person| person.login() == "alan").unwrap();
        assert_eq!(alan.spec["state"], "Disabled");
        let everyone = input.teams.iter().find(|team| team.name == "everyone").unwrap();
        assert_eq!(everyone.spec["memberGroups"], json!(["Compiler Team"]));
    }

    #[test]
    fn active_directory_is_understood() {
        let text = "dn: CN=Ada,DC=example\nobjectClass: top\nobjectClass: user\nsAMAccountName: ada\nuserAccountControl: 514\n\
                    memberOf: CN=Domain Admins,DC=example\n\ndn: CN=PC,DC=example\nobjectClass: user\nobjectClass: computer\ncn: PC\n";
        let input = read(text.as_bytes());
        assert_eq!(input.people.len(), 1);
        assert_eq!(input.people[0].spec["state"], "Disabled");
        assert_eq!(input.people[0].spec["groups"], json!(["Domain Admins"]));
    }

    #[test]
    fn a_member_that_is_nobody_is_told_with_its_line() {
        let input = read(b"dn: cn=a,dc=x\nobjectClass: groupOfNames\ncn: a\nmember: uid=ghost,dc=x\n");
        assert_eq!((input.rejected[0].place.line, input.rejected[0].field.as_str()), (4, "member"));
    }

    #[test]
    fn days_since_1970_end_a_validity() {
        assert_eq!(end_of("20000").as_deref(), Some("2024-10-04T00:00:00Z"));
        assert_eq!((end_of("-1"), end_of("x"), end_of("99999999999")), (None, None, None));
    }
}
