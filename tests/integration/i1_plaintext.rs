//! I1: a plaintext password is never stored, logged, or shown.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::directory::{BASE, Direct};
use crate::logins::{PASSWORD, attempt, body, code, logins, own_status, person, post, token, with_password};
use crate::support::{create, eventually, password_secret, shared, unique, user, wait_until_ready};

/// Returns every form in which a text may be stored: plain, and in base64 at each of the three alignments.
fn forms(text: &str) -> Vec<String> {
    let mut forms = vec![text.to_owned()];
    for shift in 0..3 {
        let padded = [&vec![0; shift], text.as_bytes()].concat();
        let encoded = BASE64_STANDARD.encode(padded);
        // Cut off the characters that depend on adjacent bytes.
        forms.push(encoded[if shift == 0 { 0 } else { 4 }..encoded.len() - 4].to_owned());
    }
    forms
}

/// Returns the files below the folder that contain the text in any form. Uses grep, because tests are compiled without
/// optimization and etcd's files are large.
pub(crate) fn files_with(dir: &Path, text: &str) -> Vec<String> {
    let mut grep = Command::new("grep");
    grep.env("LC_ALL", "C").args(["--recursive", "--files-with-matches", "--fixed-strings", "--text"]);
    for form in forms(text) {
        grep.args(["-e", &form]);
    }
    let output = grep.arg(dir).output().expect("grep runs");
    // etcd replaces files while they are read.
    let said = String::from_utf8(output.stderr).expect("grep writes text");
    assert!(said.lines().all(|line| line.ends_with("No such file or directory")), "{said}");
    String::from_utf8(output.stdout).expect("paths are UTF-8").lines().map(str::to_owned).collect()
}

#[test]
fn the_search_finds_a_text_at_every_alignment() {
    let dir = tempfile::tempdir().unwrap();
    for (i, prefix) in ["", "a", "ab", "abc"].iter().enumerate() {
        let encoded = BASE64_STANDARD.encode(format!("{prefix}S3cret-Passphrase{prefix}"));
        std::fs::write(dir.path().join(i.to_string()), format!("junk{encoded}junk")).unwrap();
    }
    assert_eq!(files_with(dir.path(), "S3cret-Passphrase").len(), 4);
    assert!(files_with(dir.path(), "S3cret-passphrase").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_plaintext_never_reaches_etcd_logs_events_or_metrics() {
    let (cluster, name) = (shared(), unique("i1"));
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    let password = |way: &str| format!("Xq7-plaintext-{name}-{way}-Zk9");

    create(&secrets, &password_secret(&name, "password", password("create"))).await;
    create(&users, &user(&name, true)).await;
    wait_until_ready(&users, &name).await;

    let mut secret = secrets.get(&name).await.unwrap();
    secret.string_data = Some([("password".to_owned(), password("update"))].into());
    secrets.replace(&name, &PostParams::default(), &secret).await.unwrap();
    for (way, patch) in [
        ("merge", Patch::Merge(json!({"stringData": {"password": password("merge")}}))),
        ("strategic", Patch::Strategic(json!({"stringData": {"password": password("strategic")}}))),
    ] {
        secrets.patch(&name, &PatchParams::default(), &patch).await.unwrap_or_else(|error| panic!("{way}: {error}"));
    }
    let manifest = |way: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default, annotations: {{roster.dev/user: {name}}}}}\n\
             type: roster.dev/password\nstringData: {{password: {}}}\n",
            password(way)
        )
    };
    let kubectl = &cluster.plane.kubectl;
    cluster.apply(&manifest("apply"));
    kubectl.run_with_input(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &manifest("ssa")).unwrap();
    kubectl.run_with_input(&["apply", "--dry-run=server", "-f", "-"], &manifest("dry-run")).unwrap();
    kubectl.run_with_input(&["apply", "set-last-applied", "-f", "-"], &manifest("set-last-applied")).unwrap();
    kubectl.run_with_input(&["replace", "-f", "-"], &manifest("replace")).unwrap();
    // Rejected passwords are not stored either. (kubectl repeats its input; the server's message does not.)
    let refused = manifest("refused").replace("password:", "passwordHash:");
    assert!(kubectl.run_with_input(&["apply", "-f", "-"], &refused).is_err());

    // Plaintext that Roster does not handle, to prove that the search looks in the right place.
    let mut control = password_secret(&format!("{name}-control"), "password", password("control"));
    control.type_ = Some("Opaque".into());
    create(&secrets, &control).await;
    let etcd = cluster.plane.etcd_data_dir();
    eventually("etcd has written the control text to its snapshot too", || async {
        let found = files_with(&etcd, &password("control"));
        let (wal, snapshot) =
            (found.iter().any(|f| f.contains("member/wal/")), found.iter().any(|f| f.ends_with("snap/db")));
        if wal && snapshot { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let ways =
        ["create", "update", "merge", "strategic", "apply", "ssa", "dry-run", "set-last-applied", "replace", "refused"];
    for way in ways {
        assert_eq!(files_with(&etcd, &password(way)), Vec::<String>::new(), "{way}");
    }
    let everything_shown = [
        kubectl.run(&["get", "users.roster.dev", "-o", "yaml"]).unwrap(),
        kubectl.run(&["get", "events", "-A", "-o", "yaml"]).unwrap(),
        kubectl.run(&["get", "secrets", "-A", "-l", "roster.dev/identifier", "-o", "yaml"]).unwrap(),
        cluster.operators()[0].probe("/metrics").unwrap(),
    ]
    .concat();
    let logs = tempfile::tempdir().unwrap();
    std::fs::write(logs.path().join("shown"), everything_shown).unwrap();
    let others = ["audit", "etcd", "kube-apiserver", "kube-controller-manager"];
    let others = others.map(|name| cluster.plane.dir.join(format!("{name}.log")));
    for log in cluster.operator_logs().into_iter().chain(others) {
        std::fs::copy(&log, logs.path().join(log.file_name().unwrap())).unwrap();
    }
    for way in ways {
        assert_eq!(files_with(logs.path(), &password(way)), Vec::<String>::new(), "{way}");
    }
}

/// Secrets that users type, and secrets that are shown once.
#[tokio::test(flavor = "multi_thread")]
async fn i1_login_secrets_never_reach_etcd_or_logs() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "i1-login", |_| {}).await;
    // A password must not contain the name.
    let text = unique("text");
    let typed = |way: &str| format!("Xq7-typed-{text}-{way}-Zk9");
    // Wrong, malformed, and right.
    assert_eq!(with_password(&direct, &name, &typed("wrong")).await.status, 401);
    let unknown = format!("{}@example.com", typed("in-the-wrong-field"));
    assert_eq!(with_password(&direct, &unknown, "x").await.status, 401);
    assert_eq!(attempt(&direct, &json!({"username": name, "password": [typed("malformed")]})).await.status, 400);
    let session = token(&direct, &name, PASSWORD).await;
    let change = json!({"oldPassword": PASSWORD, "newPassword": typed("new")});
    let changed = post(&direct, "users/~/password", Some(&session), &body("PasswordChange", &change)).await;
    assert_eq!(changed.status, 201, "{}", changed.body);
    let session = token(&direct, &name, &typed("new")).await;
    let key = crate::logins::api_keys::key_with(&direct, &session, &typed("new")).await;
    assert_eq!(own_status(&direct, &key).await, 200);
    let enroll = async |spec: serde_json::Value| {
        let answer = post(&direct, "users/~/totp", Some(&session), &body("TOTPEnrollment", &spec)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.json()["status"].clone()
    };
    // Confirmations: wrong and malformed passwords must not leak either.
    for wrong in [json!(typed("wrong-again")), json!([typed("malformed-again")])] {
        for (path, kind, mut spec) in
            [("apikeys", "APIKey", json!({"displayName": "x"})), ("totp", "TOTPEnrollment", json!({}))]
        {
            spec["currentPassword"] = wrong.clone();
            let refused = post(&direct, &format!("users/~/{path}"), Some(&session), &body(kind, &spec)).await;
            assert!([400, 422].contains(&refused.status), "{}", refused.body);
            assert!(!refused.body.contains("-again"), "{}", refused.body);
        }
    }
    let seed =
        enroll(json!({"currentPassword": typed("new")})).await["enrollment"]["secret"].as_str().unwrap().to_owned();
    let recovery = enroll(json!({"code": code(&seed, 0)})).await["recoveryCodes"][0].as_str().unwrap().to_owned();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), body("Invitation", &json!({}))).unwrap();
    let path = format!("{BASE}/users/{name}/invitation");
    let invitation = cluster.kubectl(&["create", "--raw", &path, "-f", file.path().to_str().unwrap()]);
    let invitation: serde_json::Value = serde_json::from_str(&invitation).unwrap();
    let invitation = invitation["status"]["code"].as_str().unwrap().to_owned();

    let secrets = [
        typed("wrong"),
        typed("in-the-wrong-field"),
        typed("malformed"),
        typed("wrong-again"),
        typed("malformed-again"),
        typed("new"),
        key,
        seed,
        recovery,
        invitation,
        session,
    ];
    let stored = unique("i1-stored");
    cluster.kubectl(&["create", "configmap", &stored, &format!("--from-literal=control=Xq7-control-{stored}-Zk9")]);
    let etcd = cluster.plane.etcd_data_dir();
    eventually("etcd has written what came after it", || async {
        let found = files_with(&etcd, &format!("Xq7-control-{stored}-Zk9"));
        if found.iter().any(|file| file.ends_with("snap/db")) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let logs = tempfile::tempdir().unwrap();
    let others = ["audit", "etcd", "kube-apiserver", "kube-controller-manager"];
    let others = others.map(|name| cluster.plane.dir.join(format!("{name}.log")));
    for log in cluster.operator_logs().into_iter().chain(others) {
        std::fs::copy(&log, logs.path().join(log.file_name().unwrap())).unwrap();
    }
    let shown =
        ["users.roster.dev", "events", "secrets"].map(|what| cluster.kubectl(&["get", what, "-A", "-o", "yaml"]));
    std::fs::write(logs.path().join("shown"), shown.concat() + &cluster.operators()[0].probe("/metrics").unwrap())
        .unwrap();
    for (at, secret) in secrets.iter().enumerate() {
        assert_eq!(files_with(&etcd, secret), Vec::<String>::new(), "etcd, {at}");
        assert_eq!(files_with(logs.path(), secret), Vec::<String>::new(), "logs, {at}");
    }
}
