//! Keys that identify a user, in paths and in selectors by name, and keys that match two users.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::kubectl::{people, watched};
use super::{BASE, Direct, IDENTITY, directory, encoded, front_proxy, get, names};
use crate::support::{Cluster, create, eventually, unique, user, wait_until_ready};

const USERS: &str = "users.directory.roster.dev";

fn selected_by(key: &str) -> String {
    format!("users?fieldSelector={}", encoded(&format!("metadata.name={key}")))
}

async fn direct(cluster: &Cluster) -> Direct {
    let (certificate, key) = front_proxy(cluster);
    Direct::new(cluster, 0, Some((&certificate, &key))).await
}

/// Returns the identity headers of a user, as the aggregator sends them.
fn identity(username: &str) -> [(&str, &str); 2] {
    [("X-Remote-User", username), ("X-Remote-Group", "system:authenticated")]
}

#[tokio::test]
async fn case_c1_kubectl_watches_and_waits_by_every_key() {
    let cluster = directory();
    let domain = unique("keyed");
    let person = &people(cluster, &domain, 1).await[0];
    let uid = cluster.kubectl(&["get", "users.roster.dev", person, "-o", "jsonpath={.metadata.uid}"]);
    let email = format!("{person}@example.com");
    let watch_own = ["get", USERS, "~", "-w", "--no-headers", "--as", person, "--as-group=system:authenticated"];
    let keys = [
        &watch_own[..],
        &["get", USERS, person, "-w", "--no-headers"],
        &["get", USERS, &email, "-w", "--no-headers"],
        &["get", USERS, &uid, "-w", "--no-headers"],
    ];
    for (round, args) in keys.into_iter().enumerate() {
        let change = || {
            let label = format!("round=r{round}");
            cluster.kubectl(&["label", "users.roster.dev", person, &label, "--overwrite"]);
        };
        let printed = watched(cluster, args, 2, change).await;
        let first: Vec<&str> = printed.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(first, [person, person], "the current state, and one change: {printed}");
    }
    for key in [person, &email, &uid] {
        let object = format!("{USERS}/{key}");
        cluster.kubectl(&["wait", &object, "--for=condition=Ready", "--timeout=30s"]);
        cluster.kubectl(&["wait", &object, "--for=jsonpath={.status.state}=Active", "--timeout=30s"]);
    }
    let own = [&format!("--as={person}"), "--as-group=system:authenticated"];
    cluster.kubectl(&["wait", &format!("{USERS}/~"), "--for=condition=Ready", "--timeout=30s", own[0], own[1]]);
    // kubectl must not report a deletion while the user exists.
    let mut deleted = Command::new(&cluster.plane.kubectl.assets.kubectl)
        .env("KUBECONFIG", &cluster.plane.kubectl.kubeconfig)
        .args(["wait", &format!("{USERS}/{email}"), "--for=delete", "--timeout=60s"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(deleted.try_wait().unwrap().is_none(), "kubectl waits for as long as the user exists");
    cluster.kubectl(&["delete", "users.roster.dev", person]);
    assert!(deleted.wait().unwrap().success());
}

#[tokio::test]
async fn case_c1_selectors_by_name_take_the_keys_of_paths() {
    let cluster = directory();
    let domain = unique("keyed");
    let people = people(cluster, &domain, 2).await;
    let (jane, joe) = (&people[0], &people[1]);
    let uid = cluster.kubectl(&["get", "users.roster.dev", jane, "-o", "jsonpath={.metadata.uid}"]);
    for key in [jane, &uid, &format!("{jane}@example.com"), &format!("{jane}@EXAMPLE.com")] {
        let list = get(cluster, &selected_by(key));
        assert_eq!((names(&list), &list["total"]), (vec![jane.clone()], &json!(1)), "{key}");
        let watch = format!("{BASE}/{}&watch=true&timeoutSeconds=1", selected_by(key));
        let events = cluster.kubectl(&["get", "--raw", &watch]);
        let event: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!(jane)), "{key}");
    }
    assert_eq!(names(&get(cluster, &selected_by("nobody@example.com"))), Vec::<String>::new());
    let other_domain = encoded("metadata.name=~,spec.domain=elsewhere");
    let direct = direct(cluster).await;
    let own = |path: String| {
        let direct = &direct;
        async move { direct.get(&format!("{BASE}/{path}"), &identity(jane)).await }
    };
    assert_eq!(names(&own(selected_by("~")).await.json()), std::slice::from_ref(jane));
    assert_eq!(names(&own(format!("users?fieldSelector={other_domain}")).await.json()), Vec::<String>::new());
    // A caller that may read itself may not read others, and gets the same response whether or not they exist.
    for verb in ["", "&watch=true&timeoutSeconds=1"] {
        for key in [jane, joe, &uid, &format!("{joe}@example.com"), "nobody", "nobody@example.com"] {
            let refused = own(format!("{}{verb}", selected_by(key))).await;
            assert_eq!(refused.status, 403, "{key}: {}", refused.body);
            // The message names the key before the caller, so the first occurrence is replaced.
            let message = refused.json()["message"].as_str().unwrap().replacen(key, "KEY", 1);
            let missing = own(format!("{}{verb}", selected_by("missing"))).await.json();
            assert_eq!(message, missing["message"].as_str().unwrap().replacen("missing", "KEY", 1), "{key}");
        }
    }
    // A permission restricted to the name of a user applies to every key of that user.
    let (role, caller) = (unique("reader"), unique("reader"));
    cluster.kubectl(&[
        "create",
        "clusterrole",
        &role,
        "--verb=get,list,watch",
        &format!("--resource={USERS}"),
        &format!("--resource-name={jane}"),
    ]);
    cluster.kubectl(&["create", "clusterrolebinding", &role, "--clusterrole", &role, "--user", &caller]);
    eventually("the caller may read one user", || async {
        let answer = direct.get(&format!("{BASE}/{}", selected_by(&uid)), &identity(&caller)).await;
        if answer.status == 200 && names(&answer.json()) == [jane.clone()] { Ok(()) } else { Err(answer.body) }
    })
    .await;
    let refused =
        direct.get(&format!("{BASE}/{}", selected_by(&format!("{joe}@example.com"))), &identity(&caller)).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
}

/// I9: a key identifies a user by UID, also at revisions at which another user had its name. The caller may read itself
/// only, and must not learn about its predecessor.
#[tokio::test]
async fn i9_a_recycled_name_does_not_reveal_its_former_user() {
    let cluster = directory();
    let users = cluster.users().await;
    let name = unique("recycled");
    let (first, second) = (format!("first-{name}@example.com"), format!("second-{name}@example.com"));
    let begin = create(&users, &user(&unique("before"), false)).await.metadata.resource_version.unwrap();
    let mut person = user(&name, false);
    person.spec.email = Some(first.clone());
    person.spec.username = Some(format!("username-of-{name}"));
    create(&users, &person).await;
    let former = wait_until_ready(&users, &name).await.metadata;
    users.delete(&name, &kube::api::DeleteParams::default()).await.unwrap();
    eventually("it is gone", || async {
        users.get_opt(&name).await.unwrap().map_or(Ok(()), |user| Err(format!("{:?}", user.metadata)))
    })
    .await;
    person.spec.email = Some(second.clone());
    create(&users, &person).await;
    let own = wait_until_ready(&users, &name).await.metadata;
    let (former_uid, uid) = (former.uid.unwrap(), own.uid.unwrap());
    let (old, new) = (former.resource_version.unwrap(), own.resource_version.unwrap());
    let direct = direct(cluster).await;
    let username = format!("username-of-{name}");
    let identities: [(&str, &[(&str, &str)]); 3] =
        [("~", &identity(&username)), (&username, IDENTITY), (&second, IDENTITY)];
    for (key, headers) in identities {
        let read = |query: String| {
            let (direct, path) = (&direct, format!("{BASE}/{}&{query}", selected_by(key)));
            async move { direct.get(&path, headers).await }
        };
        let now = read(format!("resourceVersion={new}")).await;
        assert!(now.status == 200 && now.body.contains(&uid), "{key}: {}", now.body);
        let before = read(format!("resourceVersion={old}&resourceVersionMatch=Exact")).await;
        assert_eq!((before.status, names(&before.json())), (200, Vec::new()), "{key}");
        let events = read(format!("resourceVersion={begin}&watch=true&timeoutSeconds=1")).await;
        assert!(events.status == 200 && events.body.contains(&uid), "{key}: {}", events.body);
        for secret in [&former_uid, &first] {
            assert!(!events.body.contains(secret), "{key}: {}", events.body);
        }
    }
    // The name itself is a name, as in Kubernetes: a caller with a permission on it may read its history.
    let path = format!("{BASE}/{}&resourceVersion={old}&resourceVersionMatch=Exact", selected_by(&name));
    assert!(direct.get(&path, IDENTITY).await.body.contains(&former_uid));
}

/// A watch by a key ends when the key no longer identifies that user.
#[tokio::test]
async fn case_c1_a_watch_by_a_key_ends_when_the_key_moves() {
    let cluster = directory();
    let domain = unique("moved");
    let people = people(cluster, &domain, 2).await;
    let (email, other) = (format!("{}@example.com", people[0]), format!("{domain}@example.com"));
    let watch = |key: &str| format!("{BASE}/{}&watch=true&timeoutSeconds=30", selected_by(key));
    let set = |name: &str, email: &str| {
        let patch = json!({"spec": {"email": email}}).to_string();
        cluster.kubectl(&["patch", "users.roster.dev", name, "--type=merge", "-p", &patch]);
    };
    let (moving, coming) = (watch(&email), watch(&other));
    let (direct, later) = (direct(cluster).await, direct(cluster).await);
    let (moved, came, ()) = tokio::join!(direct.get(&moving, IDENTITY), later.get(&coming, IDENTITY), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        set(&people[0], &other);
        tokio::time::sleep(Duration::from_secs(2)).await;
        set(&people[1], &email);
    });
    for (what, answer) in [("the key identifies another user", moved), ("the key identifies a user", came)] {
        assert!(answer.body.contains(r#""type":"ERROR""#) && answer.body.contains("410"), "{what}: {}", answer.body);
    }
}

#[tokio::test]
async fn case_c7_a_key_of_two_users_is_refused_and_names_both() {
    let cluster = directory();
    let users = cluster.users().await;
    let (bob, alice) = (unique("bob"), unique("alice"));
    let mut named = user(&bob, false);
    named.spec.username = Some(unique("robert"));
    create(&users, &named).await;
    wait_until_ready(&users, &bob).await;
    // The guard allows this only if the requester may bind every role.
    let mut mistakable = user(&alice, false);
    mistakable.spec.username = Some(bob.clone());
    create(&users, &mistakable).await;
    wait_until_ready(&users, &alice).await;
    let direct = direct(cluster).await;
    let change = json!({"apiVersion": "directory.roster.dev/v1alpha1", "kind": "PasswordChange",
        "spec": {"newPassword": "a kangaroo in a red hat"}})
    .to_string();
    let unlock = json!({"apiVersion": "directory.roster.dev/v1alpha1", "kind": "Unlock", "spec": {}}).to_string();
    eventually("both are served", || async {
        let answer = direct.get(&format!("{BASE}/users/{bob}"), IDENTITY).await;
        if answer.status == 409 { Ok(()) } else { Err(answer.body) }
    })
    .await;
    for (method, path, body) in [
        ("GET", format!("users/{bob}"), ""),
        ("GET", format!("users/{bob}/quota"), ""),
        ("GET", selected_by(&bob), ""),
        ("GET", format!("{}&watch=true&timeoutSeconds=1", selected_by(&bob)), ""),
        ("GET", format!("roleassignments?user={bob}"), ""),
        ("POST", format!("users/{bob}/password"), &change),
        ("POST", format!("users/{bob}/unlock"), &unlock),
        ("DELETE", format!("users/{bob}/totp"), ""),
    ] {
        let answer = direct.send(method, &format!("{BASE}/{path}"), IDENTITY, body).await.unwrap();
        assert_eq!(answer.status, 409, "{method} {path}: {}", answer.body);
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        for part in [format!("User {alice} (username {bob}, UID "), format!("User {bob} (username robert-")] {
            assert!(message.contains(&part), "{method} {path}: {message}");
        }
    }
    // Callers without access do not notice. Callers with access to one of them get that one.
    let nobody = unique("nobody");
    let refused = direct.get(&format!("{BASE}/users/{bob}"), &identity(&nobody)).await;
    let missing = direct.get(&format!("{BASE}/users/missing"), &identity(&nobody)).await;
    assert_eq!(refused.body.replace(&bob, "KEY"), missing.body.replace("missing", "KEY"));
    assert_eq!(refused.status, 403);
    let role = unique("reader");
    let name = format!("--resource-name={alice}");
    cluster.kubectl(&["create", "clusterrole", &role, "--verb=get", &format!("--resource={USERS}"), &name]);
    cluster.kubectl(&["create", "clusterrolebinding", &role, "--clusterrole", &role, "--user", &role]);
    eventually("one of them may be read", || async {
        let answer = direct.get(&format!("{BASE}/users/{bob}"), &identity(&role)).await;
        let is_alice = answer.status == 200 && answer.json()["metadata"]["name"] == json!(alice);
        if is_alice { Ok(()) } else { Err(answer.body) }
    })
    .await;
    // The UID addresses each of them, and every response to an action names the User and its username.
    let uid = users.get(&alice).await.unwrap().metadata.uid.unwrap();
    let path = format!("{BASE}/users/{uid}");
    for (action, body) in [("password", &change), ("unlock", &unlock)] {
        let answer = direct.send("POST", &format!("{path}/{action}"), IDENTITY, body).await.unwrap();
        assert_eq!(answer.status, 201, "{action}: {}", answer.body);
        let answer = answer.json();
        assert_eq!(answer["metadata"]["name"], json!(alice), "{action}");
        assert_eq!(answer["status"]["user"], json!({"name": alice, "username": bob, "uid": uid}), "{action}");
    }
    let roles = direct.get(&format!("{path}/roleassignments"), IDENTITY).await;
    assert_eq!(roles.status, 200, "{}", roles.body);
}

#[tokio::test]
async fn case_c7_a_user_cannot_be_renamed_to_the_name_of_another_user() {
    let cluster = directory();
    let domain = unique("renamed");
    let users = cluster.users().await;
    let (one, other) = (people(cluster, &domain, 1).await.remove(0), unique("other"));
    let mut named = user(&other, false);
    named.spec.username = Some(unique("someone"));
    create(&users, &named).await;
    wait_until_ready(&users, &other).await;
    let body = json!({"apiVersion": "directory.roster.dev/v1alpha1", "kind": "Rename", "spec": {"username": other}});
    let path = format!("{BASE}/users/{one}/rename?dryRun=All");
    eventually("the other user is known", || async {
        let args = ["create", "--raw", &path, "-f", "-"];
        let answer = cluster.plane.kubectl.run_with_input(&args, &body.to_string()).map_err(|error| error.to_string());
        match answer {
            Err(refusal) if refusal.contains(&format!("is the name (metadata.name) of User {other}")) => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    })
    .await;
}
