//! Reads users, groups and memberships from LDIF, as written by `slapcat`, `ldapsearch` and `ldifde`.

mod above;
mod account;
mod dn;
mod exported;
mod listings;
mod members;
mod parser;

use std::collections::{HashMap, HashSet};

use super::draft::{GroupDraft, Input, Place, Rejected, UserDraft};
use super::membership::make_unclear;
use dn::Dn;
use listings::Listings;
use members::{Entries, read_groups, reference};
use parser::Record;

/// Maximum length of an identity that the CRD accepts.
const MAX_IDENTITY: usize = 256;

const PEOPLE: &[&str] = &["inetorgperson", "organizationalperson", "person", "posixaccount", "account", "user"];
/// Attributes that are read, apart from those of an account's state.
const USED: &[&str] = &[
    "dn",
    "objectclass",
    "entryuuid",
    "objectguid",
    "ipauniqueid",
    "nsuniqueid",
    "uid",
    "samaccountname",
    "cn",
    "mail",
    "givenname",
    "sn",
    "mobile",
    "preferredlanguage",
    "loginshell",
    "displayname",
    "description",
    "userpassword",
    "memberof",
    "gidnumber",
    "member",
    "uniquemember",
    "memberuid",
];
const GROUPS: &[&str] = &["groupofnames", "groupofuniquenames", "groupofmembers", "posixgroup", "group"];

/// Reads LDIF. Skips entries that are neither users nor groups.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let mut records = parser::parse(bytes);
    records.retain(|record| !is_compatibility_view(record));
    for record in &mut records {
        // A photo that can't be read, for example, does not matter.
        record.faults.retain(|fault| fault.may_be(USED) || account::reads(fault));
    }
    let identifier = choose_identifier(&records);
    let mut entries = Entries::default();
    // Records of each group, by its index in `input`.
    let mut groups: Vec<(usize, Vec<&Record>)> = Vec::new();
    let (mut more, mut people) = (Vec::new(), Vec::new());
    for record in &records {
        // An entry of both kinds is a person: people may be able to add the class of a group to their own entries, and would
        // no longer be restricted.
        if is_one_of(record, PEOPLE) {
            if let Some(dn) = read_dn(record, &mut input) {
                people.push((user_draft(&dn, record, identifier, &mut entries, &mut input), dn, record));
            }
            continue;
        }
        for fault in &record.faults {
            input.reject(Place::line(fault.line), fault.error.to_string());
        }
        if is_one_of(record, GROUPS) {
            let index = input.groups.len();
            match read_dn(record, &mut input) {
                Some(dn) if group(&dn, record, &mut entries, &mut input) => groups.push((index, vec![record])),
                Some(_) => {}
                None => input.unclear.others = true,
            }
        } else if record.attributes.iter().any(|attribute| attribute.range.is_some()) {
            more.push(record);
        } else if let Some(result) = failure(record) {
            input.unclear.all = true;
            let reason = format!(
                "result: the server ended the search early, so entries may be missing: {result}. Raise its limits, or read \
                 page by page (ldapsearch -E pr=500/noprompt). No existing User is removed from a Group by this import"
            );
            input.reject(Place::line(record.line), reason);
        } else if record.faults.iter().any(|fault| fault.may_be(&["objectclass"])) {
            // It may be a group.
            input.unclear.others = true;
        }
    }
    let has_groups = |record: &Record| record.attributes.iter().any(|attribute| attribute.name == "memberof");
    input.describes_memberships = !groups.is_empty() || people.iter().any(|(.., record)| has_groups(record));
    let positions: HashMap<usize, usize> =
        groups.iter().enumerate().map(|(position, (index, _))| (*index, position)).collect();
    for record in more {
        // The response to a search for further members has no object class.
        let index = read_dn(record, &mut input).and_then(|dn| entries.group(&dn));
        let position = index.and_then(|index| positions.get(&index));
        match position.map(|position| &mut groups[*position]) {
            Some((group, records)) => {
                if !record.faults.is_empty() {
                    let id = input.groups[*group].id.clone();
                    input.unclear.groups.insert(id);
                }
                records.push(record);
            }
            None => input.reject(
                Place::line(record.line),
                "dn: is not a group in this file, but the entry has further values of a group",
            ),
        }
    }
    let records = groups.iter().map(|(index, records)| (input.groups[*index].id.clone(), &records[..]));
    let mut listings = Listings::of(records);
    for (index, dn, record) in people {
        listings.check_groups(index, &dn, record, &entries, &mut input);
    }
    for (index, records) in &groups {
        entries.read_members(*index, records, &mut input);
    }
    for (index, records) in &groups {
        listings.read_parents(*index, records[0], &mut entries, &mut input);
    }
    let records = groups.iter().map(|(index, records)| (*index, records[0])).collect();
    reject_ambiguous(&entries, &records, &mut input);
    listings.warn(&mut input);
    input
}

/// Rejects users and groups whose DNs are equal although they are different entries, and makes memberships by this DN
/// unclear. `records` contains the records of groups by their index.
fn reject_ambiguous(entries: &Entries, records: &HashMap<usize, &Record>, input: &mut Input) {
    let content = |index: &usize| records.get(index).map(|record| record.content());
    let mut shared = HashSet::new();
    for (dn, users, groups) in entries.ambiguous(input, |one, other| content(&one) == content(&other)) {
        let reason = format!(
            "{dn} is the DN of several different entries, and all of them are rejected: rename all but one, or import only one part \
             of the directory. Until then, no membership by this DN changes"
        );
        for user in users {
            let person = &mut input.users[*user];
            person.fault("dn", reason.clone());
            let claimed = std::mem::take(&mut person.claimed).into_iter().map(|(group, _)| group);
            let joined = std::mem::take(&mut person.groups).into_iter().chain(claimed);
            person.unclear.groups.extend(joined.map(|group| group.id));
        }
        for group in groups {
            let GroupDraft { place, name, id, .. } = &input.groups[*group];
            shared.insert(id.clone());
            let (place, who, field) = (*place, name.clone(), "dn".to_owned());
            input.rejected.push(Rejected { place, who, field, reason: reason.clone() });
        }
    }
    input.groups.retain(|group| !shared.contains(&group.id));
    make_unclear(input, &shared);
}

/// Returns whether the entry is one of those that FreeIPA generates from others, for clients without RFC 2307bis.
fn is_compatibility_view(record: &Record) -> bool {
    let dn = record.first("dn").filter(|dn| dn.to_ascii_lowercase().contains("compat"));
    let dn = dn.and_then(|dn| Dn::parse(dn).ok());
    dn.is_some_and(|dn| dn.to_string().contains(",cn=compat,dc="))
}

/// Returns the result of a search that failed, as ldapsearch writes it after the entries: `result: 4 Size limit exceeded`.
fn failure(record: &Record) -> Option<&str> {
    let is_entry = record.first("dn").is_some();
    record.first("result").filter(|result| !is_entry && !result.starts_with("0 ") && *result != "0")
}

fn is_one_of(record: &Record, classes: &[&str]) -> bool {
    let is = |name: &str| record.all("objectclass").any(|class| class.value.eq_ignore_ascii_case(name));
    classes.iter().any(|class| is(class)) && !is_computer(record, is)
}

/// Returns whether the entry is a computer of Active Directory, which has the object class `user` too. The class alone does not
/// count: people may be able to add it to their own entries, and would no longer be restricted.
fn is_computer(record: &Record, is: impl Fn(&str) -> bool) -> bool {
    is("computer") && record.first("samaccountname").is_some_and(|name| name.ends_with('$'))
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

/// Returns the attribute that identifies the people of a file: the one that most of them have, if at least half of them have
/// it. `None` means the DN. One file has only one kind of identifier: if each entry had its own, a person whose entry lacks
/// the identifier would look like another person, and no longer be restricted.
fn choose_identifier(records: &[Record]) -> Option<(&'static str, &'static str)> {
    let people: Vec<&Record> = records.iter().filter(|record| is_one_of(record, PEOPLE)).collect();
    let counted = IDENTIFIERS.map(|(name, attribute)| {
        let count = people.iter().filter(|record| record.first(name).is_some()).count();
        (count, (name, attribute))
    });
    // Of several with the same count, the first one.
    let (count, chosen) = counted.into_iter().rev().max_by_key(|(count, _)| *count)?;
    (count > 0 && 2 * count >= people.len()).then_some(chosen)
}

/// Identifies a user by an identifier that survives a move and is not given to another entry or, without one, by the DN.
fn identify(person: &mut UserDraft, dn: &Dn, record: &Record, identifier: Option<(&str, &str)>) {
    let Some((name, attribute)) = identifier else { return person.identify("ldap", &dn.to_string()) };
    let values: Vec<&str> = record.all(name).map(|attribute| &*attribute.value).collect();
    match values[..] {
        [id] => person.identify("ldap", &format!("{attribute}={}", id.to_ascii_lowercase())),
        [] => person.fault(
            attribute,
            "is missing, unlike in other entries of this file: export all entries with this attribute",
        ),
        _ => person.fault(attribute, "has several values, but must identify the entry"),
    }
}

/// Adds a user. Returns its index.
fn user_draft(
    dn: &Dn,
    record: &Record,
    identifier: Option<(&str, &str)>,
    entries: &mut Entries,
    input: &mut Input,
) -> usize {
    let place = Place::line(record.line);
    let username = ["uid", "samaccountname", "cn"].iter().find_map(|name| record.first(name)).unwrap_or_default();
    let mut person = UserDraft::new(place, username);
    if username.is_empty() {
        person.fault("uid", "is required, because it becomes the username");
    }
    for fault in &record.faults {
        person.fault(&format!("line {}", fault.line), fault.error.to_string());
    }
    identify(&mut person, dn, record, identifier);
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
    // The CRD does not accept longer ones, and people may be able to create long entries below their own.
    if let Some(dn) = record.first("dn").filter(|dn| dn.chars().count() <= MAX_IDENTITY) {
        person.set("identities", serde_json::json!([{"type": "ldap", "id": dn}]));
    }
    account::read(record, &mut person);
    person.lacks_state = !exported::shows_state(record);
    let hashes = || record.all("userpassword").map(|hash| hash.value.as_str());
    let usable = hashes().find(|hash| super::hashes::usable(hash).is_ok());
    super::text::take_password(&mut person, usable.or_else(|| hashes().next()).unwrap_or_default());
    read_groups(record, &mut person);
    let index = input.users.len();
    entries.add_user(dn, username, record, index);
    input.add_user(person);
    index
}

/// Adds a group. Returns `false` if it has no name.
fn group(dn: &Dn, record: &Record, entries: &mut Entries, input: &mut Input) -> bool {
    let place = Place::line(record.line);
    let name = record.first("cn").unwrap_or(dn.name());
    if name.is_empty() {
        input.reject(place, "cn: is required, because it becomes the name of the group");
        return false;
    }
    let mut group = GroupDraft::new(place, reference(dn).id, name);
    if record.faults.iter().any(|fault| fault.may_be(&["member", "uniquemember", "memberuid", "gidnumber"])) {
        input.unclear.groups.insert(group.id.clone());
    }
    group.set("description", record.first("description").unwrap_or_default());
    entries.add_group(dn, record, input.groups.len());
    input.groups.push(group);
    true
}

#[cfg(test)]
mod tests;
