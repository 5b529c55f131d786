//! Requests that wait for quota, and those that must not wait for them.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::Request;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use roster_harness::Flags;
use serde_json::json;
use tokio::task::JoinSet;

use super::{delete_pod, make_pod, owner_of, pod, quota};
use crate::support::{Cluster, create, eventually, eventually_within, shared, unique};

/// Requests that one ServiceAccount sends at the same time: more than kube-apiserver has seats for.
const CROWD: usize = 80;

/// Wait of each before the next. Most are refused at once: without a pause, they would only use up the CPU.
const PAUSE: Duration = Duration::from_secs(1);

/// An extended resource.
const GPU: &str = "example.com/gpu";

/// Names of a FlowSchema and a PriorityLevelConfiguration.
type Level = (String, String);

/// Returns the names of all FlowSchemas or PriorityLevelConfigurations by UID.
fn names_by_uid(cluster: &Cluster, kind: &str) -> BTreeMap<String, String> {
    let found = cluster.plane.kubectl.get(&[kind]).unwrap();
    let items = found["items"].as_array().unwrap().iter().map(|item| &item["metadata"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    items.map(|metadata| (text(&metadata["uid"]), text(&metadata["name"]))).collect()
}

/// Returns how kube-apiserver classifies a GET request of a ServiceAccount.
async fn level_of(cluster: &Cluster, account: (&str, &str), path: &str) -> Level {
    let (namespace, name) = account;
    let request = Request::get(path)
        .header("impersonate-user", format!("system:serviceaccount:{namespace}:{name}"))
        .header("impersonate-group", "system:serviceaccounts")
        .header("impersonate-group", format!("system:serviceaccounts:{namespace}"))
        .header("impersonate-group", "system:authenticated");
    let request = request.body(kube::client::Body::empty()).unwrap();
    let answer = cluster.client().await.send(request).await.unwrap();
    let name = |header: &str, kind: &str| {
        let uid = answer.headers()[header].to_str().unwrap();
        names_by_uid(cluster, kind).remove(uid).unwrap_or_else(|| panic!("no {kind} has the UID {uid}"))
    };
    (
        name("x-kubernetes-pf-flowschema-uid", "flowschemas"),
        name("x-kubernetes-pf-prioritylevel-uid", "prioritylevelconfigurations"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rosters_requests_have_seats_of_their_own() {
    const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/roster-system/leases/roster";
    let cluster = shared();
    let level = |flow: &str, level: &str| (flow.to_owned(), level.to_owned());
    let roster = ("roster-system", "roster");
    for (account, path, expected) in [
        (roster, LEASE, level("roster-leader-election", "leader-election")),
        (roster, "/apis/roster.dev/v1alpha1/users?limit=1", level("roster", "roster")),
        (roster, "/api/v1/namespaces/default/resourcequotas", level("roster", "roster")),
        (roster, "/version", level("roster", "roster")),
        (("roster-system", "default"), LEASE, level("service-accounts", "workload-low")),
        (("default", "roster"), "/version", level("service-accounts", "workload-low")),
    ] {
        assert_eq!(level_of(cluster, account, path).await, expected, "{account:?} {path}");
    }
}

/// Creates a ServiceAccount that may write in some namespaces, and returns its client.
async fn writer(cluster: &Cluster, namespaces: &[String]) -> Client {
    cluster.kubectl(&["create", "serviceaccount", "writer", "-n", &namespaces[0]]);
    let account = format!("--serviceaccount={}:writer", namespaces[0]);
    for namespace in namespaces {
        cluster.kubectl(&["create", "rolebinding", "writer", "--clusterrole=edit", &account, "-n", namespace]);
    }
    let token = cluster.kubectl(&["create", "token", "writer", "-n", &namespaces[0]]);
    let file = cluster.plane.dir.join(format!("{}.kubeconfig", namespaces[0]));
    let file = cluster.plane.kubeconfig_for_token(&file, token.trim()).unwrap();
    let kubeconfig = Kubeconfig::read_from(file).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Returns a pod that requests that many of the extended resource.
fn gpu_pod(name: &str, count: &str) -> Pod {
    let resources = json!({"limits": {GPU: count}, "requests": {GPU: count}});
    let container = json!({"name": "main", "image": "nowhere.invalid/nothing", "resources": resources});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"containers": [container]}})).unwrap()
}

/// Sends dry runs until the tasks are aborted. Each fits the owner's quota, but Roster cannot take back what it has
/// allotted to another namespace: it cannot count extended resources. So each waits as long as it may.
fn crowd(client: &Client, namespace: &str) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for at in 0..CROWD {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        tasks.spawn(async move {
            let (dry_run, pod) = (PostParams { dry_run: true, ..PostParams::default() }, gpu_pod(&at.to_string(), "4"));
            loop {
                let answer = pods.create(&dry_run, &pod).await;
                assert!(answer.is_err(), "Roster has moved quota that it cannot count");
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    tasks
}

/// Here, all ServiceAccounts share 23 seats of kube-apiserver, and with those that other levels lend, at most 60.
#[tokio::test(flavor = "multi_thread")]
async fn one_owners_waiting_requests_block_neither_other_owners_nor_the_leader() {
    let few_seats = &["--max-requests-inflight=40", "--max-mutating-requests-inflight=20"];
    let cluster = Cluster::create_with("quota-crowd", &[], Flags { api_server: few_seats, ..Flags::default() });
    cluster.start_operator(&[]);
    let admin = cluster.client().await;
    let crowded = owner_of(&cluster, "crowd", &[(&format!("requests.{GPU}"), "4")], 2).await;
    let quiet = owner_of(&cluster, "quiet", &[("requests.cpu", "4")], 2).await;
    let (of_crowd, of_quiet) = (writer(&cluster, &crowded).await, writer(&cluster, &quiet).await);
    let leases: Api<Lease> = Api::namespaced(admin.clone(), "roster-system");
    let leader = || async {
        let spec = leases.get("roster").await.unwrap().spec.unwrap();
        (spec.holder_identity, spec.lease_transitions, spec.renew_time.unwrap().0)
    };
    let before = leader().await;

    let elsewhere: Api<Pod> = Api::namespaced(admin.clone(), &crowded[0]);
    create(&elsewhere, &gpu_pod("ended", "1")).await;
    delete_pod(&admin, &crowded[0], "ended").await;
    let mut crowd = crowd(&of_crowd, &crowded[1]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Quota is moved to and fro for the other owner, longer than the leader may fail to renew its Lease.
    for round in 0..12 {
        let own = &quiet[round % 2];
        make_pod(&of_quiet, own, "moved", Some("3")).await;
        delete_pod(&admin, own, "moved").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let after = leader().await;
    assert!(crowd.try_join_next().is_none(), "a task of the crowd has ended");
    crowd.shutdown().await;
    assert!(hints(&cluster, "too_many") > 0, "no request was one too many, so the test proves nothing");
    assert_eq!((after.0, after.1), (before.0, before.1), "another one leads");
    assert!(after.2.duration_since(before.2).as_secs() >= 12, "the Lease was renewed: {} {}", before.2, after.2);
}

/// Returns the sum of these outcomes over all operators.
fn hints(cluster: &Cluster, outcome: &str) -> u64 {
    let metrics = cluster.operators().iter().map(|operator| operator.probe("/metrics").unwrap()).collect::<Vec<_>>();
    let start = format!("roster_quota_hints_total{{outcome=\"{outcome}\"}} ");
    metrics.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok()).sum()
}

/// The controllers do not wait in the webhook, so that one user's ReplicaSets do not stall those of all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_gets_free_quota_of_another_namespace_although_its_controller_does_not_wait() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, unique("deployed"));
    let owned = owner_of(cluster, &name, &[("requests.cpu", "8")], 2).await;
    make_pod(&client, &owned[0], "other", Some("1")).await;
    let exempt = hints(cluster, "exempt");
    let labels = json!({"app": "web"});
    let template = json!({"metadata": {"labels": labels}, "spec": pod("", Some("3500m")).spec});
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
    }))
    .unwrap();
    Api::<Deployment>::namespaced(client.clone(), &owned[1]).create(&PostParams::default(), &deployment).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &owned[1]);
    let begun = std::time::Instant::now();
    eventually_within(Duration::from_secs(30), "the Deployment has its pods", || async {
        let found = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let names: Vec<String> = found.iter().map(ResourceExt::name_any).collect();
        if names.len() == 2 { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    println!("after {:?}", begun.elapsed());
    eventually("the webhook has let a request of the controller pass", || async {
        let now = hints(cluster, "exempt");
        if now > exempt { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
}
