//! Attacks by clients that can reach the port: large reviews, many connections, partial requests.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::Api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{peak_memory, resident_memory};
use crate::directory::{BASE, Direct, front_proxy, wait_until_served};
use crate::support::{Cluster, TIMEOUT, create, eventually, password_secret, unique, user};

fn create_cluster(name: &str) -> Cluster {
    let cluster = Cluster::create(name, &[]);
    cluster.start_operator(&[]);
    wait_until_served(&cluster);
    cluster
}

/// Returns the path of the webhook for quota hints.
async fn hints_path(cluster: &Cluster) -> String {
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client().await);
    let webhooks = configurations.get("roster").await.unwrap().webhooks.unwrap();
    let hints = webhooks.into_iter().find(|webhook| webhook.name == "hints.quota.roster.dev").unwrap();
    let url = hints.client_config.url.unwrap();
    let (_, path) = url.trim_start_matches("https://").split_once('/').unwrap();
    format!("/{path}")
}

async fn lease(cluster: &Cluster) -> LeaseSpec {
    let leases: Api<Lease> = Api::namespaced(cluster.client().await, "roster-system");
    leases.get("roster").await.unwrap().spec.unwrap()
}

/// Returns a review of a pod with as many of `items` as the size limit allows.
fn review(size: usize, items: &str) -> Vec<u8> {
    let head = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
        "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "default", "operation": "CREATE",
        "resource": {"group": "", "version": "v1", "resource": "pods"}, "userInfo": {}, "object": {"spec": {"containers": ["#;
    let tail = format!("{items}]}}}}}}}}");
    let count = (size - head.len() - tail.len()) / (items.len() + 1);
    format!("{head}{}{tail}", format!("{items},").repeat(count)).into_bytes()
}

async fn post(direct: &Direct, path: &str, body: &[u8]) -> anyhow::Result<String> {
    let mut stream = direct.connect_from(Ipv4Addr::new(127, 0, 0, 2)).await?;
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    // A rejected body is not read to its end.
    let _ = stream.write_all(body).await;
    let _ = stream.flush().await;
    let mut answer = vec![0; 64];
    let read = stream.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
}

/// Checks a write that needs admission, and a read through the aggregated API.
async fn assert_served(cluster: &Cluster) {
    let secrets = cluster.secrets("default").await;
    create(&secrets, &password_secret(&unique("guarded"), "password", "correct horse")).await;
    cluster.kubectl(&["get", "--raw", &format!("{BASE}/users?limit=1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_reviews_from_fifty_connections_cost_no_lease() {
    const ATTACKERS: usize = 50;
    // Far more than the budget for hints and two reviews being parsed. Without limits, fifty such reviews take
    // gigabytes.
    const MAX_GROWTH_MIB: u64 = 128;
    // Even the smaller size lasts longer than the lease.
    let duration = Duration::from_secs(super::size(100).try_into().unwrap());
    let cluster = create_cluster("limits-reviews");
    let direct = Arc::new(Direct::new(&cluster, 0, None).await);
    let path = hints_path(&cluster).await;
    let (before, pid) = (lease(&cluster).await, cluster.operators()[0].id());
    let memory = peak_memory(pid);
    let bodies = [(7, "[]"), (7, "{}"), (1, "[]"), (1, "{}")];
    let bodies = Arc::new(bodies.map(|(mebibytes, items)| review(mebibytes * 1024 * 1024 - 1024, items)));
    let answers = Arc::new(AtomicUsize::new(0));
    let (end, mut attack) = (Instant::now() + duration, tokio::task::JoinSet::new());
    for at in 0..ATTACKERS {
        let (direct, path, bodies, answers) =
            (Arc::clone(&direct), path.clone(), Arc::clone(&bodies), Arc::clone(&answers));
        attack.spawn(async move {
            while Instant::now() < end {
                let sent = post(&direct, &path, &bodies[at % bodies.len()]);
                if matches!(tokio::time::timeout(TIMEOUT, sent).await, Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 ")) {
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    attack.join_all().await;
    assert!(cluster.operators()[0].is_running(), "the leader has ended");
    let after = lease(&cluster).await;
    assert_eq!(
        (&after.holder_identity, after.lease_transitions),
        (&before.holder_identity, before.lease_transitions),
        "the leader has changed"
    );
    let grown = peak_memory(pid) - memory;
    println!("{} answers, {grown} MiB more at the peak", answers.load(Ordering::Relaxed));
    assert!(grown < MAX_GROWTH_MIB, "{grown} MiB more");
    assert_served(&cluster).await;
}

/// Starts a watch through kube-apiserver. Returns its output so far.
async fn watch(cluster: &Cluster) -> tokio::sync::watch::Receiver<Option<String>> {
    let client = cluster.client().await;
    let request = axum::http::Request::get(format!("{BASE}/users?watch=true&timeoutSeconds=1800"));
    let answer = client.send(request.body(kube::client::Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let (told, tell) = tokio::sync::watch::channel(Some(String::new()));
    tokio::spawn(async move {
        let mut chunks = axum::body::Body::new(answer.into_body()).into_data_stream();
        while let Ok(Some(chunk)) = chunks.try_next().await {
            let text = String::from_utf8_lossy(&chunk).into_owned();
            told.send_modify(|so_far| so_far.get_or_insert_default().push_str(&text));
        }
        told.send_replace(None);
    });
    tell
}

#[tokio::test(flavor = "multi_thread")]
async fn three_addresses_that_take_all_connections_do_not_exclude_others() {
    /// All three together exceed the connection limit of the port.
    const CONNECTIONS_PER_ADDRESS: usize = 1500;
    let cluster = create_cluster("limits-connections");
    let direct = Direct::new(&cluster, 0, None).await;
    let (certificate, key) = front_proxy(&cluster);
    let aggregator = Direct::new(&cluster, 0, Some((&certificate, &key))).await;
    let told = watch(&cluster).await;
    let idle = aggregator.connect_from(Ipv4Addr::LOCALHOST).await.unwrap();
    let attackers = (0..3 * CONNECTIONS_PER_ADDRESS).map(|at| {
        let (direct, source) = (&direct, Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(at % 3).unwrap()));
        async move { tokio::time::timeout(Duration::from_secs(10), direct.connect_from(source)).await }
    });
    let held: Vec<_> = stream::iter(attackers).buffer_unordered(32).collect().await;
    let held: Vec<TlsStream<TcpStream>> = held.into_iter().flatten().flatten().collect();
    println!("{} connections were opened", held.len());
    // New clients do not have to wait until the attackers are gone.
    let answer = tokio::time::timeout(Duration::from_secs(10), direct.get("/livez", &[])).await;
    assert_eq!(answer.expect("it is answered while the connections are held").status, 200);
    assert_served(&cluster).await;
    let name = unique("watched");
    create(&cluster.users().await, &user(&name, false)).await;
    eventually("the watch continues", || async {
        match &*told.borrow() {
            Some(text) if text.contains(&name) => Ok(()),
            Some(text) => Err(text.clone()),
            None => panic!("it has ended"),
        }
    })
    .await;
    let metrics = cluster.operators()[0].probe("/metrics").unwrap();
    let shed = |outcome| super::count(&metrics, &format!("roster_connections_shed_total{{outcome=\"{outcome}\"}}"));
    assert!(shed("evicted") + shed("refused") > 0, "{metrics}");
    drop((held, idle));
}

/// Sends a request that never ends, with headers of that size.
async fn half_send(direct: &Direct, bytes: usize) -> Option<TlsStream<TcpStream>> {
    let mut stream = direct.connect_from(Ipv4Addr::new(127, 0, 0, 2)).await.ok()?;
    let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
    let headers = line.repeat(bytes / line.len());
    // Headers that are too long are answered before their end.
    let _ = stream.write_all(format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{headers}").as_bytes()).await;
    let _ = stream.flush().await;
    Some(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_requests_cost_little_memory() {
    const REQUESTS: usize = 600;
    const MAX_GROWTH_MIB: u64 = 32;
    let cluster = create_cluster("limits-headers");
    let direct = Direct::new(&cluster, 0, None).await;
    let pid = cluster.operators()[0].id();
    let before = resident_memory(pid);
    let requests = (0..REQUESTS).map(|at| half_send(&direct, if at % 2 == 0 { 28_000 } else { 250_000 }));
    let held: Vec<_> = stream::iter(requests).buffer_unordered(32).collect().await;
    // Earlier data has arrived when a later request is answered.
    assert_eq!(direct.get("/livez", &[]).await.status, 200);
    let grown = resident_memory(pid).saturating_sub(before);
    println!("{grown} MiB more for {} half-sent requests", held.iter().flatten().count());
    assert!(grown < MAX_GROWTH_MIB, "{grown} MiB more");
    assert_served(&cluster).await;
}
