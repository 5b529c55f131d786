//! Cases from public bug reports about other importers.

use std::collections::BTreeMap;

use rstest::rstest;
use serde_json::{Value, json};

use crate::assemble::{Options, Plan, assemble};
use crate::rules::{Kind, Rules};
use crate::{Format, Source, read};
use roster_api::SOURCE_ID_ANNOTATION;

fn plan(format: Format, text: &str) -> Plan {
    let (rules, source) = (Rules::default(), Source { main: text.as_bytes().to_vec(), ..Source::default() });
    assemble(read(format, &source, &rules), &Options::default(), &rules)
}

/// Returns the Groups of each User.
fn groups(plan: &Plan) -> BTreeMap<&str, Vec<&str>> {
    let users = plan.items.iter().filter(|item| item.kind == Kind::User);
    users
        .map(|item| {
            let groups = item.object["spec"]["groups"].as_array().into_iter().flatten();
            (item.name.as_str(), groups.map(|name| name.as_str().unwrap()).collect())
        })
        .collect()
}

fn group<'a>(plan: &'a Plan, name: &str) -> &'a Value {
    let mut groups = plan.items.iter().filter(|item| item.kind == Kind::Group && item.name == name);
    &groups.next().unwrap().object
}

fn rejections(plan: &Plan) -> Vec<String> {
    plan.rejected.iter().map(|rejected| format!("{}: {rejected}", rejected.place.line)).collect()
}

/// Returns the file with its entries in every possible order.
fn orders(entries: &[&str], separator: &str) -> Vec<String> {
    if entries.is_empty() {
        return vec![String::new()];
    }
    let without = |index: usize| [&entries[..index], &entries[index + 1..]].concat();
    let all = (0..entries.len()).flat_map(|index| {
        let rest = orders(&without(index), separator);
        rest.into_iter().map(move |rest| format!("{}{separator}{rest}", entries[index]))
    });
    all.collect()
}

const ANN: &str = "dn: uid=ann,ou=people,dc=example\nobjectClass: inetOrgPerson\nuid: ann\n";
const BEN: &str = "dn: uid=ben,ou=people,dc=example\nobjectClass: inetOrgPerson\nuid: ben\n";

/// Asserts that Ann and Ben are in two different Groups with the title `admins`, in every order of the entries.
fn assert_two_groups(format: Format, entries: &[&str], separator: &str, ids: [&str; 2]) {
    let mut results = Vec::new();
    for text in orders(entries, separator) {
        let plan = plan(format, &text);
        assert_eq!(plan.rejected, [], "{text}");
        let groups = groups(&plan);
        let ([ann], [ben]) = (&groups["ann"][..], &groups["ben"][..]) else { panic!("one group each: {groups:?}") };
        for (name, id) in [ann, ben].into_iter().zip(ids) {
            let group = group(&plan, name);
            assert_eq!(group["metadata"]["annotations"][SOURCE_ID_ANNOTATION], id, "{text}");
            assert_eq!(group["spec"]["displayName"], "admins");
            assert!(name.starts_with("admins-"), "{name}");
        }
        assert_ne!(ann, ben);
        let suffixed: Vec<&str> = plan.suffixed.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(suffixed.len(), 2, "{suffixed:?}");
        results.push([(*ann).to_owned(), (*ben).to_owned()]);
    }
    results.dedup();
    assert_eq!(results.len(), 1, "the names depend on the order");
}

#[test]
fn case_a1_groups_with_one_cn_in_different_subtrees_are_two_groups() {
    let apollo = "dn: cn=admins,ou=apollo,dc=example\nobjectClass: groupOfNames\ncn: admins\nmember: uid=ann,ou=people,dc=example\n";
    let gemini = "dn: cn=admins,ou=gemini,dc=example\nobjectClass: groupOfNames\ncn: admins\nmember: UID=Ben,OU=People,DC=Example\n";
    let ids = ["ldap:cn=admins,ou=apollo,dc=example", "ldap:cn=admins,ou=gemini,dc=example"];
    assert_two_groups(Format::Ldif, &[ANN, BEN, apollo, gemini], "\n", ids);
    let ann = format!("{ANN}memberOf: cn=admins,ou=apollo,dc=example\n");
    let ben = format!("{BEN}memberOf: CN=admins, OU=gemini, DC=example\n");
    assert_two_groups(Format::Ldif, &[&ann, &ben], "\n", ids);
    // One group is in the file, the other one is not.
    assert_two_groups(Format::Ldif, &[ANN, &ben, apollo], "\n", ids);
}

#[test]
fn case_a1_members_by_username_or_gid_must_be_unambiguous() {
    let other = "dn: uid=ann,ou=guests,dc=example\nobjectClass: inetOrgPerson\nuid: Ann\n";
    let by_name = "dn: cn=ops,dc=example\nobjectClass: posixGroup\ncn: ops\ngidNumber: 5\nmemberUid: ann\n";
    for text in orders(&[ANN, other, by_name], "\n") {
        let plan = plan(Format::Ldif, &text);
        // Both claim the username.
        assert_eq!(groups(&plan), BTreeMap::new(), "{text}");
        let said = rejections(&plan);
        assert!(
            said.iter().any(|text| text.contains("memberuid: the group ops has the member ann, and several users"))
        );
    }
    let person = format!("{ANN}gidNumber: 5\n");
    let twin = by_name.replace("cn=ops", "cn=dev").replace("cn: ops", "cn: dev").replace("memberUid: ann\n", "");
    for text in orders(&[&person, by_name, &twin], "\n") {
        let plan = plan(Format::Ldif, &text);
        assert_eq!(groups(&plan)["ann"], ["ops"], "{text}");
        assert_eq!(rejections(&plan).iter().filter(|text| text.contains("also has the GID 5")).count(), 2);
    }
}

#[test]
fn case_a1_nested_groups_are_found_by_their_dn() {
    let text = "dn: cn=all,dc=example\nobjectClass: group\ncn: all\nmember: cn=admins,ou=a,dc=example\n\n\
        dn: cn=admins,ou=a,dc=example\nobjectClass: group\ncn: admins\nmemberOf: cn=all,dc=example\nmemberOf: cn=top,dc=example\n\n\
        dn: cn=admins,ou=b,dc=example\nobjectClass: group\ncn: admins\n";
    let plan = plan(Format::Ldif, text);
    assert_eq!(plan.rejected, []);
    let nested = group(&plan, "all")["spec"]["memberGroups"].as_array().unwrap();
    assert_eq!(group(&plan, "top")["spec"]["memberGroups"], json!(nested));
    let [name] = &nested[..] else { panic!("one group") };
    let id = &group(&plan, name.as_str().unwrap())["metadata"]["annotations"][SOURCE_ID_ANNOTATION];
    assert_eq!(id, "ldap:cn=admins,ou=a,dc=example");
}

#[test]
fn case_a2_an_escaped_comma_belongs_to_the_name() {
    let text = "dn: CN=Ann,OU=People,DC=example\nobjectClass: user\nsAMAccountName: ann\n\
        memberOf: CN=Admins\\, Read Only,OU=Groups,DC=example\n";
    let plan = plan(Format::Ldif, text);
    assert_eq!(plan.rejected, []);
    let groups = groups(&plan);
    let [name] = groups["ann"][..] else { panic!("one group: {groups:?}") };
    assert_eq!(group(&plan, name)["spec"]["displayName"], "Admins, Read Only");
    assert_eq!(name, "admins--read-only");
}

#[test]
fn case_a2_a_dn_that_cannot_be_read_is_reported() {
    let plan = plan(Format::Ldif, &format!("{ANN}memberOf: admins\n\ndn: ben\nobjectClass: person\nuid: ben\n"));
    assert_eq!(groups(&plan), BTreeMap::from([("ann", vec![])]));
    let said = rejections(&plan);
    assert!(said[0].starts_with("4: memberof: is not a distinguished name (RFC 4514): "), "{said:?}");
    assert!(said[1].starts_with("6: dn: is not a distinguished name"), "{said:?}");
}

#[test]
fn case_a3_notations_of_one_dn_are_one_group() {
    let ann = format!("{ANN}memberOf: cn=Sales\\2C EMEA,ou=groups,dc=example\n");
    let jane = "dn: cn=Doe\\, Jane,ou=people,dc=example\nobjectClass: inetOrgPerson\nuid: jane\n";
    let sales = "dn: CN=Sales\\, EMEA, OU=groups, DC=example\nobjectClass: groupOfNames\ncn: Sales, EMEA\n\
        member: cn=Doe\\2C Jane,ou=people,dc=example\nmember: uid=ann,ou=people,dc=example\n";
    for text in orders(&[&ann, jane, sales], "\n") {
        let plan = plan(Format::Ldif, &text);
        assert_eq!(plan.rejected, [], "{text}");
        let expected = vec!["sales--emea"];
        assert_eq!(groups(&plan), BTreeMap::from([("ann", expected.clone()), ("jane", expected)]));
    }
}

#[test]
fn case_a4_members_that_the_server_left_out_are_reported() {
    let head = "dn: cn=all,dc=example\nobjectClass: group\ncn: all\n";
    let first = "member;range=0-0: uid=ann,ou=people,dc=example\n";
    let rest = "dn: CN=All,DC=example\nmember;range=1-*: uid=ben,ou=people,dc=example\n";
    let part = plan(Format::Ldif, &[ANN, BEN, &format!("{head}{first}")].join("\n"));
    assert_eq!(groups(&part), BTreeMap::from([("ann", vec!["all"]), ("ben", vec![])]));
    let said = rejections(&part);
    assert!(said[0].starts_with("12: member;range: all has more values than the server returned: "), "{said:?}");
    assert!(said[0].contains("member;range=1-*"), "{said:?}");
    // The response to the search that the message suggests, appended.
    for text in orders(&[ANN, BEN, &format!("{head}{first}"), rest], "\n") {
        let whole = plan(Format::Ldif, &text);
        assert_eq!(whole.rejected, [], "{text}");
        assert_eq!(groups(&whole), BTreeMap::from([("ann", vec!["all"]), ("ben", vec!["all"])]));
    }
    // A gap, and values of a group that is not in the file.
    let gap = plan(Format::Ldif, &[ANN, BEN, &format!("{head}{first}"), &rest.replace("1-*", "2-*")].join("\n"));
    assert!(rejections(&gap)[0].contains("member;range=1-*"), "{:?}", rejections(&gap));
    assert!(rejections(&plan(Format::Ldif, rest))[0].contains("is not a group in this file"));
    let person = plan(Format::Ldif, &format!("{ANN}memberOf;range=0-0: cn=a,dc=example\n"));
    assert!(rejections(&person)[0].contains("memberOf;range=1-*"), "{:?}", rejections(&person));
}

#[rstest]
#[case("accountExpires: 132223104000000000", Some("2020-01-01T00:00:00Z"))]
#[case("accountExpires: 9223372036854775807", None)]
#[case("accountExpires: 0", None)]
#[case("krbPrincipalExpiration: 20200101000000Z", Some("2020-01-01T00:00:00Z"))]
#[case("krbPrincipalExpiration: 19700101000000Z", None)]
#[case("pwdEndTime: 20200101000000Z", Some("2020-01-01T00:00:00Z"))]
#[case("sambaKickoffTime: 1577836800", Some("2020-01-01T00:00:00Z"))]
#[case("shadowExpire: -1", None)]
#[case("shadowExpire: 18262\naccountExpires: 9223372036854775807", Some("2020-01-01T00:00:00Z"))]
#[case("shadowExpire: 20000\nkrbPrincipalExpiration: 20200101000000Z", Some("2020-01-01T00:00:00Z"))]
fn case_a5_accounts_expire_when_they_did_in_the_source(#[case] attributes: &str, #[case] end: Option<&str>) {
    let plan = plan(Format::Ldif, &format!("{ANN}{attributes}\n"));
    assert_eq!(plan.rejected, []);
    assert_eq!(plan.items[0].object["spec"]["validity"]["notAfter"].as_str(), end);
}

#[rstest]
#[case("pwdLastSet: 0", true)]
#[case("pwdLastSet: 133500000000000000", false)]
#[case("pwdLastSet: 0\nuserAccountControl: 66048", false)]
#[case("pwdReset: TRUE", true)]
#[case("shadowLastChange: 0", true)]
#[case("passwordExpirationTime: 19700101000000Z", true)]
fn case_a5_passwords_must_be_changed_as_in_the_source(#[case] attributes: &str, #[case] expected: bool) {
    let plan = plan(Format::Ldif, &format!("{ANN}{attributes}\n"));
    assert_eq!(plan.rejected, []);
    assert_eq!(plan.items[0].object["spec"].get("requirePasswordChange").is_some(), expected);
}

#[rstest]
#[case("shadowExpire: 0", "shadowExpire: 0 is ambiguous: it means never to some systems and 1970-01-01 to others")]
#[case("shadowExpire: soon", "shadowExpire: must be a number of days since 1970-01-01")]
#[case("accountExpires: -5", "accountExpires: must be a number of 100 ns intervals")]
#[case("krbPrincipalExpiration: 2020-01-01", "krbPrincipalExpiration: must be a time such as")]
#[case("userAccountControl: x", "userAccountControl: must be a number")]
fn case_a5_an_expiry_that_cannot_be_read_does_not_make_an_active_account(#[case] attribute: &str, #[case] says: &str) {
    let plan = plan(Format::Ldif, &format!("{ANN}{attribute}\n"));
    assert!(plan.items.is_empty());
    assert!(rejections(&plan)[0].starts_with(&format!("1: {says}")), "{:?}", rejections(&plan));
}

#[test]
fn case_a8_groups_with_one_name_in_two_domains_are_two_groups() {
    let users =
        r#""user":[{"id":"u1","enabled":true,"domain_id":"apollo"},{"id":"u2","enabled":true,"domain_id":"gemini"}]"#;
    let names = r#""local_user":[{"id":1,"user_id":"u1","domain_id":"apollo","name":"ann"},{"id":2,"user_id":"u2","domain_id":"gemini","name":"ben"}]"#;
    let members = r#""user_group_membership":[{"user_id":"u2","group_id":"g2"},{"user_id":"u1","group_id":"g1"}]"#;
    for rows in orders(
        &[
            r#"{"id":"g1","domain_id":"apollo","name":"admins"},"#,
            r#"{"id":"g2","domain_id":"gemini","name":"admins"},"#,
        ],
        "",
    ) {
        let text = format!("{{{users},{names},\"group\":[{}],{members}}}", rows.trim_end_matches(','));
        assert_two_groups(Format::Openstack, &[&text], "", ["keystone:g1", "keystone:g2"]);
    }
}

#[test]
fn case_a11_teams_with_one_display_name_are_two_groups() {
    let user = |name: &str, principal: u32| {
        json!({"apiVersion": "management.cattle.io/v3", "kind": "User", "metadata": {"name": format!("u-{name}")},
            "username": name, "principalIds": [format!("github_user://{principal}")]})
        .to_string()
    };
    let team = |name: &str, principal: u32| {
        json!({"apiVersion": "management.cattle.io/v3", "kind": "UserAttribute", "metadata": {"name": format!("u-{name}")},
            "GroupPrincipals": {"github": {"Items": [
                {"metadata": {"name": format!("github_team://{principal}")}, "displayName": "admins"}]}}})
        .to_string()
    };
    let objects = [user("ann", 1), user("ben", 2), team("ann", 11), team("ben", 22)];
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    assert_two_groups(Format::Rancher, &objects, "\n", ["rancher:github_team://11", "rancher:github_team://22"]);
}

#[test]
fn case_a11_a_team_that_was_renamed_is_one_group() {
    let user = |name: &str| {
        let metadata = json!({"name": format!("u-{name}")});
        json!({"apiVersion": "management.cattle.io/v3", "kind": "User", "metadata": metadata, "username": name})
            .to_string()
    };
    let team = |name: &str, title: &str| {
        json!({"apiVersion": "management.cattle.io/v3", "kind": "UserAttribute", "metadata": {"name": format!("u-{name}")},
            "GroupPrincipals": {"github": {"Items": [{"metadata": {"name": "github_team://11"}, "displayName": title}]}}})
        .to_string()
    };
    let objects = [user("ann"), user("ben"), team("ann", "Platform"), team("ben", "Infra")];
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    for text in orders(&objects, "\n") {
        let plan = plan(Format::Rancher, &text);
        assert_eq!(groups(&plan), BTreeMap::from([("ann", vec!["infra"]), ("ben", vec!["infra"])]), "{text}");
    }
}

#[test]
fn a_manifest_keeps_the_identity_of_its_group() {
    let ldif = plan(Format::Ldif, &format!("{ANN}memberOf: cn=ops,dc=example\n"));
    let text = group(&ldif, "ops").to_string();
    assert_eq!(group(&plan(Format::Json, &text), "ops"), group(&ldif, "ops"));
}

#[test]
fn unix_groups_that_differ_in_case_are_two_groups() {
    let (rules, group) = (Rules::default(), b"Ops:x:10:ann\nops:x:11:ben\n".to_vec());
    let main = b"ann:x:1000:1::/:/bin/sh\nben:x:1001:1::/:/bin/sh\n".to_vec();
    let source = Source { main, group: Some(group), ..Source::default() };
    let plan = assemble(read(Format::Passwd, &source, &rules), &Options::default(), &rules);
    assert_ne!(groups(&plan)["ann"], groups(&plan)["ben"]);
}

#[test]
fn a_rejected_group_is_not_created_with_other_settings() {
    let plan = plan(
        Format::Csv,
        "kind,name,username,groups,acceptDeclaredMembers,labels\nGroup,closed,,,false,a b=c\nUser,,ada,closed,,\n",
    );
    assert_eq!(plan.rejected.len(), 1);
    assert_eq!(plan.items.iter().filter(|item| item.kind == Kind::Group).count(), 0);
    assert_eq!(groups(&plan)["ada"], ["closed"]);
}
