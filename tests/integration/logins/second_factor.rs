//! Second factor: enrollment, confirmation, codes, recovery codes, removal.

use roster_api::user::SecondFactor;
use serde_json::json;

use super::{PASSWORD, attempt, body, code, logins, own_status, person, post, token, token_of, with_password};
use crate::directory::{BASE, Direct};
use crate::support::{eventually, user_where};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_enrolled_confirmed_used_and_removed() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let other = Direct::new(cluster, 1, None).await;
    let name = person(cluster, "totp", |_| {}).await;
    let session = token(&direct, &name, PASSWORD).await;
    let enroll = |spec: serde_json::Value| {
        let (direct, session) = (&direct, &session);
        async move { post(direct, "users/~/totp", Some(session), &body("TOTPEnrollment", &spec)).await }
    };
    let password = json!({"currentPassword": PASSWORD});
    assert_eq!(enroll(json!({"code": "123456"})).await.status, 422, "there is nothing to confirm yet");
    let made = enroll(password.clone()).await.json();
    let seed = made["status"]["enrollment"]["secret"].as_str().unwrap().to_owned();
    assert!(made["status"]["enrollment"]["url"].as_str().unwrap().starts_with("otpauth://totp/Roster:"));
    assert_eq!(with_password(&direct, &name, PASSWORD).await.status, 201, "it is not confirmed yet");
    let confirmed = enroll(json!({"code": code(&seed, 0)})).await;
    assert_eq!(confirmed.status, 201, "{}", confirmed.body);
    let recovery = confirmed.json()["status"]["recoveryCodes"].as_array().unwrap().clone();
    assert_eq!(recovery.len(), 10);
    assert_eq!(enroll(password).await.status, 409);
    user_where(&cluster.users().await, &name, "the status says so", |user| {
        user.status.as_ref().is_some_and(|status| status.second_factor_enabled == Some(true))
    })
    .await;

    let challenge = with_password(&other, &name, PASSWORD).await.json();
    assert_eq!(challenge["status"], json!({"challenge": "Code"}));
    let with_code = |code: String| json!({"username": name, "password": PASSWORD, "code": code});
    // The same code at both replicas concurrently is accepted once.
    let now = code(&seed, 1);
    let (one, two) = tokio::join!(async { attempt(&direct, &with_code(now.clone())).await.status }, async {
        attempt(&other, &with_code(now.clone())).await.status
    });
    assert_eq!([one.min(two), one.max(two)], [201, 401], "no code twice");
    let first = recovery[0].as_str().unwrap().to_owned();
    assert_eq!(attempt(&other, &with_code(first.clone())).await.status, 201);
    assert_eq!(attempt(&direct, &with_code(first)).await.status, 401);
    assert_eq!(attempt(&direct, &with_code("000000".to_owned())).await.status, 401);

    let path = format!("{BASE}/users/~/totp");
    let bearer = format!("Bearer {session}");
    let headers = [("Authorization", bearer.as_str())];
    let status = direct.get(&path, &headers).await.json()["status"].clone();
    assert_eq!((&status["enabled"], &status["recoveryCodesLeft"]), (&json!(true), &json!(9)));
    assert!(!status.to_string().contains(&seed));
    let remove = |code: serde_json::Value| {
        let (direct, path, headers) = (&direct, &path, &headers);
        async move {
            let body = body("TOTPEnrollment", &json!({"code": code}));
            direct.send("DELETE", path, headers, &body).await.unwrap().status
        }
    };
    assert_eq!(remove(json!("000000")).await, 422);
    assert_eq!(remove(recovery[1].clone()).await, 200);
    assert_eq!(with_password(&direct, &name, PASSWORD).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_factor_is_enrolled_during_login() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "required", |user| user.spec.second_factor = SecondFactor::Required).await;
    let challenge = with_password(&direct, &name, PASSWORD).await.json()["status"].clone();
    assert_eq!(challenge["challenge"], "Enrollment");
    assert!(challenge.get("token").is_none());
    let seed = challenge["enrollment"]["secret"].as_str().unwrap().to_owned();
    let spec = |later| json!({"username": name, "password": PASSWORD, "code": code(&seed, later)});
    let enrolled = attempt(&direct, &spec(0)).await;
    assert_eq!(enrolled.json()["status"]["recoveryCodes"].as_array().unwrap().len(), 10);
    let session = token_of(&enrolled);
    let body = body("TOTPEnrollment", &json!({"code": code(&seed, 1)}));
    let headers = [("Authorization", format!("Bearer {session}"))];
    let headers = [(headers[0].0, headers[0].1.as_str())];
    let refused = direct.send("DELETE", &format!("{BASE}/users/~/totp"), &headers, &body).await.unwrap();
    assert_eq!(refused.status, 403, "it is required");
    assert_eq!(attempt(&direct, &spec(1)).await.status, 201);
}

/// Earlier sessions end.
#[tokio::test(flavor = "multi_thread")]
async fn requiring_a_factor_ends_sessions_without_one() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "now-required", |_| {}).await;
    let session = token(&direct, &name, PASSWORD).await;
    assert_eq!(own_status(&direct, &session).await, 200);
    cluster.kubectl(&[
        "patch",
        "users.roster.dev",
        &name,
        "--type=merge",
        "-p",
        r#"{"spec":{"secondFactor":"Required"}}"#,
    ]);
    eventually("the session has ended", || async {
        match own_status(&direct, &session).await {
            401 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
}
