//! I3 for open watches of the directory: they end as soon as a new request with the same credential would be rejected.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use roster_harness::control_plane::OIDC_AUDIENCE;
use serde_json::json;

use super::api_keys::key;
use super::{PASSWORD, attempt, body, kubectl_as, logins, person, post, token, token_of, whoami};
use crate::directory::{BASE, Direct};
use crate::support::{Cluster, eventually};

/// How long the watches would last, in seconds. Longer than it takes to end them, and shorter than the interval of the
/// periodic judgement.
const WATCH_SECONDS: u64 = 28;

/// How long a watch may take to end, from its beginning. A busy machine needs seconds for each login.
const ENDS_WITHIN: Duration = Duration::from_secs(25);

/// A password or an API key, and what ends it.
#[derive(Clone, Copy, Debug)]
enum Cause {
    Nothing,
    PasswordReset,
    PasswordChanged,
    PasswordResetOnly,
    KeyRevoked,
    KeysRevokedWithPassword,
    KeyExpires,
    SecondFactorRequired,
    PasswordChangeRequired,
    TokenExpires,
}

impl Cause {
    fn is_of_key(self) -> bool {
        matches!(self, Self::PasswordResetOnly | Self::KeyRevoked | Self::KeysRevokedWithPassword | Self::KeyExpires)
    }

    fn ends_it(self) -> bool {
        !matches!(self, Self::Nothing | Self::PasswordResetOnly)
    }
}

/// Returns how long a watch of the caller's own User lasts at a replica.
async fn watch_directly(cluster: &Cluster, replica: usize, bearer: &str) -> Duration {
    let direct = Direct::new(cluster, replica, None).await;
    let (path, begin) = (path(), Instant::now());
    let answer = direct.get(&path, &[("Authorization", &format!("Bearer {bearer}"))]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.ends_with("0\r\n\r\n"), "the response ends properly: {}", answer.body);
    begin.elapsed()
}

/// The same through kube-apiserver.
async fn watch_through_kube_apiserver(cluster: &Cluster, bearer: &str) -> Duration {
    let (kubectl, begin) = (kubectl_as(cluster, bearer), Instant::now());
    let watch = move || kubectl.run(&["get", "--raw", &path()]);
    let printed = tokio::task::spawn_blocking(watch).await.unwrap().unwrap();
    assert!(printed.contains("ADDED"), "{printed}");
    begin.elapsed()
}

fn path() -> String {
    format!("{BASE}/users?fieldSelector=metadata.name=~&watch=true&timeoutSeconds={WATCH_SECONDS}")
}

/// Logs in as a new user. Returns its name, the token of its session, and the credentials to watch with: one for the
/// replicas, and all for kube-apiserver.
async fn begin(cluster: &Cluster, cause: Cause) -> (String, String, Vec<String>) {
    let direct = Direct::new(cluster, 0, None).await;
    let expires = Timestamp::now() + Duration::from_secs(20);
    let limit = |user: &mut roster_api::User| {
        if matches!(cause, Cause::TokenExpires) {
            user.spec.validity = serde_json::from_value(json!({"notAfter": expires.to_string()})).unwrap();
        }
    };
    let name = person(cluster, "watcher", limit).await;
    let session = token(&direct, &name, PASSWORD).await;
    if cause.is_of_key() {
        let bearer = if matches!(cause, Cause::KeyExpires) {
            let spec = json!({"displayName": "short", "currentPassword": PASSWORD,
                "expirationTimestamp": (Timestamp::now() + Duration::from_secs(15)).to_string()});
            let made = post(&direct, "users/~/apikeys", Some(&session), &body("APIKey", &spec)).await;
            made.json()["status"]["key"].as_str().unwrap_or_else(|| panic!("{}", made.body)).to_owned()
        } else {
            key(&direct, &session).await
        };
        return (name, session, vec![bearer]);
    }
    // kube-apiserver verifies this token by itself.
    let spec = json!({"username": name, "password": PASSWORD, "audience": OIDC_AUDIENCE});
    let verified_there = token_of(&attempt(&direct, &spec).await);
    eventually("kube-apiserver accepts the session", || async {
        whoami(&kubectl_as(cluster, &verified_there)).map(drop)
    })
    .await;
    if matches!(cause, Cause::TokenExpires) {
        // The User stays active; the token keeps its expiration.
        cluster.kubectl(&["patch", "users.roster.dev", &name, "--type=merge", "-p", r#"{"spec":{"validity":null}}"#]);
    }
    (name, session.clone(), vec![session, verified_there])
}

async fn make_happen(cluster: &Cluster, cause: Cause, name: &str, session: &str) {
    let direct = Direct::new(cluster, 1, None).await;
    let patch = |spec: &str| {
        cluster.kubectl(&["patch", "users.roster.dev", name, "--type=merge", "-p", &format!(r#"{{"spec":{spec}}}"#)]);
    };
    let administer = |revoke: bool| {
        let spec = json!({"newPassword": "a wholly new password", "revokeAPIKeys": revoke});
        let file = cluster.plane.dir.join(format!("{name}.json"));
        std::fs::write(&file, body("PasswordChange", &spec)).unwrap();
        let path = format!("{BASE}/users/{name}/password");
        cluster.kubectl(&["create", "--raw", &path, "-f", file.to_str().unwrap()]);
    };
    match cause {
        Cause::Nothing | Cause::KeyExpires | Cause::TokenExpires => {}
        Cause::PasswordReset | Cause::PasswordResetOnly => administer(false),
        Cause::KeysRevokedWithPassword => administer(true),
        Cause::PasswordChanged => {
            let spec = json!({"oldPassword": PASSWORD, "newPassword": "a wholly new password"});
            let changed = post(&direct, "users/~/password", Some(session), &body("PasswordChange", &spec)).await;
            assert_eq!(changed.status, 201, "{}", changed.body);
        }
        Cause::KeyRevoked => {
            let authorization = format!("Bearer {session}");
            let headers = [("Authorization", authorization.as_str())];
            let list = direct.get(&format!("{BASE}/users/~/apikeys"), &headers).await.json();
            let key = list["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
            let revoked = direct.request("DELETE", &format!("{BASE}/users/~/apikeys/{key}"), &headers).await.unwrap();
            assert_eq!(revoked.status, 200, "{}", revoked.body);
        }
        Cause::SecondFactorRequired => patch(r#"{"secondFactor":"Required"}"#),
        Cause::PasswordChangeRequired => patch(r#"{"requirePasswordChange":true}"#),
    }
}

async fn check(cluster: &Cluster, cause: Cause) {
    let (name, session, bearers) = begin(cluster, cause).await;
    let direct = futures::future::join_all([0, 1].map(|replica| watch_directly(cluster, replica, &bearers[0])));
    let through = bearers.iter().map(|bearer| watch_through_kube_apiserver(cluster, bearer));
    let cause_it = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        make_happen(cluster, cause, &name, &session).await;
    };
    let (direct, through, ()) = tokio::join!(direct, futures::future::join_all(through), cause_it);
    for lasted in direct.into_iter().chain(through) {
        assert_eq!(lasted < ENDS_WITHIN, cause.ends_it(), "{cause:?}: the watch lasted {lasted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_watch_ends_with_its_session() {
    let causes = [
        Cause::Nothing,
        Cause::PasswordReset,
        Cause::PasswordChanged,
        Cause::SecondFactorRequired,
        Cause::PasswordChangeRequired,
        Cause::TokenExpires,
    ];
    futures::future::join_all(causes.map(|cause| check(logins(), cause))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_watch_ends_with_its_api_key() {
    let causes = [Cause::PasswordResetOnly, Cause::KeyRevoked, Cause::KeysRevokedWithPassword, Cause::KeyExpires];
    futures::future::join_all(causes.map(|cause| check(logins(), cause))).await;
}
