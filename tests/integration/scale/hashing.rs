//! Two thousand users at once converge with bounded memory, and the time is spent on hashing.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{ListParams, PostParams};
use roster_credentials::HashMetrics;
use roster_credentials::hash::{Argon2idCost, Memory, PasswordHash};
use roster_credentials::pool::HashPool;
use secrecy::SecretString;

use super::{count, peak_memory, seconds};
use crate::support::{Cluster, condition, password_secret, user};

const USERS: u32 = 2000;

/// Cost of hashing.
pub(super) struct Cost {
    pub per_second: f64,
    cpu_seconds_each: f64,
}

/// Hashes per second of a plain argon2id loop on every core, with reused memory.
pub(super) fn bare_loop(rounds: u32) -> Cost {
    let cores = cores();
    let hashes = f64::from(cores * rounds);
    let (started, cpu) = (Instant::now(), cpu_seconds(std::process::id()));
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut memory = Memory::default();
                for i in 0..rounds {
                    PasswordHash::create(&format!("password {i}"), Argon2idCost::default(), &mut memory);
                }
            });
        }
    });
    let cpu = cpu_seconds(std::process::id()) - cpu;
    Cost { per_second: hashes / started.elapsed().as_secs_f64(), cpu_seconds_each: cpu / hashes }
}

/// Hashes per second of the operator's pool, with as many callers as a burst of Users causes.
async fn through_the_pool(rounds: u32) -> f64 {
    let pool = HashPool::new(Argon2idCost::default(), cores() as usize, 256, HashMetrics::default());
    let password = SecretString::from("password");
    let started = Instant::now();
    let hashes = stream::iter(0..cores() * rounds).map(|_| pool.hash(&password)).buffer_unordered(16);
    let hashed = hashes.try_collect::<Vec<_>>().await.unwrap().len();
    f64::from(u32::try_from(hashed).unwrap()) / started.elapsed().as_secs_f64()
}

/// Ratio of the pool's rate to the plain loop's: the median of interleaved rounds, to reduce noise.
async fn pool_to_bare_loop() -> f64 {
    let mut ratios = Vec::new();
    for _ in 0..5 {
        let bare = bare_loop(30).per_second;
        ratios.push(through_the_pool(30).await / bare);
    }
    ratios.sort_by(f64::total_cmp);
    ratios[2]
}

pub(super) fn cores() -> u32 {
    std::thread::available_parallelism().unwrap().get().try_into().unwrap()
}

/// Returns the CPU time of a process: fields utime and stime of proc(5), in ticks of 10 ms.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_users_converge_with_bounded_memory_limited_by_hashing() {
    // Without admission and before the operator starts, so that the controller computes all hashes at once.
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

    let pool = pool_to_bare_loop().await;
    println!("the pool hashes at {pool:.2} of the bare loop's rate");
    assert!(pool > 0.85, "{pool:.2}");

    let before = bare_loop(40);
    let started = Instant::now();
    cluster.start_operator(&[]);
    let metrics = loop {
        let metrics = cluster.operators()[0].probe("/metrics").unwrap();
        if count(&metrics, "roster_writes_total{kind=\"UserStatus\"}") >= USERS {
            break metrics;
        }
        assert!(started.elapsed() < Duration::from_secs(600), "{metrics}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let elapsed = started.elapsed().as_secs_f64();
    let operator = cluster.operators()[0].id();
    let (cpu, peak) = (cpu_seconds(operator), peak_memory(operator));
    let after = bare_loop(40);

    let all = users.list(&ListParams::default()).await.unwrap();
    let ready = all.items.iter().filter(|user| condition(user, "Ready").is_some_and(|c| c.status == "True")).count();
    assert_eq!(u32::try_from(ready), Ok(USERS));
    assert_eq!(count(&metrics, "roster_hash_duration_seconds_count"), USERS, "one hash per user");
    let writes =
        ["Secret", "UserStatus"].map(|kind| count(&metrics, &format!("roster_writes_total{{kind=\"{kind}\"}}")));
    assert_eq!(writes, [USERS; 2], "two writes per user");

    let bare = f64::midpoint(before.cpu_seconds_each, after.cpu_seconds_each);
    let hashing = seconds(&metrics, "roster_hash_cpu_seconds_total");
    let share = hashing / cpu;
    let occupancy = seconds(&metrics, "roster_hash_duration_seconds_sum") / elapsed / f64::from(cores());
    println!(
        "{USERS} users in {elapsed:.1} s: {:.1}/s end to end; bare loop {:.1}/s before, {:.1}/s after; \
         {:.1} ms of CPU a hash, in the bare loop {:.1} ms; {:.0}% of the operator's CPU time is hashing; \
         hashing slots busy {:.0}% of the time; peak memory {peak} MiB",
        f64::from(USERS) / elapsed,
        before.per_second,
        after.per_second,
        1000.0 * hashing / f64::from(USERS),
        1000.0 * bare,
        100.0 * share,
        100.0 * occupancy,
    );
    // Less than docs/how-to/sizing.md allows: 95 MiB, and 8.5 KiB for each User.
    assert!(peak <= 105, "{peak} MiB");
    // kube-apiserver and etcd share the cores and caches. The operator is only responsible for keeping its
    // slots busy, and for keeping everything else that it does for a user, including TLS and JSON,
    // cheap compared to the hash.
    assert!(occupancy > 0.85, "{occupancy:.2}");
    assert!(share > 0.85, "{share:.2}");
}
