//! Reads users, groups and memberships from LDIF, as written by `slapcat`, `ldapsearch` and `ldifde`.

mod above;
mod account;
mod dn;
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
    person.set("identities", serde_json::json!([{"type": "ldap", "id": record.first("dn")}]));
    account::read(record, &mut person);
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
mod tests {
    use super::*;
    use proptest::prelude::*;
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
                    memberOf: CN=Domain Admins,DC=example\n\ndn: CN=PC,DC=example\nobjectClass: user\nobjectClass: computer\nsAMAccountName: PC$\n";
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

    const EVE: &str = "dn: uid=eve,dc=x\nobjectClass: person\nuid: eve\n";

    /// Groups of Eve, rejections and warnings of a file with Eve, who names the group `admins`, and with these entries.
    fn eve(entries: &[&str]) -> (Vec<String>, usize, usize) {
        let text = format!("{EVE}memberOf: cn=admins,dc=x\n\n{}", entries.join("\n"));
        let input = read(text.as_bytes());
        let eve = input.users.iter().find(|person| person.login() == "eve").unwrap();
        (eve.group_names().iter().map(ToString::to_string).collect(), input.rejected.len(), input.warnings.len())
    }

    /// People may be able to write the attribute in their own entries.
    #[test]
    fn groups_that_list_their_members_decide_who_is_a_member() {
        let ada = "dn: uid=ada,dc=x\nobjectClass: person\nuid: ada\n";
        let group = |members: &str| format!("dn: cn=admins,dc=x\nobjectClass: group\ncn: admins\n{members}");
        let (admins, none) = (vec!["admins".to_owned()], Vec::new());
        assert_eq!(eve(&[ada, &group("member: uid=ada,dc=x\n")]), (none.clone(), 1, 0));
        assert_eq!(eve(&[ada, &group("memberUid: ada\n")]), (none.clone(), 1, 0));
        assert_eq!(eve(&[ada, &group("member: uid=ada,dc=x\nmember: UID=Eve, DC=x\n")]), (admins.clone(), 0, 0));
        assert_eq!(eve(&[ada, &group("memberUid: ada\nmemberUid: eve\n")]), (admins.clone(), 0, 0));
        // Another user with this name in another subtree.
        let twin = "dn: uid=eve,ou=a,dc=x\nobjectClass: person\nuid: eve\n";
        assert_eq!(eve(&[twin, &group("memberUid: eve\n")]), (none, 1, 0));
        // Not in the file, no members in the file, or only some of them.
        assert_eq!(eve(&[ada]), (admins.clone(), 0, 1));
        assert_eq!(eve(&[ada, &group("")]), (admins.clone(), 0, 1));
        assert_eq!(eve(&[ada, &group("member;range=0-0: uid=ada,dc=x\n")]), (admins, 1, 1));
    }

    #[test]
    fn a_group_without_members_has_none_if_other_groups_list_theirs() {
        let group = |name: &str, members: &str| {
            format!("dn: cn={name},dc=x\nobjectClass: posixGroup\ncn: {name}\ngidNumber: 7\n{members}")
        };
        for members in ["member: uid=eve,dc=x\n", "memberUid: eve\n"] {
            assert_eq!(eve(&[&group("admins", ""), &group("ops", members)]), (vec!["ops".to_owned()], 1, 0));
        }
        assert_eq!(eve(&[&group("admins", ""), &group("ops", "")]), (vec!["admins".to_owned()], 0, 1));
        let partial = group("admins", "member;range=0-0: uid=eve,dc=x\n");
        assert_eq!(eve(&[&partial, &group("ops", "memberUid: eve\n")]).0, ["admins", "ops"]);
        // The primary group.
        let text = format!("{EVE}gidNumber: 7\nmemberOf: cn=admins,dc=x\n\n{}", group("admins", "memberUid: ada\n"));
        assert_eq!(read(text.as_bytes()).users[0].group_names(), ["admins"]);
    }

    /// People may be able to write the object classes of their own entries.
    #[test]
    fn an_entry_of_a_person_and_a_group_is_a_person() {
        for classes in ["person\nobjectClass: posixGroup", "posixGroup\nobjectClass: posixAccount"] {
            let text =
                format!("dn: uid=eve,dc=x\nobjectClass: {classes}\nuid: eve\ngidNumber: 7\nnsAccountLock: TRUE\n");
            let input = read(text.as_bytes());
            assert_eq!((input.users.len(), input.groups.len()), (1, 0));
            assert_eq!(input.users[0].spec["state"], "Disabled");
        }
    }

    #[test]
    fn a_range_may_end_at_the_largest_number() {
        let most = u64::MAX;
        let input = read(format!("{EVE}memberOf;range=0-{most}: cn=admins,dc=x\n").as_bytes());
        assert_eq!((input.users.len(), input.rejected.len()), (1, 1));
    }

    proptest! {
        #[test]
        fn arbitrary_records_do_not_panic(
            lines in prop::collection::vec(
                (
                    "(dn|objectClass|uid|cn|member|memberUid|memberOf|gidNumber|userAccountControl)",
                    "(;range=[0-9]{1,20}-([0-9]{1,20}|\\*))?",
                    "::? ?(person|group|[a-z]|uid=[a-c],dc=x|[0-9]{1,20}|\\PC{0,9})",
                ),
                0..24,
            ),
        ) {
            let lines: Vec<String> = lines.iter().map(|(name, option, value)| format!("{name}{option}{value}")).collect();
            for separator in ["\n", "\n\n"] {
                read(format!("dn: uid=a,dc=x\nobjectClass: person\nuid: a\n{}", lines.join(separator)).as_bytes());
            }
        }
    }

    /// People may be able to write other attributes of their own entries.
    #[test]
    fn an_entry_that_cannot_be_imported_restricts_its_user() {
        for lines in
            ["userAccountControl: x\n", "objectClass: computer\n", "objectClass: computer\nsAMAccountName: eve\n"]
        {
            let input = read(format!("{EVE}{lines}nsAccountLock: TRUE\n").as_bytes());
            assert_eq!(input.users.len(), 1, "{lines}");
            assert_eq!(input.users[0].spec["state"], "Disabled", "{lines}");
        }
        for name in ["uid", "cn", "x"] {
            let text = format!("dn: ou=eve,dc=x\nobjectClass: person\n{name}:\nentryUUID: 1\nnsAccountLock: TRUE\n");
            let input = read(text.as_bytes());
            let person = &input.users[0];
            assert_eq!(
                (person.source.as_deref(), &person.spec["state"]),
                (Some("ldap:entryUUID=1"), &json!("Disabled"))
            );
            assert_eq!(person.faults[0].field, "uid");
        }
    }

    #[test]
    fn an_attribute_that_is_not_used_may_be_unreadable() {
        let input = read(format!("{EVE}jpegPhoto:< file:///x\n").as_bytes());
        assert_eq!((&input.users[0].faults[..], &input.rejected[..]), (&[][..], &[][..]));
        let group = "dn: cn=admins,dc=x\nobjectClass: group\ncn: admins\nmember: uid=eve,dc=x\n";
        for (line, is_unclear) in [("jpegPhoto:: !\n", false), ("member:: !\n", true), ("nonsense\n", true)] {
            let input = read(format!("{EVE}\n{group}{line}").as_bytes());
            assert_eq!(input.users[0].group_names(), ["admins"], "{line}");
            assert_eq!((input.is_unclear(), !input.rejected.is_empty()), (is_unclear, is_unclear), "{line}");
        }
        assert!(read(format!("{EVE}\ndn: cn=admins,dc=x\nobjectClass:: !\n").as_bytes()).is_unclear());
    }

    #[test]
    fn an_account_that_never_becomes_valid_is_disabled() {
        let input =
            read(format!("{EVE}pwdStartTime: 99990101000000Z\nkrbPrincipalExpiration: 99990101000000Z\n").as_bytes());
        assert_eq!((&input.users[0].spec["state"], input.users[0].spec.get("validity")), (&json!("Disabled"), None));
    }

    #[test]
    fn groups_above_the_groups_of_an_entry_may_be_named() {
        let group =
            |name: &str, members: &str| format!("dn: cn={name},dc=x\nobjectClass: group\ncn: {name}\n{members}\n");
        let nested = [group("ops", "member: uid=eve,dc=x\n"), group("admins", "member: cn=ops,dc=x\n")];
        assert_eq!(eve(&[&nested.concat()]), (vec!["admins".to_owned(), "ops".to_owned()], 0, 0));
        // A group names another one that does not list it.
        let planted = [group("ops", "memberOf: cn=admins,dc=x\n"), group("admins", "member: uid=eve,dc=x\n")];
        let input = read(format!("{EVE}\n{}", planted.concat()).as_bytes());
        assert!(
            input.rejected[0].reason.contains("does not list ops, which is not made a member"),
            "{:?}",
            input.rejected
        );
        assert_eq!(input.groups[1].member_groups, []);
        // Groups that contain each other.
        let round = [group("a", "member: cn=b,dc=x\n"), group("b", "member: cn=a,dc=x\nmember: uid=eve,dc=x\n")];
        assert_eq!(eve(&[&round.concat(), &group("admins", "memberUid: ada\n")]).0, ["b"]);
    }

    /// Otherwise, an entry without the identifier would be another person.
    #[test]
    fn one_attribute_identifies_all_people_of_a_file() {
        let entry = |name: &str, more: &str| format!("dn: uid={name},dc=x\nobjectClass: person\nuid: {name}\n{more}\n");
        let of = |entries: &[String]| {
            let users = read(entries.concat().as_bytes()).users.into_iter();
            users.map(|person| (person.source, person.faults.len())).collect::<Vec<_>>()
        };
        let id = |id: &str| Some(format!("ldap:{id}"));
        let (ada, bob) = (entry("ada", "entryUUID: 1\n"), entry("bob", ""));
        assert_eq!(of(&[ada.clone(), bob.clone()]), [(id("entryUUID=1"), 0), (None, 1)]);
        let eve = entry("eve", "");
        assert_eq!(of(&[ada, bob, eve]), ["ada", "bob", "eve"].map(|name| (id(&format!("uid={name},dc=x")), 0)));
        let both = entry("ada", "nsUniqueId: N\nentryUUID: 1\n");
        assert_eq!(of(std::slice::from_ref(&both)), [(id("entryUUID=1"), 0)]);
        let more = entry("bob", "nsUniqueId: M\n");
        assert_eq!(of(&[both.clone(), more]), [(id("nsUniqueId=n"), 0), (id("nsUniqueId=m"), 0)]);
        for bad in ["entryUUID:\n", "entryUUID: 1\nentryUUID: 2\n"] {
            assert_eq!(of(&[both.clone(), entry("bob", bad)])[1], (None, 1), "{bad}");
        }
    }
}
