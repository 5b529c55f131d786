//! The limit holds across all namespaces at every instant, and free quota can be used in any of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, ResourceQuota};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::task::{JoinHandle, block_in_place};

use super::ledger::{AllotmentChanges, Allotted, Ledger};
use super::{
    Outcome, ROSTER, amount, amounts, create_pod_without_conflict, delete_pod, limits, make_pod, namespace, owner_of,
    pod, quota, refused_pod, set, try_pod, wait_for_use, wait_until_enforced, wait_until_idle,
};
use crate::support::{Cluster, FAST_LEASE, Random, create, eventually, eventually_within, unique};

/// Limit in these tests, in thousandths of a CPU.
const LIMIT: i128 = 8000;
const WRITERS: usize = 16;
const KILLS: u32 = 10;

/// Results of the writers' attempts.
#[derive(Default)]
struct Tally {
    admitted: AtomicUsize,
    refused: AtomicUsize,
    conflicts: AtomicUsize,
    failed: AtomicUsize,
    deleted: AtomicUsize,
}

impl Tally {
    fn add(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Admitted => &self.admitted,
            Outcome::Refused(_) => &self.refused,
            Outcome::Conflict(_) => &self.conflicts,
            Outcome::Failed(_) => &self.failed,
        };
        // One is enough to see the kind of failure.
        if counter.fetch_add(1, Ordering::Relaxed) == 0
            && let Outcome::Failed(message) = outcome
        {
            println!("the first that failed: {message}");
        }
    }

    fn counts(&self) -> [usize; 5] {
        [&self.admitted, &self.refused, &self.conflicts, &self.failed, &self.deleted]
            .map(|count| count.load(Ordering::Relaxed))
    }

    fn summary(&self) -> String {
        let [admitted, refused, conflicts, failed, deleted] = self.counts();
        format!(
            "{admitted} creates admitted, {refused} refused, {conflicts} in conflict, {failed} failed; {deleted} pods \
             deleted"
        )
    }

    /// Checks that the limit was actually reached.
    fn assert_contended(&self) {
        let [admitted, refused, _, failed, _] = self.counts();
        assert!(admitted >= 50 && refused >= 50 && failed < admitted, "{}", self.summary());
    }
}

/// Creates and deletes pods of 100m to 700m at random until stopped.
async fn write(client: Client, own: usize, namespaces: Vec<String>, mut random: Random, (stop, tally): SharedTally) {
    let api = |namespace: &str| Api::<Pod>::namespaced(client.clone(), namespace);
    let mut mine: Vec<(String, String)> = Vec::new();
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let at =
            |random: &mut Random, len: usize| usize::try_from(random.below(len as u64)).expect("the number is small");
        if !mine.is_empty() && random.below(2) == 0 {
            let (namespace, name) = mine.swap_remove(at(&mut random, mine.len()));
            // If the response is lost, the pod stays and counts.
            if api(&namespace).delete(&name, &DeleteParams::default()).await.is_ok() {
                tally.deleted.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            let (namespace, name) = (&namespaces[at(&mut random, namespaces.len())], format!("writer-{own}-{made}"));
            let cpu = format!("{}m", 100 + random.below(601));
            made += 1;
            let outcome = try_pod(&client, namespace, &name, Some(&cpu)).await;
            tally.add(&outcome);
            if outcome.is_admitted() {
                mine.push((namespace.clone(), name));
            }
        }
        tokio::time::sleep(Duration::from_millis(random.below(30))).await;
    }
}

type SharedTally = (Arc<AtomicBool>, Arc<Tally>);

/// Starts writers on the namespaces.
fn write_concurrently(
    client: &Client,
    namespaces: &[String],
    seed: u64,
    stop: &Arc<AtomicBool>,
) -> (Arc<Tally>, Vec<JoinHandle<()>>) {
    let tally = Arc::new(Tally::default());
    let writer = |own| {
        let random = Random(seed.wrapping_mul(1000).wrapping_add(own as u64));
        let shared = (Arc::clone(stop), Arc::clone(&tally));
        tokio::spawn(write(client.clone(), own, namespaces.to_vec(), random, shared))
    };
    let writers = (0..WRITERS).map(writer).collect();
    (tally, writers)
}

/// Creates a namespace without an owner, with its own constant limit.
async fn native_floor(client: &Client, name: &str) {
    create(&Api::<Namespace>::all(client.clone()), &namespace(name, None)).await;
    let fixed = json!({"metadata": {"name": "fixed"}, "spec": {"hard": limits(&[("requests.cpu", "8")])}});
    let fixed: ResourceQuota = serde_json::from_value(fixed).unwrap();
    create(&Api::namespaced(client.clone(), name), &fixed).await;
    wait_until_enforced(client, name, "fixed").await;
}

/// Kills and replaces alternating operators during that time.
async fn kill_repeatedly(cluster: &Cluster, time: Duration, mut random: Random) {
    for _ in 0..KILLS {
        let (before, after) = (random.below(100), random.below(100));
        let turn = (time / KILLS).mul_f64(1.0 / 200.0);
        tokio::time::sleep(turn * u32::try_from(before).expect("the number is small")).await;
        block_in_place(|| {
            let one = usize::try_from(random.below(2)).expect("the number is small");
            let operator = cluster.operators().remove(one);
            operator.kill();
            cluster.start_operator(FAST_LEASE);
        });
        tokio::time::sleep(turn * u32::try_from(after).expect("the number is small")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_sum_over_all_namespaces_never_exceeds_the_limit() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (seed, seconds) = (number("ROSTER_SEED").unwrap_or(20_261_123), number("ROSTER_QUOTA_SECONDS").unwrap_or(90));
    println!("ROSTER_SEED={seed} ROSTER_QUOTA_SECONDS={seconds}");
    let cluster = Cluster::create("quota-strict", &[]);
    cluster.start_operator(FAST_LEASE);
    cluster.start_operator(FAST_LEASE);
    let client = cluster.client().await;
    native_floor(&client, "native").await;
    let owned = owner_of(&cluster, "strict", &[("requests.cpu", "8")], 5).await;

    let ledger = Ledger::start(&client, set(&owned)).await;
    let floor = Ledger::start(&client, set(&["native"])).await;
    let moves = AllotmentChanges::count(&client).await;
    let stop = Arc::new(AtomicBool::new(false));
    // The native limit is tested with the same load, writers and duration as Roster's.
    let (tally, mut writers) = write_concurrently(&client, &owned, seed, &stop);
    let (native_tally, native_writers) = write_concurrently(&client, &["native".to_owned()], seed + 1, &stop);
    writers.extend(native_writers);
    let time = Duration::from_secs(seconds);
    tokio::join!(kill_repeatedly(&cluster, time, Random(seed + 2)), tokio::time::sleep(time));
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let moves = moves.end();
    let (most, native) = (ledger.finish(LIMIT).await, floor.finish(LIMIT).await);
    println!("five namespaces: at most {most:?} of {LIMIT}m; {}; {moves} moves", tally.summary());
    println!("a native ResourceQuota: at most {native:?} of {LIMIT}m; {}", native_tally.summary());
    tally.assert_contended();
    native_tally.assert_contended();
    assert!(moves > 0, "no quota was moved, so the test proves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_least_7500m_of_8_can_be_used_even_when_every_namespace_competes() {
    let cluster = quota();
    let client = cluster.client().await;
    let owned = owner_of(cluster, &unique("greedy"), &[("requests.cpu", "8")], 5).await;
    let ledger = Ledger::start(&client, set(&owned)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let greedy = |own: &String| {
        let (client, own, stop) = (client.clone(), own.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) {
                match try_pod(&client, &own, &format!("greedy-{made}"), Some("500m")).await {
                    Outcome::Admitted => made += 1,
                    _ => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        })
    };
    let writers: Vec<JoinHandle<()>> = owned.iter().map(greedy).collect();
    eventually("7500m are in use", || async {
        let pods = ledger.pods();
        if pods >= 15 { Ok(()) } else { Err(format!("{pods} pods of 500m")) }
    })
    .await;
    // Denied writers retry for a while.
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    println!("at most {:?}", ledger.finish(LIMIT).await);
}

/// Creates that many pods of 500m in a namespace.
async fn fill(cluster: &Cluster, own: &str, count: u32) {
    let client = cluster.client().await;
    for at in 0..count {
        make_pod(&client, own, &format!("full-{at}"), Some("500m")).await;
    }
}

/// Deletes all but some of them, and waits until kube-apiserver counts the quota as free: kube-controller-manager
/// updates the usage asynchronously.
async fn free_quota(client: &Client, own: &str, count: u32, left: u32) {
    for at in left..count {
        delete_pod(client, own, &format!("full-{at}")).await;
    }
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), own);
    eventually("the usage of deleted pods is released", || async {
        let status = quotas.get(ROSTER).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let used = amount(&amounts(&status.used.unwrap_or_default()), "requests.cpu");
        if used == 500 * i128::from(left) { Ok(()) } else { Err(format!("{used}m")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_writer_that_retries_gets_free_quota_within_seconds() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, unique("hinted"));
    let owned = owner_of(cluster, &name, &[("requests.cpu", "8")], 2).await;
    let ledger = Ledger::start(&client, set(&owned)).await;
    fill(cluster, &owned[0], 15).await;
    refused_pod(&client, &owned[1], "too-early", "2").await;
    free_quota(&client, &owned[0], 15, 7).await;
    // More than any free share: quota is moved while the request waits.
    let outcome = create_pod_without_conflict(&client, &owned[1], "hinted", Some("2")).await;
    assert!(outcome.is_admitted(), "at the first try: {outcome:?}");
    wait_for_use(cluster, &name, &[("requests.cpu", "5500m"), ("pods", "8"), ("namespaces.running", "2")]).await;
    ledger.finish(LIMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_writers_and_deployments_get_free_quota_without_hints() {
    let cluster = Cluster::create("quota-without-hints", &["quota.hints=false"]);
    cluster.start_operator(&[]);
    let client = cluster.client().await;
    let hinted =
        cluster.kubectl(&["get", "validatingwebhookconfigurations,mutatingwebhookconfigurations", "-o", "yaml"]);
    assert!(!hinted.contains("quota/hint"), "there is no hint webhook here");
    let name = "patient";
    let owned = owner_of(&cluster, name, &[("requests.cpu", "8")], 3).await;
    let ledger = Ledger::start(&client, set(&owned)).await;
    // Not all of it: without hints, Roster does not know that a request waits for the rest.
    fill(&cluster, &owned[0], 12).await;

    // The ReplicaSet controller emits Events for denied creates, which Roster uses. One pod does not fit at first, and
    // not in an even share for both either.
    let labels = json!({"app": "patient"});
    let template = json!({"metadata": {"labels": labels}, "spec": pod("", Some("2500m")).spec});
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "patient"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
    }))
    .unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &owned[1]);
    deployments.create(&PostParams::default(), &deployment).await.unwrap();
    free_quota(&client, &owned[0], 12, 4).await;
    // The ReplicaSet controller doubles its backoff after each denial.
    let pods: Api<Pod> = Api::namespaced(client.clone(), &owned[1]);
    eventually_within(Duration::from_secs(300), "the Deployment has its pods", || async {
        let found = pods.list(&kube::api::ListParams::default()).await.map_err(|error| error.to_string())?.items;
        if found.len() == 2 {
            Ok(())
        } else {
            Err(format!("{:?}", found.iter().map(ResourceExt::name_any).collect::<Vec<_>>()))
        }
    })
    .await;
    // A bare pod causes no Event of a controller. It is admitted because free quota is redistributed once the requests
    // of others are served: of 1000m that are free, a quarter of an even share.
    make_pod(&client, &owned[2], "bare", Some("80m")).await;
    wait_for_use(&cluster, name, &[("requests.cpu", "7080m"), ("pods", "7")]).await;
    ledger.finish(LIMIT).await;
}

/// Native ResourceQuota admits too much if kube-controller-manager has counted too little. Here, an administrator writes
/// such a count while no operator runs.
#[tokio::test(flavor = "multi_thread")]
async fn an_excess_admitted_by_native_quota_is_not_added_to_the_allotments() {
    let cluster = Cluster::create("quota-excess", &[]);
    cluster.start_operator(FAST_LEASE);
    let client = cluster.client().await;
    let owned = owner_of(&cluster, "excess", &[("requests.cpu", "4")], 2).await;
    for (own, names) in [(&owned[0], ["a", "b"]), (&owned[1], ["c", "d"])] {
        for name in names {
            make_pod(&client, own, name, Some("1")).await;
        }
    }
    wait_for_use(&cluster, "excess", &[("requests.cpu", "4")]).await;
    wait_until_idle(&cluster).await;
    cluster.operators().remove(0).stop().expect("SIGTERM stops the operator");
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &owned[0]);
    let count = async |used: &str| {
        let counted = Patch::Merge(json!({"status": {"used": {"requests.cpu": used}}}));
        quotas.patch_status(ROSTER, &PatchParams::default(), &counted).await.unwrap();
    };
    count("1").await;
    make_pod(&client, &owned[0], "leaked", Some("1")).await;
    count("3").await;

    let allotted = Allotted::watch(&client, &owned).await;
    cluster.start_operator(FAST_LEASE);
    wait_for_use(&cluster, "excess", &[("requests.cpu", "5")]).await;
    wait_until_idle(&cluster).await;
    // What ends does not make room while the sum exceeds the limit.
    delete_pod(&client, &owned[1], "c").await;
    refused_pod(&client, &owned[1], "instead", "1").await;
    wait_for_use(&cluster, "excess", &[("requests.cpu", "4")]).await;
    delete_pod(&client, &owned[1], "d").await;
    make_pod(&client, &owned[0], "fits", Some("1")).await;
    wait_for_use(&cluster, "excess", &[("requests.cpu", "4")]).await;
    let most = allotted.end();
    assert!(most <= 4000, "{most}m of 4000m were allotted");
}
