//! Identity Secrets changed by a privileged user: guesses still count, and Roster repairs what it can.

use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use roster_credentials::claim::{Identifier, IdentifierKind};
use serde_json::{Value, json};

use super::{PASSWORD, logins, own_status, person, token, with_password};
use crate::directory::Direct;
use crate::support::{Cluster, condition, eventually, unique, user_where, wait_for_reason, wait_until_ready};

type Secrets = Api<k8s_openapi::api::core::v1::Secret>;

fn secret_of(username: &str) -> String {
    Identifier { kind: IdentifierKind::Username, text: username.to_owned() }.secret_name()
}

async fn patch(secrets: &Secrets, username: &str, patch: Value) {
    let params = PatchParams { field_manager: Some("somebody".into()), ..PatchParams::default() };
    secrets.patch(&secret_of(username), &params, &Patch::Merge(patch)).await.expect("an administrator may");
}

async fn wait_until_it_logs_in(direct: &Direct, name: &str) {
    eventually(&format!("{name} logs in again"), || async {
        let answer = with_password(direct, name, PASSWORD).await;
        if answer.status == 201 { Ok(()) } else { Err(answer.body) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_identity_secret_allows_no_guesses_and_is_replaced_with_its_content() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "frozen", |_| {}).await;
    let session = token(&direct, &name, PASSWORD).await;
    let key = super::api_keys::key(&direct, &session).await;
    let secrets = cluster.secrets("roster-system").await;
    let before = secrets.get(&secret_of(&name)).await.unwrap();
    // The finalizer delays the repair.
    patch(&secrets, &name, json!({"immutable": true, "metadata": {"finalizers": ["example.com/stay"]}})).await;
    for _ in 0..12 {
        assert_eq!(with_password(&direct, &name, "wrong").await.status, 401);
    }
    assert_eq!(
        with_password(&direct, &name, PASSWORD).await.status,
        401,
        "otherwise, the twelve guesses would not have counted"
    );
    assert_eq!(own_status(&direct, &session).await, 200, "sessions stay valid");
    assert_eq!(own_status(&direct, &key).await, 200, "API keys stay valid");
    patch(&secrets, &name, json!({"metadata": {"finalizers": null}})).await;
    wait_until_it_logs_in(&direct, &name).await;
    let after = secrets.get(&secret_of(&name)).await.unwrap();
    assert_eq!(after.immutable, None);
    assert_ne!(after.metadata.uid, before.metadata.uid);
    for kept in ["passwordHash", "sourcePasswordHash"] {
        assert_eq!(after.data.as_ref().unwrap().get(kept), before.data.as_ref().unwrap().get(kept), "{kept}");
    }
    assert_eq!(own_status(&direct, &key).await, 200);
    eventually("the spare is gone", || async {
        let is_uninterrupted =
            secrets.get_opt(&format!("{}-spare", secret_of(&name))).await.map_err(|error| error.to_string())?;
        is_uninterrupted.map_or(Ok(()), |is_uninterrupted| Err(format!("{:?}", is_uninterrupted.metadata)))
    })
    .await;
    wait_until_ready(&cluster.users().await, &name).await;
}

/// The API server rejects the write, as it would because of a foreign webhook or policy.
#[tokio::test(flavor = "multi_thread")]
async fn an_uncountable_failure_refuses_logins_until_it_is_counted() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let (name, other) = (person(cluster, "uncounted", |_| {}).await, person(cluster, "unconcerned", |_| {}).await);
    let session = token(&direct, &name, PASSWORD).await;
    let policy = unique("uncounted");
    let kinds = "validatingadmissionpolicies,validatingadmissionpolicybindings";
    cluster.apply(&format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: {policy}}}\n\
         spec:\n  matchConstraints: {{resourceRules: [{{apiGroups: [''], apiVersions: [v1], resources: [secrets], \
         operations: [UPDATE], resourceNames: [{secret}]}}]}}\n  validations: [{{expression: 'false'}}]\n---\n\
         apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: {policy}}}\n\
         spec: {{policyName: {policy}, validationActions: [Deny]}}\n",
        secret = secret_of(&name)
    ));
    let secrets = cluster.secrets("roster-system").await;
    eventually("the policy is in force", || async {
        let label = json!({"metadata": {"labels": {"more": unique("x")}}});
        let written = secrets.patch(&secret_of(&name), &PatchParams::default(), &Patch::Merge(label)).await;
        written.map_or(Ok(()), |_| Err("it was written".to_owned()))
    })
    .await;
    assert_eq!(with_password(&direct, &name, PASSWORD).await.status, 201, "nothing has failed, and nothing is written");
    for _ in 0..7 {
        assert_eq!(with_password(&direct, &name, "wrong").await.status, 401);
    }
    assert_eq!(with_password(&direct, &name, PASSWORD).await.status, 401, "its failures are not counted");
    assert_eq!(with_password(&direct, &other, PASSWORD).await.status, 201, "others log in");
    assert_eq!(own_status(&direct, &session).await, 200, "sessions stay valid");
    let change = json!({"oldPassword": PASSWORD, "newPassword": "that is the question"});
    let change = super::body("PasswordChange", &change);
    let changed = super::post(&direct, "users/~/password?dryRun=All", Some(&session), &change).await;
    assert_eq!(changed.status, 422, "{}", changed.body);
    cluster.kubectl(&["delete", kinds, &policy]);
    user_where(&cluster.users().await, &name, "the attempt that was evaluated is counted", |user| {
        user.status.as_ref().is_some_and(|status| status.failed_logins == Some(1))
    })
    .await;
    wait_until_it_logs_in(&direct, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_owner_references_are_repaired() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let secrets = cluster.secrets("roster-system").await;
    for metadata in [
        json!({"labels": {"roster.dev/identifier": "email"}}),
        json!({"labels": {"roster.dev/identifier": null}}),
        json!({"labels": null}),
        json!({"annotations": {"roster.dev/closed": "true"}}),
    ] {
        let name = person(cluster, "relabelled", |_| {}).await;
        let before = secrets.get(&secret_of(&name)).await.unwrap();
        patch(&secrets, &name, json!({"metadata": metadata})).await;
        wait_until_it_logs_in(&direct, &name).await;
        let after = secrets.get(&secret_of(&name)).await.unwrap();
        assert_eq!(after.metadata.labels.as_ref().unwrap()["roster.dev/identifier"], "username", "{metadata}");
        assert_eq!((after.data, after.metadata.uid), (before.data, before.metadata.uid), "{metadata}");
    }
}

async fn delete(cluster: &Cluster, name: &str) {
    let secrets = cluster.secrets("roster-system").await;
    secrets.delete(&secret_of(name), &DeleteParams::default()).await.expect("an administrator may");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_identity_secret_is_claimed_again_and_its_loss_is_reported() {
    let cluster = logins();
    let (users, direct) = (cluster.users().await, Direct::new(cluster, 0, None).await);
    // A password from a password Secret is restored.
    let declared = person(cluster, "declared", |_| {}).await;
    delete(cluster, &declared).await;
    wait_until_it_logs_in(&direct, &declared).await;
    // A password set by invitation is not.
    let lost = unique("lost");
    cluster.apply(&format!("apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {lost}}}\nspec: {{}}\n"));
    wait_until_ready(&users, &lost).await;
    let reset = |password: &str| {
        let file = cluster.plane.dir.join(format!("{}.json", unique("reset")));
        std::fs::write(&file, super::body("PasswordChange", &json!({"newPassword": password}))).unwrap();
        let path = format!("{}/users/{lost}/password", crate::directory::BASE);
        cluster.kubectl(&["create", "--raw", &path, "-f", file.to_str().unwrap()]);
    };
    reset(PASSWORD);
    wait_for_reason(&users, &lost, "CredentialReady", "PasswordSet").await;
    delete(cluster, &lost).await;
    let user = wait_for_reason(&users, &lost, "Ready", "CredentialLost").await;
    assert!(condition(&user, "Stalled").is_some());
    assert_eq!(with_password(&direct, &lost, PASSWORD).await.status, 401);
    reset("that is the question");
    wait_until_ready(&users, &lost).await;
}
