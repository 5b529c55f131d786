//! Imports of people and groups that choose the names of existing Users and Groups.

use roster_api::user::DesiredState;
use serde_json::{Value, json};

use super::{cluster, file, last_line, roster, succeeds, text};
use crate::support::unique;

/// Anyone who may create groups in the source can choose their names.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_not_joined_by_its_name() {
    let (group, mallory) = (unique("handmade"), unique("handmade-mallory"));
    let manifest = format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {group}}}, \
         spec: {{acceptDeclaredMembers: true}}}}\n"
    );
    cluster().kubectl(&["apply", "-f", &file("handmade.yaml", &manifest)]);
    let id = format!("ldap:cn={group},ou=interns,dc=example");
    let entry = format!("dn: uid={mallory},dc=example\nobjectClass: person\nuid: {mallory}\n");
    let path = file("handmade.ldif", &format!("{entry}memberOf: cn={group},ou=interns,dc=example\n"));
    let args = ["import", "--from", "ldif", &path, "--apply", "--accept-existing-users"];
    for more in [&[][..], &["--no-groups"]] {
        let output = roster(&[&args[..], more].concat());
        let reported = text(&output.stderr);
        let says = format!("Group {group} already exists without the annotation roster.dev/source-id, and this import");
        assert!(!output.status.success() && reported.contains(&says), "{reported}");
    }
    assert!(cluster().users().await.get_opt(&mallory).await.unwrap().is_none());
    cluster().kubectl(&["annotate", "groups.roster.dev", &group, &format!("roster.dev/source-id={id}")]);
    assert_eq!(last_line(&succeeds(&args)), "1 created, 1 changed, 0 unchanged, 0 rejected");
}

fn realm(name: &str, users: &[Value]) -> String {
    json!({"realm": name, "users": users}).to_string()
}

/// In many sources, anyone can register and choose a username.
#[tokio::test(flavor = "multi_thread")]
async fn people_of_the_source_do_not_get_existing_users_with_their_names() {
    let (admin, other, realm_name) = (unique("taken"), unique("taken-other"), unique("realm"));
    let (users, secrets) = (cluster().users().await, cluster().secrets("people").await);
    crate::support::create(&users, &crate::support::user(&admin, false)).await;
    cluster().kubectl(&["create", "clusterrolebinding", &admin, "--clusterrole=view", &format!("--user={admin}")]);
    let person = |id: &str, name: &str, email: &str| {
        json!({"id": id, "username": name, "email": format!("{email}@example.com"), "groups": [],
            "credentials": [{"type": "password", "value": "a giraffe in rubber boots"}]})
    };
    let mallory = person("2", &admin, &format!("{admin}-mallory"));
    let path = file("taken.json", &realm(&realm_name, &[mallory.clone(), person("3", &other, &other)]));
    let flags = ["import", "--from", "keycloak", "--secret-namespace", "people", "--hash-passwords", &path];
    let apply = [&flags[..], &["--apply"]].concat();
    let says = format!(
        "{path}:1: User {admin} already exists, and this import would set its password, change spec.email and \
         spec.passwordSecretRef and give it to keycloak:{realm_name}/2; this requires --accept-existing-users\n"
    );
    for args in [&flags[..], &apply] {
        let output = roster(args);
        assert!(!output.status.success());
        assert!(text(&output.stderr).starts_with(&says), "{}", text(&output.stderr));
    }
    let before = users.get(&admin).await.unwrap();
    assert_eq!((before.spec.email, before.spec.password_secret_ref), (None, None));
    assert!(secrets.get_opt(&format!("{admin}-password")).await.unwrap().is_none());
    assert!(users.get_opt(&other).await.unwrap().is_some());

    // The administrator knows that they are the same. From then on, this person needs no consent.
    succeeds(&[&apply[..], &["--accept-existing-users"]].concat());
    assert_eq!(last_line(&succeeds(&apply)), "0 created, 0 changed, 2 unchanged, 0 rejected");
    let moved = person("2", &admin, &format!("{admin}-moved"));
    file("taken.json", &realm(&realm_name, &[moved]));
    assert_eq!(last_line(&succeeds(&apply)), "0 created, 1 changed, 0 unchanged, 0 rejected");
    // Another person cannot get the name.
    file("taken.json", &realm(&realm_name, &[person("4", &admin, &format!("{admin}-eve"))]));
    let reported = text(&roster(&[&apply[..], &["--accept-existing-users"]].concat()).stderr);
    assert!(reported.contains(&format!("User {admin} already exists for keycloak:{realm_name}/2")), "{reported}");
    // Of several people with one name, the order decides nothing.
    let (first, second) =
        (realm("first", &[person("5", &other, "five")]), realm("second", &[person("6", &other, "six")]));
    for text_of_both in [format!("{first}\n{second}"), format!("{second}\n{first}")] {
        file("taken.json", &text_of_both);
        let output = roster(&apply);
        assert_eq!(last_line(&text(&output.stdout)), "0 created, 0 changed, 0 unchanged, 2 rejected");
    }
    let email = users.get(&admin).await.unwrap().spec.email;
    assert_eq!(email, Some(format!("{admin}-moved@example.com")));
}

/// Leavers can make their own entries invalid, and start conflicts.
#[tokio::test(flavor = "multi_thread")]
async fn leavers_are_restricted_even_if_nothing_else_is_applied() {
    let (ada, admin, realm_name) = (unique("leaver"), unique("leaver-admin"), unique("realm"));
    let users = cluster().users().await;
    let mut other = crate::support::user(&admin, false);
    other.spec.email = Some(format!("{admin}@example.com"));
    crate::support::create(&users, &other).await;
    let email = format!("{ada}@example.com");
    let person = |enabled: bool, locale: &str| {
        let attributes = json!({"locale": [locale]});
        json!({"id": "1", "username": ada, "email": email, "enabled": enabled, "attributes": attributes})
    };
    let active = realm(&realm_name, &[person(true, "en")]);
    let path = file("leaver.json", &active);
    let flags = ["import", "--from", "keycloak", &path];
    let apply = [&flags[..], &["--apply"]].concat();
    assert_eq!(last_line(&succeeds(&apply)), "1 created, 0 changed, 0 unchanged, 0 rejected");
    let state = || async { users.get(&ada).await.unwrap().spec };

    // The person has taken the email of another User.
    let taken = json!({"id": "1", "username": ada, "email": format!("{admin}@example.com"), "enabled": false,
        "attributes": {"locale": ["de"]}});
    file("leaver.json", &realm(&realm_name, &[taken]));
    let preview = roster(&flags);
    let says =
        format!("{path}:1: User {ada} would nevertheless be Disabled: the source restricts keycloak:{realm_name}/1\n");
    assert!(!preview.status.success() && text(&preview.stderr).ends_with(&says), "{}", text(&preview.stderr));
    assert_eq!(state().await.state, DesiredState::Active);
    let output = roster(&apply);
    let reported = text(&output.stderr);
    assert!(reported.contains(&format!("User {ada} is now Disabled: the source restricts keycloak:")), "{reported}");
    assert_eq!(last_line(&text(&output.stdout)), "0 created, 0 changed, 0 unchanged, 0 rejected, 1 failed");
    let spec = state().await;
    assert_eq!(
        (spec.state, spec.email, spec.language.as_deref()),
        (DesiredState::Disabled, Some(email.clone()), Some("en"))
    );
    assert!(!text(&roster(&apply).stderr).contains("restrict"));
    // A person who comes back needs no flag.
    file("leaver.json", &active);
    assert_eq!(last_line(&succeeds(&apply)), "0 created, 1 changed, 0 unchanged, 0 rejected");
    assert_eq!(state().await.state, DesiredState::Active);

    // The entry is rejected.
    file("leaver.json", &realm(&realm_name, &[person(false, "?")]));
    let shown = text(&roster(&flags).stdout);
    assert!(shown.contains("+  state: Disabled") && !shown.contains("-  email"), "{shown}");
    assert_eq!(last_line(&text(&roster(&apply).stdout)), "0 created, 1 changed, 0 unchanged, 1 rejected");
    assert_eq!(state().await.state, DesiredState::Disabled);
    file("leaver.json", &active);
    succeeds(&apply);

    // The same username in another realm.
    let second = realm(&format!("{realm_name}-guests"), &[json!({"id": "3", "username": ada})]);
    file("leaver.json", &format!("{second}\n{}", realm(&realm_name, &[person(false, "en")])));
    let output = roster(&apply);
    assert_eq!(last_line(&text(&output.stdout)), "0 created, 1 changed, 0 unchanged, 1 rejected");
    assert_eq!(state().await.state, DesiredState::Disabled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_that_the_source_renames_keeps_the_user() {
    let (ada, countess, realm_name) = (unique("renamed"), unique("renamed-countess"), unique("realm"));
    let users = cluster().users().await;
    let write = |name: &str, enabled: bool| {
        file("renamed.json", &realm(&realm_name, &[json!({"id": "1", "username": name, "enabled": enabled})]))
    };
    let path = write(&ada, true);
    let apply = ["import", "--from", "keycloak", &path, "--apply"];
    succeeds(&apply);
    write(&countess, false);
    let output = roster(&apply);
    let reported = text(&output.stderr);
    let says = format!(
        "{path}:1: keycloak:{realm_name}/1 is now {countess} in the source, and User {ada} keeps the username {ada}:"
    );
    assert!(output.status.success() && reported.starts_with(&says), "{reported}");
    assert_eq!(last_line(&text(&output.stdout)), "0 created, 1 changed, 0 unchanged, 0 rejected");
    let spec = users.get(&ada).await.unwrap().spec;
    assert_eq!((spec.username, spec.state), (None, DesiredState::Disabled));
    assert!(users.get_opt(&countess).await.unwrap().is_none());
}

/// References of RoleBindings to the existing User would mean the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_user_does_not_get_the_username_of_another_one() {
    let (name, username, realm_name) = (unique("cross"), unique("cross-login"), unique("realm"));
    let users = cluster().users().await;
    let mut user = crate::support::user(&name, false);
    user.spec.username = Some(username.clone());
    crate::support::create(&users, &user).await;
    let path = file("cross.json", &realm(&realm_name, &[json!({"id": "1", "username": username})]));
    let apply = ["import", "--from", "keycloak", &path, "--apply", "--accept-existing-users"];
    let reported = text(&roster(&apply).stderr);
    let says =
        format!("User {username} would have the metadata.name {username}, which is the spec.username of User {name}");
    assert!(reported.contains(&says), "{reported}");
    assert!(users.get_opt(&username).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_administrators_require_a_flag() {
    let name = unique("new-admin");
    let path = file("new-admin.csv", &format!("username,admin\n{name},true\n"));
    let args = ["import", "--from", "csv", &path, "--accept-existing-users"];
    let says = format!(
        "{path}:2: User {name} does not exist yet, and this import would create it with spec.admin; this requires \
         --accept-administrators\n"
    );
    for mode in ["--diff", "--apply"] {
        let output = roster(&[&args[..], &[mode]].concat());
        assert!(!output.status.success() && text(&output.stderr).starts_with(&says), "{}", text(&output.stderr));
    }
    let users = cluster().users().await;
    assert!(users.get_opt(&name).await.unwrap().is_none());
    succeeds(&[&args[..], &["--apply", "--accept-administrators"]].concat());
    assert!(users.get(&name).await.unwrap().spec.admin);
}

/// Creating a User makes the caller the owner of `state`, although the CRD chose it.
#[tokio::test(flavor = "multi_thread")]
async fn restrictions_take_over_defaults_and_nothing_else() {
    let name = unique("owned-leaver");
    let users = cluster().users().await;
    let id = format!("uid={name},dc=x");
    let mut user = crate::support::user(&name, false);
    let annotations = [(roster_api::SOURCE_ID_ANNOTATION.to_owned(), format!("ldap:{id}"))];
    user.metadata.annotations = Some(annotations.into());
    user.spec.email = Some(format!("{name}@example.com"));
    let validity = json!({"notAfter": "2035-01-01T00:00:00Z"});
    user.spec.validity = serde_json::from_value(validity).unwrap();
    crate::support::create(&users, &user).await;
    let entry = |expiry: &str| {
        format!(
            "dn: {id}\nobjectClass: person\nuid: {name}\nuserAccountControl: 514\npwdLastSet: 0\n\
             krbPrincipalExpiration: {expiry}\n"
        )
    };
    // The CRD does not accept the year 9999, and the creator has chosen another validity.
    let path = file("owned-leaver.ldif", &entry("99990601000000Z"));
    let flags = ["import", "--from", "ldif", &path];
    let apply = [&flags[..], &["--apply"]].concat();
    file("owned-leaver.ldif", &entry("20340101000000Z"));
    let reported = text(&roster(&apply).stderr);
    let says =
        format!("User {name} is now Disabled and required to change the password: the source restricts ldap:{id}");
    assert!(reported.contains(&says) && reported.contains(".spec.validity"), "{reported}");
    let spec = users.get(&name).await.unwrap().spec;
    assert_eq!((spec.state, spec.require_password_change), (DesiredState::Disabled, true));
    assert_eq!((spec.validity, spec.email), (user.spec.validity, user.spec.email));

    // Nothing is missing.
    file("owned-leaver.ldif", &entry("99990601000000Z"));
    let preview = text(&roster(&flags).stderr);
    assert!(!preview.contains("restrict") && preview.contains("--accept-existing-users"), "{preview}");
}

/// In many sources, people set their own email, and choose their username when they register.
#[tokio::test(flavor = "multi_thread")]
async fn one_person_does_not_stop_the_import_of_others() {
    let [root, nora, eve, ada] = ["root", "nora", "eve", "ada"].map(|what| unique(&format!("alone-{what}")));
    let users = cluster().users().await;
    for name in [&root, &nora] {
        let mut user = crate::support::user(name, false);
        user.spec.email = Some(format!("{name}@example.com"));
        crate::support::create(&users, &user).await;
    }
    let person = |id: &str, name: &str, email: &str| json!({"id": id, "username": name, "email": format!("{email}@example.com")});
    let people = [person("1", &eve, &root), person("2", &nora, &eve), person("3", &ada, &ada)];
    let path = file("alone.json", &realm(&unique("realm"), &people));
    let apply = ["import", "--from", "keycloak", &path, "--apply"];
    for expected in ["1 created, 0 changed, 0 unchanged", "0 created, 0 changed, 1 unchanged"] {
        let output = roster(&apply);
        let reported = text(&output.stderr);
        let says =
            format!("User {eve} would have the spec.email {root}@example.com, which is the spec.email of User {root}");
        assert!(!output.status.success() && reported.contains(&says), "{reported}");
        assert!(reported.contains(&format!("User {nora} already exists, and this import would")), "{reported}");
        assert_eq!(last_line(&text(&output.stdout)), format!("{expected}, 0 rejected, 2 failed"));
    }
    assert!(users.get_opt(&eve).await.unwrap().is_none() && users.get_opt(&ada).await.unwrap().is_some());
    // Consent for one User does not accept others.
    let output = roster(&[&apply[..], &[&format!("--accept-existing-users={nora}")]].concat());
    assert_eq!(last_line(&text(&output.stdout)), "0 created, 0 changed, 1 unchanged, 0 rejected, 2 failed");
    let reported = text(&output.stderr);
    assert!(reported.contains("--force-conflicts") && !reported.contains("already exists"), "{reported}");
}

/// DNs can be guessed, and nothing keeps people from creating a Group that holds no role.
#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_that_someone_planted_require_a_flag() {
    let [group, eve, zoe, ada] = ["group", "eve", "zoe", "ada"].map(|what| unique(&format!("adopted-{what}")));
    let id = format!("ldap:cn={group},dc=x");
    let users = cluster().users().await;
    let mut planted = crate::support::user(&eve, false);
    planted.spec.groups = vec![group.clone()];
    crate::support::create(&users, &planted).await;
    let manifest = json!({"apiVersion": "roster.dev/v1alpha1", "kind": "Group",
        "metadata": {"name": group, "annotations": {"roster.dev/source-id": id}},
        "spec": {"acceptDeclaredMembers": true, "members": [zoe]}});
    cluster().kubectl(&["apply", "-f", &file("adopted.json", &manifest.to_string())]);
    let entry = format!("dn: uid={ada},dc=x\nobjectClass: person\nuid: {ada}\nmodifyTimestamp: 20260101000000Z\n\n");
    let listed = format!("dn: cn={group},dc=x\nobjectClass: groupOfNames\ncn: {group}\nmember: uid={ada},dc=x\n");
    let path = file("adopted.ldif", &format!("{entry}{listed}"));
    let apply = ["import", "--from", "ldif", &path, "--apply"];
    let output = roster(&apply);
    let reported = text(&output.stderr);
    for says in [
        format!("Group {group} would accept 1 existing User that this import does not add to it: {eve}; this requires"),
        format!(
            "Group {group} already exists and has members that this import does not add to it: User {zoe}; this requires"
        ),
    ] {
        assert!(reported.contains(&says), "{reported}");
    }
    assert_eq!(last_line(&text(&output.stdout)), "0 created, 0 changed, 0 unchanged, 0 rejected, 2 failed");
    let accepted = format!("--accept-existing-users={eve},{zoe}");
    let accepting = [&apply[..], &[&accepted]].concat();
    assert_eq!(last_line(&succeeds(&accepting)), "1 created, 1 changed, 0 unchanged, 0 rejected");
    assert_eq!(last_line(&succeeds(&apply)), "0 created, 0 changed, 2 unchanged, 0 rejected");
}
