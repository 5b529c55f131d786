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

/// What is told of the plan, where these Groups and Users exist: name, labels and `spec`.
fn told(yaml: &str, groups: &[(&str, Value)], users: &[(&str, Value, Value)]) -> Vec<String> {
    let plan = plan(yaml);
    let mut consent = Consent::new(&plan);
    for (name, spec) in groups {
        consent.existing_group(name, spec);
    }
    for (name, labels, spec) in users {
        consent.existing_user(name, &BTreeMap::deserialize(labels).unwrap(), spec);
    }
    consent.admitted().iter().map(ToString::to_string).collect()
}

fn user(name: &'static str, groups: &[&str]) -> (&'static str, Value, Value) {
    (name, json!({}), json!({"groups": groups}))
}

const ADA: &str = "username: ada\ngroups: [dev]\n";
const EVE: &str = "Group dev would accept 1 existing User that this import does not put into it: eve";

#[test]
fn users_that_wait_for_a_new_group_are_told() {
    let people = [user("ada", &["dev"]), user("bob", &["ops"]), user("eve", &["x", "dev"])];
    assert_eq!(told(ADA, &[], &people), [EVE]);
    assert_eq!(told(ADA, &[("dev", json!({"acceptDeclaredMembers": false}))], &people), [EVE]);
    // Whoever belongs to it already gains nothing.
    assert_eq!(told(ADA, &[("dev", json!({"acceptDeclaredMembers": true}))], &people), [""; 0]);
}

#[test]
fn users_of_the_import_are_told_where_it_does_not_put_them_there() {
    let source = "---\n{username: ada, groups: [dev]}\n---\n{username: eve, groups: [ops]}\n";
    assert_eq!(
        told(source, &[], &[user("ada", &["dev", "ops"]), user("eve", &["dev", "ops"])]),
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
    assert_eq!(told(&both, &[], &eve), [EVE]);
    assert_eq!(told(&group(json!({"memberSelector": selector})), &[], &eve), [""; 0]);
    // What the manifest does not name stays as it is in the cluster.
    let accepts = group(json!({"acceptDeclaredMembers": true}));
    assert_eq!(told(&accepts, &[("dev", json!({"memberSelector": selector}))], &eve), [EVE]);
    let selects = group(json!({"memberSelector": selector}));
    assert_eq!(told(&selects, &[("dev", json!({"acceptDeclaredMembers": true}))], &eve), [EVE]);
    // Users of the import have their labels from it.
    let planned = format!("---\n{both}\n---\n{{name: eve, username: eve, labels: {{team: dev}}}}\n");
    assert_eq!(told(&planned, &[], &eve), [""; 0]);
}

#[test]
fn ten_are_named_and_all_are_counted() {
    let plan = plan(ADA);
    let mut consent = Consent::new(&plan);
    for at in 0..25 {
        consent.existing_user(&format!("eve-{at:02}"), &BTreeMap::new(), &json!({"groups": ["dev"]}));
    }
    let told = consent.admitted()[0].to_string();
    assert!(
        told.starts_with("Group dev would accept 25 existing Users") && told.ends_with("eve-09 and 15 more"),
        "{told}"
    );
}
