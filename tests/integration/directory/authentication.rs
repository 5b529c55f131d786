//! Authentication by certificates, headers and tokens, and what unauthorized callers learn.

use roster_harness::pki::Authority;
use serde_json::{Value, json};

use super::{BASE, Direct, IDENTITY, directory, front_proxy, get};
use crate::logins::person;
use crate::support::{Cluster, create, eventually, unique, user, wait_until_ready};

/// Issues a client certificate with that common name. Returns the certificate and its key, PEM.
fn certificate(authority: &Authority, common_name: &str) -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.client(dir.path(), "client", common_name, &[]).unwrap();
    (std::fs::read_to_string(certificate).unwrap(), std::fs::read_to_string(key).unwrap())
}

async fn ask(cluster: &Cluster, certificate: Option<&(String, String)>, headers: &[(&str, &str)]) -> u16 {
    let pair = certificate.map(|(certificate, key)| (certificate.as_str(), key.as_str()));
    Direct::new(cluster, 0, pair).await.get(&format!("{BASE}/users?limit=1"), headers).await.status
}

#[tokio::test]
async fn identity_headers_require_the_front_proxys_certificate() {
    let cluster = directory();
    let own = front_proxy(cluster);
    assert_eq!(ask(cluster, Some(&own), IDENTITY).await, 200);
    assert_eq!(ask(cluster, Some(&own), &[]).await, 401, "the aggregator itself has no identity");
    assert_eq!(ask(cluster, None, IDENTITY).await, 401, "headers without a certificate");
    let pki = cluster.plane.dir.join("pki");
    let front_proxy_ca = Authority::load(&pki, "front-proxy-ca").unwrap();
    let wrong_name = certificate(&front_proxy_ca, "somebody-else");
    assert_eq!(ask(cluster, Some(&wrong_name), IDENTITY).await, 401, "another common name");
    let cluster_ca = Authority::load(&pki, "ca").unwrap();
    let wrong_authority = certificate(&cluster_ca, "front-proxy-client");
    assert_eq!(ask(cluster, Some(&wrong_authority), IDENTITY).await, 401, "the authority of ordinary clients");
    let mixed = [IDENTITY, &[("Authorization", "Bearer nonsense")]].concat();
    assert_eq!(ask(cluster, None, &mixed).await, 401);
    // Probes need no authentication, and reveal nothing.
    let direct = Direct::new(cluster, 0, None).await;
    assert_eq!(direct.get("/livez", &[]).await.status, 200);
    for path in ["/", "/apis", "/openapi/v3", "/metrics", BASE] {
        assert_eq!(direct.get(path, &[]).await.status, 401, "{path}");
    }
}

/// An identity may have thousands of groups, and only kube-apiserver sends them as headers.
#[tokio::test]
async fn only_kube_apiserver_may_send_large_headers() {
    let cluster = directory();
    let groups: Vec<String> = (0..2000).map(|at| format!("group-{at}-of-an-identity-with-many")).collect();
    let headers: Vec<_> = groups.iter().map(|group| ("X-Remote-Group", group.as_str())).collect();
    let headers = [IDENTITY, &headers].concat();
    assert_eq!(ask(cluster, Some(&front_proxy(cluster)), &headers).await, 200);
    assert_eq!(ask(cluster, None, &headers).await, 431, "too many");
    let long = "x".repeat(80 * 1024);
    assert_eq!(ask(cluster, None, &[("X-Long", &long)]).await, 431, "too long");
    let token = format!("Bearer {}", "x".repeat(16 * 1024));
    assert_eq!(ask(cluster, None, &[("Authorization", &token)]).await, 401, "the longest token is still verified");
}

/// kube-apiserver periodically writes its own authority to the ConfigMap, and keeps others in it.
#[tokio::test]
async fn changes_of_the_front_proxys_authorities_are_followed() {
    let cluster = directory();
    let dir = tempfile::tempdir().unwrap();
    let next = Authority::create(dir.path(), "next").unwrap();
    let client = certificate(&next, "front-proxy-client");
    assert_eq!(ask(cluster, Some(&client), IDENTITY).await, 401, "before it is trusted");
    let config_map =
        || cluster.plane.kubectl.get(&["configmap", "extension-apiserver-authentication", "-n", "kube-system"]);
    let before = config_map().unwrap()["data"]["requestheader-client-ca-file"].as_str().unwrap().to_owned();
    let set = |bundle: &str| {
        let patch = json!({"data": {"requestheader-client-ca-file": bundle}}).to_string();
        cluster.kubectl(&[
            "patch",
            "configmap",
            "extension-apiserver-authentication",
            "-n",
            "kube-system",
            "-p",
            &patch,
        ]);
    };
    set(&format!("{before}{}", std::fs::read_to_string(&next.cert).unwrap()));
    let becomes = async |expected: u16, what: &str| {
        eventually(what, || async {
            match ask(cluster, Some(&client), IDENTITY).await {
                status if status == expected => Ok(()),
                status => Err(status.to_string()),
            }
        })
        .await;
    };
    becomes(200, "a new authority is trusted without a restart").await;
    assert_eq!(ask(cluster, Some(&front_proxy(cluster)), IDENTITY).await, 200, "the old one is still trusted");
    set(&before);
    becomes(401, "an authority that was rotated out is no longer trusted").await;
    assert_eq!(ask(cluster, Some(&front_proxy(cluster)), IDENTITY).await, 200);
}

#[tokio::test]
async fn a_bearer_token_is_reviewed() {
    let cluster = directory();
    let direct = Direct::new(cluster, 1, None).await;
    let account = unique("reader");
    cluster.kubectl(&["create", "serviceaccount", &account]);
    let token = cluster.kubectl(&["create", "token", &account]);
    let bearer = format!("Bearer {}", token.trim());
    let headers = [("Authorization", bearer.as_str())];
    let path = format!("{BASE}/users?limit=1");
    let refused = direct.get(&path, &headers).await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.json()["details"]["kind"], "users");
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        &account,
        "--clusterrole=roster-directory-reader",
        &format!("--serviceaccount=default:{account}"),
    ]);
    // Denials are cached for ten seconds, as in upstream's delegated authorization.
    eventually("the account may read", || async {
        match direct.get(&path, &headers).await.status {
            200 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    let discovery = direct.get(BASE, &headers).await;
    assert_eq!(discovery.status, 200);
    assert_eq!(direct.get(&path, &[("Authorization", "Bearer nonsense")]).await.status, 401);
}

/// Returns the response that a user gets for a path, or the complete error text.
fn ask_as(cluster: &Cluster, person: &str, path: &str) -> Result<String, String> {
    let path = format!("{BASE}/{path}");
    let output = cluster.plane.kubectl.output(&["get", "--as", person, "--raw", &path], "").unwrap();
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn users_read_themselves_and_learn_nothing_about_others() {
    let cluster = directory();
    let users = cluster.users().await;
    let (me, other) = (unique("me"), unique("other"));
    for name in [&me, &other] {
        let mut user = user(name, false);
        user.spec.email = Some(format!("{name}@example.com"));
        create(&users, &user).await;
        wait_until_ready(&users, name).await;
    }
    let own: Value = eventually("the User is served", || async {
        ask_as(cluster, &me, "users/~").map(|text| serde_json::from_str(&text).unwrap())
    })
    .await;
    assert_eq!((&own["metadata"]["name"], &own["status"]["current"]), (&json!(me), &json!(true)));
    for part in ["groups", "locks", "namespaces", "permissions", "roleassignments"] {
        ask_as(cluster, &me, &format!("users/~/{part}")).unwrap_or_else(|error| panic!("{part}: {error}"));
    }
    // By name, the caller needs the same permission as for others.
    assert!(ask_as(cluster, &me, &format!("users/{me}")).unwrap_err().contains("Forbidden"));
    let email = format!("{other}@example.com");
    for part in ["", "/groups", "/permissions", "/locks"] {
        let refusal = |key: &str| ask_as(cluster, &me, &format!("users/{key}{part}")).unwrap_err().replace(key, "KEY");
        let of_nobody = refusal("nobody-of-that-name");
        assert!(of_nobody.contains("Forbidden"), "{of_nobody}");
        assert_eq!(refusal(&other), of_nobody, "the response does not reveal whether the user exists");
        assert_eq!(refusal(&email), of_nobody, "nor whose email it is");
    }
    // Without kube-apiserver, which authorizes by itself, the answers are the same.
    let (certificate, key) = front_proxy(cluster);
    let direct = Direct::new(cluster, 0, Some((&certificate, &key))).await;
    let as_me = [("X-Remote-User", me.as_str()), ("X-Remote-Group", "system:authenticated")];
    let mut answers = Vec::new();
    for key in ["nobody-of-that-name", &other, &email] {
        let answer = direct.get(&format!("{BASE}/users/{key}"), &as_me).await;
        answers.push((answer.status, answer.body.replace(key, "KEY")));
    }
    assert_eq!(answers[0].0, 403);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(direct.get(&format!("{BASE}/users/~"), &as_me).await.json()["metadata"]["name"], json!(me));
    for path in ["users", "groups", "roleassignments", "groups/any/members", "users?watch=true"] {
        assert!(ask_as(cluster, &me, path).unwrap_err().contains("Forbidden"), "{path}");
    }
}

/// I3 and I9 for the directory: a disabled user can't query, and a deleted UID identifies no user.
#[tokio::test]
async fn i3_disabled_users_cannot_query() {
    let cluster = directory();
    let users = cluster.users().await;
    let name = unique("leaving");
    let uid = create(&users, &user(&name, false)).await.metadata.uid.unwrap();
    wait_until_ready(&users, &name).await;
    let (certificate, key) = front_proxy(cluster);
    let direct = Direct::new(cluster, 0, Some((&certificate, &key))).await;
    let path = format!("{BASE}/users/~");
    let me = [("X-Remote-User", name.as_str()), ("X-Remote-Uid", uid.as_str())];
    eventually("the user is served", || async {
        match direct.get(&path, &me).await.status {
            200 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    let stranger = [("X-Remote-User", name.as_str()), ("X-Remote-Uid", "of-another-life")];
    assert_eq!(direct.get(&path, &stranger).await.status, 404, "the UID of an earlier User is not this user");
    cluster.kubectl(&["patch", "users.roster.dev", &name, "--type=merge", "-p", r#"{"spec":{"state":"Disabled"}}"#]);
    let refused = async |what: &str| {
        eventually(what, || async {
            match direct.get(&path, &me).await.status {
                401 => Ok(()),
                status => Err(status.to_string()),
            }
        })
        .await;
    };
    refused("requests are rejected, although permissions are cached").await;
    cluster.kubectl(&["delete", "users.roster.dev", &name]);
    create(&users, &user(&name, false)).await;
    wait_until_ready(&users, &name).await;
    refused("the name belongs to another user now").await;
}

/// A caller with the username of a User has its rights, whatever UID its authenticator reports. So what protects people
/// from a stolen session protects them from it, too.
#[tokio::test]
async fn a_uid_of_another_authenticator_does_not_avoid_the_confirmation_of_actions_on_oneself() {
    let cluster = directory();
    let name = person(cluster, "elsewhere", |_| {}).await;
    let desk = "--clusterrole=roster-credential-administrator";
    cluster.kubectl(&["create", "clusterrolebinding", &name, desk, "--user", &name]);
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        &format!("{name}-bind"),
        "--clusterrole=cluster-admin",
        "--user",
        &name,
    ]);
    for uid in [None, Some("auth0|1000")] {
        for (action, kind, spec) in [
            ("invitation", "Invitation", "{}"),
            ("apikeys", "APIKey", r#"{"displayName": "mine"}"#),
            ("password", "PasswordChange", r#"{"newPassword": "a long enough password"}"#),
        ] {
            let body =
                format!(r#"{{"apiVersion": "directory.roster.dev/v1alpha1", "kind": "{kind}", "spec": {spec}}}"#);
            let path = format!("{BASE}/users/{name}/{action}?dryRun=All");
            let mut args = vec!["--as", &name, "create", "--raw", &path, "-f", "-"];
            if let Some(uid) = uid {
                args.extend(["--as-uid", uid]);
            }
            let refused = cluster.plane.kubectl.run_with_input(&args, &body);
            let refused =
                refused.map_or_else(|error| format!("{error:#}"), |printed| panic!("{uid:?} {action}: {printed}"));
            let expected = ["invite yourself", "currentPassword", "oldPassword"];
            assert!(expected.iter().any(|text| refused.contains(text)), "{uid:?} {action}: {refused}");
        }
    }
}

/// I3 for watches: they end with the permission and with the user.
#[tokio::test]
async fn i3_a_watch_ends_with_its_user() {
    let cluster = directory();
    let users = cluster.users().await;
    let name = unique("watching");
    create(&users, &user(&name, false)).await;
    wait_until_ready(&users, &name).await;
    cluster.kubectl(&["create", "clusterrolebinding", &name, "--clusterrole=roster-directory-reader", "--user", &name]);
    let (certificate, key) = front_proxy(cluster);
    let direct = Direct::new(cluster, 0, Some((&certificate, &key))).await;
    let me = [("X-Remote-User", name.as_str())];
    let path = format!("{BASE}/groups?watch=true&timeoutSeconds=300");
    eventually("the caller may read groups", || async {
        match direct.get(&format!("{BASE}/groups?limit=1"), &me).await.status {
            200 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    let watch = direct.get(&path, &me);
    let disable = async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        cluster.kubectl(&["patch", "users.roster.dev", &name, "--type=merge", "-p", r#"{"spec":{"state":"Banned"}}"#]);
    };
    let (answer, ()) = tokio::join!(watch, disable);
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with("0\r\n\r\n"), "the response ends long before its timeout: {}", answer.body);
}

#[tokio::test]
async fn a_user_is_found_by_name_username_email_and_uid() {
    let cluster = directory();
    let users = cluster.users().await;
    let name = unique("found");
    let mut manifest = user(&name, false);
    manifest.spec.username = Some(format!("U.{name}"));
    manifest.spec.email = Some(format!("Found.{name}@Example.com"));
    manifest.spec.additional_emails = vec![format!("second-{name}@example.com")];
    let uid = create(&users, &manifest).await.metadata.uid.unwrap();
    wait_until_ready(&users, &name).await;
    let keys = [
        name.clone(),
        format!("u.{name}"),
        format!("found.{name}@example.com"),
        format!("SECOND-{name}@example.com"),
        uid,
    ];
    for key in keys {
        let found = eventually("it is found", || async {
            let path = format!("{BASE}/users/{key}");
            cluster.plane.kubectl.run(&["get", "--raw", &path]).map_err(|error| error.to_string())
        })
        .await;
        assert_eq!(serde_json::from_str::<Value>(&found).unwrap()["metadata"]["name"], json!(name), "{key}");
    }
    let missing = cluster.plane.kubectl.run(&["get", "--raw", &format!("{BASE}/users/nobody")]).unwrap_err();
    assert!(missing.to_string().contains("users.directory.roster.dev \"nobody\" not found"), "{missing}");
    assert_eq!(get(cluster, "users?limit=1")["kind"], "UserList");
}
