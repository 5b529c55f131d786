//! Memberships that the source ends or leaves unclear, and restrictions that no import has set.

use kube::api::{Api, Patch, PatchParams};
use roster_api::Group;
use roster_api::user::DesiredState;
use serde_json::{Value, json};

use super::{cluster, file, last_line, roster, roster_with, succeeds, text};
use crate::support::unique;

/// People could otherwise keep what the source took away by making their own entries invalid.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_entry_loses_the_memberships_that_ended() {
    let [eve, admins, staff, realm] = ["eve", "admins", "staff", "realm"].map(|what| unique(&format!("ended-{what}")));
    let users = cluster().users().await;
    let write = |locale: &str, paths: &[&String], more: &Value| {
        let paths: Vec<String> = paths.iter().map(|name| format!("/{name}")).collect();
        let person = json!({"id": "1", "username": eve, "attributes": {"locale": [locale]}, "groups": paths});
        let groups = json!([{"id": "7", "name": admins}, {"id": "8", "name": staff}]);
        file("ended.json", &json!({"realm": realm, "groups": groups, "users": [person, more]}).to_string())
    };
    let bob = json!({"id": "2", "username": format!("{eve}-bob")});
    let path = write("en", &[&admins, &staff], &bob);
    let flags = ["import", "--from", "keycloak", &path];
    let apply = [&flags[..], &["--apply"]].concat();
    succeeds(&apply);
    let groups = || async { users.get(&eve).await.unwrap().spec.groups };
    assert_eq!(groups().await, [admins.clone(), staff.clone()]);

    write("?", &[&staff], &bob);
    let shown = text(&roster(&flags).stdout);
    assert!(shown.contains(&format!("-  - {admins}\n")) && !shown.contains(&format!("-  - {staff}\n")), "{shown}");
    let output = roster(&apply);
    assert_eq!(last_line(&text(&output.stdout)), "0 created, 1 changed, 3 unchanged, 1 rejected");
    let reported = text(&output.stderr);
    let says = format!("User {eve} is now no longer in {admins}: the source restricts keycloak:{realm}/1");
    assert!(reported.contains(&says), "{reported}");
    assert_eq!(groups().await, std::slice::from_ref(&staff));
    // The plan needs consent.
    write("en", &[], &json!({"id": "2", "username": format!("{eve}-bob"), "groups": [format!("/{admins}")]}));
    let output = roster(&apply);
    assert_eq!(last_line(&text(&output.stdout)), "0 created, 1 changed, 2 unchanged, 0 rejected, 1 failed");
    assert_eq!(groups().await, [""; 0]);
}

/// Anyone who may create an entry with the username of a member could otherwise strip the member of their roles.
#[tokio::test(flavor = "multi_thread")]
async fn a_planted_entry_does_not_remove_a_membership() {
    let (ada, admins) = (unique("unclear-ada"), unique("unclear-admins"));
    let users = cluster().users().await;
    let person = |unit: &str, gid: u32| {
        format!("dn: uid={ada},ou={unit},dc=x\nobjectClass: person\nuid: {ada}\ngidNumber: {gid}\n\n")
    };
    let group = |name: &str, rest: &str| format!("dn: cn={name},dc=x\nobjectClass: posixGroup\ncn: {name}\n{rest}\n");
    let primary = format!("{admins}-primary");
    let source = format!(
        "{}{}{}",
        person("people", 4711),
        group(&admins, &format!("memberUid: {ada}\n")),
        group(&primary, "gidNumber: 4711\n")
    );
    let path = file("unclear.ldif", &source);
    let apply = ["import", "--from", "ldif", &path, "--apply"];
    succeeds(&apply);
    let planted = group(&format!("{admins}-planted"), "gidNumber: 4711\n");
    file("unclear.ldif", &format!("{}{source}{planted}", person("guests", 1)));
    let output = roster(&apply);
    let reported = text(&output.stderr);
    let says = format!("User {ada} stays in Group {primary}: the source does not say clearly whether");
    assert!(!output.status.success() && reported.contains(&says), "{reported}");
    let mut groups = users.get(&ada).await.unwrap().spec.groups;
    groups.sort();
    assert_eq!(groups, [admins.clone(), primary.clone()]);
    let all = Api::<Group>::all(cluster().client().await);
    for group in [&admins, &primary] {
        assert!(all.get(group).await.unwrap().spec.accept_declared_members, "{group}");
    }
}

/// An administrator may ban someone whom the source only disables.
#[tokio::test(flavor = "multi_thread")]
async fn a_stricter_restriction_stays_and_does_not_block_the_import() {
    let (eve, realm) = (unique("banned"), unique("realm"));
    let users = cluster().users().await;
    let write = |language: &str| {
        let eve = json!({"id": "1", "username": eve, "enabled": false, "attributes": {"locale": [language]}});
        let bob = json!({"id": "2", "username": format!("{}-bob", realm), "attributes": {"locale": [language]}});
        file("banned.json", &json!({"realm": realm, "users": [eve, bob]}).to_string())
    };
    let path = write("en");
    let apply = ["import", "--from", "keycloak", &path, "--apply"];
    succeeds(&apply);
    let patch = json!({"spec": {"state": "Banned"}});
    users.patch(&eve, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    for (language, more) in [("de", &[][..]), ("fr", &["--force-conflicts"]), ("it", &["--accept-existing-users"])] {
        write(language);
        let output = roster(&[&apply[..], more].concat());
        let reported = text(&output.stderr);
        assert!(output.status.success(), "{reported}");
        let says = format!("User {eve} is restricted more strictly by spec.state, which no import has set");
        assert!(reported.contains(&says), "{reported}");
        assert_eq!(last_line(&text(&output.stdout)), "0 created, 2 changed, 0 unchanged, 0 rejected");
        let spec = users.get(&eve).await.unwrap().spec;
        assert_eq!((spec.state, spec.language.as_deref()), (DesiredState::Banned, Some(language)));
    }
}

/// Permission to read the Secrets may be missing.
#[tokio::test(flavor = "multi_thread")]
async fn leavers_are_restricted_before_anything_else_is_read() {
    let (eve, realm, account) = (unique("unreadable"), unique("realm"), unique("importer"));
    let users = cluster().users().await;
    let write = |enabled: bool| {
        let eve = json!({"id": "1", "username": eve, "enabled": enabled});
        let credentials = json!([{"type": "password", "value": "a giraffe in rubber boots"}]);
        let bob = json!({"id": "2", "username": format!("{realm}-bob"), "credentials": credentials});
        let people = if enabled { vec![eve] } else { vec![eve, bob] };
        file("unreadable.json", &json!({"realm": realm, "users": people}).to_string())
    };
    let path = write(true);
    let apply = ["import", "--from", "keycloak", &path, "--apply"];
    succeeds(&apply);
    write(false);
    cluster().kubectl(&["create", "serviceaccount", &account, "-n", "people"]);
    let resources = "--resource=users.roster.dev,groups.roster.dev";
    cluster().kubectl(&["create", "clusterrole", &account, "--verb=get,list,create,update,patch", resources]);
    let subject = format!("--serviceaccount=people:{account}");
    cluster().kubectl(&["create", "clusterrolebinding", &account, &format!("--clusterrole={account}"), &subject]);
    let token = cluster().kubectl(&["create", "token", &account, "-n", "people"]);
    let config = cluster().plane.dir.join("importer.kubeconfig");
    let config = cluster().plane.kubeconfig_for_token(&config, token.trim()).unwrap();
    let more = ["--hash-passwords", "--secret-namespace", "people"];
    let output = roster_with(&config, &[&apply[..], &more].concat());
    let reported = text(&output.stderr);
    let says = "nothing was applied but the restrictions of existing Users (1)";
    assert!(!output.status.success() && reported.contains(says), "{reported}");
    assert_eq!(users.get(&eve).await.unwrap().spec.state, DesiredState::Disabled);
}

/// Server-side apply would otherwise remove what earlier imports have set.
#[tokio::test(flavor = "multi_thread")]
async fn omitted_fields_of_existing_users_stay() {
    let (ada, group, realm) = (unique("omitted-ada"), unique("omitted-group"), unique("realm"));
    let users = cluster().users().await;
    let write = |enabled: bool, locale: &str| {
        let attributes = json!({"locale": [locale]});
        let person = json!({"id": "1", "username": ada, "enabled": enabled, "attributes": attributes,
            "groups": [format!("/{group}")]});
        let groups = json!([{"id": "7", "name": group}]);
        file("omitted.json", &json!({"realm": realm, "groups": groups, "users": [person]}).to_string())
    };
    let path = write(false, "en");
    let apply = ["import", "--from", "keycloak", &path, "--apply"];
    succeeds(&apply);
    write(true, "de");
    let without = [&apply[..], &["--without", "state", "--without", "groups", "--without", "language"]].concat();
    assert_eq!(last_line(&succeeds(&without)), "0 created, 0 changed, 2 unchanged, 0 rejected");
    let without = [&apply[..], &["--without", "state", "--without", "groups"]].concat();
    assert_eq!(last_line(&succeeds(&without)), "0 created, 1 changed, 1 unchanged, 0 rejected");
    let spec = users.get(&ada).await.unwrap().spec;
    assert_eq!((spec.state, spec.groups, spec.language.as_deref()), (DesiredState::Disabled, vec![group], Some("de")));
    succeeds(&apply);
    assert_eq!(users.get(&ada).await.unwrap().spec.state, DesiredState::Active);
}

/// `ldapsearch '*' entryUUID` does not return the attributes that lock an account.
#[tokio::test(flavor = "multi_thread")]
async fn locked_accounts_stay_locked_by_an_export_without_operational_attributes() {
    let ada = unique("unexported");
    let users = cluster().users().await;
    let write = |more: &str| {
        let entry = format!("dn: uid={ada},dc=x\nobjectClass: inetOrgPerson\nuid: {ada}\nentryUUID: {ada}\n{more}");
        file("unexported.ldif", &entry)
    };
    let path = write("sn: a\nnsAccountLock: TRUE\n");
    let apply = ["import", "--from", "ldif", &path, "--apply"];
    succeeds(&apply);
    write("sn: b\n");
    let output = roster(&apply);
    let reported = text(&output.stderr);
    let says = format!("User {ada} stays restricted by spec.state of an earlier import");
    assert!(output.status.success() && reported.contains(&says), "{reported}");
    assert!(reported.starts_with("warning: this file does not show which accounts are locked"), "{reported}");
    let state = || async { users.get(&ada).await.unwrap().spec.state };
    assert_eq!(state().await, DesiredState::Disabled);
    write("sn: b\nmodifyTimestamp: 20260101000000Z\n");
    assert_eq!(last_line(&succeeds(&apply)), "0 created, 1 changed, 0 unchanged, 0 rejected");
    assert_eq!(state().await, DesiredState::Active);
}
