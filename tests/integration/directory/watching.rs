//! Clients with a cache converge to the actual state, whatever happens in between.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{Config, InitialListStrategy};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::{get, wait_until_served};
use crate::support::{Cluster, FAST_LEASE, Random, eventually};

type Snapshot = BTreeMap<String, Option<String>>;

/// Returns the actual state from the directory.
fn expected(cluster: &Cluster, domain: &str) -> Snapshot {
    let list = get(cluster, &format!("users?filterBy=domain,{domain}"));
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| {
            let name = item["metadata"]["name"].as_str().unwrap().to_owned();
            (name, item["spec"]["displayName"].as_str().map(str::to_owned))
        })
        .collect()
}

/// An informer of kube-rs, with a list or a streaming list.
async fn informer(cluster: &Cluster, domain: &str, strategy: InitialListStrategy) -> reflector::Store<DynamicObject> {
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("directory.roster.dev", "v1alpha1", "User"), "users");
    let users: Api<DynamicObject> = Api::all_with(cluster.client().await, &resource);
    let writer = reflector::store::Writer::new(resource);
    let store = writer.as_reader();
    let config =
        Config { initial_list_strategy: strategy, ..Config::default().fields(&format!("spec.domain={domain}")) };
    let watch = reflector(writer, watcher(users, config).default_backoff());
    tokio::spawn(async move {
        let mut watch = std::pin::pin!(watch);
        while let Some(event) = watch.next().await {
            if let Err(error) = event {
                println!("the informer continues after {error}");
            }
        }
    });
    store
}

fn snapshot_of(store: &reflector::Store<DynamicObject>) -> Snapshot {
    let objects = store.state();
    objects.iter().map(|user| (user.name_any(), user.data["spec"]["displayName"].as_str().map(str::to_owned))).collect()
}

/// The dynamic client of the Python package `kubernetes`.
struct PythonClient {
    child: Child,
    answers: Mutex<BufReader<std::process::ChildStdout>>,
}

impl PythonClient {
    fn start(cluster: &Cluster, domain: &str) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/integration/directory/sync.py");
        let mut child = Command::new(roster_harness::python_with_packages().expect("Python is installed"))
            .args([script.as_os_str(), cluster.plane.kubectl.kubeconfig.as_os_str()])
            .arg(domain)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs");
        let answers = Mutex::new(BufReader::new(child.stdout.take().unwrap()));
        Self { child, answers }
    }

    fn snapshot_of(&mut self) -> Snapshot {
        writeln!(self.child.stdin.as_mut().unwrap(), "?").unwrap();
        let mut line = String::new();
        self.answers.lock().unwrap().read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for PythonClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn churn(cluster: &Cluster, domain: &str, rounds: u64, random: &mut Random) {
    for round in 0..rounds {
        let name = format!("{domain}-{}", random.below(12));
        if random.below(3) == 0 {
            let _ =
                cluster.plane.kubectl.run(&["delete", "users.roster.dev", &name, "--ignore-not-found", "--wait=false"]);
            continue;
        }
        // Some leave the selection, and some return to it.
        let domain = if random.below(5) == 0 { "elsewhere" } else { domain };
        let user = json!({"apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {"name": name},
            "spec": {"domain": domain, "displayName": format!("round {round}")}});
        // A User that is being deleted may conflict for a moment.
        let _ = cluster.plane.kubectl.apply(&user.to_string());
    }
}

/// With two replicas: kills one, then the other, so that every watch ends and is resumed by a process that does not
/// know it. Then restarts kube-apiserver.
#[tokio::test(flavor = "multi_thread")]
async fn informers_stay_consistent_through_churn_and_restarts() {
    let cluster = Cluster::create("directory-restarts", &[]);
    cluster.start_operator(FAST_LEASE);
    cluster.start_operator(FAST_LEASE);
    wait_until_served(&cluster);
    let domain = "copied";
    let mut random = Random(42);
    churn(&cluster, domain, 20, &mut random);
    let listed = informer(&cluster, domain, InitialListStrategy::ListWatch).await;
    let streamed = informer(&cluster, domain, InitialListStrategy::StreamingList).await;
    let mut python = PythonClient::start(&cluster, domain);
    let mut settle = async |what: &str| {
        eventually(what, || {
            let outcome = cluster
                .plane
                .kubectl
                .run(&["get", "users.roster.dev", &format!("--field-selector=spec.domain={domain}"), "-o", "json"])
                .map_err(|error| error.to_string())
                .and_then(|declared| {
                    let declared: serde_json::Value = serde_json::from_str(&declared).unwrap();
                    let expected = expected(&cluster, domain);
                    if declared["items"].as_array().unwrap().len() != expected.len() {
                        return Err("the directory is behind".to_owned());
                    }
                    for (client, copy) in [
                        ("list", snapshot_of(&listed)),
                        ("stream", snapshot_of(&streamed)),
                        ("Python", python.snapshot_of()),
                    ] {
                        if copy != expected {
                            return Err(format!("{client}: {copy:?} instead of {expected:?}"));
                        }
                    }
                    Ok(())
                });
            std::future::ready(outcome)
        })
        .await;
    };
    settle("all copies match the directory").await;
    churn(&cluster, domain, 30, &mut random);
    settle("after churn").await;
    for round in 0..2 {
        let operator = cluster.operators().remove(0);
        operator.kill();
        churn(&cluster, domain, 15, &mut random);
        cluster.start_operator(FAST_LEASE);
        wait_until_served(&cluster);
        churn(&cluster, domain, 15, &mut random);
        settle(&format!("after operator {round} was killed")).await;
    }
    cluster.plane.restart_api_server().unwrap();
    wait_until_served(&cluster);
    churn(&cluster, domain, 15, &mut random);
    settle("after kube-apiserver was killed").await;
}

/// A watch reports changes in order with increasing revisions, and an expired revision is an error.
#[tokio::test]
async fn a_watch_reports_changes_in_order() {
    let cluster = super::directory();
    let domain = crate::support::unique("ordered");
    let people = super::kubectl::people(cluster, &domain, 1).await;
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("directory.roster.dev", "v1alpha1", "User"), "users");
    let users: Api<DynamicObject> = Api::all_with(cluster.client().await, &resource);
    let list = get(cluster, &format!("users?filterBy=domain,{domain}"));
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let params = kube::api::WatchParams::default().fields(&format!("spec.domain={domain}")).timeout(20);
    for round in 0..5 {
        let patch = json!({"spec": {"displayName": format!("round {round}")}}).to_string();
        cluster.kubectl(&["patch", "users.roster.dev", &people[0], "--type=merge", "-p", &patch]);
    }
    cluster.kubectl(&["delete", "users.roster.dev", &people[0]]);
    let events = users.watch(&params, revision).await.unwrap();
    let mut events = std::pin::pin!(events);
    let (mut last, mut rounds) = (revision.parse::<u64>().unwrap(), Vec::new());
    loop {
        let event = tokio::time::timeout(Duration::from_secs(30), events.try_next()).await.unwrap().unwrap();
        let object = match event.expect("the watch continues") {
            kube::api::WatchEvent::Modified(object) => object,
            kube::api::WatchEvent::Deleted(object) => {
                assert!(object.resource_version().unwrap().parse::<u64>().unwrap() > last);
                break;
            }
            kube::api::WatchEvent::Bookmark(_) => continue,
            other => panic!("{other:?}"),
        };
        let revision = object.resource_version().unwrap().parse().unwrap();
        assert!(revision > last, "{revision} after {last}");
        last = revision;
        rounds.push(object.data["spec"]["displayName"].as_str().unwrap_or_default().to_owned());
    }
    rounds.dedup();
    rounds.retain(|round| round.starts_with("round"));
    assert_eq!(rounds, ["round 0", "round 1", "round 2", "round 3", "round 4"]);
    let gone = users.watch(&params, "1").await.unwrap();
    let first = std::pin::pin!(gone).try_next().await;
    let told = format!("{first:?}");
    assert!(told.contains("410"), "{told}");
}
