//! Password Secrets in the controller, without admission: each error has its own reason, and the last valid credential
//! stays in use.

use k8s_openapi::ByteString;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::{
    condition, create, eventually, password_secret, stored_hash, unique, user, user_where, wait_for_reason,
    wait_until_ready, without_admission,
};

const WEAK: &str = "$2y$05$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW";

/// Hashes created by argon2-cffi, bcrypt and passlib.
const FOREIGN: &[&str] = &[
    "$argon2id$v=19$m=65536,t=3,p=4$g6i79i7GD79Y/o0U8bpRCg$IIVtAguGCWylNR/2SA3uetNF/dYFvaUic4GQHsjLEvM",
    "$2b$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW",
    "$scrypt$ln=14,r=8,p=1$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE",
    "$pbkdf2-sha256$29000$xfj/f08JQQgBoHQupdRaCw$cj0Q5bg3unw2HJicqx5XI2Gd2VrQES7XqsZ2WSdqVWA",
    "$pbkdf2-sha512$i=25000$UCoFQMj5v5dSSqm1dm6N0Q$O0Aij2pm3/fhwj1Ih/jwrhzeYJvm9OleYOFOXx29czWZwh57UYi/KIw89N760xYKNtUx0FkTyuEHiCPU25rXNw",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_error_has_its_reason_and_the_last_valid_password_stays() {
    let (cluster, name) = (without_admission(), unique("fault"));
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    let put = |key: &'static str, value: Vec<u8>| {
        let (name, secrets) = (name.clone(), secrets.clone());
        async move {
            let mut secret = secrets.get(&name).await.unwrap();
            secret.data = Some([(key.to_owned(), ByteString(value))].into());
            secrets.replace(&name, &PostParams::default(), &secret).await.unwrap();
        }
    };
    create(&secrets, &password_secret(&name, "password", "the good one")).await;
    create(&users, &user(&name, true)).await;
    let good = wait_until_ready(&users, &name).await;
    let hash = stored_hash(cluster, &good).await;
    assert!(hash.as_ref().unwrap().starts_with("$argon2id$"), "without admission the controller hashes");

    let faults: &[(&str, &[u8], &str, &str)] = &[
        ("passwordHash", b"hunter2", "PasswordHashMalformed", "belongs under the key password"),
        ("passwordHash", b"$argon2id$v=19$m=19456,t=2,p=1$c2FsdA", "PasswordHashMalformed", "argon2id"),
        ("passwordHash", WEAK.as_bytes(), "PasswordHashTooWeak", "cost of 10 or above"),
        ("passwordHash", b"$1$salt$qJH7.N4xYta3aEG/dfqo/0", "PasswordHashUnsupported", "use argon2id"),
        (
            "passwordHash",
            b"$2b$20$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW",
            "PasswordHashTooCostly",
            "up to a cost of 14",
        ),
        (
            "passwordHash",
            b"$argon2id$v=19$m=262144,t=4,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG",
            "PasswordHashTooCostly",
            "up to m=65536",
        ),
        ("passwd", b"x", "SecretKeyMissing", "add one"),
        ("password", b"", "PasswordEmpty", "is empty"),
        ("password", b"\xff\xfe", "PasswordNotUTF8", "UTF-8"),
        ("password", &[b'x'; 1025], "PasswordTooLong", "1024 bytes"),
        ("password", b"trailing\n", "PasswordInvalid", "printf"),
    ];
    for (key, value, reason, advice) in faults {
        put(key, value.to_vec()).await;
        let user = user_where(&users, &name, reason, |user| {
            condition(user, "CredentialReady").is_some_and(|c| c.reason == *reason && c.message.contains(advice))
        })
        .await;
        let message = &condition(&user, "CredentialReady").unwrap().message;
        assert!(message.contains("last good password stays in use") && message.contains(&name), "{message}");
        assert_eq!(condition(&user, "Stalled").unwrap().reason, *reason);
        assert_eq!(stored_hash(cluster, &user).await, hash);
        assert_eq!(user.status.unwrap().password_changed_time, good.status.as_ref().unwrap().password_changed_time);
    }

    let annotation = json!({"metadata": {"annotations": {"roster.dev/user": "somebody-else"}}});
    secrets.patch(&name, &PatchParams::default(), &Patch::Merge(annotation)).await.unwrap();
    let user = wait_for_reason(&users, &name, "CredentialReady", "SecretNotOptedIn").await;
    assert!(condition(&user, "CredentialReady").unwrap().message.contains(&format!("roster.dev/user: {name}")));

    secrets.delete(&name, &DeleteParams::default()).await.unwrap();
    let user = wait_for_reason(&users, &name, "CredentialReady", "SecretNotFound").await;
    assert_eq!(condition(&user, "Reconciling").unwrap().reason, "SecretNotFound", "the Secret may still be created");
    assert_eq!(stored_hash(cluster, &user).await, hash);

    let elsewhere = json!({"spec": {"passwordSecretRef": {"namespace": "no-such-namespace", "name": name}}});
    users.patch(&name, &PatchParams::default(), &Patch::Merge(elsewhere)).await.unwrap();
    wait_for_reason(&users, &name, "CredentialReady", "NamespaceNotFound").await;

    let back = json!({"spec": {"passwordSecretRef": {"namespace": "default", "name": name}}});
    users.patch(&name, &PatchParams::default(), &Patch::Merge(back)).await.unwrap();
    let mut opaque = password_secret(&name, "password", "x");
    opaque.type_ = Some("Opaque".into());
    create(&secrets, &opaque).await;
    // Roster does not watch Secrets of other types, so the User must be changed.
    let touch = json!({"spec": {"displayName": "touched"}});
    users.patch(&name, &PatchParams::default(), &Patch::Merge(touch)).await.unwrap();
    wait_for_reason(&users, &name, "CredentialReady", "SecretTypeInvalid").await;

    secrets.delete(&name, &DeleteParams::default()).await.unwrap();
    create(&secrets, &password_secret(&name, "password", "a new good one")).await;
    let mended = wait_until_ready(&users, &name).await;
    assert_ne!(stored_hash(cluster, &mended).await, hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_hashes_are_stored_unchanged() {
    let cluster = without_admission();
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    for foreign in FOREIGN {
        let name = unique("foreign");
        create(&secrets, &password_secret(&name, "passwordHash", foreign)).await;
        create(&users, &user(&name, true)).await;
        let user = wait_until_ready(&users, &name).await;
        assert_eq!(stored_hash(cluster, &user).await.as_deref(), Some(*foreign));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_with_both_keys_is_processed_too() {
    let (cluster, name) = (without_admission(), unique("both"));
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    let mut both = password_secret(&name, "password", "correct horse battery staple");
    both.data.as_mut().unwrap().insert("passwordHash".into(), ByteString(FOREIGN[1].into()));
    create(&secrets, &both).await;
    create(&users, &user(&name, true)).await;
    let first = wait_until_ready(&users, &name).await;
    let hash = stored_hash(cluster, &first).await;
    assert!(
        hash.as_ref().unwrap().starts_with("$argon2id$v=19$m=19456,"),
        "the password is hashed instead of compared with the other hash"
    );
    let touch = json!({"metadata": {"labels": {"touched": "yes"}}});
    secrets.patch(&name, &PatchParams::default(), &Patch::Merge(touch)).await.unwrap();
    let other = json!({"stringData": {"password": "another one"}});
    secrets.patch(&name, &PatchParams::default(), &Patch::Merge(other)).await.unwrap();
    eventually("the password takes precedence over the hash", || async {
        match stored_hash(cluster, &first).await {
            Some(other) if Some(&other) != hash.as_ref() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
