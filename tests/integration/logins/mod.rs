//! Logins, through kube-apiserver and beside it, with two replicas.

pub mod api_keys;
mod confirm;
mod doors;
mod interop;
mod limits;
mod lockout;
mod notices;
mod passwords;
mod plugin;
mod rename;
mod second_factor;
mod sources;
mod tampering;

use std::sync::OnceLock;

use jiff::Timestamp;
use roster_api::User;
use roster_harness::Kubectl;
use serde_json::{Value, json};

use crate::directory::{Answer, BASE, Direct, IDENTITY, front_proxy, wait_until_served};
use crate::support::{Cluster, create, password_secret, unique, user, wait_for_reason};

pub const PASSWORD: &str = "to be or not to be";

/// Flags of the operators: short intervals, so that tests see what follows.
pub const FLAGS: &[&str] = &["--last-use-interval", "300ms"];

/// A control plane with two operators, for tests that leave them alone.
pub fn logins() -> &'static Cluster {
    static LOGINS: OnceLock<Cluster> = OnceLock::new();
    LOGINS.get_or_init(|| {
        let cluster = Cluster::create("logins", &[]);
        cluster.start_operator(FLAGS);
        cluster.start_operator(FLAGS);
        wait_until_served(&cluster);
        cluster
    })
}

/// A new user with [`PASSWORD`], whose spec `change` may change first.
pub async fn person(cluster: &Cluster, prefix: &str, change: impl FnOnce(&mut User)) -> String {
    let name = unique(prefix);
    create(&cluster.secrets("default").await, &password_secret(&name, "password", PASSWORD)).await;
    let mut user = user(&name, true);
    change(&mut user);
    let users = cluster.users().await;
    create(&users, &user).await;
    let user = wait_for_reason(&users, &name, "Ready", "Succeeded").await;
    known_everywhere(cluster, &name, &user.metadata.resource_version.unwrap_or_default()).await;
    name
}

/// Waits until every replica has heard of the User as it is in that revision: it tells the API server when it is ready,
/// and the others hear of that a moment later.
pub async fn known_everywhere(cluster: &Cluster, name: &str, revision: &str) {
    let (certificate, key) = front_proxy(cluster);
    let replicas = cluster.operators().len();
    for replica in 0..replicas {
        let direct = Direct::new(cluster, replica, Some((&certificate, &key))).await;
        let answer = direct.get(&format!("{BASE}/users/{name}?resourceVersion={revision}"), IDENTITY).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// The body of an action.
pub fn body(kind: &str, spec: &Value) -> String {
    json!({"apiVersion": "directory.roster.dev/v1alpha1", "kind": kind, "spec": spec}).to_string()
}

/// A POST below the group-version, at a replica's own port. Tried again where there is no room for it.
pub async fn post(direct: &Direct, path: &str, bearer: Option<&str>, body: &str) -> Answer {
    let authorization = bearer.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
    send(direct, path, &headers, body).await.expect("it answers")
}

/// A POST with further headers, tried again where there is no room for it.
pub async fn send(direct: &Direct, path: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
    loop {
        let answer = direct.send("POST", &format!("{BASE}/{path}"), headers, body).await?;
        if answer.status != 429 {
            return Ok(answer);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// An attempt to log in with whatever `spec` shows.
pub async fn attempt(direct: &Direct, spec: &Value) -> Answer {
    post(direct, "logins", None, &body("Login", spec)).await
}

/// An attempt with a password.
pub async fn with_password(direct: &Direct, username: &str, password: &str) -> Answer {
    attempt(direct, &json!({"username": username, "password": password})).await
}

/// The token of a login that succeeds.
pub async fn token(direct: &Direct, username: &str, password: &str) -> String {
    token_of(&with_password(direct, username, password).await)
}

/// The token in an answer.
pub fn token_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.json()["status"]["token"].as_str().unwrap_or_else(|| panic!("no token: {}", answer.body)).to_owned()
}

/// What whoever shows the token is told about themselves: the status.
pub async fn own_status(direct: &Direct, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    direct.get(&format!("{BASE}/users/~"), &[("Authorization", &bearer)]).await.status
}

/// kubectl with that token.
pub fn kubectl_as(cluster: &Cluster, token: &str) -> Kubectl {
    let path = cluster.plane.dir.join(format!("{}.kubeconfig", unique("person")));
    let kubeconfig = cluster.plane.kubeconfig_for_token(&path, token).expect("the kubeconfig is written");
    Kubectl { kubeconfig, ..cluster.plane.kubectl.clone() }
}

/// What `kubectl auth whoami` says, or why it does not.
pub fn whoami(kubectl: &Kubectl) -> Result<Value, String> {
    let said = kubectl.run(&["auth", "whoami", "-o", "json"]).map_err(|error| format!("{error:#}"))?;
    let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    Ok(said["status"]["userInfo"].clone())
}

/// The code that an app shows now for a seed in base32, so many periods later.
pub fn code(secret: &str, later: i64) -> String {
    let secret = totp_rs::Secret::try_from_base32(secret).expect("it is base32");
    let totp = totp_rs::Builder::new().with_secret(secret).build().expect("it is long enough");
    let second = Timestamp::now().as_second() + 30 * later;
    totp.generate(second.unsigned_abs()).to_string()
}
