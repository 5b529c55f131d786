//! What Roster's port returns without credentials: admission answers only kube-apiserver.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota};
use kube::Api;
use roster_harness::project_root;
use roster_runtime::tls::origin::Webhook;
use serde_json::{Value, json};

use crate::directory::{BASE, Direct};
use crate::quota::{namespace, owner, pod, wait_until_enforced};
use crate::support::{Cluster, create, eventually, shared, unique};

/// Returns a review as kube-apiserver would send it, with `claimed` as the requester.
fn review(claimed: &str, namespace: &str, object: &Value) -> String {
    let kind = |text: &str| json!({"group": "", "version": "v1", "kind": text, "resource": text});
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "operation": "CREATE", "namespace": namespace, "name": object["metadata"]["name"],
            "dryRun": false, "kind": kind("x"), "resource": kind("x"),
            "userInfo": {"username": claimed, "groups": ["system:masters"]}, "object": object,
        },
    })
    .to_string()
}

/// Returns, for each webhook, the review that an attacker would send about `victim`.
fn objects(victim: &str, reserved: &str) -> Vec<(Webhook, Value)> {
    let user = json!({"apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {"name": victim}, "spec": {"admin": true}});
    let group = json!({"apiVersion": "roster.dev/v1alpha1", "kind": "Group", "metadata": {"name": reserved}, "spec": {"members": [victim]}});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "roster.dev/password",
        "metadata": {"name": "x", "annotations": {"roster.dev/user": victim}}, "data": {"password": ""},
    });
    let mut pod = serde_json::to_value(pod("x", Some("900m"))).unwrap();
    pod["kind"] = "Pod".into();
    pod["apiVersion"] = "v1".into();
    let namespace = serde_json::to_value(namespace(reserved, Some(victim))).unwrap();
    Webhook::ALL
        .into_iter()
        .map(|webhook| {
            let object = match webhook {
                Webhook::Users | Webhook::Quantities => &user,
                Webhook::Groups | Webhook::Cycles => &group,
                Webhook::Namespaces | Webhook::NamespaceQuota => &namespace,
                Webhook::Secrets | Webhook::PasswordSecrets => &secret,
                Webhook::QuotaEnforcement | Webhook::QuotaHints => &pod,
            };
            (webhook, object.clone())
        })
        .collect()
}

/// Returns the path at which kube-apiserver calls each webhook.
fn published(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut paths = BTreeMap::new();
    for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
        let configuration = cluster.plane.kubectl.get(&[kind, "roster"]).unwrap();
        for webhook in configuration["webhooks"].as_array().unwrap() {
            let url = webhook["clientConfig"]["url"].as_str().unwrap();
            let path = &url[url.find("/admission/").unwrap()..];
            paths.insert(webhook["name"].as_str().unwrap().to_owned(), path.to_owned());
        }
    }
    paths
}

/// Returns Roster's ResourceQuotas, to detect moves.
async fn quotas(cluster: &Cluster, namespaces: &[String]) -> Vec<Value> {
    let mut found = Vec::new();
    for namespace in namespaces {
        let api: Api<ResourceQuota> = Api::namespaced(cluster.client().await, namespace);
        let quota = api.get("roster").await.unwrap();
        found.push(json!([quota.metadata.annotations, quota.spec]));
    }
    found
}

fn logs(cluster: &Cluster) -> String {
    cluster.operator_logs().iter().map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect()
}

/// Only kube-apiserver knows the paths: others learn nothing, change nothing, and write no log line.
#[tokio::test(flavor = "multi_thread")]
async fn callers_other_than_kube_apiserver_get_nothing_from_admission() {
    let cluster = shared();
    let (victim, claimed) = (unique("victim"), unique("claimed-by-an-outsider"));
    create(&cluster.users().await, &owner(&victim, &[("namespaces", "3"), ("requests.cpu", "1")])).await;
    let client = cluster.client().await;
    let namespaces: Vec<String> = (0..2).map(|at| format!("{victim}-{at}")).collect();
    for name in &namespaces {
        create(&Api::all(client.clone()), &namespace(name, Some(&victim))).await;
    }
    for name in &namespaces {
        wait_until_enforced(&client, name, "roster").await;
    }
    let before = eventually("the quota is distributed", || async {
        let now = quotas(cluster, &namespaces).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        if quotas(cluster, &namespaces).await == now { Ok(now) } else { Err(format!("{now:?}")) }
    })
    .await;
    let reserved = unique("reserved");
    let direct = Direct::new(cluster, 0, None).await;
    let guessed = "0123456789abcdef".repeat(4);

    for (webhook, object) in objects(&victim, &reserved) {
        let body = review(&claimed, &namespaces[0], &object);
        let route = webhook.route();
        for path in [
            format!("/admission{route}"),
            format!("/admission/{guessed}{route}"),
            format!("/admission/x{route}?timeout=10s"),
        ] {
            let answer = direct.send("POST", &path, &[], &body).await.unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (404, ""), "{path}");
        }
    }
    assert_eq!(quotas(cluster, &namespaces).await, before, "no quota moves, and none is requested");
    let notes: Api<ConfigMap> = Api::namespaced(client.clone(), "roster-system");
    let notes = serde_json::to_string(&notes.list(&kube::api::ListParams::default()).await.unwrap().items).unwrap();
    assert!(!notes.contains(&reserved), "a namespace is reserved: {notes}");
    create(&Api::all(client.clone()), &namespace(&format!("{victim}-2"), Some(&victim))).await;
    assert!(!logs(cluster).contains(&claimed));
    let metrics = cluster.operators()[0].probe("/metrics").unwrap();
    assert!(metrics.contains("roster_admission_requests_total{outcome=\"unproven\"}"), "{metrics}");

    // The same reviews are valid: with the paths that kube-apiserver uses, they are answered.
    let published = published(cluster);
    for (webhook, object) in objects(&victim, &reserved) {
        let path = &published[webhook.name()];
        let answer = direct.send("POST", path, &[], &review(&victim, &namespaces[0], &object)).await.unwrap();
        assert_eq!(answer.status, 200, "{}", webhook.name());
        assert_eq!(answer.json()["response"]["uid"], "u-1", "{}", answer.body);
        // A leaked path gives access to no other webhook.
        for (name, other) in published.iter().filter(|(name, _)| *name != webhook.name()) {
            let (prefix, _) = path.split_once(webhook.route()).unwrap();
            let route = Webhook::named(name).unwrap().route();
            let answer = direct.send("POST", &format!("{prefix}{route}"), &[], "{}").await.unwrap();
            assert_eq!(answer.status, 404, "{other}");
        }
    }
    let logs = logs(cluster);
    for path in published.values() {
        let segment = path.split('/').nth(2).unwrap();
        assert!(!logs.contains(segment), "the log holds the path of a webhook");
    }
}

/// Returns the body to send to a path of the table.
fn body(path: &str) -> String {
    let body = if path == "/tokenreview" {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "nonsense"}})
    } else if path.ends_with("/logins") {
        let spec = json!({"username": unique("nobody"), "password": "guessed"});
        json!({"apiVersion": "directory.roster.dev/v1alpha1", "kind": "Login", "spec": spec})
    } else {
        json!({})
    };
    body.to_string()
}

/// Checks that the response reveals no more than the table says.
fn assert_reveals_no_more(path: &str, status: u16, body: &str) {
    let parsed: Value = serde_json::from_str(body).unwrap_or_default();
    match (path, status) {
        ("/livez" | "/readyz" | "/healthz", 200) => assert_eq!(body, "ok\n", "{path}"),
        ("/tokenreview", 200) => assert_eq!(parsed["status"], json!({"authenticated": false}), "{body}"),
        ("/.well-known/openid-configuration", 200) => assert!(parsed["issuer"].is_string(), "{body}"),
        ("/openid/v1/jwks", 200) => {
            for key in parsed["keys"].as_array().unwrap() {
                assert!(key.get("d").is_none(), "a private key");
            }
        }
        (_, 404) => assert_eq!(body, "", "{path}"),
        (_, 401) => assert_eq!(
            (&parsed["reason"], &parsed["message"], &parsed["details"]),
            (&json!("Unauthorized"), &json!("Unauthorized"), &Value::Null),
            "{path}: {body}"
        ),
        _ => panic!("{path}: the test does not expect status {status}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthenticated_responses_match_the_threat_model() {
    let cluster = shared();
    let direct = Direct::new(cluster, 0, None).await;
    let page = std::fs::read_to_string(project_root().join("docs/explanation/security.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("Unauthenticated requests"));
    let rows = section.expect("the page has the table").lines().filter(|line| line.starts_with("| `"));
    let mut paths = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (method, path) = cells[1].trim_matches('`').split_once(' ').unwrap();
        let expected: u16 = cells[2].parse().unwrap();
        let body = if method == "POST" { body(path) } else { String::new() };
        let answer = direct.send(method, path, &[], &body).await.unwrap();
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.body);
        assert_reveals_no_more(path, answer.status, &answer.body);
        paths.push(path.to_owned());
    }
    let logins = format!("{BASE}/logins");
    for path in ["/tokenreview", "/openid/v1/jwks", "/livez", "/readyz", "/healthz", "/apis", "/openapi/v3", &logins] {
        assert!(paths.iter().any(|known| known == path), "docs/explanation/security.md does not list {path}");
    }
    for webhook in Webhook::ALL {
        let path = format!("/admission{}", webhook.route());
        assert!(paths.contains(&path), "docs/explanation/security.md does not list {path}");
    }
}
