//! The webhook for password Secrets, called by the real kube-apiserver on every way of writing one.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::{Cluster, create, eventually, password_secret, shared, unique};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn hash(secret: &Secret) -> String {
    let data = secret.data.as_ref().expect("there is data");
    assert!(!data.contains_key("password"), "the plaintext is gone");
    String::from_utf8(data["passwordHash"].0.clone()).unwrap()
}

fn manifest(name: &str, password: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default, annotations: {{roster.dev/user: {name}}}}}\n\
         type: roster.dev/password\nstringData: {{password: {password}, note: kept}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_writing_stores_a_hash() {
    let (cluster, name) = (shared(), unique("ways"));
    let secrets = cluster.secrets("default").await;

    let created = create(&secrets, &password_secret(&name, "password", "one")).await;
    let mut hashes = vec![hash(&created)];

    let mut updated = created;
    updated.data.as_mut().unwrap().insert("password".into(), k8s_openapi::ByteString("two".into()));
    hashes.push(hash(&secrets.replace(&name, &PostParams::default(), &updated).await.unwrap()));

    let merge = Patch::Merge(json!({"stringData": {"password": "three"}}));
    hashes.push(hash(&secrets.patch(&name, &PatchParams::default(), &merge).await.unwrap()));

    let strategic = Patch::Strategic(json!({"stringData": {"password": "four"}}));
    hashes.push(hash(&secrets.patch(&name, &PatchParams::default(), &strategic).await.unwrap()));

    let apply = Patch::Apply(
        json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"password": "five"}, "type": "roster.dev/password"}),
    );
    let forced = PatchParams::apply("gitops").force();
    hashes.push(hash(&secrets.patch(&name, &forced, &apply).await.unwrap()));

    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    let merge = Patch::Merge(json!({"stringData": {"password": "six"}}));
    hashes.push(hash(&secrets.patch(&name, &dry, &merge).await.unwrap()));
    assert_eq!(hash(&secrets.get(&name).await.unwrap()), hashes[4], "a dry run stores nothing");

    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 6, "each password has a hash of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_the_same_file_again_writes_nothing() {
    let (cluster, name) = (shared(), unique("again"));
    let secrets = cluster.secrets("default").await;
    cluster.apply(&manifest(&name, "hunter2"));
    let first = secrets.get(&name).await.unwrap();
    assert!(!first.annotations()[LAST_APPLIED].contains("hunter2"));
    assert!(first.annotations()[LAST_APPLIED].contains("kept"), "only the password is taken out");
    cluster.apply(&manifest(&name, "hunter2"));
    assert_eq!(secrets.get(&name).await.unwrap().resource_version(), first.resource_version());
    cluster.apply(&manifest(&name, "hunter3"));
    let changed = secrets.get(&name).await.unwrap();
    assert_ne!(hash(&changed), hash(&first));
    assert!(!changed.annotations()[LAST_APPLIED].contains("hunter3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_of_the_same_again_writes_nothing() {
    let (cluster, name) = (shared(), unique("ssa"));
    let secrets = cluster.secrets("default").await;
    let apply = || {
        cluster
            .plane
            .kubectl
            .run_with_input(&["apply", "--server-side", "-f", "-"], &manifest(&name, "hunter2"))
            .unwrap()
    };
    apply();
    let first = secrets.get(&name).await.unwrap();
    apply();
    let again = secrets.get(&name).await.unwrap();
    assert_eq!(again.resource_version(), first.resource_version());
    assert_eq!(hash(&again), hash(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_a_password_and_cannot_be_hashed_is_refused_by_field() {
    let secrets = shared().secrets("default").await;
    let cases: &[(&str, &[u8], &str)] = &[
        ("password", b"", "data.password is empty"),
        ("password", b"line\n", "data.password contains a control character"),
        ("password", b"\xff", "data.password is not valid UTF-8"),
        ("password", &[b'x'; 2000], "data.password is longer than 1024 bytes"),
        ("passwordHash", b"hunter2", "data.passwordHash is not a password hash"),
    ];
    for (key, value, message) in cases {
        let secret = password_secret(&unique("refused"), key, value);
        let error = secrets.create(&PostParams::default(), &secret).await.unwrap_err().to_string();
        assert!(error.contains(message) && error.contains("password-secrets.roster.dev"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_hash_is_left_to_the_condition() {
    let (cluster, name) = (shared(), unique("weak"));
    let weak = "$2y$05$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW";
    create(&cluster.secrets("default").await, &password_secret(&name, "passwordHash", weak)).await;
    let users = cluster.users().await;
    create(&users, &crate::support::user(&name, true)).await;
    crate::support::wait_for_reason(&users, &name, "CredentialReady", "PasswordHashTooWeak").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_operator_password_secrets_are_refused_and_all_others_are_not_touched() {
    let cluster = Cluster::create("no-operator", &[]);
    let secrets = cluster.secrets("default").await;
    let error = secrets.create(&PostParams::default(), &password_secret("x", "password", "x")).await.unwrap_err();
    assert!(error.to_string().contains("password-secrets.roster.dev"), "{error}");
    // Nor do they get in where somebody has taken the webhook away.
    cluster.kubectl(&["delete", "mutatingwebhookconfiguration", "roster"]);
    eventually("the policy alone refuses plaintext", || async {
        match secrets.create(&PostParams::default(), &password_secret("x", "password", "x")).await {
            Err(error) if error.to_string().contains("must not be stored in plain text") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for kind in ["Opaque", "kubernetes.io/basic-auth", "roster.dev/passwords"] {
        let mut other = password_secret(&unique("other"), "password", "stays as it is");
        other.type_ = Some(kind.into());
        let created = create(&secrets, &other).await;
        assert_eq!(created.data, other.data);
    }
}
