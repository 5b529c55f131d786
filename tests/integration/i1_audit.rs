//! I1 with an audit log of kube-apiserver: with the policy of `examples/audit`, it contains no secrets that users type
//! or are shown once.

use std::path::Path;

use roster_harness::project_root;
use serde_json::{Value, json};

use crate::directory::{BASE, wait_until_served};
use crate::i1_plaintext::files_with;
use crate::logins::body;
use crate::support::{Cluster, audit_position, eventually, unique, wait_until_ready};

/// Logs all request and response bodies, to prove that the search finds secrets.
const EVERYTHING: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: RequestResponse\n";

/// Restarts kube-apiserver with that audit policy. Returns the position in the log.
fn set_audit_policy(cluster: &Cluster, policy: &str) -> u64 {
    std::fs::write(cluster.plane.dir.join("audit-policy.yaml"), policy).unwrap();
    cluster.plane.restart_api_server().unwrap();
    wait_until_served(cluster);
    audit_position(cluster)
}

/// Sends a `create` through kube-apiserver. Retries while Roster's watches recover from the restart.
async fn post(cluster: &Cluster, path: &str, kind: &str, spec: &Value, more: &[&str]) -> Value {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), body(kind, spec)).unwrap();
    let path = format!("{BASE}/{path}");
    let args = [&["create", "--raw", &path, "-f", file.path().to_str().unwrap()], more].concat();
    eventually(&path, || async {
        let output = cluster.plane.kubectl.output(&args, "").unwrap();
        let refusal = String::from_utf8_lossy(&output.stderr).into_owned();
        if refusal.contains("ServiceUnavailable") {
            return Err(refusal);
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::from(refusal)))
    })
    .await
}

/// Makes every request that contains or returns a secret. Returns the secrets with descriptions.
async fn use_every_secret(cluster: &Cluster) -> Vec<(&'static str, String)> {
    let (name, text) = (unique("audited"), unique("text"));
    let typed = |way: &str| format!("Xq7-typed-{text}-{way}-Zk9");
    let manifest = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default, annotations: {{roster.dev/user: \
         {name}}}}}\ntype: roster.dev/password\nstringData: {{password: {}}}\n---\napiVersion: roster.dev/v1alpha1\n\
         kind: User\nmetadata: {{name: {name}}}\nspec: {{displayName: Xq7-control-Zk9, passwordSecretRef: {{namespace: \
         default, name: {name}}}}}\n",
        typed("applied")
    );
    // Retried for the same reason.
    eventually("it is applied", || async {
        cluster.plane.kubectl.apply(&manifest).map_err(|error| format!("{error:#}"))
    })
    .await;
    wait_until_ready(&cluster.users().await, &name).await;
    // The leader has reported Ready, but another replica may not have observed the User yet.
    let known = format!("{BASE}/users/{name}");
    eventually("the directory knows the User", || async {
        cluster.plane.kubectl.run(&["get", "--raw", &known]).map_err(|error| format!("{error:#}"))
    })
    .await;
    let text_at = |answer: &Value, path: &str| {
        answer.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("no {path}: {answer}")).to_owned()
    };
    let login = async |spec: Value| text_at(&post(cluster, "logins", "Login", &spec, &[]).await, "/status/token");
    let own = ["--as", name.as_str()];

    let token = login(json!({"username": name, "password": typed("applied")})).await;
    post(cluster, "logins", "Login", &json!({"username": name, "password": typed("wrong")}), &[]).await;
    let change = json!({"oldPassword": typed("applied"), "newPassword": typed("changed")});
    let changed = post(cluster, "users/~/password", "PasswordChange", &change, &own).await;
    text_at(&changed, "/status/passwordChangedTime");
    let reset = json!({"newPassword": typed("reset")});
    let reset = post(cluster, &format!("users/{name}/password"), "PasswordChange", &reset, &[]).await;
    text_at(&reset, "/status/passwordChangedTime");
    let asked = json!({"username": name, "password": typed("reset")});
    let review = post(cluster, "passwordreviews", "PasswordReview", &asked, &[]).await;
    assert_eq!(review["status"]["authenticated"], true, "{review}");
    let key = json!({"displayName": "laptop", "currentPassword": typed("reset")});
    let key = post(cluster, "users/~/apikeys", "APIKey", &key, &own).await;
    let invitation = post(cluster, &format!("users/{name}/invitation"), "Invitation", &json!({}), &[]).await;
    let code = text_at(&invitation, "/status/code");
    login(json!({"username": name, "invitation": code, "newPassword": typed("invited")})).await;
    let confirmed = json!({"currentPassword": typed("invited")});
    let enrollment = post(cluster, "users/~/totp", "TOTPEnrollment", &confirmed, &own).await;
    let reviewed = login(json!({"username": name, "password": typed("invited")})).await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": reviewed}});
    cluster.plane.kubectl.run_with_input(&["create", "-f", "-"], &format!("---\n{review}")).unwrap();

    let ways = ["applied", "wrong", "changed", "reset", "invited"];
    let passwords = ways.map(|way| (way, typed(way)));
    let told = [
        ("token", token),
        ("reviewed token", reviewed),
        ("key", text_at(&key, "/status/key")),
        ("invitation", code),
        ("seed", text_at(&enrollment, "/status/enrollment/secret")),
    ];
    passwords.into_iter().chain(told).collect()
}

/// Copies the log since that position into a new folder.
fn log_since(cluster: &Cluster, from: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let log = std::fs::read(cluster.plane.audit_log()).unwrap();
    std::fs::write(folder.path().join("audit.log"), &log[usize::try_from(from).unwrap()..]).unwrap();
    folder
}

fn contains(folder: &Path, text: &str) -> bool {
    !files_with(folder, text).is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_the_audit_policy_of_the_examples_keeps_secrets_out_of_the_audit_log() {
    let cluster = Cluster::create("audit", &[]);
    cluster.start_operator(&[]);
    let policy = std::fs::read_to_string(project_root().join("examples/audit/audit-policy.yaml")).unwrap();

    let from = set_audit_policy(&cluster, &policy);
    let secrets = use_every_secret(&cluster).await;
    let log = log_since(&cluster, from);
    for (what, secret) in &secrets {
        assert!(!contains(log.path(), secret), "{what}");
    }
    // All requests were logged, and declared specs in full.
    let parts =
        ["logins", "passwordreviews", "/password", "/apikeys", "/totp", "/invitation", "/secrets", "tokenreviews"];
    for part in parts.iter().copied().chain(["Xq7-control-Zk9"]) {
        let text = std::fs::read_to_string(log.path().join("audit.log")).unwrap();
        assert!(text.contains(part), "{part}");
    }

    // Without the policy, the search finds the secrets.
    let from = set_audit_policy(&cluster, EVERYTHING);
    let secrets = use_every_secret(&cluster).await;
    let log = log_since(&cluster, from);
    let found: Vec<&str> =
        secrets.iter().filter(|(_, secret)| contains(log.path(), secret)).map(|(what, _)| *what).collect();
    // kube-apiserver does not parse bodies that it proxies to an aggregated API, so it logs them at no level.
    assert_eq!(found, ["applied", "reviewed token"]);
}
