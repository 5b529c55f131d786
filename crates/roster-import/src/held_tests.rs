use std::collections::BTreeMap;

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::acceptance::labels;
use crate::accepted::Accepted;
use crate::assemble::{Options, Plan, assemble};
use crate::conflict::Conflicts;
use crate::consent::Consent;
use crate::existing::{ExistingGroup, ExistingUser};
use crate::rules::Rules;
use crate::{Format, Source, read};

/// Returns a plan for manifests: kind, name, metadata, `spec`.
fn plan(manifests: &[Value]) -> Plan {
    let rules = Rules::default();
    let texts = manifests.iter().map(|manifest| format!("---\n{manifest}\n"));
    let source = Source { main: texts.collect::<String>().into_bytes(), ..Source::default() };
    let plan = assemble(read(Format::Yaml, &source, &rules), &Options::default(), &rules);
    assert!(plan.rejected.is_empty(), "{:?}", plan.rejected);
    plan
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "roster.dev/v1alpha1", "kind": kind, "metadata": {"name": name}});
    object["spec"] = spec;
    object
}

fn user(name: &str, spec: Value) -> Value {
    object("User", name, spec)
}

fn group(name: &str, spec: Value) -> Value {
    object("Group", name, spec)
}

fn labelled(mut object: Value) -> Value {
    object["metadata"]["labels"] = json!({"team": "sailors"});
    object
}

fn found<'a>(plan: &'a Plan, live: &[Value], accepted: &str) -> Held<'a> {
    let (mut consent, mut conflicts) = (Consent::new(plan), Conflicts::new(plan));
    consent = consent.accepting(accepted.parse().unwrap(), Accepted::default());
    let owned = |object: &Value| -> Value {
        let fields = object["spec"].as_object().into_iter().flatten();
        Value::Object(fields.map(|(field, _)| (format!("f:{field}"), json!({}))).collect())
    };
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    for object in live.iter().filter(|object| object["kind"] == "Group") {
        let owned = if object["planted"] == true { Value::Null } else { owned(object) };
        consent.existing_group(&ExistingGroup { name: &name(object), spec: &object["spec"], owned: &owned });
        conflicts.existing_group(&name(object), None, &object["spec"]);
    }
    for object in live.iter().filter(|object| object["kind"] == "User") {
        let labels: BTreeMap<String, String> = labels(object);
        let user = ExistingUser {
            name: &name(object),
            labels: &labels,
            spec: &object["spec"],
            source: None,
            owned: &owned(object),
            gets_password: false,
        };
        consent.existing_user(&user);
        conflicts.existing_user(&user);
    }
    Held::new(consent.finish(), conflicts.finish())
}

/// Returns the names of the items that are held if these objects exist.
fn held(manifests: &[Value], live: &[Value], accepted: &str) -> Vec<String> {
    let plan = plan(manifests);
    let held = found(&plan, live, accepted);
    let mut names: Vec<String> =
        plan.items.iter().filter(|item| held.contains(item)).map(|item| item.name.clone()).collect();
    names.sort();
    names
}

fn email(text: &str) -> Value {
    json!({"email": format!("{text}@example.com")})
}

fn in_groups(groups: &[&str]) -> Value {
    json!({"groups": groups})
}

/// In many sources, people can set their own email, and would otherwise stop the import for all.
#[test]
fn a_person_with_the_email_of_another_user_holds_only_themselves() {
    let people = [user("eve", email("root")), user("ada", email("ada"))];
    let root = user("local-root", email("root"));
    assert_eq!(held(&people, std::slice::from_ref(&root), "*"), ["eve"]);
    assert_eq!(held(&people, &[], ""), [""; 0]);
    // As a username, too.
    let people = [user("eve", json!({"username": "local-root"})), user("ada", json!({}))];
    assert_eq!(held(&people, &[root], "*"), ["eve"]);
}

#[test]
fn consent_can_be_given_by_name() {
    let people = [user("ada", email("a")), user("bob", email("b")), user("joe", json!({"groups": ["dev"]}))];
    let live = [user("ada", json!({})), user("bob", json!({}))];
    for (accepted, expected) in [("", &["ada", "bob"][..]), ("ada", &["bob"]), ("bob,ada", &[]), ("*", &[])] {
        assert_eq!(held(&people, &live, accepted), expected, "{accepted}");
    }
}

/// A User that is not applied keeps the email that it would have given up.
#[test]
fn users_do_not_get_what_a_held_user_keeps() {
    let people = [user("ada", email("x")), user("bob", email("y")), user("joe", email("z"))];
    let live = [user("ada", email("y")), user("bob", email("z")), user("joe", email("old"))];
    assert_eq!(held(&people, &live, "*"), [""; 0]);
    assert_eq!(held(&people, &live, "ada,bob"), ["joe"]);
    // bob keeps z.
    assert_eq!(held(&people, &live, "ada,joe"), ["bob", "joe"]);
    assert_eq!(held(&people, &live, "bob,joe"), ["ada", "bob", "joe"]);
}

/// A Group that is not applied may be that of someone else, with other members and roles.
#[rstest]
#[case::new_members(user("ada", in_groups(&["sailors"])), user("other", json!({})), &["ada", "sailors"])]
#[case::members_that_it_has(user("ada", in_groups(&["sailors"])), user("ada", in_groups(&["sailors"])), &["sailors"])]
#[case::others(user("ada", in_groups(&["dev"])), user("other", json!({})), &["sailors"])]
#[case::groups_that_would_nest_it(group("admins", json!({"memberGroups": ["sailors"]})), user("other", json!({})), &["admins", "sailors"])]
fn nothing_joins_a_group_that_is_held(#[case] more: Value, #[case] known: Value, #[case] expected: &[&str]) {
    let sailors = group("sailors", json!({"acceptDeclaredMembers": true}));
    // eve named the Group before it accepted declared members.
    let live = [group("sailors", json!({"acceptDeclaredMembers": false})), user("eve", in_groups(&["sailors"])), known];
    assert_eq!(held(&[sailors.clone(), more.clone()], &live, "ada"), expected);
    assert_eq!(held(&[sailors, more], &live, "*"), [""; 0]);
}

#[test]
fn groups_that_nest_a_held_group_already_are_applied() {
    let nests = group("admins", json!({"memberGroups": ["sailors"], "displayName": "Admins"}));
    let plan = [group("sailors", json!({"acceptDeclaredMembers": true})), nests];
    let live = [
        group("sailors", json!({"acceptDeclaredMembers": false})),
        group("admins", json!({"memberGroups": ["sailors"]})),
        user("eve", in_groups(&["sailors"])),
    ];
    assert_eq!(held(&plan, &live, ""), ["sailors"]);
}

#[test]
fn groups_that_would_nest_one_above_a_held_group_are_held() {
    let live = [
        group("sailors", json!({"acceptDeclaredMembers": false})),
        group("crew", json!({"memberGroups": ["sailors"]})),
        group("staff", json!({"memberGroups": ["crew"]})),
        group("crew", json!({"memberGroups": ["sailors", "staff"]})),
        user("eve", in_groups(&["sailors"])),
    ];
    let plan = [
        group("sailors", json!({"acceptDeclaredMembers": true})),
        group("admins", json!({"memberGroups": ["staff"]})),
        group("staff", json!({"memberGroups": ["crew"], "displayName": "Staff"})),
    ];
    assert_eq!(held(&plan, &live, ""), ["admins", "sailors"]);
    assert_eq!(held(&plan, &live, "*"), [""; 0]);
}

/// The Group would otherwise accept the User as it is now, without what the plan does to it.
#[test]
fn a_group_does_not_accept_a_user_that_is_held() {
    let sailors = group("sailors", json!({"acceptDeclaredMembers": true}));
    let plan = [sailors, user("ada", in_groups(&["sailors"])), user("joe", in_groups(&["sailors"]))];
    let waiting = [user("ada", in_groups(&["sailors"]))];
    assert_eq!(held(&plan, &waiting, ""), ["ada", "joe", "sailors"]);
    assert_eq!(held(&plan, &[user("ada", json!({}))], ""), ["ada"]);
    // The person of the source has the email of another User.
    let taken = user("ada", json!({"groups": ["sailors"], "email": "root@example.com"}));
    let plan = [group("sailors", json!({"acceptDeclaredMembers": true})), taken];
    assert_eq!(held(&plan, &[waiting[0].clone(), user("root", email("root"))], "*"), ["ada", "sailors"]);
    let listing = group("sailors", json!({"members": ["ada", "bob"]}));
    let plan = [listing, user("ada", email("root"))];
    assert_eq!(held(&plan, &[user("root", email("root"))], "*"), ["ada", "sailors"]);
}

/// Someone may have created both before the first import, with the identifier of the group and a User of their own.
#[test]
fn a_group_that_no_import_has_applied_does_not_keep_a_user_that_is_held() {
    let plan = [group("sailors", json!({"acceptDeclaredMembers": true})), user("ada", in_groups(&["sailors"]))];
    let mut sailors = group("sailors", json!({"members": ["ada"]}));
    sailors["planted"] = true.into();
    for ada in [user("ada", json!({})), user("ada", in_groups(&["sailors"]))] {
        assert_eq!(held(&plan, &[sailors.clone(), ada.clone()], ""), ["ada", "sailors"]);
        assert_eq!(held(&plan, &[sailors.clone(), ada], "ada"), [""; 0]);
    }
    // By the username.
    sailors["spec"] = json!({"memberships": [{"user": "countess"}]});
    let countess = json!({"username": "countess", "groups": ["sailors"], "email": "root@example.com"});
    let plan = [plan[0].clone(), user("ada", countess)];
    assert_eq!(held(&plan, &[sailors.clone(), user("root", email("root"))], "*"), ["ada", "sailors"]);
    // An import has applied the Group.
    sailors["planted"] = false.into();
    sailors["spec"]["acceptDeclaredMembers"] = true.into();
    assert_eq!(held(&plan, &[sailors, user("root", email("root"))], "*"), ["ada"]);
}

/// The Group still has the selector that the plan replaces.
#[test]
fn users_do_not_get_labels_that_a_held_group_selects() {
    let selector = json!({"matchLabels": {"team": "sailors"}});
    let sailors = json!({"acceptDeclaredMembers": true, "memberSelector": selector, "members": ["eve"]});
    let live = [
        group("sailors", json!({"acceptDeclaredMembers": true, "memberSelector": selector})),
        user("eve", json!({})),
        labelled(user("bob", json!({}))),
    ];
    let people = [group("sailors", sailors), labelled(user("ada", json!({}))), labelled(user("bob", json!({})))];
    assert_eq!(held(&people, &live, "ada,bob"), ["ada", "sailors"]);
    assert_eq!(held(&people, &live, "*"), [""; 0]);
}

/// Members of a Group that the plan takes out of a held Group would otherwise join both.
#[test]
fn nothing_joins_a_group_that_stays_nested_in_a_held_one() {
    let live = [
        group("admins", json!({"memberGroups": ["staff"]})),
        group("staff", json!({"memberGroups": ["guests"]})),
        group("guests", json!({"acceptDeclaredMembers": true})),
        user("eve", in_groups(&["admins"])),
    ];
    let plan = [
        group("admins", json!({"memberGroups": ["board"], "acceptDeclaredMembers": true})),
        group("staff", json!({"memberGroups": ["guests"], "displayName": "Staff"})),
        user("ada", in_groups(&["guests"])),
        user("bob", in_groups(&["board"])),
    ];
    assert_eq!(held(&plan, &live, "ada,bob"), ["ada", "admins"]);
    // The Group itself is held if it would get further members.
    let plan = [plan[0].clone(), group("staff", json!({"memberGroups": ["guests", "interns"]}))];
    assert_eq!(held(&plan, &live, ""), ["admins", "staff"]);
}

#[test]
fn users_of_a_group_that_could_not_be_created_are_held() {
    let plan = plan(&[user("ada", in_groups(&["sailors"])), user("bob", in_groups(&["dev"]))]);
    let mut held = found(&plan, &[], "");
    held.add_group("sailors");
    let items = plan.items.iter().filter(|item| held.contains(item) && item.kind == Kind::User);
    assert_eq!(items.map(|item| &*item.name).collect::<Vec<_>>(), ["ada"]);
    let ada = plan.items.iter().find(|item| item.name == "ada").unwrap();
    assert_eq!(held.reason(ada), Some("it would join Group sailors, which is not applied"));
}

/// Returns the names of the Users that are held after this has happened to the Groups.
fn held_users(manifests: &[Value], live: &[Value], then: impl FnOnce(&mut Held)) -> Vec<String> {
    let plan = plan(manifests);
    let mut held = found(&plan, live, "*");
    then(&mut held);
    let items = plan.items.iter().filter(|item| held.contains(item) && item.kind == Kind::User);
    items.map(|item| item.name.clone()).collect()
}

#[test]
fn users_of_groups_that_nest_one_that_could_not_be_created_are_applied() {
    let admins = group("admins", json!({"memberGroups": ["sailors"], "acceptDeclaredMembers": true}));
    let plan = [admins, user("ada", in_groups(&["sailors"])), user("bob", in_groups(&["admins"]))];
    assert_eq!(held_users(&plan, &[], |held| held.add_group("sailors")), ["ada"]);
}

/// The server may reject the manifest of a Group that exists: another field manager owns a field, or a policy denies it.
#[test]
fn nothing_joins_what_a_group_that_could_not_be_changed_still_has() {
    let live = [
        group("admins", json!({"memberGroups": ["staff"], "acceptDeclaredMembers": true})),
        group("staff", json!({"memberGroups": ["guests"]})),
        group("guests", json!({"acceptDeclaredMembers": true})),
        user("zoe", in_groups(&["guests"])),
    ];
    let plan = [
        group("admins", json!({"memberGroups": ["board"], "acceptDeclaredMembers": true})),
        user("ada", in_groups(&["guests"])),
        user("bob", in_groups(&["admins"])),
        user("joe", in_groups(&["board"])),
        user("zoe", in_groups(&["guests"])),
    ];
    assert_eq!(held_users(&plan, &live, |_| ()), [""; 0]);
    assert_eq!(held_users(&plan, &live, |held| held.keep_group("admins")), ["ada"]);
    // The Group still has its selector.
    let selecting =
        |team: &str| json!({"acceptDeclaredMembers": true, "memberSelector": {"matchLabels": {"team": team}}});
    let live = [group("sailors", selecting("sailors"))];
    let named = labelled(user("bob", in_groups(&["sailors"])));
    let people = [group("sailors", selecting("pilots")), labelled(user("ada", json!({}))), named];
    assert_eq!(held_users(&people, &live, |held| held.keep_group("sailors")), ["ada"]);
}
