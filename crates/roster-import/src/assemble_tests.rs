use super::*;
use crate::{Format, Source, read};
use rstest::rstest;

const END: &str = "2030-01-01T00:00:00Z";
const BCRYPT: &str = "$2y$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW";

fn plan_with(format: Format, text: &str, options: &Options) -> Plan {
    let rules = Rules::default();
    let source = Source { main: text.as_bytes().to_vec(), ..Source::default() };
    assemble(read(format, &source, &rules), options, &rules)
}

fn plan(csv: &str) -> Plan {
    plan_with(Format::Csv, csv, &Options { secret_namespace: Some("people".to_owned()), ..Options::default() })
}

fn rejections(plan: &Plan) -> Vec<String> {
    plan.rejected.iter().map(|rejected| format!("{}: {rejected}", rejected.place.line)).collect()
}

#[test]
fn names_are_derived_and_groups_are_created() {
    let plan = plan("username,groups\nJane.Doe@example.com,Domain Admins;ops\nada,ops\n");
    assert_eq!(rejections(&plan), [""; 0]);
    let objects: Vec<&Value> = plan.items.iter().map(|item| &item.object).collect();
    assert_eq!(
        serde_json::to_value(objects).unwrap(),
        json!([
            {"apiVersion": "roster.dev/v1alpha1", "kind": "Group", "metadata": {"name": "domain-admins"},
                "spec": {"displayName": "Domain Admins", "acceptDeclaredMembers": true}},
            {"apiVersion": "roster.dev/v1alpha1", "kind": "Group", "metadata": {"name": "ops"}, "spec": {"acceptDeclaredMembers": true}},
            {"apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {"name": "ada"}, "spec": {"groups": ["ops"]}},
            {"apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {"name": "jane.doe-example.com"},
                "spec": {"username": "Jane.Doe@example.com", "groups": ["domain-admins", "ops"]}},
        ])
    );
}

/// A list over the limit is rejected before its items are compared with each other.
#[test]
fn long_lists_of_one_entry_take_linear_time() {
    let many: Vec<String> = (0..100_000).map(|index| format!("g{index}")).collect();
    // Comparing each item with all others would take minutes.
    let as_csv = plan(&format!("username,groups\nada,{}\n", many.join(";")));
    assert_eq!(rejections(&as_csv), ["2: spec.groups: must have at most 256 items"]);
    let spec = json!({"apiVersion": API_VERSION, "kind": "Group", "metadata": {"name": "all"}, "spec": {"memberGroups": many}});
    let as_manifest = plan_with(Format::Json, &spec.to_string(), &Options::default());
    assert_eq!(rejections(&as_manifest), ["1: spec.memberGroups: must have at most 256 items"]);
}

#[test]
fn groups_accept_declared_members_unless_the_source_says_otherwise() {
    let plan = plan(
        "kind,name,username,groups,acceptDeclaredMembers\nGroup,closed,,,false\nGroup,dev,,,\nGroup,empty,,,\n\
         User,,ada,closed;dev;new,\n",
    );
    assert_eq!(rejections(&plan), [""; 0]);
    let accepts = |name| {
        let item = plan.items.iter().find(|item| item.name == name).unwrap();
        item.object["spec"].get("acceptDeclaredMembers").cloned()
    };
    let expected = [Some(json!(false)), Some(json!(true)), Some(json!(true)), None];
    assert_eq!(["closed", "dev", "new", "empty"].map(accepts), expected);
}

#[rstest]
#[case("username\nada\nADA\n", "3: spec.username: ADA is also on line 2")]
#[case("username,email\nada,x@example.com\nbob,X@Example.com\n", "3: spec.email: X@Example.com is also on line 2")]
#[case("username,email\nada@example.com,\nbob,Ada@example.com\n", "3: spec.email: Ada@example.com is also on line 2")]
#[case("username\na.b@c\na.b-c\n", "3: metadata.name: another username whose object is a.b-c is also on line 2")]
#[case("name,username\nada,bob\nx,ADA\n", "3: spec.username: a User with the name ADA is also on line 2")]
#[case("name,username\nx,ADA\nada,bob\n", "3: metadata.name: a User with the username ada is also on line 2")]
#[case("username\nsystem:admin\n", "2: spec.username: names with the prefix system: are reserved for Kubernetes")]
#[case(
    "username,groups\nada,system:masters\n",
    "2: spec.groups: system:masters: names with the prefix system: are reserved for Kubernetes"
)]
#[case(
    "username,email\nada,system:x@example.com\n",
    "2: spec.email: names with the prefix system: are reserved for Kubernetes"
)]
#[case("username,displayName\n,Nobody\n", "2: spec.username: is required")]
#[case("username,name\nada,Ada\n", "2: metadata.name: must be a DNS-1123 subdomain")]
#[case("username,labels\nada,a b=c\n", "2: metadata.labels[a b]: must be a label")]
#[case(
    "username,timezone,state\nada,Mars/Base,Asleep\n",
    "2: spec.state: must be one of Active, Disabled, Banned; spec.timezone: must be a name of the IANA"
)]
#[case("username,hash\nada,{SSHA}x\n", "2: password: is SHA-1, a fast hash, which is not supported")]
#[case("username,password\nada,hunter2\n", "2: password: is plaintext")]
#[case("username,groups\nada,a b\nbob,a-b\n", "2: spec.groups: a b and a-b on line 3 would both be the Group a-b")]
#[case("username,groups\nada,a b;a-b\n", "2: spec.groups: a b and a-b would both be the Group a-b")]
#[case("kind,name\nGroup,a b\nGroup,a-b\n", "2: metadata.name: a b and a-b on line 3 would both be the Group a-b")]
fn rejections_have_line_field_and_reason(#[case] csv: &str, #[case] expected: &str) {
    let plan = plan(csv);
    assert_eq!(plan.rejected.len(), 1, "{:?}", rejections(&plan));
    assert!(rejections(&plan)[0].starts_with(expected), "{:?}", rejections(&plan));
    assert!(!rejections(&plan)[0].contains("hunter2"));
}

#[test]
fn a_rejected_user_claims_no_names() {
    let plan = plan("username,timezone\nada,Mars/Base\nada,UTC\n");
    assert_eq!((plan.rejected.len(), plan.items.len()), (1, 1));
}

#[test]
fn hashes_are_stored_in_the_secret_namespace() {
    let text = format!("username,passwordHash\nada,{BCRYPT}\n");
    let item = &plan(&text).items[0];
    assert_eq!(item.object["spec"]["passwordSecretRef"], json!({"namespace": "people", "name": "ada-password"}));
    let manifest = item.secret.as_ref().unwrap().manifest("x");
    assert_eq!(manifest["metadata"]["annotations"], json!({"roster.dev/user": "ada"}));
    let nowhere = plan_with(Format::Csv, &text, &Options::default());
    assert!(rejections(&nowhere)[0].contains("--secret-namespace"));
}

#[test]
fn users_with_unusable_hashes_can_be_imported_without_a_password() {
    let options = Options { without_unusable_hashes: true, ..Options::default() };
    let plan = plan_with(Format::Htpasswd, "ada:{SHA}x\nbob:hunter2\n", &options);
    assert_eq!((plan.rejected.len(), plan.items.len()), (0, 2));
    assert_eq!(plan.without_hash.iter().map(|item| item.who.as_str()).collect::<Vec<_>>(), ["ada", "bob"]);
    assert!(plan.items.iter().all(|item| item.secret.is_none()));
}

#[test]
fn plaintext_is_accepted_if_it_is_to_be_hashed() {
    let options = Options { hash_passwords: true, secret_namespace: Some("a".to_owned()), ..Options::default() };
    let plan = plan_with(Format::Csv, "username,password\nada,correct horse\nbob,\"x\ny\"\n", &options);
    assert!(matches!(plan.items[0].secret.as_ref().unwrap().content, Content::Plain(_)));
    assert!(rejections(&plan)[0].contains("control character"), "{:?}", rejections(&plan));
    assert!(!format!("{plan:?}").contains("correct horse"));
}

#[test]
fn fields_and_groups_can_be_skipped() {
    let options = Options {
        without: vec!["mobile".to_owned(), "validity.notAfter".to_owned()],
        no_groups: true,
        ..Options::default()
    };
    let plan = plan_with(Format::Csv, "username,mobile,expires,groups\nada,0800 1,never,ops\n", &options);
    assert_eq!(rejections(&plan), [""; 0]);
    assert_eq!(plan.items.len(), 1);
    assert_eq!(plan.items[0].object["spec"], json!({"groups": ["ops"]}));
}

/// Otherwise, an import that omits a field would strip people of their Groups, or enable them.
#[rstest]
#[case("groups", json!({"groups": ["ops", "root"]}), json!({"groups": ["ops", "root"]}))]
#[case("state", json!({"state": "Disabled"}), json!({"state": "Disabled"}))]
#[case("validity", json!({"validity": {"notAfter": END}}), json!({"validity": {"notAfter": END}}))]
// Only the omitted half stays.
#[case("validity.notAfter", json!({"validity": {"notBefore": "2020-01-01T00:00:00Z", "notAfter": END}}),
    json!({"validity": {"notBefore": "2021-01-01T00:00:00Z", "notAfter": END}}))]
// No import has applied the field.
#[case("state", json!({}), json!({"state": null}))]
fn omitted_fields_stay_as_they_are(#[case] without: &str, #[case] applied: Value, #[case] expected: Value) {
    let text = "username,groups,state,validity.notBefore,validity.notAfter\n\
                ada,dev,Active,2021-01-01T00:00:00Z,2031-01-01T00:00:00Z\n";
    let mut options = Options { without: vec![without.to_owned()], ..Options::default() };
    options.current.add_omitted("ada", &applied, &options.without);
    let plan = plan_with(Format::Csv, text, &options);
    assert_eq!(rejections(&plan), [""; 0]);
    let spec = &plan.items.last().unwrap().object["spec"];
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&spec[field], value, "{without}");
    }
}

const LOCKED: &str = "dn: uid=ada,dc=x\nobjectClass: person\nuid: ada\n";

/// Most directories return the attributes that lock an account only on request.
#[rstest]
#[case::not_exported("", "", false, json!({"state": "Disabled", "requirePasswordChange": true, "validity": {"notAfter": END}}))]
#[case::not_exported_by_posix("shadowMax: 99999\nkrbLastPwdChange: 20200101000000Z\n", "", false,
    json!({"state": "Disabled", "requirePasswordChange": true, "validity": {"notAfter": END}}))]
#[case::a_group_shows_nothing("", "dn: cn=g,dc=x\nobjectClass: groupOfNames\ncn: g\nmodifyTimestamp: 20200101000000Z\n", false,
    json!({"state": "Disabled", "requirePasswordChange": true, "validity": {"notAfter": END}}))]
#[case::a_new_expiry("krbPrincipalExpiration: 20310101000000Z\n", "", false,
    json!({"state": "Disabled", "requirePasswordChange": true, "validity": {"notAfter": END}}))]
#[case::exported("", "", true, json!({}))]
#[case::operational("modifyTimestamp: 20200101000000Z\n", "", false, json!({}))]
#[case::unlocked("nsAccountLock: FALSE\n", "", false, json!({}))]
#[case::active_directory("userAccountControl: 512\n", "", false, json!({}))]
#[case::of_another_person("", "dn: uid=bob,dc=x\nobjectClass: person\nuid: bob\nentryUUID: 2\ncreatorsName: cn=root\n", false,
    json!({"state": "Disabled", "requirePasswordChange": true, "validity": {"notAfter": END}}))]
fn an_export_without_the_state_of_accounts_lifts_nothing(
    #[case] more: &str,
    #[case] others: &str,
    #[case] lift_restrictions: bool,
    #[case] expected: Value,
) {
    let mut options = Options { lift_restrictions, ..Options::default() };
    let applied =
        json!({"state": "Disabled", "requirePasswordChange": true, "validity": {"notAfter": END}, "zone": "eu"});
    options.current.add_imported_restrictions("ada", &applied);
    let plan = plan_with(Format::Ldif, &format!("{LOCKED}entryUUID: 1\n{more}\n{others}"), &options);
    assert_eq!(rejections(&plan), [""; 0]);
    let ada = plan.items.iter().find(|item| item.name == "ada").unwrap();
    let mut spec = ada.object["spec"].clone();
    spec.as_object_mut().unwrap().remove("identities");
    assert_eq!(spec, expected);
    let unlifted: Vec<String> = plan.unlifted.iter().map(ToString::to_string).collect();
    assert_eq!(unlifted.is_empty(), expected == json!({}), "{unlifted:?}");
    if more.is_empty() && !unlifted.is_empty() {
        let says = "User ada stays restricted by spec.requirePasswordChange and spec.state and spec.validity of an earlier import,";
        assert!(unlifted[0].starts_with(says), "{unlifted:?}");
    }
}

/// Files of other formats always show it.
#[test]
fn other_formats_lift_restrictions_of_earlier_imports() {
    let mut options = Options::default();
    options.current.add_imported_restrictions("ada", &json!({"state": "Disabled"}));
    let plan = plan_with(Format::Keycloak, r#"{"realm": "x", "users": [{"id": "1", "username": "ada"}]}"#, &options);
    assert_eq!((plan.items[0].object["spec"].clone(), plan.unlifted), (json!({}), vec![]));
}
