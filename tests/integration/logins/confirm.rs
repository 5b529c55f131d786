//! Confirmation by password: a stolen session alone creates neither an API key nor a second factor.

use serde_json::{Value, json};

use super::{PASSWORD, body, code, logins, own_status, person, post, send, token, with_password};
use crate::directory::{Answer, BASE, Direct, IDENTITY, front_proxy};
use crate::support::{unique, user_where, wait_until_ready};

/// Credentials that outlive a session: path, kind, and the spec apart from the password.
fn persistent_credentials() -> [(&'static str, &'static str, Value); 2] {
    [("users/~/apikeys", "APIKey", json!({"displayName": "mine now"})), ("users/~/totp", "TOTPEnrollment", json!({}))]
}

fn confirmed_with(mut spec: Value, password: &str) -> Value {
    spec["currentPassword"] = password.into();
    spec
}

fn assert_refused(answer: &Answer, why: &str) {
    assert_eq!(answer.status, 422, "{}", answer.body);
    let cause = answer.json()["details"]["causes"][0].clone();
    assert_eq!(cause["field"], "spec.currentPassword", "{cause}");
    assert!(cause["message"].as_str().unwrap().contains(why), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_alone_creates_neither_a_key_nor_a_seed() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "session-alone", |_| {}).await;
    let session = token(&direct, &name, PASSWORD).await;
    let bearer = format!("Bearer {session}");
    for (path, kind, spec) in persistent_credentials() {
        let tried = async |path: &str, spec: Value| post(&direct, path, Some(&session), &body(kind, &spec)).await;
        assert_refused(&tried(path, spec.clone()).await, "is required");
        let wrong = tried(path, confirmed_with(spec.clone(), "s3cret-but-wrong")).await;
        assert_refused(&wrong, "is not the current password");
        assert!(!wrong.body.contains("s3cret"), "{}", wrong.body);
        let dry = tried(&format!("{path}?dryRun=All"), confirmed_with(spec.clone(), "wrong")).await;
        assert_refused(&dry, "is not the current password");
        // A wrong password, and one with dryRun. The right one clears them.
        user_where(&cluster.users().await, &name, "wrong passwords are failed logins", |user| {
            user.status.as_ref().is_some_and(|status| status.failed_logins == Some(2))
        })
        .await;
        assert_eq!(tried(&format!("{path}?dryRun=All"), confirmed_with(spec, PASSWORD)).await.status, 201);
    }
    let keys = direct.get(&format!("{BASE}/users/~/apikeys"), &[("Authorization", &bearer)]).await;
    assert_eq!(keys.json()["items"], json!([]), "no key was created");
    let unconfirmed = json!({"code": "123456"});
    let unconfirmed = post(&direct, "users/~/totp", Some(&session), &body("TOTPEnrollment", &unconfirmed)).await;
    assert!(unconfirmed.body.contains("there is no seed"), "{}", unconfirmed.body);
    for (path, kind, spec) in persistent_credentials() {
        let made = post(&direct, path, Some(&session), &body(kind, &confirmed_with(spec, PASSWORD))).await;
        assert_eq!(made.status, 201, "{}", made.body);
        assert!(!made.body.contains(PASSWORD) && !made.body.contains("currentPassword"), "{}", made.body);
    }
    user_where(&cluster.users().await, &name, "the right password clears failures within sessions", |user| {
        user.status.as_ref().is_some_and(|status| status.failed_logins.is_none_or(|count| count == 0))
    })
    .await;
}

/// A session is not enough to try all passwords, or all codes of an unconfirmed seed.
#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_passwords_and_codes_count_towards_the_lockout() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "guessed-again", |_| {}).await;
    let session = token(&direct, &name, PASSWORD).await;
    let enroll = |spec: Value| {
        let (direct, session) = (&direct, &session);
        async move { post(direct, "users/~/totp", Some(session), &body("TOTPEnrollment", &spec)).await }
    };
    let seed = enroll(confirmed_with(json!({}), PASSWORD)).await.json();
    let seed = seed["status"]["enrollment"]["secret"].as_str().unwrap().to_owned();
    let right = code(&seed, 0);
    let wrong = if right == "000000" { "111111" } else { "000000" };
    assert_eq!(enroll(json!({"code": wrong})).await.status, 422);
    assert_eq!(enroll(json!({"code": wrong})).await.status, 422);
    for _ in 0..3 {
        assert_refused(&enroll(confirmed_with(json!({}), "wrong")).await, "is not the current password");
    }
    // After five failures, even the right password is rejected from here.
    for (path, kind, spec) in persistent_credentials() {
        let refused = post(&direct, path, Some(&session), &body(kind, &confirmed_with(spec, PASSWORD))).await;
        assert_refused(&refused, "is not the current password");
    }
    assert_eq!(enroll(json!({"code": code(&seed, 0)})).await.status, 422);
    let login = with_password(&direct, &name, PASSWORD).await;
    assert_eq!(login.status, 201, "logins are counted separately: {}", login.body);
    assert_eq!(own_status(&direct, &session).await, 200, "the session stays valid");
    let bearer = format!("Bearer {session}");
    let status = direct.get(&format!("{BASE}/users/~/totp"), &[("Authorization", &bearer)]).await.json();
    assert_eq!(status["status"]["enabled"], false);
}

/// Replicas that write one credential concurrently retry, and count and log each failure once.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_confirmations_that_race_are_counted_and_logged_once() {
    let cluster = logins();
    let replicas = [Direct::new(cluster, 0, None).await, Direct::new(cluster, 1, None).await];
    let name = person(cluster, "raced", |_| {}).await;
    let session = token(&replicas[0], &name, PASSWORD).await;
    let wrong = body("TOTPEnrollment", &confirmed_with(json!({}), "wrong"));
    let posts = (0..10).map(|at| post(&replicas[at % 2], "users/~/totp", Some(&session), &wrong));
    for answer in futures::future::join_all(posts).await {
        assert_refused(&answer, "is not the current password");
    }
    let is_logged = |line: &&str| line.contains(&name) && line.contains("wrong password or code in a confirmation");
    let logs = cluster.operator_logs().into_iter().map(|log| std::fs::read_to_string(log).unwrap());
    let logged: usize = logs.map(|log| log.lines().filter(is_logged).count()).sum();
    assert_eq!(logged, 5, "five are evaluated, and then the sessions are locked out");
}

/// Users without a password can't confirm with one, and administrators do not know the passwords of others.
#[tokio::test(flavor = "multi_thread")]
async fn callers_without_a_password_or_acting_for_another_need_no_confirmation() {
    let cluster = logins();
    let (certificate, key) = front_proxy(cluster);
    let direct = Direct::new(cluster, 0, Some((&certificate, &key))).await;
    let bare = unique("no-password");
    cluster.apply(&format!("apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {bare}}}\nspec: {{}}\n"));
    let ready = wait_until_ready(&cluster.users().await, &bare).await;
    super::wait_until_known_to_all_replicas(cluster, &bare, &ready.metadata.resource_version.unwrap_or_default()).await;
    let own = [("X-Remote-User", bare.as_str()), ("X-Remote-Group", "system:authenticated")];
    for (path, kind, spec) in persistent_credentials() {
        let made = send(&direct, path, &own, &body(kind, &spec)).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.body);
    }
    let other = person(cluster, "acted-for", |_| {}).await;
    let spec = body("APIKey", &json!({"displayName": "for a program of theirs"}));
    let made = send(&direct, &format!("users/{other}/apikeys"), IDENTITY, &spec).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.body);
    // Credentials for the caller's own User require confirmation, whichever key addresses the User, whichever
    // authenticator identified the caller, and whatever the caller may do.
    let own = [("X-Remote-User", other.as_str()), ("X-Remote-Group", "system:masters")];
    for path in ["users/~/apikeys".to_owned(), format!("users/{other}/apikeys")] {
        assert_refused(&send(&direct, &path, &own, &spec).await.unwrap(), "is required");
    }
}
