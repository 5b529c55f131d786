//! Interoperability of hashes, tokens and seeds with other implementations, in both directions.

use std::io::Write;
use std::process::{Command, Stdio};

use roster_credentials::hash::{Memory, PasswordHash};
use serde_json::{Value, json};

use super::{PASSWORD, body, logins, person, post, token};
use crate::directory::Direct;
use crate::support::stored_hash;

fn others(given: &Value) -> Value {
    let python = roster_harness::python_with_packages().expect("Python is there");
    let mut child = Command::new(python)
        .arg("-c")
        .arg(include_str!("interop.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the other implementations refuse what they were given");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_tokens_and_seeds_interoperate_with_other_implementations() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "interop", |_| {}).await;
    let user = cluster.users().await.get(&name).await.unwrap();
    let token = token(&direct, &name, PASSWORD).await;
    let enrol = async |spec: Value| post(&direct, "users/~/totp", Some(&token), &body("TOTPEnrollment", &spec)).await;
    let url = enrol(json!({"currentPassword": PASSWORD})).await.json()["status"]["enrollment"]["url"].clone();
    let answer = others(&json!({
        "password": PASSWORD,
        "hash": stored_hash(cluster, &user).await.unwrap(),
        "token": token,
        "jwks": direct.get("/openid/v1/jwks", &[]).await.json(),
        "issuer": direct.get("/.well-known/openid-configuration", &[]).await.json()["issuer"],
        "url": url,
    }));
    assert_eq!((&answer["verifies"], &answer["keyMatches"]), (&json!(true), &json!(true)));
    assert_eq!(answer["username"], json!(name));
    for hash in answer["hashes"].as_array().unwrap() {
        let hash = PasswordHash::parse(hash.as_str().unwrap()).unwrap_or_else(|error| panic!("{hash}: {error}"));
        assert!(hash.verify(PASSWORD, &mut Memory::default()), "{hash:?}");
        assert!(!hash.verify("another", &mut Memory::default()), "{hash:?}");
    }
    assert_eq!(enrol(json!({"code": answer["code"]})).await.status, 201, "the code of another app's making");
}
