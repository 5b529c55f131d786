use std::sync::LazyLock;

use super::*;
use crate::assemble::{Options, assemble};
use crate::draft::Place;
use crate::rules::Rules;
use crate::{Format, Source, read};
use serde::Deserialize;
use serde_json::json;

fn plan(yaml: &str) -> Plan {
    let rules = Rules::default();
    let source = Source { main: yaml.as_bytes().to_vec(), ..Source::default() };
    let plan = assemble(read(Format::Yaml, &source, &rules), &Options::default(), &rules);
    assert!(plan.rejected.is_empty(), "{:?}", plan.rejected);
    plan
}

/// Returns an existing User that no import has written.
fn unowned(name: &str) -> ExistingUser<'_> {
    const NO_LABELS: &BTreeMap<String, String> = &BTreeMap::new();
    ExistingUser {
        name,
        labels: NO_LABELS,
        spec: &Value::Null,
        source: None,
        owned: &Value::Null,
        gets_password: false,
    }
}

/// Returns a Group that an earlier import has applied.
fn group<'a>(name: &'a str, spec: &'a Value) -> ExistingGroup<'a> {
    static OWNED: LazyLock<Value> =
        LazyLock::new(|| json!({"f:acceptDeclaredMembers": {}, "f:memberSelector": {}, "f:members": {}}));
    ExistingGroup { name, spec, owned: &OWNED }
}

/// Returns the messages about existing Users that Groups would newly accept. `groups` contains the name and `spec` of
/// existing Groups, `users` the name, labels and `spec` of existing Users.
fn messages(yaml: &str, groups: &[(&str, Value)], users: &[(&str, Value, Value)]) -> Vec<String> {
    let plan = plan(yaml);
    let mut consent = Consent::new(&plan);
    for (name, spec) in groups {
        consent.existing_group(&group(name, spec));
    }
    for (name, labels, spec) in users {
        let labels = BTreeMap::deserialize(labels).unwrap();
        consent.existing_user(&ExistingUser { labels: &labels, spec, ..unowned(name) });
    }
    consent.finish().admitted.iter().map(ToString::to_string).collect()
}

/// Returns the Groups that the existing User ada would gain, and whether it would gain `spec.admin`.
fn gains(yaml: &str, groups: &[(&str, Value)], labels: &Value, spec: &Value) -> Vec<(Vec<String>, bool)> {
    let plan = plan(yaml);
    let mut consent = Consent::new(&plan);
    for (name, spec) in groups {
        consent.existing_group(&group(name, spec));
    }
    let labels = BTreeMap::deserialize(labels).unwrap();
    consent.existing_user(&ExistingUser { labels: &labels, spec, ..unowned("ada") });
    let promotions = consent.finish().promotions;
    assert_eq!(promotions.first.len(), promotions.users.len());
    promotions.first.into_iter().map(|promotion| (promotion.groups, promotion.is_admin)).collect()
}

fn user(name: &'static str, groups: &[&str]) -> (&'static str, Value, Value) {
    (name, json!({}), json!({"groups": groups}))
}

const ADA: &str = "username: ada\ngroups: [dev]\n";
const EVE: &str = "Group dev would accept 1 existing User that this import does not add to it: eve";

#[test]
fn users_that_name_a_new_group_are_reported() {
    let people = [user("ada", &["dev"]), user("bob", &["ops"]), user("eve", &["x", "dev"])];
    assert_eq!(messages(ADA, &[], &people), [EVE]);
    assert_eq!(messages(ADA, &[("dev", json!({"acceptDeclaredMembers": false}))], &people), [EVE]);
    // Existing members gain nothing.
    assert_eq!(messages(ADA, &[("dev", json!({"acceptDeclaredMembers": true}))], &people), [""; 0]);
}

#[test]
fn imported_users_are_reported_for_groups_that_the_import_does_not_add_them_to() {
    let source = "---\n{username: ada, groups: [dev]}\n---\n{username: eve, groups: [ops]}\n";
    assert_eq!(
        messages(source, &[], &[user("ada", &["dev", "ops"]), user("eve", &["dev", "ops"])]),
        [EVE.to_owned(), EVE.replace("dev", "ops").replace("eve", "ada"),]
    );
}

#[test]
fn users_with_selected_labels_are_reported() {
    let group = |spec: Value| {
        json!({"apiVersion": "roster.dev/v1alpha1", "kind": "Group", "metadata": {"name": "dev"}, "spec": spec})
            .to_string()
    };
    let eve = [("eve", json!({"team": "dev"}), json!({}))];
    let selector = json!({"matchLabels": {"team": "dev"}});
    let both = group(json!({"acceptDeclaredMembers": true, "memberSelector": selector}));
    assert_eq!(messages(&both, &[], &eve), [EVE]);
    assert_eq!(messages(&group(json!({"memberSelector": selector})), &[], &eve), [""; 0]);
    // Fields that the manifest does not set keep their values in the cluster.
    let accepts = group(json!({"acceptDeclaredMembers": true}));
    assert_eq!(messages(&accepts, &[("dev", json!({"memberSelector": selector}))], &eve), [EVE]);
    let selects = group(json!({"memberSelector": selector}));
    assert_eq!(messages(&selects, &[("dev", json!({"acceptDeclaredMembers": true}))], &eve), [EVE]);
    // Users of the import get their labels from it.
    let planned = format!("---\n{both}\n---\n{{name: eve, username: eve, labels: {{team: dev}}}}\n");
    assert_eq!(messages(&planned, &[], &eve), [""; 0]);
}

#[test]
fn ten_are_named_and_all_are_counted() {
    let plan = plan(ADA);
    let mut consent = Consent::new(&plan);
    for at in 0..25 {
        let (name, spec) = (format!("eve-{at:02}"), json!({"groups": ["dev"]}));
        consent.existing_user(&ExistingUser { spec: &spec, ..unowned(&name) });
    }
    let message = consent.finish().admitted[0].to_string();
    assert!(
        message.starts_with("Group dev would accept 25 existing Users") && message.ends_with("eve-09 and 15 more"),
        "{message}"
    );
}

fn manifest(kind: &str, name: &str, labels: &Value, spec: &Value) -> String {
    let metadata = json!({"name": name, "labels": labels});
    format!("---\n{}\n", json!({"apiVersion": "roster.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}))
}

#[test]
fn imported_users_are_reported_if_they_gain_groups() {
    let dev = || vec![(vec!["dev".to_owned()], false)];
    let none = json!({});
    assert_eq!(gains(ADA, &[], &none, &json!({})), dev());
    assert_eq!(
        gains(ADA, &[("dev", json!({"acceptDeclaredMembers": true}))], &none, &json!({"groups": ["ops"]})),
        dev()
    );
    // The User named the Group before it existed.
    assert_eq!(gains(ADA, &[], &none, &json!({"groups": ["dev"]})), dev());
    assert_eq!(gains(ADA, &[("dev", json!({"acceptDeclaredMembers": true}))], &none, &json!({"groups": ["dev"]})), []);
    assert_eq!(gains("username: ada\nzone: eu\n", &[], &none, &json!({})), []);
    assert_eq!(gains("username: bob\ngroups: [dev]\n", &[], &none, &json!({})), []);
}

#[test]
fn gains_through_members_labels_and_admin_are_reported() {
    let none = json!({});
    let dev = || vec![(vec!["dev".to_owned()], false)];
    let listed = manifest("Group", "dev", &none, &json!({"members": ["ada", "bob"]}));
    assert_eq!(gains(&listed, &[], &none, &none), dev());
    assert_eq!(gains(&listed, &[("dev", json!({"members": ["bob", "ada"]}))], &none, &none), []);
    let renamed = manifest("Group", "dev", &none, &json!({"members": ["countess"]}));
    assert_eq!(gains(&renamed, &[], &none, &json!({"username": "countess"})), dev());
    let labelled = manifest("User", "ada", &json!({"team": "dev"}), &none);
    let selects = json!({"acceptDeclaredMembers": true, "memberSelector": {"matchLabels": {"team": "dev"}}});
    assert_eq!(gains(&labelled, &[("dev", selects.clone())], &none, &none), dev());
    assert_eq!(gains(&labelled, &[("dev", selects)], &json!({"team": "dev"}), &none), []);
    let admin = manifest("User", "ada", &none, &json!({"admin": true}));
    assert_eq!(gains(&admin, &[], &none, &json!({"admin": false})), [(vec![], true)]);
    assert_eq!(gains(&admin, &[], &none, &json!({"admin": true})), []);
}

/// Otherwise, repeating an import, or resuming an interrupted one, would need consent.
#[test]
fn users_that_already_have_everything_gain_nothing() {
    let none = json!({});
    let selector = json!({"matchLabels": {"team": "dev"}});
    let spec = json!({"acceptDeclaredMembers": true, "memberSelector": selector, "members": ["ada"]});
    let ada = json!({"username": "ada", "admin": true, "groups": ["dev"]});
    let group = manifest("Group", "dev", &none, &spec);
    let both = format!("{group}{}", manifest("User", "ada", &json!({"team": "dev"}), &ada));
    let dev = vec![("dev", spec)];
    assert_eq!(gains(&both, &dev, &json!({"team": "dev"}), &ada), []);
    // The import wrote the Group; the User existed before.
    let elsewhere = |labels: Value, spec: Value| gains(&both, &[("dev", json!({}))], &labels, &spec);
    assert_eq!(elsewhere(none.clone(), none.clone()), [(vec!["dev".to_owned()], true)]);
    assert_eq!(elsewhere(json!({"team": "dev"}), ada), [(vec!["dev".to_owned()], false)]);
}

#[test]
fn memberships_with_a_validity_are_reported() {
    let none = json!({});
    let spec = json!({"memberships": [{"user": "ada", "validity": {"notAfter": "2030-01-01T00:00:00Z"}}]});
    let user = manifest("User", "ada", &none, &json!({"username": "ada"}));
    let both = format!("{}{user}", manifest("Group", "dev", &none, &spec));
    let ada = json!({"username": "ada"});
    assert_eq!(gains(&both, &[], &none, &ada), [(vec!["dev".to_owned()], false)]);
    assert_eq!(gains(&both, &[("dev", spec)], &none, &ada), []);
}

#[test]
fn promotions_say_who_gains_what() {
    let promotion = |groups: &[&str], is_admin| Promotion {
        place: Place::default(),
        user: "ada".to_owned(),
        groups: groups.iter().map(ToString::to_string).collect(),
        is_admin,
        ..Promotion::default()
    };
    let messages =
        |promotion: Promotion| promotion.to_string().replace("User ada already exists, and this import would ", "");
    assert_eq!(messages(promotion(&["dev"], false)), "add it to Group dev");
    assert_eq!(
        messages(promotion(&["dev", "ops", "qa"], true)),
        "add it to the Groups dev, ops and qa and set spec.admin"
    );
    assert_eq!(messages(promotion(&[], true)), "set spec.admin");
}

/// Returns what the import would do with the existing User admin. `source` is its annotation.
fn handovers(manifest: &str, user: &ExistingUser) -> Vec<String> {
    let plan = plan(manifest);
    let mut consent = Consent::new(&plan);
    consent.existing_user(user);
    let promotions = consent.finish().promotions.first.into_iter();
    promotions
        .map(|promotion| promotion.to_string().replace("User admin already exists, and this import would ", ""))
        .collect()
}

fn imported(source: Option<&str>, spec: &Value) -> String {
    let annotations = source.map(|source| json!({SOURCE_ID_ANNOTATION: source}));
    let metadata = json!({"name": "admin", "annotations": annotations});
    json!({"apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": metadata, "spec": spec}).to_string()
}

#[test]
fn an_existing_user_is_not_handed_over_to_a_person_with_its_name() {
    let mallory = imported(Some("keycloak:acme/2"), &json!({"email": "mallory@example.com", "displayName": "M"}));
    let nothing = json!({});
    let admin = ExistingUser { spec: &nothing, gets_password: true, ..unowned("admin") };
    let all = ["set its password, change spec.email and give it to keycloak:acme/2"];
    assert_eq!(handovers(&mallory, &admin), all);
    // An earlier import wrote the field, from another source or before Users had identities.
    let (owned, spec) = (json!({"f:email": {}, "f:passwordSecretRef": {}}), json!({"email": "admin@example.com"}));
    let owned = ExistingUser { owned: &owned, spec: &spec, ..admin };
    assert_eq!(handovers(&mallory, &owned), all);
    // Otherwise, a later import could change everything without consent.
    let unchanged = imported(Some("keycloak:acme/2"), &spec);
    let linked = ExistingUser { gets_password: false, ..owned };
    assert_eq!(handovers(&unchanged, &linked), ["give it to keycloak:acme/2"]);
    // Nothing proves that a person of a file without identifiers is the same one as before.
    let file = imported(None, &json!({"email": "mallory@example.com"}));
    for source in [None, Some("keycloak:acme/2")] {
        let expected = ["set its password and change spec.email"];
        assert_eq!(handovers(&file, &ExistingUser { source, ..owned }), expected);
    }
}

#[test]
fn the_same_person_changes_what_earlier_imports_have_set() {
    let source = Some("keycloak:acme/2");
    let manifest = imported(source, &json!({"email": "new@example.com"}));
    let spec = json!({"email": "old@example.com"});
    let owned = json!({"f:email": {}, "f:passwordSecretRef": {}});
    let user = ExistingUser { spec: &spec, source, owned: &owned, gets_password: true, ..unowned("admin") };
    assert_eq!(handovers(&manifest, &user), [""; 0]);
    let elsewhere = json!({"f:displayName": {}});
    // The server rejects a change of a field of another field manager.
    let other = ExistingUser { owned: &elsewhere, ..user };
    assert_eq!(handovers(&manifest, &other), ["set its password"]);
    let planned = plan(&manifest);
    let mut consent = Consent::new(&planned).taking_over(true);
    consent.existing_user(&other);
    assert_eq!(consent.finish().promotions.first[0].fields, ["email"]);
    let nothing = json!({});
    assert_eq!(
        handovers(&manifest, &ExistingUser { spec: &nothing, ..other }),
        ["set its password and change spec.email"]
    );
    // Leavers are disabled without consent.
    let leaver = imported(source, &json!({"email": "old@example.com", "state": "Disabled"}));
    assert_eq!(handovers(&leaver, &ExistingUser { gets_password: false, owned: &elsewhere, ..user }), [""; 0]);
}

#[test]
fn users_that_no_import_has_written_are_named_first() {
    let documents: Vec<String> =
        (0..12).map(|at| format!("---\n{{username: u{at:02}, email: u{at:02}@example.com}}\n")).collect();
    let plan = plan(&documents.concat());
    let mut consent = Consent::new(&plan);
    let owned = json!({"f:zone": {}});
    for at in 0..12 {
        let name = format!("u{at:02}");
        let owned = if at == 11 { &Value::Null } else { &owned };
        consent.existing_user(&ExistingUser { owned, ..unowned(&name) });
    }
    let promotions = consent.finish().promotions;
    assert_eq!((promotions.users.len(), promotions.first.len()), (12, 10));
    assert!(promotions.first.iter().any(|promotion| promotion.user == "u11"));
}

#[test]
fn new_administrators_are_reported() {
    let plan = plan("---\n{username: ada, admin: true}\n---\n{username: bob, admin: true}\n---\n{username: eve}\n");
    let mut consent = Consent::new(&plan);
    consent.existing_user(&unowned("bob"));
    let findings = consent.finish();
    let new: Vec<String> = findings.administrators.iter().map(ToString::to_string).collect();
    assert_eq!(new, ["User ada does not exist yet, and this import would create it with spec.admin"]);
    assert_eq!(findings.promotions.users.len(), 1);
}

/// Someone may have created the Group before the first import, with its identifier and members of their choice.
#[test]
fn members_of_groups_that_no_import_has_applied_are_reported() {
    let selector = json!({"matchLabels": {"team": "dev"}});
    let planned = plan("---\n{username: ada, groups: [dev]}\n---\n{name: b, username: bob, groups: [dev]}\n");
    let findings = |spec: &Value, owned: &Value, accepted: &str| {
        let mut consent = Consent::new(&planned).accepting(accepted.parse().unwrap(), Accepted::default());
        consent.existing_group(&ExistingGroup { name: "dev", spec, owned });
        let team = BTreeMap::from([("team".to_owned(), "dev".to_owned())]);
        let in_dev = json!({"groups": ["dev"]});
        consent.existing_user(&ExistingUser { spec: &in_dev, ..unowned("ada") });
        consent.existing_user(&ExistingUser { spec: &in_dev, ..unowned("eve") });
        consent.existing_user(&ExistingUser { labels: &team, spec: &json!({}), ..unowned("mallory") });
        let found = consent.finish();
        let promoted = found.promotions.first.iter().map(ToString::to_string);
        let all = found.admitted.iter().map(ToString::to_string).chain(found.present.iter().map(ToString::to_string));
        all.chain(promoted).collect::<Vec<String>>()
    };
    let accepts = json!({"acceptDeclaredMembers": true, "memberSelector": selector});
    let would = "Group dev would accept 2 existing Users that this import does not add to it: eve, mallory";
    let ada = "User ada already exists, and this import would add it to Group dev";
    for owned in [Value::Null, json!({"f:displayName": {}})] {
        assert_eq!(findings(&accepts, &owned, ""), [would, ada]);
        assert_eq!(findings(&accepts, &owned, "ada"), [would]);
        assert_eq!(findings(&accepts, &owned, "ada,eve,mallory"), [""; 0]);
    }
    assert_eq!(findings(&accepts, &json!({"f:acceptDeclaredMembers": {}}), ""), [""; 0]);
    let limited = json!([{"user": "joe"}]);
    let lists = json!({"members": ["ada", "bob", "zoe"], "memberships": limited, "memberGroups": ["evil"]});
    let has = "Group dev already exists and has members that this import does not add to it: ";
    let accepted = "ada,eve,mallory";
    assert_eq!(findings(&lists, &Value::Null, accepted), [format!("{has}User joe, User zoe, Group evil")]);
    assert_eq!(findings(&lists, &Value::Null, &format!("{accepted},zoe,evil")), [format!("{has}User joe, Group evil")]);
    assert_eq!(findings(&lists, &Value::Null, "*"), [""; 0]);
    assert_eq!(findings(&lists, &json!({"f:acceptDeclaredMembers": {}}), accepted), [""; 0]);
}
