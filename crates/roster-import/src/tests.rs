//! Tests of all formats: the examples, round trips through every export, and random bytes.

use std::rc::Rc;

use base64::prelude::{BASE64_STANDARD, Engine};
use proptest::prelude::*;
use roster_api::printable::is_unsafe;
use rstest::rstest;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::assemble::{Content, Options, Plan, assemble};
use super::draft::{Place, Rejected};
use super::rules::Kind;
use super::write::{Record, Target, writer};
use super::*;

const FORMATS: [Format; 13] = [
    Format::Csv,
    Format::Json,
    Format::Yaml,
    Format::Ldif,
    Format::Htpasswd,
    Format::Openstack,
    Format::Kubesphere,
    Format::Rancher,
    Format::Keycloak,
    Format::Openshift,
    Format::Deckhouse,
    Format::Dex,
    Format::Passwd,
];

/// Compiled once per thread, because [`Rules`] is not `Sync`.
fn rules() -> Rc<Rules> {
    thread_local! { static RULES: Rc<Rules> = Rc::default(); }
    RULES.with(Rc::clone)
}

fn options() -> Options {
    Options { secret_namespace: Some("people".to_owned()), ..Options::default() }
}

fn plan(format: Format, main: &[u8]) -> Plan {
    let rules = rules();
    let source = Source { main: main.to_vec(), ..Source::default() };
    assemble(read(format, &source, &rules), &options(), &rules)
}

fn export(plan: &Plan, target: Target, with_hashes: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = writer(target, &mut out, with_hashes, "dc=example,dc=com", &rules());
    writer.begin().unwrap();
    for item in &plan.items {
        let hash = item.secret.as_ref().filter(|_| with_hashes).map(|secret| match &secret.content {
            Content::Hash(hash) => hash.expose_secret().to_owned(),
            Content::Plain(_) => panic!("the examples contain only hashes"),
        });
        let secret = hash.as_ref().and_then(|hash| Some(item.secret.as_ref()?.manifest(hash)));
        writer
            .record(Record { kind: item.kind, object: &item.object, secret: secret.as_ref(), hash: hash.as_deref() })
            .unwrap();
    }
    writer.end().unwrap();
    drop(writer);
    out
}

/// Returns objects and hashes.
fn content(plan: &Plan) -> Vec<Value> {
    let of = |item: &assemble::Item| match item.secret.as_ref().map(|secret| &secret.content) {
        Some(Content::Hash(hash)) => json!([item.object, hash.expose_secret()]),
        _ => json!([item.object]),
    };
    plan.items.iter().map(of).collect()
}

#[rstest]
#[case(Target::Csv, Format::Csv)]
#[case(Target::Json, Format::Json)]
#[case(Target::Yaml, Format::Yaml)]
fn full_formats_round_trip(#[case] target: Target, #[case] format: Format) {
    let everything = concat!(
        include_str!("../../../examples/user-full.yaml"),
        "---\n",
        include_str!("../../../examples/group.yaml")
    );
    let more = b"[{\"kind\": \"Group\", \"name\": \"a\", \"labels\": {\"x\": \"y\"}, \"memberSelector\": {\"matchExpressions\": \
        [{\"key\": \"group\", \"operator\": \"In\", \"values\": [\"a;b\"]}]}, \"memberships\": [{\"user\": \"ada\", \"validity\": {}}]},\
        {\"username\": \"Ada\", \"labels\": {\"a.example/b\": \"c\"}, \"displayName\": \"a;\\\\b\\\"\", \"passwordHash\": \
        \"$2b$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW\"}]";
    for first in [plan(Format::Yaml, everything.as_bytes()), plan(Format::Json, more)] {
        assert_eq!(first.rejected, []);
        for with_hashes in [true, false] {
            let second = plan(format, &export(&first, target, with_hashes));
            assert_eq!(second.rejected, []);
            if with_hashes {
                assert_eq!(content(&second), content(&first));
            } else {
                let objects = |plan: &Plan| plan.items.iter().map(|item| item.object.clone()).collect::<Vec<_>>();
                assert_eq!(objects(&second), objects(&first));
            }
        }
    }
}

#[test]
fn ldif_only_has_members_that_groups_accept() {
    let source = br#"[{"kind": "Group", "name": "closed", "acceptDeclaredMembers": false, "members": ["bob"]},
        {"kind": "Group", "name": "open", "acceptDeclaredMembers": true},
        {"username": "eve", "groups": ["closed", "open"]}, {"username": "bob"}]"#;
    let text = String::from_utf8(export(&plan(Format::Json, source), Target::Ldif, false)).unwrap();
    let entry = |group: &str| text.split("\n\n").find(|entry| entry.contains(&format!("cn: {group}\n"))).unwrap();
    assert!(entry("closed").contains("uid=bob,") && !entry("closed").contains("uid=eve,"), "{text}");
    assert!(entry("open").contains("uid=eve,"), "{text}");
}

/// Returns names, some fields and hashes of all users.
fn selected(plan: &Plan, fields: &[&str]) -> Vec<Value> {
    let users = plan.items.iter().filter(|item| item.kind == Kind::User);
    let of = |item: &assemble::Item| {
        let spec: serde_json::Map<String, Value> = fields
            .iter()
            .filter_map(|field| Some(((*field).to_owned(), item.object["spec"].get(*field)?.clone())))
            .collect();
        let hash = item.secret.as_ref().map(|secret| match &secret.content {
            Content::Hash(hash) => hash.expose_secret().to_owned(),
            Content::Plain(_) => panic!("the examples contain only hashes"),
        });
        json!([item.name, spec, hash])
    };
    users.map(of).collect()
}

#[rstest]
#[case(Target::Ldif, Format::Ldif, &["username", "email", "additionalEmails", "displayName", "firstName", "lastName", "preferredShell", "language", "mobile", "state", "groups"])]
#[case(Target::Passwd, Format::Passwd, &["username", "displayName", "preferredShell", "state"])]
#[case(Target::Htpasswd, Format::Htpasswd, &["username"])]
fn supported_fields_of_other_formats_round_trip(
    #[case] target: Target,
    #[case] format: Format,
    #[case] fields: &[&str],
) {
    let mut first = plan(Format::Ldif, include_bytes!("../../../examples/import/people.ldif"));
    // The example sets neither of these fields.
    first.items.iter_mut().filter(|item| item.name == "grace").for_each(|item| {
        item.object["spec"]["mobile"] = "+1 555 0100".into();
        item.object["spec"]["language"] = "en".into();
    });
    let second = plan(format, &export(&first, target, true));
    assert_eq!(second.rejected, []);
    assert_eq!(selected(&second, fields), selected(&first, fields));
}

#[rstest]
#[case(Format::Csv, include_bytes!("../../../examples/import/people.csv"), 2, 3, 2)]
#[case(Format::Json, include_bytes!("../../../examples/import/people.json"), 1, 2, 1)]
#[case(Format::Ldif, include_bytes!("../../../examples/import/people.ldif"), 3, 2, 2)]
#[case(Format::Htpasswd, include_bytes!("../../../examples/import/htpasswd"), 0, 2, 2)]
#[case(Format::Openstack, include_bytes!("../../../examples/import/keystone.json"), 1, 3, 2)]
#[case(Format::Openstack, include_bytes!("../../../examples/import/keystone.sql"), 1, 3, 2)]
#[case(Format::Kubesphere, include_bytes!("../../../examples/import/kubesphere.yaml"), 2, 2, 1)]
#[case(Format::Rancher, include_bytes!("../../../examples/import/rancher.yaml"), 1, 2, 1)]
#[case(Format::Keycloak, include_bytes!("../../../examples/import/keycloak.json"), 5, 3, 3)]
#[case(Format::Openshift, include_bytes!("../../../examples/import/openshift.yaml"), 2, 3, 2)]
#[case(Format::Deckhouse, include_bytes!("../../../examples/import/deckhouse.yaml"), 2, 2, 2)]
#[case(Format::Dex, include_bytes!("../../../examples/import/dex.yaml"), 0, 2, 2)]
fn every_example_is_imported_completely(
    #[case] format: Format,
    #[case] bytes: &[u8],
    #[case] groups: usize,
    #[case] people: usize,
    #[case] hashes: usize,
) {
    let plan = plan(format, bytes);
    assert_eq!(plan.rejected, []);
    let count = |kind| plan.items.iter().filter(|item| item.kind == kind).count();
    let secrets = plan.items.iter().filter(|item| item.secret.is_some()).count();
    assert_eq!((count(Kind::Group), count(Kind::User), secrets), (groups, people, hashes));
}

/// An example of each format.
const EXAMPLES: [(Format, &[u8]); 10] = [
    (Format::Csv, include_bytes!("../../../examples/import/people.csv")),
    (Format::Json, include_bytes!("../../../examples/import/people.json")),
    (Format::Yaml, include_bytes!("../../../examples/user-with-hash.yaml")),
    (Format::Ldif, include_bytes!("../../../examples/import/people.ldif")),
    (Format::Htpasswd, include_bytes!("../../../examples/import/htpasswd")),
    (Format::Openstack, include_bytes!("../../../examples/import/keystone.json")),
    (Format::Openstack, include_bytes!("../../../examples/import/keystone.sql")),
    (Format::Kubesphere, include_bytes!("../../../examples/import/kubesphere.yaml")),
    (Format::Rancher, include_bytes!("../../../examples/import/rancher.yaml")),
    (Format::Passwd, include_bytes!("../../../examples/import/passwd")),
];

#[test]
fn case_a6_a_byte_order_mark_changes_nothing_in_any_format() {
    for (format, bytes) in EXAMPLES {
        let (with, without) = (plan(format, &[b"\xef\xbb\xbf", bytes].concat()), plan(format, bytes));
        assert_eq!(with.rejected, without.rejected, "{format:?}");
        assert_eq!(content(&with), content(&without), "{format:?}");
        let places = |plan: &Plan| plan.items.iter().map(|item| item.place).collect::<Vec<_>>();
        assert_eq!(places(&with), places(&without), "{format:?}");
    }
    let mark = |text: &str| Some(format!("\u{feff}{text}").into_bytes());
    let source = Source {
        main: b"ada:x:1000:1000::/:/bin/sh\n".to_vec(),
        group: mark("math:x:7:ada\n"),
        shadow: mark("ada:$2b$x:::::::\n"),
        ..Source::default()
    };
    let input = read(Format::Passwd, &source, &rules());
    assert_eq!((input.rejected.len(), input.groups.len(), input.users[0].credential.is_some()), (0, 1, true));
}

#[test]
fn case_a6_utf_16_is_one_error_that_says_how_to_convert() {
    for (format, bytes) in EXAMPLES {
        let text = str::from_utf8(bytes).unwrap();
        for (mark, encode) in [("\u{feff}", u16::to_le_bytes as fn(u16) -> [u8; 2]), ("", u16::to_be_bytes)] {
            let bytes: Vec<u8> = format!("{mark}{text}").encode_utf16().flat_map(encode).collect();
            let plan = plan(format, &bytes);
            assert!(plan.items.is_empty(), "{format:?}");
            let [Rejected { place, reason, .. }] = &plan.rejected[..] else {
                panic!("{format:?}: {:?}", plan.rejected)
            };
            assert!(place.line == 1 && reason.contains("is in UTF-16") && reason.contains("iconv -f"), "{reason}");
        }
    }
    let shadow = Some(b"\xff\xfea\0:\0".to_vec());
    let source = Source { main: b"ada:x:1000:1000::/:/bin/sh\n".to_vec(), shadow, ..Source::default() };
    let input = read(Format::Passwd, &source, &rules());
    assert_eq!((input.users.len(), input.rejected[0].place), (0, Place { file: 2, line: 1 }));
}

#[test]
fn case_a9_a_file_in_which_nothing_is_recognized_is_rejected_in_every_format() {
    let files: [&[u8]; 12] = [
        b"",
        b"\n \n",
        b"# a comment\n",
        b"The quick brown fox.\n\nJumps over it.\n",
        b"[]",
        b"{}",
        b"null\n",
        b"[{\"ID\": \"1\", \"Name\": \"ada\"}]",
        b"{\"users\": []}",
        b"username,email\n",
        b"SELECT 1;\nCREATE TABLE `role` (`id` int);\nINSERT INTO `role` VALUES (1);\n",
        b"version: 1\n\ndn: dc=example\nobjectClass: domain\ndc: example\n\nsearch: 2\nresult: 0 Success\n",
    ];
    for format in FORMATS {
        for bytes in files {
            let plan = plan(format, bytes);
            let shown = String::from_utf8_lossy(bytes);
            assert!(plan.items.is_empty() && !plan.rejected.is_empty(), "{format:?}: {shown}: {plan:?}");
        }
    }
    let rejected = plan(Format::Openstack, b"CREATE TABLE `role` (`id` int);\n").rejected;
    assert!(rejected[0].reason.starts_with("contains no user and no group. This format requires mysqldump"));
    let source = Source { main: b"root:x:0:0::/root:/bin/sh\n".to_vec(), min_uid: 1000, ..Source::default() };
    let rejected = read(Format::Passwd, &source, &rules()).rejected;
    assert!(rejected[0].reason.contains("--min-uid"));
}

const HASH: &str = "$2b$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW";

#[rstest]
#[case(Format::Csv, "username,password\nada,@\n")]
#[case(Format::Csv, "username,passwordHash\nada,@\n")]
#[case(Format::Json, r#"{"username": "ada", "password": "@"}"#)]
#[case(Format::Json, r#"{"username": "ada", "passwordHash": "@"}"#)]
#[case(Format::Htpasswd, "ada:@\n")]
#[case(Format::Ldif, "dn: uid=ada,dc=x\nobjectClass: person\nuid: ada\nuserPassword: @\n")]
#[case(Format::Openstack, r#"{"user": [{"id": "1", "name": "ada", "password": "@"}]}"#)]
fn case_a15_a_hash_is_not_hashed_as_a_password(#[case] format: Format, #[case] file: &str) {
    let options = Options { hash_passwords: true, ..options() };
    for text in [HASH.to_owned(), BASE64_STANDARD.encode(HASH)] {
        let source = Source { main: file.replace('@', &text).into_bytes(), ..Source::default() };
        let plan = assemble(read(format, &source, &rules()), &options, &rules());
        assert_eq!(plan.rejected, []);
        let Some(Content::Hash(hash)) = plan.items[0].secret.as_ref().map(|secret| &secret.content) else {
            panic!("{format:?}: {text} is hashed again");
        };
        assert_eq!(hash.expose_secret(), HASH);
    }
}

/// Generates bytes that resemble the supported formats.
fn lookalike() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "username",
        "kind",
        ",",
        "\n",
        ":",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "items",
        "apiVersion",
        "v1",
        "- ",
        "  ",
        "---\n",
        "dn",
        "cn: a\n",
        "objectClass: person\n",
        "uid",
        "é",
        "\0",
        "=",
        ";",
        "INSERT INTO ",
        "VALUES ('",
        "null",
        "User",
        "metadata",
        "spec",
        "0",
        "x",
    ]);
    let text = prop::collection::vec(pieces, 0..40).prop_map(|pieces| pieces.concat().into_bytes());
    prop_oneof![text, prop::collection::vec(any::<u8>(), 0..200)]
}

/// Spreadsheets run cells as formulas.
#[test]
fn exported_cells_are_no_formulas() {
    for name in ["=1+1", "+1+1", "-1+1", "@SUM(1)", "'=1+1", "''@x", "+1 555 0100"] {
        let user = json!({"username": "ada", "displayName": name, "mobile": "+1 555 0100", "extra": {"note": ["=1"]}});
        let first = plan(Format::Json, user.to_string().as_bytes());
        assert_eq!(first.rejected, []);
        let exported = export(&first, Target::Csv, false);
        for record in ::csv::Reader::from_reader(exported.as_slice()).records() {
            for cell in &record.unwrap() {
                assert!(!cell.starts_with(['=', '+', '-', '@']) || cell == "+1 555 0100", "{cell}");
            }
        }
        assert_eq!(content(&plan(Format::Csv, &exported)), content(&first));
    }
    // A password is taken as it is written.
    let options = Options { hash_passwords: true, ..options() };
    let rules = rules();
    let source =
        Source { main: b"username,displayName,password\nada,'=1,'=secret words\n".to_vec(), ..Source::default() };
    let plan = assemble(read(Format::Csv, &source, &rules), &options, &rules);
    assert_eq!(plan.items[0].object["spec"]["displayName"], "=1");
    let Content::Plain(password) = &plan.items[0].secret.as_ref().unwrap().content else { panic!("it is plaintext") };
    assert_eq!(password.expose_secret(), "'=secret words");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in lookalike()) {
        let rules = rules();
        for format in FORMATS {
            let source = Source { main: bytes.clone(), group: Some(bytes.clone()), shadow: Some(bytes.clone()), ..Source::default() };
            assemble(read(format, &source, &rules), &options(), &rules);
        }
    }

    #[test]
    fn any_user_round_trips_through_every_full_format(
        name in "[a-z][a-z0-9]{0,20}",
        display in "[-=+@'1]{0,2}[^\\p{Cc}]{1,40}".prop_filter("it is printable", |text| !text.chars().any(is_unsafe)),
        groups in prop::collection::btree_set("[a-z][a-z0-9]{0,8}", 0..4),
        extra in prop::collection::btree_map("[a-z]{1,6}", prop::collection::vec("[^\\p{Cc}]{1,9}".prop_filter("it is printable", |text| !text.chars().any(is_unsafe)), 0..3), 0..3),
    ) {
        let mut object = json!({"username": name, "displayName": display});
        if !groups.is_empty() { object["groups"] = json!(groups); }
        if !extra.is_empty() { object["extra"] = json!(extra); }
        let first = plan(Format::Json, object.to_string().as_bytes());
        prop_assert_eq!(&first.rejected, &[]);
        for (target, format) in [(Target::Csv, Format::Csv), (Target::Json, Format::Json), (Target::Yaml, Format::Yaml)] {
            let second = plan(format, &export(&first, target, true));
            prop_assert_eq!(content(&second), content(&first));
        }
    }
}
