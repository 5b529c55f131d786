//! Failed logins are counted exactly across replicas and crashes, and per source.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::{PASSWORD, attempt, body, logins, own_status, person, post, send, token, with_password};
use crate::directory::{BASE, Direct, wait_until_served};
use crate::support::{Cluster, condition, eventually, user_where};

/// Makes an attempt from a chosen address: the operators trust this proxy.
async fn from(direct: &Direct, address: &str, username: &str, password: &str) -> u16 {
    let body = body("Login", &json!({"username": username, "password": password}));
    send(direct, "logins", &[("X-Forwarded-For", address)], &body).await.unwrap().status
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_wrong_passwords_lock_only_their_source() {
    let cluster = Cluster::create("lockout", &[]);
    let flags = ["--trusted-proxies", "127.0.0.0/8", "--lockout-user-threshold", "8", "--lockout-duration", "30s"];
    cluster.start_operator(&flags);
    cluster.start_operator(&flags);
    wait_until_served(&cluster);
    let replicas = [Direct::new(&cluster, 0, None).await, Direct::new(&cluster, 1, None).await];
    let name = person(&cluster, "hammered", |_| {}).await;
    let session = token(&replicas[0], &name, PASSWORD).await;
    let key = super::api_keys::key(&replicas[0], &session).await;
    let attempts = (0..50).map(|at| from(&replicas[at % 2], "203.0.113.7", &name, "wrong"));
    let answers = futures::future::join_all(attempts).await;
    assert!(answers.iter().all(|status| *status == 401), "{answers:?}");
    let users = cluster.users().await;
    user_where(&users, &name, "five were counted, and no more", |user| {
        user.status.as_ref().is_some_and(|status| status.failed_logins == Some(5) && status.locked_until.is_none())
    })
    .await;
    assert_eq!(from(&replicas[0], "203.0.113.7", &name, PASSWORD).await, 401, "that source is locked");
    assert_eq!(from(&replicas[1], "198.51.100.7", &name, PASSWORD).await, 201, "the user's own source is not locked");
    assert_eq!(
        from(&replicas[0], "203.0.113.7", &name, PASSWORD).await,
        401,
        "and that login does not unlock the other source"
    );

    // From many sources, the user itself is locked for a while.
    for source in 10..16 {
        from(&replicas[source % 2], &format!("203.0.113.{source}"), &name, "wrong").await;
    }
    let locked = user_where(&users, &name, "the lockout is reported", |user| {
        condition(user, "LockedOut").is_some_and(|condition| condition.status == "True")
    })
    .await;
    let status = locked.status.unwrap();
    assert_eq!(status.state, Some(roster_api::State::Active));
    assert!(status.locked_until.is_some());
    let query = format!("{BASE}/users?filterBy=name,{name},state,Active,lockedUntil,*");
    let listed: Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", &query])).unwrap();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    for (replica, source) in [(0, "198.51.100.7"), (1, "198.51.100.7"), (1, "192.0.2.99")] {
        assert_eq!(from(&replicas[replica], source, &name, PASSWORD).await, 401, "no new login");
    }
    for replica in &replicas {
        assert_eq!(own_status(replica, &session).await, 200, "I3: sessions stay valid");
        assert_eq!(own_status(replica, &key).await, 200, "and so do API keys");
    }
    // Confirmations are counted separately: the user can still change the password, which does not end the lockout.
    let wrong = json!({"oldPassword": "wrong", "newPassword": "that is the question"});
    let right = json!({"oldPassword": PASSWORD, "newPassword": "that is the question"});
    for (spec, expected) in [(wrong, 422), (right, 201)] {
        let changed = post(&replicas[0], "users/~/password", Some(&session), &body("PasswordChange", &spec)).await;
        assert_eq!(changed.status, expected, "{}", changed.body);
    }
    assert_eq!(from(&replicas[1], "198.51.100.7", &name, "that is the question").await, 401);
    eventually("the lockout ends by itself", || async {
        match from(&replicas[1], "198.51.100.7", &name, "that is the question").await {
            201 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    user_where(&users, &name, "the end is reported", |user| {
        condition(user, "LockedOut").is_none()
            && user.status.as_ref().is_some_and(|status| status.locked_until.is_none())
    })
    .await;
}

/// A flood of attempts is delayed and rejected, while other users log in.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_attempts_takes_no_permits_of_others() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let (hammered, other) = (person(cluster, "flooded", |_| {}).await, person(cluster, "calm", |_| {}).await);
    let body = body("Login", &json!({"username": hammered, "password": "wrong"}));
    let path = format!("{BASE}/logins");
    let flood = (0..60).map(|_| direct.send("POST", &path, &[], &body));
    let (answers, calm) = tokio::join!(futures::future::join_all(flood), async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        with_password(&direct, &other, PASSWORD).await.status
    });
    let statuses: Vec<u16> = answers.into_iter().map(|answer| answer.unwrap().status).collect();
    assert!(statuses.contains(&429) && statuses.iter().all(|status| [401, 429].contains(status)), "{statuses:?}");
    assert_eq!(calm, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_control_the_identity_can_unlock_it() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "unlocked", |_| {}).await;
    for _ in 0..6 {
        assert_eq!(with_password(&direct, &name, "wrong").await.status, 401);
    }
    assert_eq!(with_password(&direct, &name, PASSWORD).await.status, 401);
    let body = body("Unlock", &json!({}));
    let nobody = post(&direct, &format!("users/{name}/unlock"), None, &body).await;
    assert_eq!(nobody.status, 401);
    let file = cluster.plane.dir.join("unlock.json");
    std::fs::write(&file, body).unwrap();
    cluster.kubectl(&["create", "--raw", &format!("{BASE}/users/{name}/unlock"), "-f", file.to_str().unwrap()]);
    assert_eq!(with_password(&direct, &name, PASSWORD).await.status, 201);
    user_where(&cluster.users().await, &name, "nothing is counted any more", |user| {
        user.status.as_ref().is_some_and(|status| status.failed_logins.is_none())
    })
    .await;
}

/// Each refusal was counted before it was returned, even if the replica crashes right after.
#[tokio::test(flavor = "multi_thread")]
async fn the_count_is_exact_across_replicas_and_a_kill() {
    let cluster = Cluster::create("lockout-kill", &[]);
    let flags = ["--lockout-threshold", "100", "--lockout-user-threshold", "1000"];
    cluster.start_operator(&flags);
    cluster.start_operator(&flags);
    let name = person(&cluster, "counted", |_| {}).await;
    let replicas = [Direct::new(&cluster, 0, None).await, Direct::new(&cluster, 1, None).await];
    let (answered, lost) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let tries = |count: u32| {
        let (answered, lost, replicas, name) = (&answered, &lost, &replicas, &name);
        async move {
            let tries = (0..count).map(|at| async move {
                let body = body("Login", &json!({"username": name, "password": "wrong"}));
                let answer = send(&replicas[at as usize % 2], "logins", &[], &body).await;
                match answer {
                    Ok(answer) if answer.status == 401 => answered.fetch_add(1, Ordering::Relaxed),
                    Ok(answer) => panic!("{}", answer.body),
                    Err(_) => lost.fetch_add(1, Ordering::Relaxed),
                }
            });
            futures::future::join_all(tries).await;
        }
    };
    let killed = async {
        tokio::time::sleep(std::time::Duration::from_millis(350)).await;
        let first = cluster.operators().remove(0);
        first.kill();
    };
    tokio::join!(tries(60), killed);
    let (answered, lost) = (answered.load(Ordering::Relaxed), lost.load(Ordering::Relaxed));
    println!("{answered} refusals were answered, {lost} requests were cut off by the kill");
    let user = user_where(&cluster.users().await, &name, "every answer was counted", |user| {
        user.status.as_ref().and_then(|status| status.failed_logins).unwrap_or(0) >= i64::from(answered)
    })
    .await;
    let counted = user.status.unwrap().failed_logins.unwrap();
    assert!(counted <= i64::from(answered + lost), "{counted} of {answered} and {lost}");
    assert!(
        answered >= 30 && attempt(&replicas[1], &json!({"username": name, "password": PASSWORD})).await.status == 201
    );
}
