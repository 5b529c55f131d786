//! Logins, through kube-apiserver and directly, with two replicas.

pub(crate) mod api_keys;
mod authenticators;
mod confirm;
mod interop;
mod limits;
mod lockout;
mod notices;
mod open_watches;
mod openid_sessions;
mod passwords;
mod plugin;
mod rename;
mod second_factor;
mod sources;
mod tampering;

use jiff::Timestamp;
use roster_api::User;
use roster_harness::Kubectl;
use serde_json::{Value, json};

use crate::directory::{Answer, BASE, Direct, IDENTITY, front_proxy, wait_until_served};
use crate::shared_cluster::SharedCluster;
use crate::support::{Cluster, create, password_secret, unique, user, wait_for_reason};

pub(crate) const PASSWORD: &str = "to be or not to be";

/// Flags of the operators: short intervals, so that tests see the effects.
pub(crate) const FLAGS: &[&str] = &["--last-use-interval", "300ms"];

/// Shared control plane with two operators. Tests must not restart or kill them.
pub(crate) fn logins() -> &'static Cluster {
    static LOGINS: SharedCluster = SharedCluster::new(|| {
        let cluster = Cluster::create("logins", &[]);
        cluster.start_operator(FLAGS);
        cluster.start_operator(FLAGS);
        wait_until_served(&cluster);
        cluster
    });
    LOGINS.get()
}

/// Creates a user with [`PASSWORD`]. `change` may modify the spec first.
pub(crate) async fn person(cluster: &Cluster, prefix: &str, change: impl FnOnce(&mut User)) -> String {
    let name = unique(prefix);
    create(&cluster.secrets("default").await, &password_secret(&name, "password", PASSWORD)).await;
    let mut user = user(&name, true);
    change(&mut user);
    let users = cluster.users().await;
    create(&users, &user).await;
    let user = wait_for_reason(&users, &name, "Ready", "Succeeded").await;
    wait_until_known_to_all_replicas(cluster, &name, &user.metadata.resource_version.unwrap_or_default()).await;
    name
}

/// Waits until every replica has observed that revision of the User. The leader reports readiness in the status, and
/// other replicas observe it shortly after.
pub(crate) async fn wait_until_known_to_all_replicas(cluster: &Cluster, name: &str, revision: &str) {
    let (certificate, key) = front_proxy(cluster);
    let replicas = cluster.operators().len();
    for replica in 0..replicas {
        let direct = Direct::new(cluster, replica, Some((&certificate, &key))).await;
        let answer = direct.get(&format!("{BASE}/users/{name}?resourceVersion={revision}"), IDENTITY).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// Returns the request body of an action.
pub(crate) fn body(kind: &str, spec: &Value) -> String {
    json!({"apiVersion": "directory.roster.dev/v1alpha1", "kind": kind, "spec": spec}).to_string()
}

/// Sends a POST below the group-version to a replica's port. Retries on 429.
pub(crate) async fn post(direct: &Direct, path: &str, bearer: Option<&str>, body: &str) -> Answer {
    let authorization = bearer.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
    send(direct, path, &headers, body).await.expect("the replica responds")
}

/// Sends a POST with additional headers. Retries on 429.
pub(crate) async fn send(direct: &Direct, path: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
    loop {
        let answer = direct.send("POST", &format!("{BASE}/{path}"), headers, body).await?;
        if answer.status != 429 {
            return Ok(answer);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Attempts to log in with this spec.
pub(crate) async fn attempt(direct: &Direct, spec: &Value) -> Answer {
    post(direct, "logins", None, &body("Login", spec)).await
}

/// Attempts to log in with a password.
pub(crate) async fn with_password(direct: &Direct, username: &str, password: &str) -> Answer {
    attempt(direct, &json!({"username": username, "password": password})).await
}

/// Returns the token of a successful login.
pub(crate) async fn token(direct: &Direct, username: &str, password: &str) -> String {
    token_of(&with_password(direct, username, password).await)
}

/// Returns the token in a response.
pub(crate) fn token_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.json()["status"]["token"].as_str().unwrap_or_else(|| panic!("no token: {}", answer.body)).to_owned()
}

/// Returns the response status of a request for the caller's own User, with this token.
pub(crate) async fn own_status(direct: &Direct, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    direct.get(&format!("{BASE}/users/~"), &[("Authorization", &bearer)]).await.status
}

/// Returns kubectl with that token.
pub(crate) fn kubectl_as(cluster: &Cluster, token: &str) -> Kubectl {
    let path = cluster.plane.dir.join(format!("{}.kubeconfig", unique("person")));
    let kubeconfig = cluster.plane.kubeconfig_for_token(&path, token).expect("the kubeconfig is written");
    Kubectl { kubeconfig, ..cluster.plane.kubectl.clone() }
}

/// Returns the output of `kubectl auth whoami`, or its error.
pub(crate) fn whoami(kubectl: &Kubectl) -> Result<Value, String> {
    let said = kubectl.run(&["auth", "whoami", "-o", "json"]).map_err(|error| format!("{error:#}"))?;
    let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    Ok(said["status"]["userInfo"].clone())
}

/// Returns the TOTP code of a base32 seed, some periods in the future.
pub(crate) fn code(secret: &str, later: i64) -> String {
    let secret = totp_rs::Secret::try_from_base32(secret).expect("the seed is base32");
    let totp = totp_rs::Builder::new().with_secret(secret).build().expect("the seed is long enough");
    let second = Timestamp::now().as_second() + 30 * later;
    totp.generate(second.unsigned_abs()).to_string()
}
