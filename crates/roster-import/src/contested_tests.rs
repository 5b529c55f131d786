use crate::assemble::{Options, Plan, assemble};
use crate::known::KnownUser;
use crate::rules::Rules;
use crate::{Format, Source, read};
use rstest::rstest;
use serde_json::json;

fn plan(format: Format, text: &str) -> Plan {
    let (rules, source) = (Rules::default(), Source { main: text.as_bytes().to_vec(), ..Source::default() });
    assemble(read(format, &source, &rules), &Options::default(), &rules)
}

fn rejections(plan: &Plan) -> Vec<String> {
    plan.rejected.iter().map(|rejected| format!("{}: {rejected}", rejected.place.line)).collect()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.items.iter().map(|item| item.name.as_str()).collect()
}

fn realms(first: &serde_json::Value, second: &serde_json::Value) -> String {
    let realm = |name: &str, user: &serde_json::Value| json!({"realm": name, "users": [user]}).to_string();
    format!("{}\n{}\n", realm("a", first), realm("b", second))
}

#[rstest]
#[case("spec.username", "admin", json!({"id": "1", "username": "admin"}), json!({"id": "2", "username": "ADMIN"}))]
#[case("metadata.name", "jane-doe", json!({"id": "1", "username": "jane-doe"}), json!({"id": "2", "username": "jane_doe"}))]
fn users_of_a_source_that_share_a_name_are_all_rejected(
    #[case] field: &str,
    #[case] name: &str,
    #[case] first: serde_json::Value,
    #[case] second: serde_json::Value,
) {
    for text in [realms(&first, &second), realms(&second, &first)] {
        let plan = plan(Format::Keycloak, &text);
        assert_eq!(names(&plan), [""; 0], "{text}");
        let found = rejections(&plan);
        let says = [format!(
            "{field}: {name} belongs to keycloak:a/1, but also to keycloak:b/2 on line 2, and all of them are rejected"
        )];
        assert!(
            found.len() == 2 && (found[0].contains(&says[0]) || text.starts_with(&realms(&second, &first))),
            "{found:?}"
        );
    }
}

/// People may be able to write their own emails.
#[rstest]
#[case::email(json!({"email": "X@example.com"}), json!(null), 2)]
#[case::username(json!({"username": "x@example.com"}), json!("x@example.com"), 1)]
#[case::not_an_address(json!({"email": "ada"}), json!("x@example.com"), 1)]
#[case::rejected_entry(json!({"email": "x@example.com", "attributes": {"locale": ["?"]}}), json!(null), 3)]
fn an_email_costs_others_at_most_their_email(
    #[case] planted: serde_json::Value,
    #[case] email: serde_json::Value,
    #[case] count: usize,
) {
    let ada = json!({"id": "1", "username": "ada", "email": "x@example.com"});
    let mut eve = json!({"id": "2", "username": "eve"});
    eve.as_object_mut().unwrap().extend(planted.as_object().unwrap().clone());
    for text in [realms(&ada, &eve), realms(&eve, &ada)] {
        let plan = plan(Format::Keycloak, &text);
        let user =
            plan.items.iter().find(|item| item.name == "ada").unwrap_or_else(|| panic!("{:?}", rejections(&plan)));
        let is_username = eve["username"] == "x@example.com";
        let expected = if is_username { &serde_json::Value::Null } else { &email };
        assert_eq!(&user.object["spec"]["email"], expected, "{text}");
        assert_eq!(plan.rejected.len(), count, "{:?}", rejections(&plan));
        assert!(!is_username || names(&plan) == ["ada", "x-example.com"]);
    }
}

/// Otherwise, a mistake in the entry of the person to whom RoleBindings refer gives the name to someone else.
#[test]
fn rejected_entries_claim_their_usernames() {
    let (ada, faulty) = (json!({"id": "1", "username": "ada"}), json!({"locale": ["?"]}));
    let other = json!({"id": "2", "username": "Ada", "attributes": faulty});
    for text in [realms(&ada, &other), realms(&other, &ada)] {
        let plan = plan(Format::Keycloak, &text);
        assert_eq!((names(&plan).len(), plan.rejected.len()), (0, 2), "{:?}", rejections(&plan));
    }
    // Entries without the identifier that others have.
    let entry = |unit: &str, more: &str| format!("dn: uid=ada,ou={unit},dc=x\nobjectClass: person\nuid: ada\n{more}\n");
    let found = plan(Format::Ldif, &format!("{}{}", entry("a", ""), entry("b", "entryUUID: 1\n")));
    assert_eq!((names(&found).len(), found.rejected.len()), (0, 2), "{:?}", rejections(&found));
}

#[test]
fn users_of_several_domains_and_subtrees_are_all_rejected() {
    let keystone = json!({"users": [
        {"id": "u1", "domain_id": "a", "name": "admin"}, {"id": "u2", "domain_id": "b", "name": "admin"},
        {"id": "u3", "domain_id": "b", "name": "eve"}, {"domain_id": "c", "name": "Admin"},
    ]});
    assert_eq!(names(&plan(Format::Openstack, &keystone.to_string())), ["eve"]);
    let entry = |unit: &str| format!("dn: uid=admin,ou={unit},dc=x\nobjectClass: person\nuid: admin\n\n");
    let found = plan(Format::Ldif, &format!("{}{}", entry("a"), entry("b")));
    assert_eq!((names(&found).len(), found.rejected.len()), (0, 2));
    // The same entry twice.
    let found = plan(Format::Ldif, &format!("{}{}", entry("a"), entry("a")));
    assert_eq!((names(&found), found.rejected.len()), (vec!["admin"], 1));
}

/// Plans an import into a cluster with these Users: identity in the source, name and `spec`.
fn plan_into(users: &[(&str, &str, serde_json::Value)], text: &str) -> Plan {
    let (rules, source) = (Rules::default(), Source { main: text.as_bytes().to_vec(), ..Source::default() });
    let mut options = Options::default();
    for (id, name, spec) in users {
        options.known_users.add(&format!("keycloak:{id}"), name, None, KnownUser::new(name, spec));
    }
    assemble(read(Format::Keycloak, &source, &rules), &options, &rules)
}

/// Otherwise, a leaver stays active by registering once more.
#[test]
fn a_person_who_was_imported_before_keeps_the_name() {
    let leaver = json!({"id": "1", "username": "ada", "email": "ada@example.com", "enabled": false});
    for second in [
        json!({"id": "2", "username": "ADA"}),
        json!({"id": "2", "username": "eve", "email": "ada@example.com"}),
        json!({"id": "2", "username": "ada@example.com"}),
    ] {
        for text in [
            realms(&leaver, &second),
            realms(&second, &leaver).replace("\"a\"", "\"c\"").replace("\"b\"", "\"a\"").replace("\"c\"", "\"b\""),
        ] {
            let known = json!({"email": "Ada@example.com"});
            let plan = plan_into(&[("a/1", "ada", known)], &text);
            let is_username = second["email"].is_null();
            assert_eq!(
                names(&plan),
                if is_username { vec!["ada"] } else { vec!["ada", "eve"] },
                "{:?}",
                rejections(&plan)
            );
            assert_eq!(plan.items[0].object["spec"]["state"], "Disabled");
            assert!(is_username || plan.items[1].object["spec"]["email"].is_null());
            let found = rejections(&plan);
            assert!(
                found.len() == 1
                    && found[0].contains(
                        "belongs to keycloak:a/1, who was imported before as User ada, and this is keycloak:b/2"
                    ),
                "{found:?}"
            );
        }
    }
    // Of two people who were imported before, neither of whom has the email, none gets it.
    let users = [("a/1", "ada", json!({})), ("b/2", "bob", json!({}))];
    let person = |id: &str| json!({"id": id, "username": "x", "email": "eve@example.com"});
    assert_eq!(plan_into(&users, &realms(&person("1"), &person("2"))).rejected.len(), 2);
}

#[test]
fn a_renamed_person_keeps_the_user() {
    let user = |id: &str, name: &str| json!({"id": id, "username": name, "enabled": false});
    let file = |users: &[serde_json::Value]| json!({"realm": "a", "users": users}).to_string();
    let plan = plan_into(&[("a/1", "ada", json!({}))], &file(&[user("1", "Countess")]));
    assert_eq!(names(&plan), ["ada"]);
    assert_eq!(plan.items[0].object["spec"], json!({"state": "Disabled"}));
    let [renamed] = &plan.renamed[..] else { panic!("{:?}", plan.renamed) };
    assert_eq!((&*renamed.name, &*renamed.username, &*renamed.title), ("ada", "ada", "Countess"));
    // Another person must not get the name, or the username, in the same import.
    let known = [("a/1", "ada", json!({"username": "Lovelace"}))];
    for name in ["ada", "lovelace"] {
        for users in [[user("1", "Countess"), user("2", name)], [user("2", name), user("1", "Countess")]] {
            let plan = plan_into(&known, &file(&users));
            assert_eq!((names(&plan), plan.rejected.len()), (vec!["ada"], 1), "{:?}", rejections(&plan));
        }
    }
    let plan = plan_into(&known, &file(&[user("1", "ada")]));
    assert_eq!(plan.items[0].object["spec"], json!({"username": "Lovelace", "state": "Disabled"}));
    assert_eq!(plan_into(&known, &file(&[user("1", "Lovelace")])).renamed, []);
    // Two people that exchange their names in the source.
    let both = [known[0].clone(), ("a/2", "bob", json!({}))];
    let plan = plan_into(&both, &file(&[user("1", "bob"), user("2", "Lovelace")]));
    assert_eq!((names(&plan), plan.renamed.len()), (vec!["ada", "bob"], 2), "{:?}", rejections(&plan));
}

/// Otherwise, someone who can add an entry chooses which one counts.
#[test]
fn entries_with_one_identifier_and_other_content_are_all_rejected() {
    let password = |name: &str, groups: &[&str]| {
        json!({"apiVersion": "dex.coreos.com/v1", "kind": "Password", "email": format!("{name}@example.com"),
            "username": name, "userID": "1", "groups": groups})
        .to_string()
    };
    let found = plan(Format::Dex, &format!("{}\n{}", password("ada", &[]), password("eve", &["admins"])));
    assert_eq!((names(&found), found.rejected.len()), (vec![], 2));
    assert!(rejections(&found)[0].contains("dex:1 is also on line 2 with other content"), "{:?}", rejections(&found));
    let found = plan(Format::Dex, &[password("ada", &[]), password("ada", &[])].join("\n"));
    assert_eq!((names(&found), found.rejected.len()), (vec!["ada"], 1));
    // A membership that a group declares does not make a difference.
    let entry = |more: &str| format!("dn: uid=ada,dc=x\nobjectClass: person\nuid: ada\n{more}\n");
    let group = "dn: cn=ops,dc=x\nobjectClass: groupOfNames\ncn: ops\nmember: uid=ada,dc=x\n";
    let found = plan(Format::Ldif, &format!("{}{}{group}", entry(""), entry("")));
    assert_eq!((names(&found), found.rejected.len()), (vec!["ops", "ada"], 1));
    let found = plan(Format::Ldif, &format!("{}{}{group}", entry(""), entry("mail: eve@example.com\n")));
    assert_eq!(found.rejected.len(), 2, "{:?}", rejections(&found));
    // People without an identifier, in a format that has them, can be different ones.
    let realms = realms(&json!({"username": "ada"}), &json!({"username": "ada", "email": "eve@example.com"}));
    assert_eq!(plan(Format::Keycloak, &realms).rejected.len(), 2);
}

#[test]
fn restrictions_of_rejected_people_remain() {
    let leaver = json!({"id": "1", "username": "ada", "enabled": false, "attributes": {"locale": ["?"]}});
    let plan = plan(Format::Keycloak, &json!({"realm": "a", "users": [leaver]}).to_string());
    assert_eq!((names(&plan).len(), plan.rejected.len()), (0, 1));
    let missing = plan.restrictions.get("keycloak:a/1", "ada").unwrap();
    let missing = missing.missing(&json!({"email": "ada@example.com"}), &json!(null)).unwrap();
    assert_eq!(serde_json::Value::from(missing), json!({"state": "Disabled"}));
}

#[test]
fn long_lists_of_claimants_are_shortened() {
    let users: Vec<_> = (0..6).map(|id| json!({"id": id.to_string(), "username": "admin"})).collect();
    let found = rejections(&plan(Format::Keycloak, &json!({"realm": "a", "users": users}).to_string()));
    assert_eq!(found.len(), 6);
    assert!(found[0].contains("keycloak:a/3 on line 1 and 2 more, and all of them are rejected"), "{found:?}");
}

/// Their authors decide by the order of the lines, as in the systems that read such files.
#[rstest]
#[case(Format::Csv, "username,zone\nada,eu\nADA,us\n")]
#[case(Format::Htpasswd, "ada:$2y$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW\nada:x\n")]
fn the_first_line_counts_in_files_without_identifiers(#[case] format: Format, #[case] text: &str) {
    let options = Options { secret_namespace: Some("people".to_owned()), ..Options::default() };
    let (rules, source) = (Rules::default(), Source { main: text.into(), ..Source::default() });
    let plan = assemble(read(format, &source, &rules), &options, &rules);
    assert_eq!((names(&plan), plan.rejected.len()), (vec!["ada"], 1));
}

#[test]
fn users_keep_their_identity_in_the_source() {
    let source_of = |format, text: &str| {
        let plan = plan(format, text);
        assert_eq!(plan.rejected, [], "{text}");
        let user = plan.items.iter().find(|item| item.kind == crate::rules::Kind::User).unwrap();
        user.object["metadata"]["annotations"][roster_api::SOURCE_ID_ANNOTATION].as_str().map(str::to_owned)
    };
    let ldif = |more: &str| format!("dn: UID=Ada, DC=x\nobjectClass: person\nuid: ada\n{more}");
    let object = |version: &str, kind: &str, uid: Option<&str>| {
        let metadata = json!({"name": "ada", "uid": uid});
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "username": "ada", "spec": {}}).to_string()
    };
    let kubesphere = |uid| object("iam.kubesphere.io/v1alpha2", "User", uid);
    for (format, text, expected) in [
        (Format::Ldif, ldif(""), Some("ldap:uid=ada,dc=x")),
        (Format::Ldif, ldif("entryUUID: 2F6E-1\n"), Some("ldap:entryUUID=2f6e-1")),
        (Format::Ldif, ldif("objectGUID:: /wAB\n"), Some("ldap:objectGUID=ff0001")),
        (Format::Keycloak, json!({"realm": "a", "users": [{"id": "1", "username": "ada"}]}).to_string(), Some("keycloak:a/1")),
        (Format::Keycloak, json!({"realm": "a", "users": [{"username": "ada"}]}).to_string(), None),
        (Format::Openstack, json!({"users": [{"id": "1", "name": "ada"}]}).to_string(), Some("keystone:1")),
        (Format::Rancher, object("management.cattle.io/v3", "User", Some("7")), Some("rancher:ada")),
        (Format::Kubesphere, kubesphere(Some("7")), Some("kubesphere:7")),
        (Format::Kubesphere, kubesphere(None), Some("kubesphere:ada")),
        (Format::Openshift, object("user.openshift.io/v1", "User", Some("7")), Some("openshift:7")),
        (Format::Deckhouse, object("deckhouse.io/v1", "User", Some("7")), Some("deckhouse:7")),
        (Format::Dex, json!({"apiVersion": "dex.coreos.com/v1", "kind": "Password", "email": "a@example.com", "username": "ada", "userID": "9"}).to_string(), Some("dex:9")),
        (Format::Csv, "username\nada\n".to_owned(), None),
        (Format::Json, json!({"username": "ada"}).to_string(), None),
    ] {
        assert_eq!(source_of(format, &text).as_deref(), expected, "{format:?}");
    }
    let imported = plan(Format::Ldif, &ldif("")).items[0].object.to_string();
    assert_eq!(source_of(Format::Json, &imported).as_deref(), Some("ldap:uid=ada,dc=x"));
}
