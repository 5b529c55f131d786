//! Ten thousand concurrent logins lose no update, and logins run at nearly the rate of hashes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use pbkdf2::pbkdf2_hmac;
use serde_json::json;

use super::hashing::{bare_loop, cores};
use super::{count, peak_memory, seconds};
use crate::directory::{BASE, Direct};
use crate::logins::{PASSWORD, body, token, wait_until_known_to_all_replicas};
use crate::support::{Cluster, create, eventually, password_secret, user, wait_until_ready};

const USERS: usize = 100;
static ATTEMPTS: LazyLock<usize> = LazyLock::new(|| super::size(10_000));

/// A cheap imported hash. Otherwise, the test would spend most of its time hashing.
fn cheap_hash() -> String {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD_NO_PAD;
    let (salt, mut output) = (b"0123456789abcdef", [0; 32]);
    pbkdf2_hmac::<sha2::Sha256>(PASSWORD.as_bytes(), salt, 10_000, &mut output);
    let encode = |bytes: &[u8]| BASE64_STANDARD_NO_PAD.encode(bytes);
    format!("$pbkdf2-sha256$i=10000,l=32${}${}", encode(salt), encode(&output))
}

async fn people(cluster: &Cluster, prefix: &str, hash: Option<&str>) -> Vec<String> {
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    let names: Vec<String> = (0..USERS).map(|at| format!("{prefix}-{at}")).collect();
    let made = stream::iter(&names).map(|name| {
        let (users, secrets) = (&users, &secrets);
        async move {
            let secret = match hash {
                Some(hash) => password_secret(name, "passwordHash", hash),
                None => password_secret(name, "password", PASSWORD),
            };
            create(secrets, &secret).await;
            create(users, &user(name, true)).await;
            let user = wait_until_ready(users, name).await;
            wait_until_known_to_all_replicas(cluster, name, &user.metadata.resource_version.unwrap_or_default()).await;
        }
    });
    made.buffer_unordered(16).collect::<()>().await;
    names
}

/// Makes an attempt from an address. Retries on 429. Returns the status.
async fn attempt(direct: &Direct, source: &str, username: &str, password: &str) -> u16 {
    let body = body("Login", &json!({"username": username, "password": password}));
    loop {
        let headers = [("X-Forwarded-For", source)];
        let answer =
            direct.send("POST", &format!("{BASE}/logins"), &headers, &body).await.expect("the replica responds");
        if answer.status != 429 {
            return answer.status;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_mixed_logins_lose_no_update() {
    let cluster = Cluster::create("many-logins", &[]);
    let flags = ["--trusted-proxies", "127.0.0.0/8", "--lockout-threshold", "100", "--lockout-user-threshold", "1000"];
    let flags = [&flags[..], &["--last-use-interval", "2s", "--hash-queue", "1024"]].concat();
    cluster.start_operator(&flags);
    cluster.start_operator(&flags);
    let (mixed, failing) =
        (people(&cluster, "mixed", None).await, people(&cluster, "failing", Some(&cheap_hash())).await);
    let replicas = [Direct::new(&cluster, 0, None).await, Direct::new(&cluster, 1, None).await];
    let started = Instant::now();
    let last_success: Mutex<HashMap<&str, (Timestamp, Timestamp)>> = Mutex::default();
    let (granted, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    // One of four attempts is right. Each user has two sources, and each pair of attempts reaches both replicas.
    let attempts = stream::iter(0..*ATTEMPTS).map(|at| {
        let (replicas, last_success, granted, refused) = (&replicas, &last_success, &granted, &refused);
        let (of, turn) = (at % USERS, at / USERS);
        let name = if turn % 2 == 0 { &mixed[of] } else { &failing[of] };
        let is_right = turn % 4 == 0;
        async move {
            let source = format!("198.18.{of}.{}", if is_right { 1 } else { 2 });
            let password = if is_right { PASSWORD } else { "wrong" };
            let before = Timestamp::now();
            let status = attempt(&replicas[(at + turn / 4) % 2], &source, name, password).await;
            if is_right {
                assert_eq!(status, 201);
                granted.fetch_add(1, Ordering::Relaxed);
                let now = Timestamp::now();
                let mut last = last_success.lock().unwrap();
                // The latest success was granted after each had begun, and before each had ended.
                let known = last.entry(name).or_insert((before, now));
                *known = (known.0.max(before), known.1.max(now));
            } else {
                assert_eq!(status, 401);
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    attempts.buffer_unordered(160).collect::<()>().await;
    let took = started.elapsed();
    let (granted, refused) = (granted.into_inner(), refused.into_inner());
    println!("{granted} logins and {refused} refusals in {took:.1?}, at two replicas");
    assert_eq!(granted + refused, u32::try_from(*ATTEMPTS).unwrap());

    let users = cluster.users().await;
    let last_success = last_success.into_inner().unwrap();
    let expected = |is_wrong: fn(usize) -> bool| {
        let turns = (0..*ATTEMPTS / USERS).filter(|turn| is_wrong(*turn)).count();
        i64::try_from(turns).ok()
    };
    let wrong = expected(|turn| turn % 4 == 2);
    for name in &mixed {
        let last = last_success[name.as_str()];
        eventually(&format!("{name} is reported"), || async {
            let status = users.get(name).await.unwrap().status.unwrap();
            let login = status.last_login_time.as_ref().map(|time| time.0);
            // The server's time lies between the client's times before and after.
            let is_told =
                login.is_some_and(|login| (last.0.as_second()..=last.1.as_second()).contains(&login.as_second()));
            if status.failed_logins == wrong && is_told { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }
    for name in &failing {
        eventually(&format!("{name} is reported"), || async {
            let failed = users.get(name).await.unwrap().status.unwrap().failed_logins;
            if failed == expected(|turn| turn % 2 == 1) { Ok(()) } else { Err(format!("{failed:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_run_at_the_hash_rate_and_tokens_need_no_hash() {
    const LOGINS: u32 = 400;
    let cluster = Cluster::create("login-rate", &[]);
    cluster.start_operator(&["--trusted-proxies", "127.0.0.0/8"]);
    let names = people(&cluster, "rate", None).await;
    let direct = Direct::new(&cluster, 0, None).await;
    let metrics = || cluster.operators()[0].probe("/metrics").unwrap();
    let mut ratios = Vec::new();
    let mut occupied = Vec::new();
    for _ in 0..3 {
        let bare = bare_loop(LOGINS / 4 / cores());
        let (before, started) = (seconds(&metrics(), "roster_hash_duration_seconds_sum"), Instant::now());
        let logins = stream::iter(0..LOGINS).map(|at| {
            let (direct, name) = (&direct, &names[at as usize % USERS]);
            async move { assert_eq!(attempt(direct, &format!("198.18.0.{}", at % 100), name, PASSWORD).await, 201) }
        });
        logins.buffer_unordered(24).collect::<()>().await;
        let elapsed = started.elapsed().as_secs_f64();
        let busy = seconds(&metrics(), "roster_hash_duration_seconds_sum") - before;
        let rate = f64::from(LOGINS) / elapsed;
        occupied.push(busy / elapsed / f64::from(cores()));
        ratios.push(rate / bare.per_second);
        println!("{rate:.1} logins per second, compared with {:.1} hashes of the bare loop", bare.per_second);
    }
    ratios.sort_by(f64::total_cmp);
    occupied.sort_by(f64::total_cmp);
    let peak = peak_memory(cluster.operators()[0].id());
    println!(
        "median: {:.2} of the bare loop, with kube-apiserver and etcd on the same cores; hashing slots busy {:.0}% of \
         the time; peak memory {peak} MiB",
        ratios[1],
        100.0 * occupied[1]
    );
    // The operator must keep its slots busy. It shares the cores with other processes.
    assert!(occupied[1] > 0.85, "{occupied:?}");
    // Two pools, one for logins, with 19 MiB for each core.
    assert!(peak < u64::from(80 + 40 * cores()), "{peak} MiB");

    let session = token(&direct, &names[0], PASSWORD).await;
    let key = crate::logins::api_keys::key(&direct, &session).await;
    let hashes = count(&metrics(), "roster_hash_duration_seconds_count");
    for (kind, bearer) in [("tokens", &session), ("API keys", &key)] {
        let review =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": bearer}});
        let (review, started) = (review.to_string(), Instant::now());
        let reviews = stream::iter(0..1000).map(|_| async {
            let answer = direct.send("POST", "/tokenreview", &[], &review).await.unwrap();
            assert_eq!(answer.json()["status"]["authenticated"], true);
        });
        reviews.buffer_unordered(16).collect::<()>().await;
        println!(
            "{:.0} reviews of {kind} a second, each over a connection of its own",
            1000.0 / started.elapsed().as_secs_f64()
        );
    }
    assert_eq!(count(&metrics(), "roster_hash_duration_seconds_count"), hashes, "no password was hashed for them");
}
