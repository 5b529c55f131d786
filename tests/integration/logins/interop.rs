//! Interoperability of hashes, tokens and seeds with other implementations, in both directions.

use roster_credentials::hash::{Memory, PasswordHash};
use serde_json::{Value, json};

use super::{PASSWORD, body, logins, person, post, token};
use crate::directory::Direct;
use crate::support::{run_python, stored_hash};

#[tokio::test(flavor = "multi_thread")]
async fn hashes_tokens_and_seeds_interoperate_with_other_implementations() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "interop", |_| {}).await;
    let user = cluster.users().await.get(&name).await.unwrap();
    let token = token(&direct, &name, PASSWORD).await;
    let enroll = async |spec: Value| post(&direct, "users/~/totp", Some(&token), &body("TOTPEnrollment", &spec)).await;
    let url = enroll(json!({"currentPassword": PASSWORD})).await.json()["status"]["enrollment"]["url"].clone();
    let answer = run_python(
        include_str!("interop.py"),
        &json!({
            "password": PASSWORD,
            "hash": stored_hash(cluster, &user).await.unwrap(),
            "token": token,
            "jwks": direct.get("/openid/v1/jwks", &[]).await.json(),
            "issuer": direct.get("/.well-known/openid-configuration", &[]).await.json()["issuer"],
            "url": url,
        }),
    );
    assert_eq!((&answer["verifies"], &answer["keyMatches"]), (&json!(true), &json!(true)));
    assert_eq!(answer["username"], json!(name));
    for hash in answer["hashes"].as_array().unwrap() {
        let hash = PasswordHash::parse(hash.as_str().unwrap()).unwrap_or_else(|error| panic!("{hash}: {error}"));
        assert!(hash.verify(PASSWORD, &mut Memory::default()), "{hash:?}");
        assert!(!hash.verify("another", &mut Memory::default()), "{hash:?}");
    }
    assert_eq!(
        enroll(json!({"code": answer["code"]})).await.status,
        201,
        "a code that another implementation computed"
    );
}
