//! Renames: the user keeps its credential and nothing else.

use std::time::Duration;

use serde_json::{Value, json};

use super::{FLAGS, PASSWORD, api_keys, body, logins, own_status, person, post, token, with_password};
use crate::directory::{Answer, BASE, Direct, wait_until_served};
use crate::support::{Cluster, can, eventually, unique, user_where, wait_until_can};

async fn rename(direct: &Direct, key: &str, bearer: &str, username: &str) -> Answer {
    post(direct, &format!("users/{key}/rename"), Some(bearer), &body("Rename", &json!({"username": username}))).await
}

/// Renames as cluster administrator, through kube-apiserver.
pub(super) fn rename_as_administrator(cluster: &Cluster, key: &str, username: &str) -> anyhow::Result<String> {
    let file = cluster.plane.dir.join(format!("{}.json", unique("rename")));
    std::fs::write(&file, body("Rename", &json!({"username": username}))).unwrap();
    let path = format!("{BASE}/users/{key}/rename");
    cluster.plane.kubectl.run(&["create", "--raw", &path, "-f", file.to_str().unwrap()])
}

pub(super) async fn wait_until_named(cluster: &Cluster, name: &str, username: &str) {
    user_where(&cluster.users().await, name, "it has the new username", |user| {
        let ready = crate::support::condition(user, "Ready").is_some_and(|ready| ready.status == "True");
        ready && user.status.as_ref().and_then(|status| status.username.as_deref()) == Some(username)
    })
    .await;
}

async fn wait_until_logged_in(direct: &Direct, username: &str) -> String {
    eventually("logins with the new username work", || async {
        let answer = with_password(direct, username, PASSWORD).await;
        if answer.status == 201 { Ok(super::token_of(&answer)) } else { Err(answer.body) }
    })
    .await
}

/// The names of identity Secrets that belong to the User.
fn identities(cluster: &Cluster, name: &str) -> Vec<Value> {
    let all = cluster.kubectl(&["get", "secrets", "-n", "roster-system", "-l", "roster.dev/identifier", "-o", "json"]);
    let all: Value = serde_json::from_str(&all).unwrap();
    let items = all["items"].as_array().unwrap().iter();
    items.filter(|secret| secret["metadata"]["ownerReferences"][0]["name"] == name).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_user_keeps_the_credential_and_releases_the_name() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name =
        person(cluster, "maiden", |user| user.spec.email = Some(format!("{}@example.com", unique("mail")))).await;
    let married = unique("married");
    let (binding, native) = (unique("rename"), unique("native"));
    cluster.apply(&format!(
        "apiVersion: roster.dev/v1alpha1\nkind: RoleBinding\nmetadata: {{name: {binding}}}\nspec:\n  subjects: [{{kind: User, name: {name}}}]\n  roleRef: {{kind: ClusterRole, name: view}}\n  scope: {{namespaces: [default]}}\n"
    ));
    cluster.kubectl(&["create", "rolebinding", &native, "--clusterrole=edit", "--user", &name, "-n", "default"]);
    wait_until_can(cluster, &name, &["get", "pods", "-n", "default"], true).await;
    let session = token(&direct, &name, PASSWORD).await;
    let key = api_keys::key(&direct, &session).await;

    rename_as_administrator(cluster, &name, &married).unwrap();
    wait_until_named(cluster, &name, &married).await;
    let renamed = wait_until_logged_in(&direct, &married).await;
    assert_eq!(own_status(&direct, &renamed).await, 200);
    assert_eq!(with_password(&direct, &name, PASSWORD).await.status, 401, "the earlier name belongs to no user");
    assert_eq!(own_status(&direct, &session).await, 401, "a token contains the former username");
    assert_eq!(own_status(&direct, &key).await, 200, "an API key stays valid after a rename");
    wait_until_can(cluster, &married, &["get", "pods", "-n", "default"], true).await;
    assert!(
        !can(cluster, &married, &["create", "pods", "-n", "default"]),
        "the native binding of an administrator names the earlier username"
    );
    assert_eq!(identities(cluster, &name).len(), 2, "the username and the address");

    // The old name is free, and a user that takes it inherits nothing.
    let heir = unique("heir");
    cluster.apply(&format!(
        "apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {heir}}}\nspec: {{username: {name}}}\n"
    ));
    wait_until_named(cluster, &heir, &name).await;
    assert_eq!(own_status(&direct, &session).await, 401);
    assert_eq!(with_password(&direct, &name, PASSWORD).await.status, 401);
    // Its name stands for both users now, so the renamed one is addressed by its username.
    let ambiguous = rename_as_administrator(cluster, &name, &name).unwrap_err();
    assert!(format!("{ambiguous:#}").contains("stands for several users"), "{ambiguous:#}");
    let taken = rename_as_administrator(cluster, &married, &name).unwrap_err();
    assert!(
        format!("{taken:#}").contains(&format!("already exists: User {heir} holds or is waiting for it")),
        "{taken:#}"
    );
}

/// Emails are login names too: an email may become the username, and the username an email.
#[tokio::test(flavor = "multi_thread")]
async fn an_own_email_may_become_the_username_and_an_email_again() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let address = format!("{}@example.com", unique("own"));
    let name = person(cluster, "plain", |user| user.spec.email = Some(address.clone())).await;
    for username in [&address, &name] {
        rename_as_administrator(cluster, &name, username).unwrap();
        wait_until_named(cluster, &name, username).await;
        wait_until_logged_in(&direct, username).await;
        wait_until_logged_in(&direct, &address).await;
    }
    let kinds: Vec<bool> = identities(cluster, &name)
        .iter()
        .map(|secret| (secret["metadata"]["labels"]["roster.dev/identifier"] == "username", &secret["data"]))
        .map(|(is_username, data)| {
            assert_eq!(is_username, data["passwordHash"].is_string(), "the hash is the username's alone");
            is_username
        })
        .collect();
    assert_eq!(kinds.len(), 2);
    assert!(kinds.contains(&true) && kinds.contains(&false));
}

/// I4: renaming needs the permissions of an identity change.
#[tokio::test(flavor = "multi_thread")]
async fn i4_renames_require_the_rights_of_both_names() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let clerk = person(cluster, "clerk", |_| {}).await;
    let (weak, strong) = (person(cluster, "weak", |_| {}).await, person(cluster, "strong", |_| {}).await);
    let (throne, held) = (unique("throne"), person(cluster, "held", |_| {}).await);
    cluster.kubectl(&[
        "create",
        "clusterrole",
        &clerk,
        "--verb=create",
        "--resource=users.directory.roster.dev/rename",
    ]);
    cluster.kubectl(&["create", "clusterrolebinding", &clerk, "--clusterrole", &clerk, "--user", &clerk]);
    for (at, user) in [&strong, &throne].into_iter().enumerate() {
        let binding = format!("{throne}-{at}");
        cluster.kubectl(&["create", "clusterrolebinding", &binding, "--clusterrole=cluster-admin", "--user", user]);
    }
    let session = token(&direct, &clerk, PASSWORD).await;
    let fresh = unique("fresh");
    eventually("the clerk may rename, and the bindings are known", || async {
        let (into, out) =
            (rename(&direct, &weak, &session, &throne).await, rename(&direct, &strong, &session, &fresh).await);
        match (into.status, out.status) {
            (403, 403) if [&into, &out].iter().all(|answer| answer.body.contains("may not bind")) => Ok(()),
            (201, _) | (_, 201) => panic!("{} {}", into.body, out.body),
            _ => Err(format!("{} {}", into.body, out.body)),
        }
    })
    .await;
    for (key, username, status, said) in [
        (weak.as_str(), "system:masters", 422, "spec.username"),
        (&weak, "no spaces", 422, "spec.username"),
        (&weak, &held, 409, "already exists: another User holds or is waiting for it"),
        ("~", &fresh, 403, ""),
        ("nobody-at-all", &fresh, 404, ""),
    ] {
        let refused = rename(&direct, key, &session, username).await;
        assert_eq!(refused.status, status, "{key} to {username}: {}", refused.body);
        assert!(refused.body.contains(said), "{key} to {username}: {}", refused.body);
    }
    let key = api_keys::key(&direct, &session).await;
    assert_eq!(rename(&direct, &weak, &key, &fresh).await.status, 403, "API keys are not accepted");
    let own = token(&direct, &weak, PASSWORD).await;
    assert_eq!(rename(&direct, "~", &own, &fresh).await.status, 403, "users can't rename themselves");
    let patch = format!(r#"{{"spec":{{"username":"{fresh}"}}}}"#);
    let by_hand = cluster.plane.kubectl.run(&["patch", "users.roster.dev", &weak, "--type=merge", "-p", &patch]);
    assert!(format!("{:#}", by_hand.unwrap_err()).contains("spec.username is immutable"));
    assert_eq!(rename(&direct, &weak, &session, &fresh).await.status, 201);
    wait_until_named(cluster, &weak, &fresh).await;
}

/// I7: after a kill at any instant, the credential follows the name.
#[tokio::test(flavor = "multi_thread")]
async fn i7_a_rename_survives_a_kill_at_any_instant() {
    let cluster = Cluster::create("rename-kill", &[]);
    // A restarted replica with the same identity takes over its own lease at once.
    let flags = [FLAGS, &["--identity", "rename"]].concat();
    cluster.start_operator(&flags);
    wait_until_served(&cluster);
    let name = person(&cluster, "unsettled", |_| {}).await;
    let direct = Direct::new(&cluster, 0, None).await;
    let key = api_keys::key(&direct, &token(&direct, &name, PASSWORD).await).await;
    for delay in [0, 3, 6, 10, 15, 20, 30, 45] {
        let username = unique("settled");
        rename_as_administrator(&cluster, &name, &username).unwrap();
        tokio::time::sleep(Duration::from_millis(delay)).await;
        cluster.operators().pop().unwrap().kill();
        let left = identities(&cluster, &name);
        let steps: Vec<bool> =
            left.iter().map(|secret| secret["metadata"]["annotations"]["roster.dev/closed"].is_string()).collect();
        println!("killed after {delay} ms: of each identity Secret, whether it is closed: {steps:?}");
        cluster.start_operator(&flags);
        wait_until_served(&cluster);
        wait_until_named(&cluster, &name, &username).await;
        let direct = Direct::new(&cluster, 0, None).await;
        wait_until_logged_in(&direct, &username).await;
        assert_eq!(own_status(&direct, &key).await, 200);
        let left = identities(&cluster, &name);
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
