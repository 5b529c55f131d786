//! Two thousand users at once: they converge, memory stays bounded, and the cores hash.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{ListParams, PostParams};
use roster::credentials::hash::{Argon2idCost, Memory, PasswordHash};

use crate::support::{Cluster, condition, password_secret, user};

const USERS: u32 = 2000;

/// What hashing costs.
struct Cost {
    per_second: f64,
    cpu_seconds_each: f64,
}

/// A bare loop of argon2id on every core, with memory reused.
fn bare_loop(rounds: u32) -> Cost {
    let cores = cores();
    let hashes = f64::from(cores * rounds);
    let (started, cpu) = (Instant::now(), cpu_seconds(std::process::id()));
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
    let cpu = cpu_seconds(std::process::id()) - cpu;
    Cost { per_second: hashes / started.elapsed().as_secs_f64(), cpu_seconds_each: cpu / hashes }
}

fn cores() -> u32 {
    std::thread::available_parallelism().unwrap().get().try_into().unwrap()
}

/// CPU time of a process so far: proc(5), fields utime and stime, in ticks of 10 ms.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Peak resident memory of a process, in MiB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_users_converge_with_bounded_memory_and_the_time_goes_into_hashing() {
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
    assert_eq!(count(&metrics, "roster_hash_duration_seconds_count"), USERS, "one hash a user");
    let writes =
        ["Secret", "UserStatus"].map(|kind| count(&metrics, &format!("roster_writes_total{{kind=\"{kind}\"}}")));
    assert_eq!(writes, [USERS; 2], "two writes a user");

    let bare = f64::midpoint(before.cpu_seconds_each, after.cpu_seconds_each);
    let efficiency = bare * f64::from(USERS) / cpu;
    let occupancy = sample(&metrics, "roster_hash_duration_seconds_sum").unwrap().parse::<f64>().unwrap()
        / elapsed
        / f64::from(cores());
    let rate = f64::from(USERS) / elapsed;
    println!(
        "{USERS} users in {elapsed:.1} s: {rate:.1}/s end to end; bare loop {:.1}/s before, {:.1}/s after; \
         the operator spends {:.1} ms of CPU a user, the bare loop {:.1} ms a hash ({efficiency:.2}); \
         hashing slots busy {:.0}% of the time; peak memory {peak} MiB",
        before.per_second,
        after.per_second,
        1000.0 * cpu / f64::from(USERS),
        1000.0 * bare,
        100.0 * occupancy,
    );
    assert!(peak < 100, "{peak} MiB");
    // By CPU time, because kube-apiserver and etcd share the cores here: everything else that the operator does for a
    // user, TLS and JSON included, may cost it no more than 15% on top of the hash.
    assert!(efficiency > 0.85, "{efficiency:.2}");
}

fn sample<'a>(metrics: &'a str, name: &str) -> Option<&'a str> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// A count in the metrics; zero where it is not there yet.
fn count(metrics: &str, name: &str) -> u32 {
    sample(metrics, name).map_or(0, |count| count.parse().unwrap())
}
