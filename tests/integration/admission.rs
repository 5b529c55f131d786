//! The webhook for password Secrets, called by the real kube-apiserver for every kind of write.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::{Cluster, create, eventually, password_secret, shared, unique};

/// A hash that takes 256 MiB and a second to verify.
const COSTLY: &str = "$argon2id$v=19$m=262144,t=4,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG";

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn hash(secret: &Secret) -> String {
    let data = secret.data.as_ref().expect("there is data");
    assert!(!data.contains_key("password"), "the plaintext is gone");
    String::from_utf8(data["passwordHash"].0.clone()).unwrap()
}

fn manifest(name: &str, password: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default, labels: {{note: kept}}, annotations: \
         {{roster.dev/user: {name}}}}}\ntype: roster.dev/password\nstringData: {{password: {password}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_write_stores_a_hash() {
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
async fn reapplying_the_same_file_writes_nothing() {
    let (cluster, name) = (shared(), unique("again"));
    let secrets = cluster.secrets("default").await;
    cluster.apply(&manifest(&name, "hunter2"));
    let first = secrets.get(&name).await.unwrap();
    assert!(!first.annotations()[LAST_APPLIED].contains("hunter2"));
    assert!(first.annotations()[LAST_APPLIED].contains("kept"), "only the password is removed");
    cluster.apply(&manifest(&name, "hunter2"));
    assert_eq!(secrets.get(&name).await.unwrap().resource_version(), first.resource_version());
    cluster.apply(&manifest(&name, "hunter3"));
    let changed = secrets.get(&name).await.unwrap();
    assert_ne!(hash(&changed), hash(&first));
    assert!(!changed.annotations()[LAST_APPLIED].contains("hunter3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn reapplying_server_side_writes_nothing() {
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
async fn values_that_may_be_passwords_and_cannot_be_hashed_are_refused_by_field() {
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
async fn other_keys_are_refused_for_every_kind_of_write() {
    let (cluster, name) = (shared(), unique("keys"));
    let secrets = cluster.secrets("default").await;
    let kubectl = &cluster.plane.kubectl;
    let with = |name: &str, data: &str| {
        manifest(name, "hunter2").replace("stringData: {", &format!("stringData: {{{data}: plain-as-day, "))
    };
    let is_refused = |way: &str, said: String| {
        assert!(said.contains("data has the key Password: ") && said.contains("passwordHash"), "{way}: {said}");
    };
    for way in [&["create", "-f", "-"][..], &["apply", "-f", "-"], &["apply", "--server-side", "-f", "-"]] {
        let error = kubectl.run_with_input(way, &with(&name, "Password")).unwrap_err();
        is_refused(&format!("{way:?}"), format!("{error:#}"));
        assert!(secrets.get_opt(&name).await.unwrap().is_none());
    }
    cluster.apply(&manifest(&name, "hunter2"));
    let stored = secrets.get(&name).await.unwrap();
    for way in [&["apply", "-f", "-"][..], &["apply", "--server-side", "--force-conflicts", "-f", "-"]] {
        let error = kubectl.run_with_input(way, &with(&name, "Password")).unwrap_err();
        is_refused(&format!("{way:?}"), format!("{error:#}"));
    }
    let fields = json!({"stringData": {"Password": "plain-as-day"}});
    for patch in [Patch::Merge(fields.clone()), Patch::Strategic(fields)] {
        let error = secrets.patch(&name, &PatchParams::default(), &patch).await.unwrap_err();
        is_refused("patch", error.to_string());
    }
    let mut replaced = stored.clone();
    replaced.string_data = Some([("Password".to_owned(), "plain-as-day".to_owned())].into());
    is_refused("replace", secrets.replace(&name, &PostParams::default(), &replaced).await.unwrap_err().to_string());
    assert_eq!(secrets.get(&name).await.unwrap().resource_version(), stored.resource_version());

    let labelled = json!({"metadata": {"labels": {"hint": "hunter2"}}, "stringData": {"password": "hunter2"}});
    let error = secrets.patch(&name, &PatchParams::default(), &Patch::Merge(labelled)).await.unwrap_err().to_string();
    assert!(error.contains("metadata.labels[hint] contains the password"), "{error}");
}

/// Returns the peak and current memory of the process, in KiB.
fn memory_of(process: u32) -> [u64; 2] {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    ["VmHWM:", "VmRSS:"].map(|field| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_in_requests_stay_within_the_memory_for_hashing() {
    let cluster = shared();
    let secrets = cluster.secrets("default").await;
    let operator = cluster.operators()[0].id();
    let [_, before] = memory_of(operator);
    let slots = std::thread::available_parallelism().unwrap().get() as u64;
    let budget = (2 * slots * 19_456).max(262_144);
    // The costly hash is only in the request, or stored as well: the password must not be compared with it.
    for stored in [None, Some(COSTLY)] {
        let requests = (0..8).map(|_| async {
            let name = unique("costly");
            if let Some(stored) = stored {
                create(&secrets, &password_secret(&name, "passwordHash", stored)).await;
            }
            let data = json!({"password": "hunter2", "passwordHash": COSTLY});
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "type": "roster.dev/password", "metadata": {"name": name},
                "stringData": data,
            });
            let forced = PatchParams::apply("tests").force();
            secrets.patch(&name, &forced, &Patch::Apply(secret)).await.unwrap()
        });
        for stored in futures::future::join_all(requests).await {
            assert!(
                hash(&stored).starts_with("$argon2id$v=19$m=19456,"),
                "the hash must be the one that Roster computed"
            );
        }
    }
    // Other growth stays below 128 MiB.
    let [most, _] = memory_of(operator);
    assert!(most <= before + budget + 131_072, "{most} KiB at the peak, {before} KiB before");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_hash_is_reported_by_the_condition() {
    let cluster = shared();
    let users = cluster.users().await;
    let weak = "$2y$05$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW";
    for (hash, reason) in [(weak, "PasswordHashTooWeak"), (COSTLY, "PasswordHashTooCostly")] {
        let name = unique("faulty");
        create(&cluster.secrets("default").await, &password_secret(&name, "passwordHash", hash)).await;
        create(&users, &crate::support::user(&name, true)).await;
        crate::support::wait_for_reason(&users, &name, "CredentialReady", reason).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_operator_password_secrets_are_denied_and_others_unaffected() {
    let cluster = Cluster::create("no-operator", &[]);
    let secrets = cluster.secrets("default").await;
    let error = secrets.create(&PostParams::default(), &password_secret("x", "password", "x")).await.unwrap_err();
    assert!(error.to_string().contains("password-secrets.roster.dev"), "{error}");
    // They are denied even if the webhook has been deleted.
    cluster.kubectl(&["delete", "mutatingwebhookconfiguration", "roster"]);
    eventually("the policy alone refuses plaintext", || async {
        match secrets.create(&PostParams::default(), &password_secret("x", "password", "x")).await {
            Err(error) if error.to_string().contains("must not be stored in plain text") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let hash = "$2b$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW";
    let mut unknown = password_secret("unknown", "passwordHash", hash);
    unknown.data.as_mut().unwrap().insert("pass".into(), k8s_openapi::ByteString("plain".into()));
    let error = secrets.create(&PostParams::default(), &unknown).await.unwrap_err().to_string();
    assert!(error.contains("data has the key pass: ") && error.contains("roster-no-plaintext"), "{error}");
    // A Secret stored by an earlier version can still be written, and cleaned up.
    let policy = ["validatingadmissionpolicybinding", "roster-no-plaintext"];
    let binding = cluster.kubectl(&["get", policy[0], policy[1], "-o", "yaml"]);
    cluster.kubectl(&["delete", policy[0], policy[1]]);
    eventually("without the policy, the Secret is stored", || async {
        secrets.create(&PostParams::default(), &unknown).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let fresh: Vec<&str> =
        binding.lines().filter(|line| !line.contains("resourceVersion:") && !line.contains("uid:")).collect();
    cluster.apply(&fresh.join("\n"));
    let patched = |patch: serde_json::Value| {
        let secrets = secrets.clone();
        async move { secrets.patch("unknown", &PatchParams::default(), &Patch::Merge(patch)).await }
    };
    eventually("the policy is enforced again", || async {
        // A new value each time, because a value that is already stored is accepted.
        match patched(json!({"stringData": {"pass": unique("plain")}})).await {
            Err(error) if error.to_string().contains("data has the key pass: ") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    patched(json!({"metadata": {"labels": {"team": "apollo"}}})).await.unwrap();
    let cleaned = patched(json!({"data": {"pass": null}})).await.unwrap();
    assert!(!cleaned.data.unwrap().contains_key("pass"));
    for kind in ["Opaque", "kubernetes.io/basic-auth", "roster.dev/passwords"] {
        let mut other = password_secret(&unique("other"), "password", "stays as it is");
        other.type_ = Some(kind.into());
        let created = create(&secrets, &other).await;
        assert_eq!(created.data, other.data);
    }
}
