//! I2: hashes, seeds and digests are stored in Secrets of Roster's namespace, which only the operator can read, and no
//! query returns them.

use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::directory::{BASE, Direct};
use crate::logins::{PASSWORD, body, code, logins, person, post, token};
use crate::support::{Cluster, eventually};

const NEXT: &str = "a walrus on a velvet sofa";

/// Collects the texts in `value` that are long enough to be a hash, a seed or a digest.
fn long_texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.len() >= 32 => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| long_texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| long_texts(field, found)),
        _ => {}
    }
}

/// Returns the secret texts that Roster stores for a user.
async fn stored_credentials(cluster: &Cluster, name: &str) -> Vec<String> {
    let secrets = cluster.secrets("roster-system").await.list(&ListParams::default()).await.unwrap().items;
    let is_hers = |owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| owner.name == name;
    let mut found = Vec::new();
    for secret in secrets.iter().filter(|secret| secret.owner_references().iter().any(is_hers)) {
        for (key, value) in secret.data.iter().flatten().filter(|(key, _)| *key != "failedLogins") {
            let text = String::from_utf8(value.0.clone()).unwrap_or_else(|_| panic!("{key} is text"));
            // The history contains old hashes, which a declared Secret may contain too.
            if key == "passwordHash" {
                found.push(text);
            } else if ["secondFactor", "apiKeys"].contains(&key.as_str()) {
                long_texts(&serde_json::from_str(&text).unwrap_or(Value::String(text)), &mut found);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_only_the_operator_reads_hashes_seeds_and_digests() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "kept", |_| {}).await;
    let session = token(&direct, &name, PASSWORD).await;
    let change = body("PasswordChange", &json!({"oldPassword": PASSWORD, "newPassword": NEXT}));
    assert_eq!(post(&direct, "users/~/password", Some(&session), &change).await.status, 201);
    let session = token(&direct, &name, NEXT).await;
    let key = body("APIKey", &json!({"displayName": "laptop", "currentPassword": NEXT}));
    assert_eq!(post(&direct, "users/~/apikeys", Some(&session), &key).await.status, 201);
    let enroll = body("TOTPEnrollment", &json!({"currentPassword": NEXT}));
    let made = post(&direct, "users/~/totp", Some(&session), &enroll).await.json();
    let seed = made["status"]["enrollment"]["secret"].as_str().unwrap().to_owned();
    let confirm = body("TOTPEnrollment", &json!({"code": code(&seed, 0)}));
    assert_eq!(post(&direct, "users/~/totp", Some(&session), &confirm).await.status, 201);

    let stored_credentials = eventually("hash, seed and digests are stored", || async {
        let stored_credentials = stored_credentials(cluster, &name).await;
        if stored_credentials.len() >= 3 {
            Ok(stored_credentials)
        } else {
            Err(format!("{} texts", stored_credentials.len()))
        }
    })
    .await;
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
    let everywhere: Vec<&str> = kinds.lines().filter(|kind| *kind != "secrets").collect();
    assert!(everywhere.len() > 30, "{everywhere:?}");
    let mut seen = cluster.kubectl(&["get", &everywhere.join(","), "-A", "-o", "yaml"]);
    seen +=
        &cluster.kubectl(&["get", "secrets", "-A", "--field-selector=metadata.namespace!=roster-system", "-o", "yaml"]);
    for log in cluster.operator_logs() {
        seen += &std::fs::read_to_string(log).unwrap();
    }
    assert!(seen.contains(&name), "the searched text must mention the user");
    for text in &stored_credentials {
        use base64::prelude::{BASE64_STANDARD, Engine};
        assert!(
            !seen.contains(text.as_str()) && !seen.contains(&BASE64_STANDARD.encode(text)),
            "{text} is also stored elsewhere"
        );
    }
    assert!(!seen.contains(&seed));
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_no_other_role_and_no_query_reads_them() {
    let cluster = logins();
    let roles = cluster.kubectl(&[
        "get",
        "clusterroles,roles",
        "-A",
        "-l",
        "app.kubernetes.io/name=roster",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.rules[*].resources}{\"\\n\"}{end}",
    ]);
    let readers: Vec<&str> = roles
        .lines()
        .filter(|role| role.contains("\"secrets\"") || role.contains("\"*\""))
        .filter_map(|role| role.split(' ').next())
        .collect();
    assert!(!readers.is_empty() && readers.iter().all(|name| *name == "roster"), "{roles}");

    for field in ["passwordHash", "password", "seed", "secondFactor.seed", "apiKeys", "invitation", "data.passwordHash"]
    {
        for query in [format!("filterBy={field},x"), format!("sortBy={field}"), format!("fieldSelector={field}%3Dx")] {
            let path = format!("{BASE}/users?{query}");
            let refused = cluster.plane.kubectl.run(&["get", "--raw", &path]).unwrap_err().to_string();
            assert!(refused.contains("(BadRequest)"), "{query}: {refused}");
        }
    }
}
