//! Many users with five namespaces each: cost of enforcing their limits, and of one more pod.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, ResourceQuotaStatus};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use roster_harness::Flags;

use super::{count, peak_memory};
use crate::quota::{ROSTER, namespace, owner, pod, wait_until_enforced, writes_since};
use crate::support::{Cluster, audit_position, create, eventually, operator_requests};

static USERS: LazyLock<usize> = LazyLock::new(|| super::size(1000));
const NAMESPACES_PER_USER: usize = 5;
static NAMESPACES: LazyLock<usize> = LazyLock::new(|| *USERS * NAMESPACES_PER_USER);

/// kube-controller-manager creates a ConfigMap and a ServiceAccount in every namespace, 20 per second by default, and
/// corrects missed counts of them after five minutes. Roster follows these changes of usage, so the measurement starts
/// afterwards.
const CONTROLLER_MANAGER: &[&str] = &["--kube-api-qps=400", "--kube-api-burst=800", "--resource-quota-sync-period=30s"];

fn user_name(at: usize) -> String {
    format!("owner-{}", at % *USERS)
}

/// Creates the users and their namespaces, with the namespace limit enforced.
async fn populate(client: &Client) {
    let users = Api::all(client.clone());
    let limits = [("requests.cpu", "8"), ("pods", "100"), ("namespaces", "5")];
    stream::iter(0..*USERS)
        .map(|at| {
            let users = &users;
            async move { drop(create(users, &owner(&user_name(at), &limits)).await) }
        })
        .buffer_unordered(32)
        .collect::<()>()
        .await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    stream::iter(0..*NAMESPACES)
        .map(|at| {
            let (namespaces, own) = (&namespaces, namespace(&format!("owned-{at}"), Some(&user_name(at))));
            async move {
                // An overloaded operator responds with an error, which kube-apiserver passes on.
                eventually("the namespace is admitted", || async {
                    match namespaces.create(&PostParams::default(), &own).await {
                        Ok(_) => Ok(()),
                        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
                        Err(error) => Err(error.to_string()),
                    }
                })
                .await;
            }
        })
        .buffer_unordered(16)
        .collect::<()>()
        .await;
}

/// Waits until every namespace has a ResourceQuota of Roster for which this holds.
async fn wait_until_all(client: &Client, what: &str, holds: impl Fn(&ResourceQuotaStatus) -> bool) {
    let quotas: Api<ResourceQuota> = Api::all(client.clone());
    let own = ListParams::default().fields(&format!("metadata.name={ROSTER}"));
    let started = Instant::now();
    loop {
        // From the watch cache: the list is long, and need not be the latest.
        let found = quotas.list(&own.clone().match_any()).await.unwrap().items;
        let count = found.iter().filter(|quota| quota.status.as_ref().is_some_and(&holds)).count();
        if count == *NAMESPACES {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(1800), "{count} of {} are {what}", *NAMESPACES);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Waits until the operator stops writing: 5,000 namespaces cause many follow-up changes.
async fn wait_until_nothing_is_written(cluster: &Cluster) {
    let started = Instant::now();
    loop {
        let position = audit_position(cluster);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let writes = writes_since(cluster, position);
        if writes.is_empty() {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(900),
            "it still writes: {:#?}",
            &writes[..writes.len().min(20)]
        );
    }
}

/// Returns the user and system CPU time of a process, in seconds.
fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field is the name in parentheses, which may contain spaces. Times are the 14th and 15th fields, in
    // ticks of 10 ms on every architecture.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// Counts the writes by verb and kind.
fn by_kind(writes: &[String]) -> BTreeMap<String, usize> {
    const KINDS: &[&str] =
        &["resourcequotas", "limitranges", "users", "groups", "secrets", "configmaps", "events", "namespaces"];
    let mut kinds = BTreeMap::new();
    for write in writes {
        let (verb, path) = write.split_once(' ').unwrap_or_default();
        let segments: Vec<&str> = path.split(['/', '?']).collect();
        let kind = segments.iter().rev().find(|segment| KINDS.contains(segment)).copied().unwrap_or("other");
        let status = if segments.contains(&"status") { "/status" } else { "" };
        *kinds.entry(format!("{verb} {kind}{status}")).or_default() += 1;
    }
    kinds
}

/// Returns how many objects of a kind were created, and in how many namespaces.
fn created(writes: &[String], kind: &str) -> (usize, usize) {
    let path_of = |write: &String| write.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
    let is_main = |path: &String| path.contains(&format!("/{kind}")) && !path.ends_with("/status");
    let creates = writes.iter().filter(|write| write.starts_with("create ")).map(path_of).filter(is_main);
    let creates: Vec<String> = creates.collect();
    let places: BTreeSet<&String> = creates.iter().collect();
    (creates.len(), places.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_with_five_namespaces_each_stay_within_their_limits() {
    let flags = Flags { controller_manager: CONTROLLER_MANAGER, ..Flags::default() };
    let cluster = Cluster::create_with("scale-quota", &[], flags);
    cluster.start_operator(&[]);
    let client = cluster.client().await;
    let pid = cluster.operators()[0].id();
    let (started, processor) = (Instant::now(), processor_seconds(pid));
    populate(&client).await;
    println!("populated in {:.1} s", started.elapsed().as_secs_f64());
    wait_until_all(&client, "enforced", |status| {
        status.hard.as_ref().is_some_and(|hard| hard.contains_key("requests.cpu"))
    })
    .await;
    println!(
        "all enforced after {:.1} s, {:.1} s of the operator's CPU time",
        started.elapsed().as_secs_f64(),
        processor_seconds(pid) - processor
    );
    // kube-root-ca.crt.
    wait_until_all(&client, "counted", |status| {
        status.used.as_ref().and_then(|used| used.get("configmaps")).is_some_and(|count| count.0 == "1")
    })
    .await;
    wait_until_nothing_is_written(&cluster).await;
    let writes = writes_since(&cluster, 0);
    println!(
        "quiet after {:.1} s, {:.1} s of CPU time, peak memory {} MiB; writes: {:#?}",
        started.elapsed().as_secs_f64(),
        processor_seconds(pid) - processor,
        peak_memory(pid),
        by_kind(&writes)
    );
    for kind in ["resourcequotas", "limitranges"] {
        let (creates, places) = created(&writes, kind);
        assert!(creates == places && creates == *NAMESPACES, "{kind}: {creates} creates in {places} namespaces");
    }

    one_pod(&cluster, &client).await;
    restart(&cluster).await;
}

/// Creates a pod, and waits until its usage is reported.
async fn one_pod(cluster: &Cluster, client: &Client) {
    const REQUESTS: usize = 12;
    wait_until_enforced(client, "owned-7", ROSTER).await;
    let pid = cluster.operators()[0].id();
    let (position, processor) = (audit_position(cluster), processor_seconds(pid));
    create(&Api::namespaced(client.clone(), "owned-7"), &pod("one", Some("100m"))).await;
    let name = user_name(7);
    let users = cluster.users().await;
    crate::support::user_where(&users, &name, "has a pod", |user| {
        let quota = user.status.as_ref().and_then(|status| status.quota.as_ref());
        quota.and_then(|quota| quota.used.get("pods")).is_some_and(|pods| pods == "1")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let requests = operator_requests(cluster, position);
    let requests: Vec<&String> = requests.iter().filter(|request| !request.contains("/leases/")).collect();
    println!(
        "one pod: {} writes and lists, {:.2} s of CPU time within ten seconds: {requests:#?}",
        requests.len(),
        processor_seconds(pid) - processor
    );
    assert!(requests.len() <= REQUESTS, "{requests:#?}");
}

async fn restart(cluster: &Cluster) {
    let position = audit_position(cluster);
    let operator = cluster.operators().remove(0);
    operator.stop().unwrap();
    let started = Instant::now();
    cluster.start_operator(&[]);
    println!("ready again after {:.1} s", started.elapsed().as_secs_f64());
    let wanted = u32::try_from(*USERS).unwrap();
    loop {
        let metrics = cluster.operators()[0].probe("/metrics").unwrap();
        if count(&metrics, "roster_user_reconciliations_total{outcome=\"ok\"}") >= wanted {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(900), "{metrics}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let pid = cluster.operators()[0].id();
    println!("after a restart: {:.1} s of CPU time, peak memory {} MiB", processor_seconds(pid), peak_memory(pid));
    let writes = writes_since(cluster, position);
    assert!(writes.is_empty(), "{} writes: {:#?}", writes.len(), &writes[..writes.len().min(20)]);
}
