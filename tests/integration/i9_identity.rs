//! I9: credentials, tokens and keys are bound to the User's UID. A deleted and recreated name inherits nothing.

use kube::api::ObjectMeta;
use roster_credentials::claim::{Identifier, IdentifierKind};

use crate::directory::{BASE, Direct};
use crate::logins::{PASSWORD, kubectl_as, logins, person, token, whoami, with_password};
use crate::support::{create, eventually, wait_until_ready};

#[tokio::test(flavor = "multi_thread")]
async fn i9_a_recreated_name_inherits_neither_password_nor_token_nor_key() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let other = Direct::new(cluster, 1, None).await;
    let name = person(cluster, "reborn", |_| {}).await;
    let old = token(&direct, &name, PASSWORD).await;
    let key = crate::logins::api_keys::key(&direct, &old).await;
    whoami(&kubectl_as(cluster, &key)).unwrap();

    cluster.kubectl(&["delete", "users.roster.dev", &name]);
    cluster.apply(&format!("apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {name}}}\nspec: {{}}\n"));
    wait_until_ready(&cluster.users().await, &name).await;
    for credential in [&old, &key] {
        for replica in [&direct, &other] {
            let bearer = format!("Bearer {credential}");
            eventually("the replica refuses it", || async {
                let answer = replica.get(&format!("{BASE}/users/~"), &[("Authorization", &bearer)]).await;
                if answer.status == 401 { Ok(()) } else { Err(answer.body) }
            })
            .await;
        }
        let kubectl = kubectl_as(cluster, credential);
        eventually("kube-apiserver refuses it, too", || async {
            whoami(&kubectl).map_or_else(|_| Ok(()), |user| Err(user.to_string()))
        })
        .await;
    }
    assert_eq!(with_password(&direct, &name, PASSWORD).await.status, 401);
}

/// A backup tool recreates Secrets under their old names, without UID and owner, before the Users.
#[tokio::test(flavor = "multi_thread")]
async fn i9_an_identity_from_a_backup_belongs_to_nobody() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "restored", |_| {}).await;
    token(&direct, &name, PASSWORD).await;
    let secret = Identifier { kind: IdentifierKind::Username, text: name.clone() }.secret_name();
    let identities = cluster.secrets("roster-system").await;
    let mut kept = identities.get(&secret).await.unwrap();
    cluster.kubectl(&["delete", "users.roster.dev", &name]);
    eventually("the credential is gone", || async {
        let found = identities.get_opt(&secret).await.map_err(|error| error.to_string())?;
        found.map_or(Ok(()), |found| Err(format!("{:?}", found.metadata)))
    })
    .await;

    kept.metadata = ObjectMeta {
        name: Some(secret.clone()),
        labels: kept.metadata.labels,
        annotations: kept.metadata.annotations,
        ..ObjectMeta::default()
    };
    create(&identities, &kept).await;
    cluster.apply(&format!("apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {name}}}\nspec: {{}}\n"));
    wait_until_ready(&cluster.users().await, &name).await;
    assert_eq!(with_password(&direct, &name, PASSWORD).await.status, 401);
    let now = identities.get(&secret).await.unwrap();
    assert!(!now.data.unwrap_or_default().contains_key("passwordHash"), "what was in it is gone");
}
