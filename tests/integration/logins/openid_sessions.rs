//! Sessions by OpenID Connect at the directory. kube-apiserver verifies their tokens without asking Roster, so it accepts
//! them until they expire. The directory must recognize whose session it is, whatever the token says about names.

use roster_harness::Operator;
use roster_harness::control_plane::OIDC_AUDIENCE;
use serde_json::{Value, json};

use super::rename::{rename_as_administrator, wait_until_named};
use super::{FLAGS, PASSWORD, attempt, body, kubectl_as, logins, person, token_of, whoami};
use crate::directory::{BASE, Direct, wait_until_served};
use crate::support::{Cluster, eventually, unique, user_where};

/// Requests per check. The load balancer spreads them over the replicas.
const REQUESTS: usize = 6;

/// A help desk member who is logged in by OpenID Connect.
struct Session {
    name: String,
    uid: String,
    kubectl: roster_harness::Kubectl,
}

impl Session {
    /// Creates the User, with the rights of the help desk through a group, and logs it in.
    async fn begin(cluster: &Cluster, prefix: &str) -> Self {
        let direct = Direct::new(cluster, 0, None).await;
        let group = unique("help-desk");
        cluster.apply(&format!("apiVersion: roster.dev/v1alpha1\nkind: Group\nmetadata: {{name: {group}}}\nspec: {{acceptDeclaredMembers: true}}\n"));
        for role in ["roster-credential-administrator", "roster-directory-reader"] {
            let binding = unique("session");
            let (role, group) = (format!("--clusterrole={role}"), format!("--group={group}"));
            cluster.kubectl(&["create", "clusterrolebinding", &binding, &role, &group]);
        }
        let name = person(cluster, prefix, |_| {}).await;
        let change = json!([{"op": "add", "path": "/spec/members", "value": [name]}]).to_string();
        cluster.kubectl(&["patch", "groups.roster.dev", &group, "--type=json", "-p", &change]);
        let user = user_where(&cluster.users().await, &name, "it is a member", |user| {
            user.status.as_ref().is_some_and(|status| status.groups == [group.clone()])
        })
        .await;
        let kubectl = eventually("the login is accepted", || async {
            let spec = json!({"username": name, "password": PASSWORD, "audience": OIDC_AUDIENCE});
            let kubectl = kubectl_as(cluster, &token_of(&attempt(&direct, &spec).await));
            // kube-apiserver fetches the public keys asynchronously, and the replica learns the group from a watch.
            let groups = whoami(&kubectl)?["groups"].clone();
            let is_member = groups.as_array().is_some_and(|groups| groups.contains(&json!(group)));
            if is_member { Ok(kubectl) } else { Err(groups.to_string()) }
        })
        .await;
        Self { name, uid: user.metadata.uid.unwrap(), kubectl }
    }

    /// Lists Users through kube-apiserver.
    fn list(&self) -> Result<String, String> {
        let path = format!("{BASE}/users?limit=1");
        self.kubectl.run(&["get", "--raw", &path]).map_err(|error| format!("{error:#}"))
    }

    /// Sends a POST below `users` through kube-apiserver.
    fn post(&self, cluster: &Cluster, path: &str, kind: &str, spec: &Value) -> Result<String, String> {
        let file = cluster.plane.dir.join(format!("{}.json", unique("action")));
        std::fs::write(&file, body(kind, spec)).unwrap();
        let path = format!("{BASE}/users/{path}");
        let answer = self.kubectl.run(&["create", "--raw", &path, "-f", file.to_str().unwrap()]);
        answer.map_err(|error| format!("{error:#}"))
    }

    /// Asserts that every replica rejects the session.
    async fn assert_ended(&self, cluster: &Cluster, why: &str, others: &[&str]) {
        eventually(&format!("{why}: the directory rejects the session"), || async {
            self.list().map_or_else(|_| Ok(()), Err)
        })
        .await;
        let invitation = json!({"dryRun": true});
        for _ in 0..REQUESTS {
            assert_unauthorized(self.list(), why);
            for other in others {
                let keys = format!("{other}/apikeys");
                assert_unauthorized(self.post(cluster, &keys, "APIKey", &json!({"displayName": "mine"})), why);
                let invite = format!("{other}/invitation");
                assert_unauthorized(self.post(cluster, &invite, "Invitation", &invitation), why);
            }
        }
    }
}

fn assert_unauthorized(answer: Result<String, String>, why: &str) {
    let error = answer.map_or_else(|error| error, |answer| panic!("{why}: accepted: {answer}"));
    assert!(error.contains("Unauthorized") || error.contains("logged in"), "{why}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_by_openid_connect_ends_at_the_directory_with_a_rename() {
    let cluster = logins();
    let session = Session::begin(cluster, "renamed-session").await;
    let other = person(cluster, "help-desk-customer", |_| {}).await;
    session.list().unwrap();
    session.post(cluster, &format!("{other}/apikeys"), "APIKey", &json!({"displayName": "for you"})).unwrap();
    let refused = session.post(cluster, "~/apikeys", "APIKey", &json!({"displayName": "mine"})).unwrap_err();
    assert!(refused.contains("currentPassword"), "a session alone creates no key of its own user: {refused}");

    let renamed = unique("renamed");
    rename_as_administrator(cluster, &session.name, &renamed).unwrap();
    wait_until_named(cluster, &session.name, &renamed).await;
    let keys = ["~", &session.name, &renamed, &session.uid, &other];
    session.assert_ended(cluster, "renamed", &keys).await;
    cluster.kubectl(&[
        "patch",
        "users.roster.dev",
        &session.name,
        "--type=merge",
        "-p",
        r#"{"spec": {"state": "Banned"}}"#,
    ]);
    session.assert_ended(cluster, "renamed and banned", &[&other]).await;
}

/// A User without anything that a tombstone protects, so that nothing in the cluster records the deletion.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_deleted_user_stays_ended_after_a_restart_and_for_a_recreated_name() {
    let cluster = Cluster::create("openid-sessions", &[]);
    cluster.start_operator(FLAGS);
    cluster.start_operator(FLAGS);
    wait_until_served(&cluster);
    let session = Session::begin(&cluster, "deleted-session").await;
    let other = person(&cluster, "help-desk-customer", |_| {}).await;
    session.list().unwrap();
    cluster.kubectl(&["delete", "users.roster.dev", &session.name]);
    session.assert_ended(&cluster, "deleted", &[&other]).await;

    // Nothing in memory survives this.
    cluster.operators().drain(..).for_each(Operator::kill);
    cluster.start_operator(FLAGS);
    cluster.start_operator(FLAGS);
    wait_until_served(&cluster);
    session.assert_ended(&cluster, "restarted", &[&other]).await;
    cluster.apply(&format!(
        "apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {}}}\nspec: {{}}\n",
        session.name
    ));
    wait_until_named(&cluster, &session.name, &session.name).await;
    session.assert_ended(&cluster, "recreated", &[&other, &session.name]).await;
}
