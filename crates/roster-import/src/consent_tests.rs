use super::*;
use crate::assemble::{Options, assemble};
use crate::rules::Rules;
use crate::{Format, Source, read};
use serde_json::json;

fn plan(yaml: &str) -> Plan {
    let rules = Rules::default();
    let source = Source { main: yaml.as_bytes().to_vec(), ..Source::default() };
    let plan = assemble(read(Format::Yaml, &source, &rules), &Options::default(), &rules);
    assert!(plan.rejected.is_empty(), "{:?}", plan.rejected);
    plan
}

/// Users that Groups would accept unasked, where these Groups and Users exist: name, labels and `spec`.
fn messages(yaml: &str, groups: &[(&str, Value)], users: &[(&str, Value, Value)]) -> Vec<String> {
    let plan = plan(yaml);
    let mut consent = Consent::new(&plan);
    for (name, spec) in groups {
        consent.existing_group(name, spec);
    }
    for (name, labels, spec) in users {
        let labels = BTreeMap::deserialize(labels).unwrap();
        consent.existing_user(&ExistingUser { name, labels: &labels, spec });
    }
    consent.finish().0.iter().map(ToString::to_string).collect()
}

/// What the plan gives to an existing User.
fn gains(yaml: &str, groups: &[(&str, Value)], labels: &Value, spec: &Value) -> Vec<(Vec<String>, bool)> {
    let plan = plan(yaml);
    let mut consent = Consent::new(&plan);
    for (name, spec) in groups {
        consent.existing_group(name, spec);
    }
    let labels = BTreeMap::deserialize(labels).unwrap();
    consent.existing_user(&ExistingUser { name: "ada", labels: &labels, spec });
    let promotions = consent.finish().1;
    assert_eq!(promotions.first.len(), promotions.count);
    promotions.first.into_iter().map(|promotion| (promotion.groups, promotion.is_admin)).collect()
}

fn user(name: &'static str, groups: &[&str]) -> (&'static str, Value, Value) {
    (name, json!({}), json!({"groups": groups}))
}

const ADA: &str = "username: ada\ngroups: [dev]\n";
const EVE: &str = "Group dev would accept 1 existing User that this import does not put into it: eve";

#[test]
fn users_that_wait_for_a_new_group_are_told() {
    let people = [user("ada", &["dev"]), user("bob", &["ops"]), user("eve", &["x", "dev"])];
    assert_eq!(messages(ADA, &[], &people), [EVE]);
    assert_eq!(messages(ADA, &[("dev", json!({"acceptDeclaredMembers": false}))], &people), [EVE]);
    // Existing members gain nothing.
    assert_eq!(messages(ADA, &[("dev", json!({"acceptDeclaredMembers": true}))], &people), [""; 0]);
}

#[test]
fn users_of_the_import_are_told_where_it_does_not_put_them_there() {
    let source = "---\n{username: ada, groups: [dev]}\n---\n{username: eve, groups: [ops]}\n";
    assert_eq!(
        messages(source, &[], &[user("ada", &["dev", "ops"]), user("eve", &["dev", "ops"])]),
        [EVE.to_owned(), EVE.replace("dev", "ops").replace("eve", "ada"),]
    );
}

#[test]
fn labels_count_as_well() {
    let group = |spec: Value| {
        json!({"apiVersion": "roster.dev/v1alpha1", "kind": "Group", "metadata": {"name": "dev"}, "spec": spec})
            .to_string()
    };
    let eve = [("eve", json!({"team": "dev"}), json!({}))];
    let selector = json!({"matchLabels": {"team": "dev"}});
    let both = group(json!({"acceptDeclaredMembers": true, "memberSelector": selector}));
    assert_eq!(messages(&both, &[], &eve), [EVE]);
    assert_eq!(messages(&group(json!({"memberSelector": selector})), &[], &eve), [""; 0]);
    // What the manifest does not name stays as it is in the cluster.
    let accepts = group(json!({"acceptDeclaredMembers": true}));
    assert_eq!(messages(&accepts, &[("dev", json!({"memberSelector": selector}))], &eve), [EVE]);
    let selects = group(json!({"memberSelector": selector}));
    assert_eq!(messages(&selects, &[("dev", json!({"acceptDeclaredMembers": true}))], &eve), [EVE]);
    // Users of the import have their labels from it.
    let planned = format!("---\n{both}\n---\n{{name: eve, username: eve, labels: {{team: dev}}}}\n");
    assert_eq!(messages(&planned, &[], &eve), [""; 0]);
}

#[test]
fn ten_are_named_and_all_are_counted() {
    let plan = plan(ADA);
    let mut consent = Consent::new(&plan);
    for at in 0..25 {
        let (name, spec) = (format!("eve-{at:02}"), json!({"groups": ["dev"]}));
        consent.existing_user(&ExistingUser { name: &name, labels: &BTreeMap::new(), spec: &spec });
    }
    let message = consent.finish().0[0].to_string();
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
fn users_that_the_import_names_are_told_if_it_gives_them_something() {
    let dev = || vec![(vec!["dev".to_owned()], false)];
    let none = json!({});
    assert_eq!(gains(ADA, &[], &none, &json!({})), dev());
    assert_eq!(
        gains(ADA, &[("dev", json!({"acceptDeclaredMembers": true}))], &none, &json!({"groups": ["ops"]})),
        dev()
    );
    // It named the Group before there was one.
    assert_eq!(gains(ADA, &[], &none, &json!({"groups": ["dev"]})), dev());
    assert_eq!(gains(ADA, &[("dev", json!({"acceptDeclaredMembers": true}))], &none, &json!({"groups": ["dev"]})), []);
    assert_eq!(gains("username: ada\nzone: eu\n", &[], &none, &json!({})), []);
    assert_eq!(gains("username: bob\ngroups: [dev]\n", &[], &none, &json!({})), []);
}

#[test]
fn members_labels_and_administrators_count_as_well() {
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

/// What an interrupted import, or the same import again, finds: nothing to ask.
#[test]
fn users_that_hold_everything_already_are_given_nothing() {
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
fn memberships_with_a_validity_are_given_too() {
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
    };
    let messages =
        |promotion: Promotion| promotion.to_string().replace("User ada already exists, and this import would ", "");
    assert_eq!(messages(promotion(&["dev"], false)), "put it into Group dev");
    assert_eq!(
        messages(promotion(&["dev", "ops", "qa"], true)),
        "put it into the Groups dev, ops and qa and set spec.admin"
    );
    assert_eq!(messages(promotion(&[], true)), "set spec.admin");
}
