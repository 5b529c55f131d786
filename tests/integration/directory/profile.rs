//! Changes that users make to their own profile.

use serde_json::json;

use super::directory;
use crate::support::{Cluster, create, eventually, unique, user, wait_until_ready};

const USERS: &str = "users.directory.roster.dev";

fn patch(cluster: &Cluster, person: &str, args: &[&str]) -> Result<String, String> {
    let args = [&["patch", USERS, "--as", person], args].concat();
    cluster.plane.kubectl.run(&args).map_err(|error| error.to_string())
}

#[tokio::test]
async fn users_change_only_their_profile_fields() {
    let cluster = directory();
    let users = cluster.users().await;
    let name = unique("self");
    create(&users, &user(&name, false)).await;
    wait_until_ready(&users, &name).await;
    let merge = |body: &str| patch(cluster, &name, &["~", "--type=merge", "-p", body]);
    eventually("the User is served", || async {
        let path = format!("{}/users/{name}", super::BASE);
        cluster.plane.kubectl.run(&["get", "--raw", &path]).map_err(|error| error.to_string())
    })
    .await;
    merge(r#"{"spec":{"displayName":"Me","language":"fr","mobile":"+1 555 0100","preferredShell":"zsh","timezone":"Europe/Paris"}}"#)
        .unwrap();
    let spec = users.get(&name).await.unwrap().spec;
    assert_eq!((spec.display_name.as_deref(), spec.timezone.as_deref()), (Some("Me"), Some("Europe/Paris")));
    patch(cluster, &name, &["~", "--type=json", "-p", r#"[{"op":"replace","path":"/spec/displayName","value":"I"}]"#])
        .unwrap();
    merge(r#"{"spec":{"language":null}}"#).unwrap();
    let spec = users.get(&name).await.unwrap().spec;
    assert_eq!((spec.display_name.as_deref(), spec.language), (Some("I"), None));
    // The next request reads what was written.
    let tried = merge(r#"{"spec":{"displayName":"Tried"}}"#.replace("Tried", "Only tried").as_str());
    tried.unwrap();
    let dry = patch(
        cluster,
        &name,
        &["~", "--type=merge", "--dry-run=server", "-o", "json", "-p", r#"{"spec":{"displayName":"Dry"}}"#],
    )
    .unwrap();
    assert!(dry.contains(r#""displayName": "Dry""#), "{dry}");
    assert_eq!(
        users.get(&name).await.unwrap().spec.display_name.as_deref(),
        Some("Only tried"),
        "a dry run changes nothing"
    );
    for (body, named) in [
        (r#"{"spec":{"admin":true}}"#, "spec.admin"),
        (r#"{"spec":{"groups":["engineers"]}}"#, "spec.groups"),
        (r#"{"spec":{"email":"other@example.com"}}"#, "spec.email"),
        (r#"{"spec":{"passwordSecretRef":{"namespace":"default","name":"x"}}}"#, "spec.passwordSecretRef"),
        (r#"{"metadata":{"labels":{"team":"admins"}}}"#, "metadata"),
        (r#"{"metadata":{"resourceVersion":"1"}}"#, "metadata.resourceVersion"),
        (r#"{"spec":{"timezone":"Mars/Olympus"}}"#, "spec.timezone"),
    ] {
        let refusal = merge(body).unwrap_err();
        assert!(refusal.contains(named), "{body}: {refusal}");
    }
    let refusal = merge("{\"spec\": {\"displayName\": \"Jane\u{202e}\"}}").unwrap_err();
    assert!(refusal.contains("direction of writing"), "{refusal}");
    let strategic = patch(cluster, &name, &["~", "--type=strategic", "-p", "{}"]).unwrap_err();
    assert!(strategic.contains("merge-patch"), "{strategic}");
    let by_name = patch(cluster, &name, &[&name, "--type=merge", "-p", "{}"]).unwrap_err();
    assert!(by_name.contains("Forbidden"), "{by_name}");
    let args = ["patch", USERS, &name, "--type=merge", "-p", "{}"];
    let administrator = cluster.plane.kubectl.run(&args).unwrap_err().to_string();
    assert!(administrator.contains("users.roster.dev"), "administrators learn where to write: {administrator}");
    let uid = json!(users.get(&name).await.unwrap().metadata.uid);
    assert!(uid.is_string());
}
