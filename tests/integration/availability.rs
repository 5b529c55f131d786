//! Availability with two replicas behind kube-apiserver when one of them stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::Request;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::directory::BASE;
use crate::logins::body;
use crate::support::{Cluster, FAST_LEASE, create, password_secret, user, wait_until_ready};

/// Reads per second.
const RATE: u32 = 500;

/// Number of concurrent readers.
const READERS: u32 = 16;

/// Retries of a failed write, as an ordinary client would make.
const ATTEMPTS: usize = 5;

/// Results of the requests.
struct Tally {
    started: Instant,
    stop: AtomicBool,
    reads: AtomicUsize,
    writes: AtomicUsize,
    retried: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Tally {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            stop: AtomicBool::default(),
            reads: AtomicUsize::default(),
            writes: AtomicUsize::default(),
            retried: AtomicUsize::default(),
            failures: std::sync::Mutex::default(),
        }
    }

    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn fail(&self, what: &str) {
        self.failures.lock().unwrap().push(format!("after {:.2} s: {what}", self.seconds()));
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Reads at its share of the rate through the aggregation layer, without retries, until the test ends.
async fn read(client: Client, reader: u32, tally: Arc<Tally>) {
    const PATHS: &[&str] = &[
        "users?limit=20&sortBy=-name",
        "users/person-1",
        "users?filterBy=email,person-2@example.com",
        "groups",
        "users/person-3/permissions",
        "roleassignments?user=person-1",
    ];
    let mut ticks = interval(Duration::from_secs(1) * READERS / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut turn = reader as usize;
    while !tally.is_over() {
        ticks.tick().await;
        let path = format!("{BASE}/{}", PATHS[turn % PATHS.len()]);
        turn += 1;
        let request = Request::get(&path).body(Vec::new()).expect("the request is valid");
        match client.request_text(request).await {
            Ok(_) => _ = tally.reads.fetch_add(1, Ordering::Relaxed),
            Err(error) => tally.fail(&format!("GET {path}: {error:?}")),
        }
    }
}

/// Retries until it succeeds, as long as an ordinary client would.
async fn write<F>(what: &str, tally: &Tally, attempt: impl Fn() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    for tried in 0..ATTEMPTS {
        match attempt().await {
            Ok(()) => {
                tally.writes.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(error) if tried + 1 == ATTEMPTS => tally.fail(&format!("{what}: {error}")),
            Err(_) => _ = tally.retried.fetch_add(1, Ordering::Relaxed),
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Writes password Secrets and Users, which need admission, and logs in, until the test ends.
async fn write_on(client: Client, tally: Arc<Tally>) {
    let secrets = Api::namespaced(client.clone(), "default");
    let users = Api::all(client.clone());
    let login = body("Login", &serde_json::json!({"username": "person-0", "password": "correct horse battery"}));
    let exists = |error: kube::Error| match error {
        // A failed attempt may have succeeded on the server.
        kube::Error::Api(status) if status.reason == "AlreadyExists" => Ok(()),
        error => Err(error.to_string()),
    };
    for at in 0.. {
        if tally.is_over() {
            return;
        }
        let name = format!("meanwhile-{at}");
        let secret = password_secret(&name, "password", "correct horse battery");
        let user = user(&name, true);
        write("a password Secret", &tally, || async {
            secrets.create(&PostParams::default(), &secret).await.map(drop).or_else(exists)
        })
        .await;
        write("a User", &tally, || async {
            users.create(&PostParams::default(), &user).await.map(drop).or_else(exists)
        })
        .await;
        write("a login", &tally, || async {
            let request = Request::post(format!("{BASE}/logins"))
                .header("content-type", "application/json")
                .body(login.clone().into_bytes())
                .expect("the request is valid");
            let answer = client.request_text(request).await.map_err(|error| error.to_string())?;
            if answer.contains("\"token\"") { Ok(()) } else { Err(answer) }
        })
        .await;
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_and_a_crash_fail_no_read_and_no_retried_write() {
    let cluster = Cluster::create("availability", &[]);
    let args = [FAST_LEASE, &["--drain", "2s"]].concat();
    cluster.start_operator(&args);
    cluster.start_operator(&args);
    let users = cluster.users().await;
    let secrets = cluster.secrets("default").await;
    create(&secrets, &password_secret("person-0", "password", "correct horse battery")).await;
    for at in 0..50 {
        let mut person = user(&format!("person-{at}"), at == 0);
        person.spec.email = Some(format!("person-{at}@example.com"));
        create(&users, &person).await;
    }
    for at in 0..50 {
        wait_until_ready(&users, &format!("person-{at}")).await;
    }
    crate::directory::wait_until_served(&cluster);

    let tally = Arc::new(Tally::new());
    let mut people = JoinSet::new();
    for reader in 0..READERS {
        people.spawn(read(cluster.client().await, reader, Arc::clone(&tally)));
    }
    people.spawn(write_on(cluster.client().await, Arc::clone(&tally)));
    sleep(Duration::from_secs(2)).await;

    // Like a rolling update: start a new replica, then stop an old one.
    for _ in 0..2 {
        cluster.start_operator(&args);
        let old = cluster.operators().remove(0);
        old.stop().expect("SIGTERM stops the operator in time");
    }
    println!("rolled after {:.2} s: {} reads", tally.seconds(), tally.reads.load(Ordering::Relaxed));
    // Either may be the leader. The other one takes over.
    for _ in 0..2 {
        let crashed = cluster.operators().remove(0);
        println!("a crash after {:.2} s", tally.seconds());
        crashed.kill();
        sleep(Duration::from_secs(2)).await;
        cluster.start_operator(&args);
        sleep(Duration::from_secs(1)).await;
    }
    tally.stop.store(true, Ordering::Relaxed);
    people.join_all().await;

    let seconds = tally.seconds();
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (reads, writes, retried) = (count(&tally.reads), count(&tally.writes), count(&tally.retried));
    println!(
        "{reads} reads in {seconds:.0} s ({:.0} a second), {writes} writes, {retried} of them retried",
        f64::from(u32::try_from(reads).unwrap()) / seconds
    );
    let failures = std::mem::take(&mut *tally.failures.lock().unwrap());
    assert!(failures.is_empty(), "{} of {reads} failed: {:#?}", failures.len(), &failures[..failures.len().min(10)]);
    assert!(writes > 10, "{writes} writes");
    // Everything written meanwhile is reconciled.
    wait_until_ready(&users, "meanwhile-0").await;
}
