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
        let text = format!("dn: uid=eve,dc=x\nobjectClass: {classes}\nuid: eve\ngidNumber: 7\nnsAccountLock: TRUE\n");
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
    for lines in ["userAccountControl: x\n", "objectClass: computer\n", "objectClass: computer\nsAMAccountName: eve\n"]
    {
        let input = read(format!("{EVE}{lines}nsAccountLock: TRUE\n").as_bytes());
        assert_eq!(input.users.len(), 1, "{lines}");
        assert_eq!(input.users[0].spec["state"], "Disabled", "{lines}");
    }
    for name in ["uid", "cn", "x"] {
        let text = format!("dn: ou=eve,dc=x\nobjectClass: person\n{name}:\nentryUUID: 1\nnsAccountLock: TRUE\n");
        let input = read(text.as_bytes());
        let person = &input.users[0];
        assert_eq!((person.source.as_deref(), &person.spec["state"]), (Some("ldap:entryUUID=1"), &json!("Disabled")));
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
    let group = |name: &str, members: &str| format!("dn: cn={name},dc=x\nobjectClass: group\ncn: {name}\n{members}\n");
    let nested = [group("ops", "member: uid=eve,dc=x\n"), group("admins", "member: cn=ops,dc=x\n")];
    assert_eq!(eve(&[&nested.concat()]), (vec!["admins".to_owned(), "ops".to_owned()], 0, 0));
    // A group names another one that does not list it.
    let planted = [group("ops", "memberOf: cn=admins,dc=x\n"), group("admins", "member: uid=eve,dc=x\n")];
    let input = read(format!("{EVE}\n{}", planted.concat()).as_bytes());
    assert!(input.rejected[0].reason.contains("does not list ops, which is not made a member"), "{:?}", input.rejected);
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

#[test]
fn a_long_dn_is_not_an_identity() {
    let of = |length: usize| {
        let text = format!("dn: uid=eve,ou={},dc=x\nobjectClass: person\nuid: eve\n", "x".repeat(length));
        read(text.as_bytes()).users[0].spec.contains_key("identities")
    };
    assert_eq!((of(200), of(300)), (true, false));
}

#[test]
fn a_binary_dn_leaves_no_membership_unclear() {
    let text = format!("{EVE}\ndn: cn=\\ff\\fe,dc=x\nobjectClass: group\ncn: odd\nmember: uid=eve,dc=x\n");
    let input = read(text.as_bytes());
    assert_eq!((&input.rejected[..], input.is_unclear()), (&[][..], false));
    assert_eq!(input.users[0].group_names(), ["odd"]);
}

#[test]
fn entries_that_freeipa_generates_are_skipped() {
    let entry = |below: &str| format!("dn: uid=eve,cn=users,cn={below},dc=x\nobjectClass: posixAccount\nuid: eve\n\n");
    let input = read((entry("accounts") + &entry("compat")).as_bytes());
    assert_eq!(input.users.len(), 1);
    assert_eq!(input.users[0].source.as_deref(), Some("ldap:uid=eve,cn=users,cn=accounts,dc=x"));
}

#[test]
fn accounts_that_samba_or_sun_directory_server_disabled_are_disabled() {
    let state = |line: &str| read(format!("{EVE}{line}\n").as_bytes()).users[0].spec.get("state").cloned();
    for line in ["sambaAcctFlags: [UD         ]", "inetUserStatus: inactive", "inetUserStatus: Deleted"] {
        assert_eq!(state(line), Some(json!("Disabled")), "{line}");
    }
    for line in ["sambaAcctFlags: [UX         ]", "inetUserStatus: active"] {
        assert_eq!(state(line), None, "{line}");
    }
}
