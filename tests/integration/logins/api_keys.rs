//! API keys: shown once, listed without the secret, revoked immediately.

use serde_json::json;

use super::{PASSWORD, body, kubectl_as, logins, person, post, token, whoami};
use crate::directory::{BASE, Direct};
use crate::support::eventually;

/// Creates a key as the bearer of the token, confirmed with [`PASSWORD`].
pub(crate) async fn key(direct: &Direct, token: &str) -> String {
    key_with(direct, token, PASSWORD).await
}

/// Creates a key as the bearer of the token, confirmed with that password.
pub(crate) async fn key_with(direct: &Direct, token: &str, password: &str) -> String {
    let spec = json!({"displayName": "test", "currentPassword": password});
    let made = post(direct, "users/~/apikeys", Some(token), &body("APIKey", &spec)).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.json()["status"]["key"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_and_valid_until_it_is_revoked() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "keys", |_| {}).await;
    let token = token(&direct, &name, PASSWORD).await;
    let key = key(&direct, &token).await;
    assert!(key.starts_with("rstr_") && key.len() == 85, "the format that secret scanners look for");
    let user = whoami(&kubectl_as(cluster, &key)).unwrap();
    assert_eq!(user["username"], json!(name));
    let id = user["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap().to_owned();

    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let list = eventually("the last use is written", || async {
        let list = direct.get(&format!("{BASE}/users/~/apikeys"), &headers).await.json();
        if list["items"][0]["status"]["lastUsedTime"].is_string() { Ok(list) } else { Err(list.to_string()) }
    })
    .await;
    assert!(!list.to_string().contains(&key[5..]), "the key is shown once");
    let key_name = list["items"][0]["metadata"]["name"].as_str().unwrap();
    assert_eq!(id, format!("APIKey={key_name}"));
    assert_eq!(list["items"][0]["spec"]["displayName"], "test");

    // A leaked key must not create credentials that outlive it.
    for path in ["users/~/apikeys", "users/~/totp"] {
        let (kind, spec) = if path.ends_with("totp") {
            ("TOTPEnrollment", json!({"currentPassword": PASSWORD}))
        } else {
            ("APIKey", json!({"displayName": "more", "currentPassword": PASSWORD}))
        };
        let refused = post(&direct, path, Some(&key), &body(kind, &spec)).await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.body);
    }
    let other = Direct::new(cluster, 1, None).await;
    let revoked = other.request("DELETE", &format!("{BASE}/users/~/apikeys/{key_name}"), &headers).await.unwrap();
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    let own = direct.get(&format!("{BASE}/users/~"), &[("Authorization", &format!("Bearer {key}"))]).await;
    assert_eq!(own.status, 401, "revoked at once, at the other replica too");
    let again = other.request("DELETE", &format!("{BASE}/users/~/apikeys/{key_name}"), &headers).await.unwrap();
    assert_eq!(again.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_keys_are_refused_by_field_and_their_number_is_limited() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "many-keys", |_| {}).await;
    let token = token(&direct, &name, PASSWORD).await;
    let create = |mut spec: serde_json::Value| {
        spec["currentPassword"] = PASSWORD.into();
        let (direct, token) = (&direct, &token);
        async move { post(direct, "users/~/apikeys", Some(token), &body("APIKey", &spec)).await }
    };
    for (spec, field) in [
        (json!({"displayName": " "}), "spec.displayName"),
        (json!({"displayName": "x".repeat(101)}), "spec.displayName"),
        (json!({"displayName": "ci\u{202e}x"}), "spec.displayName"),
        (json!({"displayName": "ci\u{2028}x"}), "spec.displayName"),
        (json!({"displayName": "x", "expirationTimestamp": "2020-01-01T00:00:00Z"}), "spec.expirationTimestamp"),
        (json!({"displayName": "x", "expirationTimestamp": "2999-01-01T00:00:00Z"}), "spec.expirationTimestamp"),
    ] {
        let refused = create(spec).await;
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert_eq!(refused.json()["details"]["causes"][0]["field"], field);
    }
    for at in 0..32 {
        assert_eq!(create(json!({"displayName": format!("key {at}")})).await.status, 201);
    }
    let refused = create(json!({"displayName": "one too many"})).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
}
