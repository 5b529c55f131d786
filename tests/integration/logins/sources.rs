//! Source addresses of logins, and which proxies are trusted to report them.

use serde_json::json;

use super::{PASSWORD, attempt, body, kubectl_as, logins, person, post, with_password};
use crate::directory::{BASE, Direct};
use crate::support::unique;

/// Attempts an unauthenticated login through kube-apiserver, with headers chosen by the client. Returns the status.
fn through_api_server(cluster: &crate::support::Cluster, username: &str, headers: &[&str]) -> u16 {
    let ca = cluster.plane.dir.join("pki/ca.crt");
    let url = format!("{}{BASE}/logins", cluster.plane.url);
    let body = body("Login", &json!({"username": username, "password": PASSWORD}));
    let mut curl = std::process::Command::new("curl");
    curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]).arg(ca);
    curl.args(["-H", "Content-Type: application/json", "-d", &body, &url]);
    curl.args(headers.iter().flat_map(|header| ["-H", header]));
    let output = curl.output().expect("curl runs");
    String::from_utf8_lossy(&output.stdout).parse().expect("a status")
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed_networks_are_enforced_and_client_addresses_are_not_trusted() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let here = person(cluster, "here", |user| user.spec.allowed_cidrs = vec!["127.0.0.0/8".into()]).await;
    let elsewhere = person(cluster, "elsewhere", |user| user.spec.allowed_cidrs = vec!["203.0.113.0/24".into()]).await;
    assert_eq!(with_password(&direct, &here, PASSWORD).await.status, 201);
    assert_eq!(with_password(&direct, &elsewhere, PASSWORD).await.status, 401);
    let lie = "X-Forwarded-For: 203.0.113.7";
    let body = body("Login", &json!({"username": elsewhere, "password": PASSWORD}));
    let lying = [("X-Forwarded-For", "203.0.113.7")];
    let answer = direct.send("POST", &format!("{BASE}/logins"), &lying, &body).await.unwrap();
    assert_eq!(answer.status, 401);
    assert_eq!(through_api_server(cluster, &here, &[]), 201);
    assert_eq!(through_api_server(cluster, &here, &[lie]), 201, "kube-apiserver appends what it knows");
    assert_eq!(through_api_server(cluster, &elsewhere, &[lie]), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn applications_with_permission_can_verify_passwords() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "reviewed", |user| user.spec.allowed_cidrs = vec!["203.0.113.0/24".into()]).await;
    let account = unique("application");
    cluster.kubectl(&["create", "serviceaccount", &account]);
    let token = cluster.kubectl(&["create", "token", &account]).trim().to_owned();
    let review = |spec: serde_json::Value| {
        let (direct, token) = (&direct, &token);
        async move { post(direct, "passwordreviews", Some(token), &body("PasswordReview", &spec)).await }
    };
    let good = json!({"username": name, "password": PASSWORD, "sourceIP": "203.0.113.7"});
    assert_eq!(review(good.clone()).await.status, 403);
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        &account,
        "--clusterrole=roster-password-reviewer",
        &format!("--serviceaccount=default:{account}"),
    ]);
    // Denials are cached for ten seconds, so use another application.
    let _ = kubectl_as(cluster, &token);
    let answer = crate::support::eventually("the application may verify passwords", || async {
        let answer = review(good.clone()).await;
        if answer.status == 201 { Ok(answer.json()) } else { Err(answer.body) }
    })
    .await;
    assert_eq!(answer["status"]["authenticated"], true);
    assert_eq!(answer["status"]["user"]["username"], json!(name));
    assert!(!answer.to_string().contains(PASSWORD));
    for bad in [
        json!({"username": name, "password": "wrong", "sourceIP": "203.0.113.7"}),
        json!({"username": name, "password": PASSWORD, "sourceIP": "198.51.100.7"}),
        json!({"username": name, "password": PASSWORD}),
        json!({"username": "nobody-at-all", "password": PASSWORD, "sourceIP": "203.0.113.7"}),
    ] {
        assert_eq!(review(bad).await.json()["status"], json!({"authenticated": false}));
    }
}

#[tokio::test]
async fn invalid_logins_are_reported_by_field_and_never_quoted() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    for (spec, field) in [
        (json!({"username": "", "password": "s3cret"}), "spec.username"),
        (json!({"username": "x"}), "spec"),
        (json!({"username": "x", "password": "s3cret", "invitation": "s3cret"}), "spec"),
        (json!({"username": "x", "invitation": "s3cret"}), "spec.newPassword"),
        (json!({"username": "x", "password": "s3cret", "audience": "elsewhere"}), "spec.audience"),
    ] {
        let answer = attempt(&direct, &spec).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(answer.json()["details"]["causes"][0]["field"], field);
        assert!(!answer.body.contains("s3cret"));
    }
    let login =
        |spec: &str| format!(r#"{{"apiVersion": "directory.roster.dev/v1alpha1", "kind": "Login", "spec": {spec}}}"#);
    for body in [
        login(r#"{"username": "x", "password": ["s3cret"]}"#),
        login(r#"{"username": "x", "passwort": "s3cret"}"#),
        login(r#""s3cret""#),
        r#"{"kind": "s3cret"#.to_owned(),
        login(r#"{"username": "x", "password": "s3cret"}"#).replace("Login", "PasswordReview"),
    ] {
        let answer = post(&direct, "logins", None, &body).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert!(!answer.body.contains("s3cret"), "{}", answer.body);
    }
    let answer = direct.get(&format!("{BASE}/logins"), &[]).await;
    assert_eq!(answer.status, 405);
}
