use rstest::rstest;
use serde_json::{Value, json};

use crate::assemble::{Options, Plan, assemble};
use crate::current::Current;
use crate::known::KnownUser;
use crate::rules::{Kind, Rules};
use crate::{Format, Source, read};

/// Returns the plan for a file if these Users, with their identity and Groups, and a Group for each name and identity exist.
fn plan(format: Format, text: &str, users: &[(&str, &str, &[&str])], groups: &[(&str, &str)]) -> Plan {
    let rules = Rules::default();
    let mut options = Options::default();
    for (name, source, groups) in users {
        let spec = json!({"groups": groups});
        options.known_users.add(source, name, None, KnownUser::new(name, &spec));
        options.current.add_user(name, &spec, &json!({"f:groups": {}}));
    }
    options.known_groups = groups.iter().map(|(name, id)| ((*id).to_owned(), (*name).to_owned())).collect();
    let source = Source { main: text.as_bytes().to_vec(), ..Source::default() };
    assemble(read(format, &source, &rules), &options, &rules)
}

fn item<'a>(plan: &'a Plan, kind: Kind, name: &str) -> Option<&'a Value> {
    plan.items.iter().find(|item| item.kind == kind && item.name == name).map(|item| &item.object["spec"])
}

/// Returns the Groups of a User in the plan, or `None` if the plan does not have the User.
fn groups_of(plan: &Plan, user: &str) -> Option<Value> {
    item(plan, Kind::User, user).map(|spec| spec["groups"].clone())
}

/// Returns the Groups that a User with these Groups has after its restriction.
fn restricted(plan: &Plan, source: &str, name: &str, groups: &Value) -> Value {
    let fields = plan
        .restrictions
        .get(source, name)
        .and_then(|restriction| restriction.missing(&json!({"groups": groups}), &json!({"f:groups": {}})));
    fields.map_or(groups.clone(), |fields| fields["groups"].clone())
}

const ADMINS: (&str, &str) = ("admins", "ldap:cn=admins,dc=x");

fn person(dn: &str, uid: &str) -> String {
    format!("dn: {dn},dc=x\nobjectClass: person\nuid: {uid}\n")
}

fn group(dn: &str, rest: &str) -> String {
    format!("dn: {dn},dc=x\nobjectClass: posixGroup\ncn: admins\n{rest}")
}

/// Anyone who may create entries could otherwise strip others of their roles, or gain them.
#[rstest]
#[case::a_second_entry_with_the_username(&person("uid=ada,ou=b", "ada"), &group("cn=admins", "memberUid: ada\n"), "", json!(["admins"]), true)]
#[case::the_same_by_memberof(&person("uid=ada,ou=b", "ada"), &group("cn=admins", "memberUid: ada\n"), "memberOf: cn=admins,dc=x\n", json!(["admins"]), true)]
#[case::a_second_group_with_the_gid(&group("cn=other", "gidNumber: 7\n"), &group("cn=admins", "gidNumber: 7\n"), "gidNumber: 7\n", json!(["admins"]), false)]
#[case::some_members_only("", &group("cn=admins", "member;range=0-0: uid=ghost,dc=x\n"), "", json!(["admins"]), false)]
#[case::no_members("", &group("cn=admins", ""), "", Value::Null, false)]
fn unclear_memberships_are_neither_granted_nor_removed(
    #[case] planted: &str,
    #[case] admins: &str,
    #[case] more: &str,
    #[case] expected: Value,
    #[case] is_new_member: bool,
) {
    let ada = person("uid=ada", "ada") + more;
    for text in [format!("{ada}\n{planted}\n{admins}"), format!("{planted}\n{admins}\n{ada}")] {
        let plan = |groups: &[&str]| plan(Format::Ldif, &text, &[("ada", "ldap:uid=ada,dc=x", groups)], &[ADMINS]);
        let has = plan(&["admins"]);
        assert_eq!(groups_of(&has, "ada"), Some(expected.clone()), "{text}");
        // The Group still accepts her.
        let accepts = item(&has, Kind::Group, "admins").map(|spec| &spec["acceptDeclaredMembers"]);
        assert_eq!(accepts == Some(&json!(true)), !expected.is_null(), "{text}");
        let kept: Vec<String> = has.kept.iter().map(ToString::to_string).collect();
        let says = "User ada stays in Group admins: the source does not say clearly whether they are members";
        assert_eq!(kept, if expected.is_null() || is_new_member { vec![] } else { vec![says.to_owned()] });
        let gains = groups_of(&plan(&[]), "ada").unwrap();
        assert_eq!(gains != Value::Null, is_new_member, "{text}");
        let owned = json!(["admins", "gone"]);
        let stays = if expected.is_null() { json!([]) } else { expected.clone() };
        assert_eq!(restricted(&has, "ldap:uid=ada,dc=x", "ada", &owned), stays, "{text}");
    }
}

/// Otherwise, a leaver could stay in a group by taking the name of a member.
#[test]
fn taking_the_name_of_a_member_does_not_keep_a_membership() {
    let users: &[(&str, &str, &[&str])] =
        &[("ada", "ldap:uid=ada,dc=x", &["admins"]), ("eve", "ldap:uid=eve,dc=x", &["admins"])];
    let text = format!(
        "{}\n{}\n{}",
        person("uid=ada", "ada"),
        person("uid=eve", "ada"),
        group("cn=admins", "memberUid: ada\n")
    );
    let plan = plan(Format::Ldif, &text, users, &[ADMINS]);
    assert_eq!(restricted(&plan, "ldap:uid=ada,dc=x", "ada", &json!(["admins"])), json!(["admins"]));
    assert_eq!(restricted(&plan, "ldap:uid=eve,dc=x", "eve", &json!(["admins"])), json!([]));
}

/// The server may compare DNs more strictly.
#[test]
fn entries_with_equal_dns_do_not_take_each_others_memberships() {
    let (ada, planted) = (person("uid=ada", "ada"), person("uid=ａda", "zeta"));
    let admins = group("cn=admins", "member: uid=ada,dc=x\n");
    let ids = |text: &str, id: &str| format!("{text}entryUUID: {id}\n");
    let users: &[(&str, &str, &[&str])] = &[("ada", "ldap:entryUUID=1", &["admins"])];
    for people in [[ids(&ada, "1"), ids(&planted, "2")], [ids(&planted, "2"), ids(&ada, "1")]] {
        let text = format!("{}\n{admins}", people.join("\n"));
        let plan = plan(Format::Ldif, &text, users, &[ADMINS]);
        assert_eq!((groups_of(&plan, "zeta"), groups_of(&plan, "ada")), (None, None), "{text}");
        assert_eq!(restricted(&plan, "ldap:entryUUID=1", "ada", &json!(["admins"])), json!(["admins"]));
        assert!(
            plan.rejected.iter().all(|rejected| rejected.reason.contains("is the DN of several different entries"))
        );
    }
    // A person with the DN of a group, and a second group.
    let eve = person("uid=eve", "eve");
    let member = group("cn=admins", "member: uid=eve,dc=x\n");
    for planted in [person("cn=ａdmins", "zeta"), group("cn=ａdmins", "member: uid=eve,dc=x\n")] {
        for text in [format!("{eve}\n{planted}\n{member}"), format!("{eve}\n{member}\n{planted}")] {
            let plan = |groups: &[&str]| plan(Format::Ldif, &text, &[("eve", "ldap:uid=eve,dc=x", groups)], &[ADMINS]);
            let names: Vec<String> = plan(&[]).items.iter().map(|item| item.name.clone()).collect();
            assert_eq!((names, groups_of(&plan(&[]), "eve")), (vec!["eve".to_owned()], Some(Value::Null)), "{text}");
            assert_eq!(groups_of(&plan(&["admins"]), "eve"), Some(json!(["admins"])), "{text}");
        }
    }
    // The same entry twice.
    let text = format!("{ada}\n{ada}\n{admins}");
    assert_eq!(groups_of(&plan(Format::Ldif, &text, &[], &[]), "ada"), Some(json!(["admins"])));
}

#[test]
fn groups_that_share_an_identity_do_not_change_memberships() {
    let user =
        |name: &str| format!("apiVersion: deckhouse.io/v1\nkind: User\nmetadata: {{name: {name}}}\nspec: {{}}\n");
    let group = |name: &str, member: &str| {
        let spec = format!("{{name: admins, members: [{{kind: User, name: {member}}}]}}");
        format!("apiVersion: deckhouse.io/v1alpha1\nkind: Group\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    let text = [user("ada"), user("eve"), user("bob"), group("a", "ada"), group("b", "eve")].join("---\n");
    let users: &[(&str, &str, &[&str])] =
        &[("ada", "deckhouse:ada", &["admins"]), ("eve", "deckhouse:eve", &[]), ("bob", "deckhouse:bob", &["admins"])];
    let plan = plan(Format::Deckhouse, &text, users, &[("admins", "deckhouse:admins")]);
    let groups = ["ada", "eve", "bob"].map(|name| groups_of(&plan, name).unwrap());
    assert_eq!(groups, [json!(["admins"]), Value::Null, Value::Null]);
}

#[test]
fn a_shared_path_and_an_unknown_group_change_no_membership() {
    let realm = |paths: Value| {
        let groups = json!([{"id": "1", "name": "a", "path": "/a"}, {"id": "2", "name": "a2", "path": "/a"},
            {"id": "3", "name": "b", "path": "/b"}]);
        json!({"realm": "x", "groups": groups, "users": [{"id": "9", "username": "ada", "groups": paths}]}).to_string()
    };
    let known = [("a", "keycloak:x:1"), ("b", "keycloak:x:3"), ("c", "keycloak:x:4")];
    let of = |paths: Value, groups: &[&str]| {
        let plan = plan(Format::Keycloak, &realm(paths), &[("ada", "keycloak:x/9", groups)], &known);
        groups_of(&plan, "ada").unwrap()
    };
    assert_eq!(of(json!(["/a"]), &["a", "b"]), json!(["a"]));
    assert_eq!(of(json!(["/a"]), &[]), Value::Null);
    // The file describes the group b, so it is not the unknown one.
    assert_eq!(of(json!(["/gone"]), &["b", "c"]), json!(["c"]));
    let tables = json!({"groups": [{"id": "b", "name": "b"}], "users": [{"id": "1", "name": "ada"}],
        "memberships": [{"user_id": "1", "group_id": "c"}]});
    let known = [("b", "keystone:b"), ("c", "keystone:c")];
    let found = plan(Format::Openstack, &tables.to_string(), &[("ada", "keystone:1", &["b", "c"])], &known);
    assert_eq!(groups_of(&found, "ada"), Some(json!(["c"])));
}

/// A group that is not in the file is nested only where it is already.
#[test]
fn a_nested_group_of_another_file_stays() {
    let rules = Rules::default();
    let known = [ADMINS, ("ops", "ldap:cn=ops,dc=x")].map(|(name, id)| (id.to_owned(), name.to_owned()));
    let mut options = Options { known_groups: known.into(), ..Options::default() };
    options.current.add_group("admins", &json!({"memberGroups": ["ops", "gone"]}));
    let source = Source { main: group("cn=admins", "member: cn=ops,dc=x\n").into_bytes(), ..Source::default() };
    let plan = assemble(read(Format::Ldif, &source, &rules), &options, &rules);
    assert_eq!(item(&plan, Kind::Group, "admins").unwrap()["memberGroups"], json!(["ops"]));
}

/// Members may be in another file, or their entries rejected. Users that declare the membership would lose it.
#[test]
fn a_group_of_an_import_still_accepts_declared_members() {
    let rules = Rules::default();
    let owned = |field: &str| json!({field: {}});
    let accepts = |spec: Value, owned: &Value| {
        let mut options =
            Options { known_groups: [(ADMINS.1.to_owned(), ADMINS.0.to_owned())].into(), ..Options::default() };
        options.current.add_acceptance("admins", &spec, owned);
        let source = Source { main: group("cn=admins", "member: uid=ada,dc=x\n").into_bytes(), ..Source::default() };
        let plan = assemble(read(Format::Ldif, &source, &rules), &options, &rules);
        item(&plan, Kind::Group, "admins").unwrap()["acceptDeclaredMembers"].clone()
    };
    let accepting = || json!({"acceptDeclaredMembers": true});
    assert_eq!(accepts(accepting(), &owned("f:acceptDeclaredMembers")), true);
    assert_eq!(accepts(json!({}), &owned("f:acceptDeclaredMembers")), Value::Null);
    assert_eq!(accepts(accepting(), &owned("f:description")), Value::Null, "someone else has set it");
}

/// Otherwise, people could keep what the source took away by making their own entries invalid.
#[test]
fn a_rejected_entry_does_not_keep_memberships_that_ended() {
    let realm = |entries: &[(&str, Value)]| {
        let users = entries.iter().map(|(locale, groups)| {
            json!({"id": "1", "username": "eve", "attributes": {"locale": [locale]}, "groups": groups})
        });
        let groups = json!([{"id": "7", "name": "admins"}, {"id": "8", "name": "staff"}]);
        json!({"realm": "x", "groups": groups, "users": users.collect::<Vec<_>>()}).to_string()
    };
    let known = [("admins", "keycloak:x:7"), ("staff", "keycloak:x:8")];
    let after = |entries: &[(&str, Value)]| {
        let plan = plan(Format::Keycloak, &realm(entries), &[("eve", "keycloak:x/1", &[])], &known);
        assert_eq!((groups_of(&plan, "eve"), plan.rejected.len()), (None, entries.len()));
        // The Groups in which the User stays accept it.
        for name in ["admins", "staff"] {
            let is_named = entries.iter().any(|(_, groups)| groups == &json!([format!("/{name}")]));
            assert_eq!(item(&plan, Kind::Group, name).unwrap()["acceptDeclaredMembers"] == true, is_named, "{name}");
        }
        restricted(&plan, "keycloak:x/1", "eve", &json!(["admins", "staff"]))
    };
    assert_eq!(after(&[("?", json!(["/staff"]))]), json!(["staff"]));
    assert_eq!(after(&[("?", json!([]))]), json!([]));
    // One of them may be planted.
    assert_eq!(after(&[("?", json!([])), ("en", json!(["/admins"]))]), json!(["admins"]));
    // A list that another field manager owns is not that of the source.
    let plan = plan(Format::Keycloak, &realm(&[("?", json!([]))]), &[], &known);
    let restriction = plan.restrictions.get("keycloak:x/1", "eve").unwrap();
    assert_eq!(restriction.missing(&json!({"groups": ["admins"]}), &json!({"f:email": {}})), None);
}

/// Anyone who may create groups could otherwise push one out of the list.
#[test]
fn a_membership_beyond_the_maximum_is_kept() {
    let paths: Vec<String> = (0..400).map(|index| format!("/g{index}")).collect();
    let groups: Vec<Value> =
        (0..400).map(|index| json!({"id": index.to_string(), "name": format!("g{index}")})).collect();
    let user = json!({"id": "1", "username": "ada", "groups": paths});
    let text = json!({"realm": "x", "groups": groups, "users": [user]}).to_string();
    let plan = plan(Format::Keycloak, &text, &[], &[("admins", "keycloak:x:399")]);
    assert_eq!(restricted(&plan, "keycloak:x/1", "ada", &json!(["admins", "gone"])), json!(["admins"]));
}

/// Anyone who may create or rename groups could otherwise have the people whom they list rejected.
#[rstest]
#[case::no_letter("---", "must contain a letter or digit")]
#[case::reserved("system:masters", "names with the prefix system: are reserved")]
fn a_group_without_a_usable_name_costs_its_members_nothing_else(#[case] name: &str, #[case] says: &str) {
    let hostile =
        format!("dn: cn=x,dc=x\nobjectClass: group\ncn: {name}\nmember: uid=ada,dc=x\nmember: uid=bob,dc=x\n");
    let parent = "dn: cn=all,dc=x\nobjectClass: group\ncn: all\nmember: cn=x,dc=x\nmember: uid=ada,dc=x\n";
    let text = [&person("uid=ada", "ada"), &person("uid=bob", "bob"), &*hostile, parent].join("\n");
    let users: &[(&str, &str, &[&str])] = &[("ada", "ldap:uid=ada,dc=x", &["old"]), ("bob", "ldap:uid=bob,dc=x", &[])];
    for known in [&[][..], &[("old", "ldap:cn=x,dc=x")]] {
        let plan = plan(Format::Ldif, &text, users, known);
        // The Group of an earlier import keeps the members that it has.
        let expected = if known.is_empty() { json!(["all"]) } else { json!(["all", "old"]) };
        assert_eq!(groups_of(&plan, "ada"), Some(expected));
        assert_eq!(groups_of(&plan, "bob"), Some(Value::Null));
        assert_eq!(item(&plan, Kind::Group, "all").unwrap().get("memberGroups"), None);
        let [rejected] = &plan.rejected[..] else { panic!("{:?}", plan.rejected) };
        assert!(rejected.field == "metadata.name" && rejected.reason.contains(says), "{rejected:?}");
    }
    // The file does not describe the group, and it has no Group.
    let realm = json!({"realm": "x", "users": [
        {"id": "1", "username": "ada", "groups": ["/---", "/b"]}, {"id": "2", "username": "bob", "groups": ["/---"]}]});
    let plan = plan(Format::Keycloak, &realm.to_string(), &[], &[]);
    assert_eq!((groups_of(&plan, "ada"), groups_of(&plan, "bob")), (Some(json!(["b"])), Some(Value::Null)));
    let [rejected] = &plan.rejected[..] else { panic!("{:?}", plan.rejected) };
    assert_eq!((&*rejected.who, &*rejected.field), ("---", "spec.groups"));
}

#[test]
fn existing_memberships_are_read_if_a_group_gets_no_name_or_a_username_is_claimed() {
    let needs_memberships = |format: Format, text: &str| {
        let source = Source { main: text.as_bytes().to_vec(), ..Source::default() };
        Current::needs_memberships(&read(format, &source, &Rules::default()))
    };
    for (groups, expected) in [("ops", false), ("---", true), ("a b;a:b", true), ("a b;a-b", true)] {
        assert_eq!(needs_memberships(Format::Csv, &format!("username,groups\nada,{groups}\n")), expected, "{groups}");
    }
    let claimed = [person("uid=ada", "ada"), person("uid=eve", "ada"), group("cn=admins", "memberUid: ada\n")];
    assert!(needs_memberships(Format::Ldif, &claimed.join("\n")));
}

/// Otherwise, someone could choose a name from which that of another Group is derived, and that comes first.
#[test]
fn the_group_with_the_name_gets_the_group() {
    let csv = "username,groups\nada,admins\neve,-Admins;ops\n";
    let found = plan(Format::Csv, csv, &[], &[]);
    assert_eq!((groups_of(&found, "ada"), groups_of(&found, "eve")), (Some(json!(["admins"])), Some(json!(["ops"]))));
    assert!(found.rejected[0].reason.starts_with("-Admins and admins on line 2 would both be the Group admins"));
    // None of them has the name.
    let found = plan(Format::Csv, "username,groups\nada,_admins\neve,-admins\n", &[("ada", "x:1", &["admins"])], &[]);
    assert_eq!((groups_of(&found, "ada"), groups_of(&found, "eve")), (Some(json!(["admins"])), Some(Value::Null)));
    assert_eq!(found.rejected.len(), 2);
}

/// A file that was exported without memberships would otherwise take the roles of all people before any consent.
#[rstest]
#[case::ldif(Format::Ldif, person("uid=ada", "ada"), "ldap:uid=ada,dc=x")]
#[case::ldif_ended_early(Format::Ldif, person("uid=ada", "ada") + "\n" + &group("cn=admins", "member: uid=bob,dc=x\n")
    + "\nsearch: 2\nresult: 4 Size limit exceeded\n", "ldap:uid=ada,dc=x")]
#[case::api_response(Format::Openstack, json!({"users": [{"id": "1", "name": "ada"}]}).to_string(), "keystone:1")]
#[case::no_membership_table(Format::Openstack, json!({"user": [{"id": "1", "name": "ada"}],
    "group": [{"id": "g", "name": "admins"}]}).to_string(), "keystone:1")]
#[case::no_array(Format::Openstack, json!({"user": [{"id": "1", "name": "ada"}], "user_group_membership": {}}).to_string(), "keystone:1")]
#[case::sql(Format::Openstack, "CREATE TABLE `user` (`id` text, `name` text);\nINSERT INTO `user` VALUES ('1','ada');\n".to_owned(), "keystone:1")]
#[case::rancher(Format::Rancher, object("management.cattle.io/v3", "User", ""), "rancher:ada")]
#[case::openshift(Format::Openshift, object("user.openshift.io/v1", "User", ""), "openshift:ada")]
#[case::deckhouse(Format::Deckhouse, object("deckhouse.io/v1", "User", ""), "deckhouse:ada")]
#[case::kubesphere(Format::Kubesphere, object("iam.kubesphere.io/v1", "User", "") + &object("iam.kubesphere.io/v1", "Group", ""), "kubesphere:ada")]
#[case::keycloak(Format::Keycloak, realm(&json!(null)), "keycloak:x/1")]
#[case::keycloak_map(Format::Keycloak, realm(&json!({"a": 1})), "keycloak:x/1")]
#[case::keycloak_item(Format::Keycloak, realm(&json!([["/admins"]])), "keycloak:x/1")]
#[case::truncated(Format::Openshift, "apiVersion: v1\nitems:\n".to_owned()
    + "- {apiVersion: user.openshift.io/v1, kind: User, metadata: {name: ada}}\n"
    + "- {apiVersion: user.openshift.io/v1, kind: Group, metadata: {name: admins}}\n"
    + "- {apiVersion: user.openshift.io/v1, kind: Group, metadata: {name: b}}\n", "openshift:ada")]
#[case::dex(Format::Dex, object("dex.coreos.com/v1", "Password", "userID: '1'\nusername: ada\n"), "dex:1")]
fn a_file_without_memberships_removes_none(#[case] format: Format, #[case] text: String, #[case] id: &str) {
    let found = plan(format, &text, &[("ada", id, &["admins"])], &[]);
    assert_eq!(groups_of(&found, "ada"), Some(json!(["admins"])), "{:?}", found.rejected);
    assert_eq!(restricted(&found, id, "ada", &json!(["admins", "b"])), json!(["admins", "b"]));
    assert!(format == Format::Dex || found.rejected.len() + found.warnings.len() > 0);
    assert!(!groups_of(&plan(format, &text, &[("ada", id, &[])], &[]), "ada").unwrap().is_array());
}

/// Returns an object in YAML with the name `ada` and these fields.
fn object(version: &str, kind: &str, more: &str) -> String {
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: ada}}\n{more}---\n")
}

fn realm(groups: &Value) -> String {
    json!({"realm": "x", "users": [{"id": "1", "username": "ada", "groups": groups}]}).to_string()
}

#[rstest]
#[case(Format::Ldif, person("uid=ada", "ada") + "\n" + &group("cn=admins", "") + "\nsearch: 2\nresult: 0 Success\n", "ldap:uid=ada,dc=x")]
#[case(Format::Openstack, json!({"user": [{"id": "1", "name": "ada"}], "user_group_membership": []}).to_string(), "keystone:1")]
#[case(Format::Openstack, "CREATE TABLE `user` (`id` text, `name` text);\nINSERT INTO `user` VALUES ('1','ada');\n\
    CREATE TABLE `user_group_membership` (`user_id` text);\n".to_owned(), "keystone:1")]
#[case(Format::Rancher, object("management.cattle.io/v3", "User", "") + &object("management.cattle.io/v3", "UserAttribute", ""), "rancher:ada")]
#[case(Format::Keycloak, realm(&json!([])), "keycloak:x/1")]
#[case(Format::Dex, object("dex.coreos.com/v1", "Password", "userID: '1'\nusername: ada\ngroups: []\n"), "dex:1")]
fn a_file_that_describes_memberships_removes_others(#[case] format: Format, #[case] text: String, #[case] id: &str) {
    let found = plan(format, &text, &[("ada", id, &["admins"])], &[]);
    assert_eq!((groups_of(&found, "ada"), found.rejected.len()), (Some(Value::Null), 0), "{:?}", found.rejected);
    assert_eq!(restricted(&found, id, "ada", &json!(["admins"])), json!([]));
    assert_eq!(found.warnings, []);
}

/// A list in which other field managers put Groups stays as it is.
#[test]
fn names_alone_change_no_memberships() {
    let csv = |text: &str| groups_of(&plan(Format::Csv, text, &[("ada", "x", &["ops"])], &[]), "ada").unwrap();
    assert_eq!(csv("username,zone\nada,eu\n"), json!(["ops"]));
    assert_eq!(csv("username,groups\nada,\n"), Value::Null);
    let yaml = |text: &str| groups_of(&plan(Format::Yaml, text, &[("ada", "x", &["ops"])], &[]), "ada").unwrap();
    assert_eq!(yaml("username: ada\n"), json!(["ops"]));
    assert_eq!(yaml("username: ada\ngroups: []\n"), json!([]));
    let mut options = Options::default();
    options.current.add_user("ada", &json!({"groups": ["ops"]}), &json!({"f:email": {}}));
    let rules = Rules::default();
    let source = Source { main: b"username\nada\n".to_vec(), ..Source::default() };
    let found = assemble(read(Format::Csv, &source, &rules), &options, &rules);
    assert_eq!((groups_of(&found, "ada"), found.kept), (Some(Value::Null), vec![]));
}

/// Otherwise, people who choose what is in their own entries could join a group that shares the GID with theirs.
#[test]
fn a_shared_gid_does_not_confirm_what_an_entry_names() {
    let groups = [group("cn=other", "gidNumber: 7\n"), group("cn=admins", "gidNumber: 7\nmemberUid: bob\n")];
    let eve = person("uid=eve", "eve") + "gidNumber: 7\nmemberOf: cn=admins,dc=x\n";
    let text = [eve, groups.join("\n")].join("\n");
    let of = |groups: &[&str]| {
        groups_of(&plan(Format::Ldif, &text, &[("eve", "ldap:uid=eve,dc=x", groups)], &[ADMINS]), "eve")
    };
    assert_eq!((of(&[]), of(&["admins"])), (Some(Value::Null), Some(json!(["admins"]))));
}

#[test]
fn a_username_in_a_rejected_group_makes_no_member() {
    let people = [person("uid=eve", "eve"), person("uid=eve,ou=b", "eve")].join("\n");
    let admins = [group("cn=admins", "memberUid: eve\n"), group("cn=ａdmins", "memberUid: eve\n")].join("\n");
    let of = |groups: &[&str]| {
        let found =
            plan(Format::Ldif, &format!("{people}\n{admins}"), &[("eve", "ldap:uid=eve,dc=x", groups)], &[ADMINS]);
        assert_eq!(item(&found, Kind::Group, "admins"), None);
        groups_of(&found, "eve")
    };
    assert_eq!((of(&[]), of(&["admins"])), (Some(Value::Null), Some(json!(["admins"]))));
    // The DN of the person is that of another one.
    let text = format!("{}\n{people}\n{}", person("uid=ｅve", "eve"), group("cn=admins", "memberUid: eve\n"));
    let found = plan(Format::Ldif, &text, &[("eve", "ldap:uid=eve,dc=x", &[])], &[ADMINS]);
    assert_eq!(restricted(&found, "ldap:uid=eve,dc=x", "eve", &json!(["admins"])), json!(["admins"]));
    assert_eq!(item(&found, Kind::Group, "admins").unwrap().get("acceptDeclaredMembers"), None);
}

/// Memory must not grow with people times groups.
#[test]
fn people_share_the_groups_of_a_shared_gid() {
    let people: Vec<String> =
        (0..200).map(|id| person(&format!("uid=u{id}"), &format!("u{id}")) + "gidNumber: 7\n").collect();
    let groups: Vec<String> = (0..200).map(|id| group(&format!("cn=g{id}"), "gidNumber: 7\n")).collect();
    let source = Source { main: format!("{}\n{}", people.join("\n"), groups.join("\n")).into(), ..Source::default() };
    let input = read(Format::Ldif, &source, &Rules::default());
    let [first, others @ ..] = &input.users[..] else { panic!("people") };
    assert!(first.unclear.groups.is_empty() && first.unclear.shared[0].len() == 200);
    assert!(others.iter().all(|person| std::sync::Arc::ptr_eq(&person.unclear.shared[0], &first.unclear.shared[0])));
}
