//! Two thousand users at once: they converge, memory stays bounded, and the cores hash.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{ListParams, PostParams};
use roster::credentials::hash::{Argon2idCost, Memory, PasswordHash};

use crate::support::{Cluster, condition, password_secret, user};

const USERS: usize = 2000;

/// Hashes per second of CPU time in a bare loop on every core.
fn bare_loop(rounds: usize) -> f64 {
    let cores = std::thread::available_parallelism().unwrap().get();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut memory = Memory::default();
                for i in 0..rounds {
                    PasswordHash::create(format!("password {i}").as_bytes(), Argon2idCost::default(), &mut memory);
                }
            });
        }
    });
    (cores * rounds) as f64 / started.elapsed().as_secs_f64()
}

/// Peak resident memory of a process, in MiB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_users_converge_with_bounded_memory() {
    // Without admission and before the operator starts, so that all the hashing is the controller's and comes at once.
    let cluster = Cluster::create("scale", &["passwordAdmission=false"]);
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    stream::iter(0..USERS)
        .map(|i| {
            let (users, secrets) = (&users, &secrets);
            async move {
                let name = format!("scale-{i}");
                let secret = password_secret(&name, "password", format!("password {i}"));
                secrets.create(&PostParams::default(), &secret).await?;
                users.create(&PostParams::default(), &user(&name, true)).await.map(drop)
            }
        })
        .buffer_unordered(32)
        .try_collect::<()>()
        .await
        .unwrap();

    let before = bare_loop(40);
    let started = Instant::now();
    cluster.start_operator(&[]);
    loop {
        let metrics = cluster.operators()[0].probe("/metrics").unwrap();
        let written = metrics.lines().find_map(|line| line.strip_prefix("roster_writes_total{kind=\"UserStatus\"} "));
        if written.and_then(|count| count.parse::<usize>().ok()).is_some_and(|count| count >= USERS) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(600), "{metrics}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rate = USERS as f64 / started.elapsed().as_secs_f64();
    let after = bare_loop(40);
    let bare = f64::midpoint(before, after);

    let all = users.list(&ListParams::default()).await.unwrap();
    let ready = all.items.iter().filter(|user| condition(user, "Ready").is_some_and(|c| c.status == "True")).count();
    assert_eq!(ready, USERS);
    let metrics = cluster.operators()[0].probe("/metrics").unwrap();
    let hashing = |suffix: &str| -> f64 {
        let name = format!("roster_hash_duration_seconds_{suffix} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    };
    assert_eq!(hashing("count"), USERS as f64, "one hash a user");
    let peak = peak_memory(cluster.operators()[0].id());
    println!(
        "{USERS} users: {rate:.1}/s end to end, bare loop {bare:.1}/s, ratio {:.2}; mean {:.1} ms in a slot; peak memory {peak} MiB",
        rate / bare,
        1000.0 * hashing("sum") / hashing("count"),
    );
    assert!(peak < 256, "{peak} MiB");
}
