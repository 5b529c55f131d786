//! Passwords: own changes, resets checked by the guard, invitations, policy, and which sessions end.

use roster_api::UserSpec;
use serde_json::{Value, json};

use super::{PASSWORD, attempt, body, logins, own_status, person, post, token, token_of, with_password};
use crate::directory::{Answer, BASE, Direct};
use crate::support::{Cluster, eventually, stored_hash, unique, user_where, wait_until_ready};

const NEXT: &str = "that is the question";

async fn change(direct: &Direct, key: &str, bearer: Option<&str>, spec: &Value) -> Answer {
    post(direct, &format!("users/{key}/password"), bearer, &body("PasswordChange", spec)).await
}

async fn is_session_valid(direct: &Direct, token: &str) -> bool {
    own_status(direct, token).await == 200
}

async fn wait_until_ended(direct: &Direct, token: &str) {
    eventually("the session has ended", || async {
        if is_session_valid(direct, token).await { Err("it is still valid".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_your_own_password_requires_the_old_one_and_ends_sessions() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let other = Direct::new(cluster, 1, None).await;
    let name =
        person(cluster, "own", |user| user.spec.email = Some(format!("{}@example.com", unique("shakespeare")))).await;
    let session = token(&direct, &name, PASSWORD).await;
    let key = super::api_keys::key(&direct, &session).await;
    let tried = |spec: Value| {
        let (direct, session) = (&direct, &session);
        async move { change(direct, "~", Some(session), &spec).await }
    };
    for (spec, field, why) in [
        (json!({"newPassword": NEXT}), "spec.oldPassword", "is required"),
        (json!({"oldPassword": "wrong", "newPassword": NEXT}), "spec.oldPassword", "is not the current password"),
        (json!({"oldPassword": PASSWORD, "newPassword": "short"}), "spec.newPassword", "at least 12"),
        (json!({"oldPassword": PASSWORD, "newPassword": "1qaz2wsx3edc4rfv"}), "spec.newPassword", "common password"),
        (json!({"oldPassword": PASSWORD, "newPassword": format!("I am {name}, no?")}), "spec.newPassword", "username"),
        (json!({"oldPassword": PASSWORD, "newPassword": PASSWORD}), "spec.newPassword", "one of the last"),
    ] {
        let refused = tried(spec.clone()).await;
        assert_eq!(refused.status, 422, "{spec}: {}", refused.body);
        let cause = refused.json()["details"]["causes"][0].clone();
        assert_eq!(cause["field"], field, "{cause}");
        assert!(cause["message"].as_str().unwrap().contains(why), "{cause}");
        assert!(!refused.body.contains(NEXT) && !refused.body.contains("1qaz"), "{}", refused.body);
    }
    let good = body("PasswordChange", &json!({"oldPassword": PASSWORD, "newPassword": NEXT}));
    let dry = post(&direct, "users/~/password?dryRun=All", Some(&session), &good).await;
    assert_eq!(dry.status, 201);
    assert_eq!(with_password(&other, &name, PASSWORD).await.status, 201, "a dry run changes nothing");

    let changed = tried(json!({"oldPassword": PASSWORD, "newPassword": NEXT, "revokeAPIKeys": true})).await;
    assert_eq!(changed.status, 201, "{}", changed.body);
    assert_eq!(changed.json()["status"]["revokedAPIKeys"], 1);
    assert_eq!(with_password(&other, &name, PASSWORD).await.status, 401);
    assert!(!is_session_valid(&other, &key).await, "the key was revoked");
    wait_until_ended(&other, &session).await;
    let session = token(&direct, &name, NEXT).await;
    assert!(is_session_valid(&other, &session).await);
    let back = json!({"oldPassword": NEXT, "newPassword": PASSWORD});
    assert_eq!(change(&direct, "~", Some(&session), &back).await.status, 422, "the previous password is rejected too");
}

/// The declared Secret still has the first password, so applying it again changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_outlives_a_reapply_and_ends_with_a_new_secret() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = unique("gitops");
    let manifest = |password: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default, annotations: {{roster.dev/user: {name}}}}}\n\
             type: roster.dev/password\nstringData: {{password: {password}}}\n---\n\
             apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {name}}}\n\
             spec: {{passwordSecretRef: {{namespace: default, name: {name}}}}}\n"
        )
    };
    cluster.apply(&manifest(PASSWORD));
    wait_until_ready(&cluster.users().await, &name).await;
    let session = token(&direct, &name, PASSWORD).await;
    assert_eq!(
        change(&direct, "~", Some(&session), &json!({"oldPassword": PASSWORD, "newPassword": NEXT})).await.status,
        201
    );
    cluster.apply(&manifest(PASSWORD));
    let session = token(&direct, &name, NEXT).await;
    assert_eq!(with_password(&direct, &name, PASSWORD).await.status, 401);
    cluster.apply(&manifest("whether tis nobler"));
    eventually("the new Secret takes effect", || async {
        let answer = with_password(&direct, &name, "whether tis nobler").await;
        if answer.status == 201 { Ok(()) } else { Err(answer.body) }
    })
    .await;
    wait_until_ended(&direct, &session).await;
}

/// I4: resetting another user's password requires `bind` on every role that the user holds.
#[tokio::test(flavor = "multi_thread")]
async fn i4_resetting_a_password_requires_control_of_the_user() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let helper = person(cluster, "helper", |_| {}).await;
    let (weak, strong) = (person(cluster, "weak", |_| {}).await, person(cluster, "strong", |_| {}).await);
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        &helper,
        "--clusterrole=roster-credential-administrator",
        "--user",
        &helper,
    ]);
    cluster.kubectl(&["create", "clusterrolebinding", &strong, "--clusterrole=cluster-admin", "--user", &strong]);
    let session = token(&direct, &helper, PASSWORD).await;
    let reset = json!({"newPassword": NEXT});
    let unlock = || body("Unlock", &json!({}));
    eventually("the helper may help, and the binding is known", || async {
        let (weak, strong) = (
            change(&direct, &weak, Some(&session), &reset).await,
            post(&direct, &format!("users/{strong}/unlock"), Some(&session), &unlock()).await,
        );
        // Now it is in the password history.
        match (weak.status, strong.status) {
            (201 | 422, 403) if strong.body.contains("the guard") => Ok(()),
            _ => Err(format!("{} {}", weak.body, strong.body)),
        }
    })
    .await;
    token(&direct, &weak, NEXT).await;
    for (path, kind, spec) in [
        ("password", "PasswordChange", reset.clone()),
        ("invitation", "Invitation", json!({})),
        ("unlock", "Unlock", json!({})),
        ("apikeys", "APIKey", json!({"displayName": "mine now"})),
    ] {
        let refused = post(&direct, &format!("users/{strong}/{path}"), Some(&session), &body(kind, &spec)).await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.body);
        assert!(refused.body.contains("may not bind"), "{path}: {}", refused.body);
    }
    let seed = post(&direct, &format!("users/{weak}/totp"), Some(&session), &body("TOTPEnrollment", &json!({}))).await;
    assert_eq!(seed.status, 403, "nobody else sees a seed: {}", seed.body);
    token(&direct, &strong, PASSWORD).await;
    // Callers without any permission learn nothing.
    let stranger = person(cluster, "stranger", |_| {}).await;
    let session = token(&direct, &stranger, PASSWORD).await;
    for key in [weak.as_str(), "nobody-at-all"] {
        let refused = change(&direct, key, Some(&session), &reset).await;
        assert_eq!(refused.status, 403, "{}", refused.body);
        assert!(!refused.body.contains("not found"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_set_by_another_must_be_changed_first() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name =
        person(cluster, "forced", |user| user.spec = UserSpec { require_password_change: true, ..user.spec.clone() })
            .await;
    let challenge = with_password(&direct, &name, PASSWORD).await.json();
    assert_eq!(challenge["status"], json!({"challenge": "PasswordChange"}));
    let with = |new: &str| json!({"username": name, "password": PASSWORD, "newPassword": new});
    let refused = attempt(&direct, &with("short")).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    let session = token_of(&attempt(&direct, &with(NEXT)).await);
    // Immediately, even if the status is not updated yet.
    assert!(is_session_valid(&direct, &session).await);
    user_where(&cluster.users().await, &name, "nothing is required any more", |user| {
        crate::support::condition(user, "PasswordChangeRequired").is_none()
    })
    .await;
    assert!(is_session_valid(&direct, &session).await);
    assert_eq!(
        attempt(&direct, &json!({"username": name, "password": NEXT, "newPassword": "or not"})).await.status,
        422
    );
    // After a reset by an administrator, issued tokens are invalid and a change is required again.
    let file = cluster.plane.dir.join("reset.json");
    std::fs::write(&file, body("PasswordChange", &json!({"newPassword": "whether tis nobler"}))).unwrap();
    cluster.kubectl(&["create", "--raw", &format!("{BASE}/users/{name}/password"), "-f", file.to_str().unwrap()]);
    wait_until_ended(&direct, &session).await;
    let challenge = with_password(&direct, &name, "whether tis nobler").await.json();
    assert_eq!(challenge["status"]["challenge"], "PasswordChange");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_valid_once() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = unique("invited");
    cluster.apply(&format!("apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {name}}}\nspec: {{}}\n"));
    wait_until_ready(&cluster.users().await, &name).await;
    let file = cluster.plane.dir.join("invite.json");
    std::fs::write(&file, body("Invitation", &json!({}))).unwrap();
    let made =
        cluster.kubectl(&["create", "--raw", &format!("{BASE}/users/{name}/invitation"), "-f", file.to_str().unwrap()]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let invitation = made["status"]["code"].as_str().unwrap().to_owned();
    let with = |code: &str, new: &str| json!({"username": name, "invitation": code, "newPassword": new});
    assert_eq!(attempt(&direct, &with("0000", NEXT)).await.status, 401);
    assert_eq!(attempt(&direct, &with(&invitation, "short")).await.status, 422);
    token_of(&attempt(&direct, &with(&invitation, NEXT)).await);
    assert_eq!(attempt(&direct, &with(&invitation, "whether tis nobler")).await.status, 401);
    token(&direct, &name, NEXT).await;
    // The stored data does not reveal it, even to readers of etcd.
    let dump = cluster.kubectl(&["get", "secrets", "-n", "roster-system", "-o", "json"]);
    assert!(!dump.contains(&invitation));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outdated_hash_is_replaced_at_the_first_login() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = unique("migrated");
    let bcrypt = bcrypt::hash(PASSWORD, 10).unwrap();
    let secret = crate::support::password_secret(&name, "passwordHash", &bcrypt);
    crate::support::create(&cluster.secrets("default").await, &secret).await;
    let users = cluster.users().await;
    let user = crate::support::create(&users, &crate::support::user(&name, true)).await;
    wait_until_ready(&users, &name).await;
    assert_eq!(stored_hash(cluster, &user).await, Some(bcrypt));
    let session = token(&direct, &name, PASSWORD).await;
    assert!(stored_hash(cluster, &user).await.unwrap().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    assert!(is_session_valid(&direct, &session).await, "it is the same password");
    token(&direct, &name, PASSWORD).await;
}

/// bcrypt ignores everything after 72 bytes, so such a login must not replace the hash.
#[tokio::test(flavor = "multi_thread")]
async fn case_b1_a_bcrypt_hash_of_a_long_password_is_kept() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let (right, other) = (format!("{}right", "long ".repeat(15)), format!("{}other", "long ".repeat(15)));
    let name = unique("long");
    let bcrypt = bcrypt::hash(&right, 10).unwrap();
    let secret = crate::support::password_secret(&name, "passwordHash", &bcrypt);
    crate::support::create(&cluster.secrets("default").await, &secret).await;
    let users = cluster.users().await;
    let user = crate::support::create(&users, &crate::support::user(&name, true)).await;
    wait_until_ready(&users, &name).await;
    token(&direct, &name, &other).await;
    assert_eq!(stored_hash(cluster, &user).await, Some(bcrypt), "it is not replaced by a hash of another password");
    let session = token(&direct, &name, &right).await;
    // The hash cannot tell whether the new password is the old one, which must not satisfy a required change.
    for new in [&right, &other] {
        let refused = change(&direct, "~", Some(&session), &json!({"oldPassword": right, "newPassword": new})).await;
        assert_eq!(refused.status, 422, "{new}: {}", refused.body);
        assert!(refused.body.contains("begins with the same 72 bytes as one of the last"), "{}", refused.body);
    }
    // The same applies later, when the hash is in the password history.
    token(&direct, &name, &other).await;
    let session = token(&direct, &name, &right).await;
    let changed = change(&direct, "~", Some(&session), &json!({"oldPassword": right, "newPassword": NEXT})).await;
    assert_eq!(changed.status, 201, "{}", changed.body);
    assert_eq!(with_password(&direct, &name, &right).await.status, 401);
    let session = token(&direct, &name, NEXT).await;
    let refused = change(&direct, "~", Some(&session), &json!({"oldPassword": NEXT, "newPassword": other})).await;
    assert!(refused.status == 422 && refused.body.contains("the same 72 bytes"), "{}", refused.body);
}

/// A required change needs a different password, even if the hash cannot tell long passwords apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_required_change_rejects_the_same_long_password() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let (long, name) = ("long ".repeat(16), unique("forced-long"));
    let secret = crate::support::password_secret(&name, "passwordHash", bcrypt::hash(&long, 10).unwrap());
    crate::support::create(&cluster.secrets("default").await, &secret).await;
    let users = cluster.users().await;
    let mut user = crate::support::user(&name, true);
    user.spec.require_password_change = true;
    crate::support::create(&users, &user).await;
    wait_until_ready(&users, &name).await;
    let with = |new: &str| json!({"username": name, "password": long, "newPassword": new});
    for new in [long.clone(), format!("{long}and more")] {
        let refused = attempt(&direct, &with(&new)).await;
        assert_eq!(refused.status, 422, "{new}: {}", refused.body);
        assert!(refused.body.contains("choose a password that begins differently"), "{}", refused.body);
    }
    let challenge = with_password(&direct, &name, &long).await.json();
    assert_eq!(challenge["status"]["challenge"], "PasswordChange");
    token_of(&attempt(&direct, &with(&format!("another {long}"))).await);
}

/// macOS types decomposed letters (NFD), other systems composed ones (NFC).
#[tokio::test(flavor = "multi_thread")]
async fn case_b2_a_password_is_accepted_in_any_unicode_normalization() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let (composed, decomposed) = ("caf\u{e9} au lait cr\u{e8}me", "cafe\u{301} au lait cre\u{300}me");
    for (set, typed) in [(composed, decomposed), (decomposed, composed)] {
        let name = person(cluster, "composed", |_| {}).await;
        let session = token(&direct, &name, PASSWORD).await;
        let changed = change(&direct, "~", Some(&session), &json!({"oldPassword": PASSWORD, "newPassword": set})).await;
        assert_eq!(changed.status, 201, "{}", changed.body);
        token(&direct, &name, typed).await;
        token(&direct, &name, set).await;
    }
    let name = unique("imported");
    let secret = crate::support::password_secret(&name, "passwordHash", bcrypt::hash(decomposed, 10).unwrap());
    crate::support::create(&cluster.secrets("default").await, &secret).await;
    let users = cluster.users().await;
    crate::support::create(&users, &crate::support::user(&name, true)).await;
    wait_until_ready(&users, &name).await;
    token(&direct, &name, decomposed).await;
    token(&direct, &name, composed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_password_is_changed_first_and_the_last_login_is_reported() {
    let cluster = Cluster::create("max-age", &[]);
    cluster.start_operator(&["--password-max-age", "40s", "--last-use-interval", "300ms"]);
    let direct = Direct::new(&cluster, 0, None).await;
    let name = person(&cluster, "aged", |_| {}).await;
    let users = cluster.users().await;
    let user = users.get(&name).await.unwrap();
    let status = user.status.as_ref().unwrap();
    let (changed, expires) =
        (status.password_changed_time.clone().unwrap(), status.password_expires_time.clone().unwrap());
    assert_eq!(expires.0.duration_since(changed.0).as_secs(), 40);
    assert!(
        crate::support::condition(&user, "Expiring").is_some_and(|condition| condition.reason == "PasswordExpiring")
    );
    token(&direct, &name, PASSWORD).await;
    user_where(&users, &name, "the status shows the last login", |user| {
        user.status.as_ref().is_some_and(|status| status.last_login_time.is_some())
    })
    .await;
    eventually("the password is too old", || async {
        let answer = with_password(&direct, &name, PASSWORD).await.json();
        if answer["status"]["challenge"] == "PasswordChange" { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    let spec = json!({"username": name, "password": PASSWORD, "newPassword": NEXT});
    token_of(&attempt(&direct, &spec).await);
}

/// Earlier versions imported hashes of up to 256 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_stored_costly_hash_still_logs_in_and_is_replaced() {
    use roster_credentials::claim::{Identifier, IdentifierKind};
    use roster_credentials::hash::{Argon2idCost, Memory, PasswordHash};

    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "legacy", |_| {}).await;
    let user = cluster.users().await.get(&name).await.unwrap();
    let cost = Argon2idCost::new(262_144, 2, 1).unwrap();
    let costly = PasswordHash::create(PASSWORD, cost, &mut Memory::default());
    let identity = Identifier { kind: IdentifierKind::Username, text: user.username() }.secret_name();
    let patch = kube::api::Patch::Merge(json!({"stringData": {"passwordHash": costly.expose()}}));
    let secrets = cluster.secrets("roster-system").await;
    secrets.patch(&identity, &kube::api::PatchParams::default(), &patch).await.unwrap();
    assert_eq!(with_password(&direct, &name, "another").await.status, 401);
    assert_eq!(stored_hash(cluster, &user).await.as_deref(), Some(costly.expose()));
    token(&direct, &name, PASSWORD).await;
    let hash = stored_hash(cluster, &user).await.unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,"), "{hash}");
    token(&direct, &name, PASSWORD).await;
}
