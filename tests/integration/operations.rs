//! Operations: probes, metrics, signals, leadership.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::PostParams;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use crate::support::{Cluster, FAST_LEASE, create, eventually, password_secret, shared, user, wait_until_ready};

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics_answer_on_their_own_port() {
    let cluster = shared();
    let operators = cluster.operators();
    let operator = &operators[0];
    assert!(operator.probe("/livez").unwrap().contains("[+]leader election ok"));
    assert_eq!(operator.probe("/readyz").unwrap(), "ok\n");
    let metrics = operator.probe("/metrics").unwrap();
    for name in ["roster_leader 1", "roster_hash_duration_seconds_count", "roster_admission_requests", "roster_writes"]
    {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    assert!(operator.probe("/nothing").is_err());
}

/// More addresses than the connection limit of the probe port, each in a network of its own with a single connection.
#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_while_hundreds_of_addresses_hold_the_port() {
    const ADDRESSES: u16 = 600;
    let cluster = shared();
    let port: u16 = cluster.operators()[0].probe_url().rsplit(':').next().unwrap().parse().unwrap();
    let mut held = Vec::new();
    for at in 0..ADDRESSES {
        let [high, low] = at.to_be_bytes();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 9 + high, low, 1), 0))).unwrap();
        let Ok(mut stream) = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await else { continue };
        // A partial request: the rest may still arrive.
        let _ = stream.write_all(b"GET /livez HTTP/1.1\r\n").await;
        held.push(stream);
    }
    assert!(held.len() > 512, "{} connections were opened", held.len());
    for path in ["/livez", "/readyz", "/metrics"] {
        cluster.operators()[0].probe(path).unwrap_or_else(|error| panic!("{path}: {error:#}"));
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_one_json_object_a_line() {
    let cluster = shared();
    let log = std::fs::read_to_string(cluster.operators()[0].log()).unwrap();
    assert!(log.lines().count() > 3);
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(entry["timestamp"].is_string() && entry["level"].is_string() && entry["message"].is_string(), "{line}");
    }
}

async fn holder(leases: &Api<Lease>) -> Option<String> {
    leases.get_opt("roster").await.unwrap()?.spec?.holder_identity
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_at_once_on_sigterm_and_within_the_lease_after_a_crash() {
    let cluster = Cluster::create("handover", &[]);
    // A lease so long that a handover within the test's timeout can't be its expiry.
    let long = ["--lease-duration", "10m", "--renew-deadline", "9m", "--retry-period", "200ms"];
    cluster.start_operator(&long);
    let leases: Api<Lease> = Api::namespaced(cluster.client().await, "roster-system");
    let first = holder(&leases).await.expect("the only one leads");
    cluster.start_operator(&long);
    let leader = cluster.operators().remove(0);
    leader.stop().expect("SIGTERM stops the operator in time");
    let changed = |from: String| {
        let leases = leases.clone();
        move || {
            let (leases, from) = (leases.clone(), from.clone());
            async move {
                match holder(&leases).await {
                    Some(holder) if holder != from => Ok(holder),
                    other => Err(format!("{other:?}")),
                }
            }
        }
    };
    eventually("the other one leads", changed(first)).await;
    let users = cluster.users().await;
    create(&users, &user("after-handover", false)).await;
    wait_until_ready(&users, "after-handover").await;

    let cluster = Cluster::create("crash", &[]);
    cluster.start_operator(FAST_LEASE);
    cluster.start_operator(FAST_LEASE);
    let leases: Api<Lease> = Api::namespaced(cluster.client().await, "roster-system");
    let first = holder(&leases).await.expect("one leads");
    let started = Instant::now();
    cluster.operators().remove(0).kill();
    let users = cluster.users().await;
    create(&users, &user("after-crash", false)).await;
    wait_until_ready(&users, "after-crash").await;
    assert_ne!(holder(&leases).await, Some(first));
    assert!(
        started.elapsed() > Duration::from_secs(1),
        "no replica may lead before the crashed leader's lease can have expired"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_loses_its_lease_exits() {
    let cluster = Cluster::create("usurped", &[]);
    cluster.start_operator(FAST_LEASE);
    let leases: Api<Lease> = Api::namespaced(cluster.client().await, "roster-system");
    eventually("the lease is taken away", || async {
        let mut lease = leases.get("roster").await.map_err(|error| error.to_string())?;
        lease.spec.as_mut().ok_or("no spec")?.holder_identity = Some("somebody-else".into());
        leases.replace("roster", &PostParams::default(), &lease).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    eventually("the process ends", || async {
        if cluster.operators()[0].is_running() { Err("it runs".to_owned()) } else { Ok(()) }
    })
    .await;
    let log = std::fs::read_to_string(cluster.operators()[0].log()).unwrap();
    assert!(log.contains("another replica holds the lease"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminating_replica_answers_until_endpoints_are_updated() {
    let cluster = Cluster::create("drain", &[]);
    cluster.start_operator(&["--drain", "30s"]);
    let mut operator = cluster.operators().remove(0);
    operator.terminate().unwrap();
    eventually("the replica is not ready", || async {
        match operator.probe("/readyz") {
            Ok(answer) => Err(answer),
            Err(_) => Ok(()),
        }
    })
    .await;
    let holder = ["get", "lease", "roster", "-n", "roster-system", "-o", "jsonpath={.spec.holderIdentity}"];
    eventually("the lease is released", || async {
        match cluster.kubectl(&holder) {
            free if free.is_empty() => Ok(()),
            holder => Err(holder),
        }
    })
    .await;
    // Password Secrets need admission, and no other replica answers.
    let secrets = cluster.secrets("default").await;
    create(&secrets, &password_secret("late", "password", "correct horse")).await;
    assert!(operator.is_running());
    // A second signal stops the process at once.
    operator.terminate().unwrap();
    eventually("the process has ended", || {
        std::future::ready(if operator.is_running() { Err(String::new()) } else { Ok(()) })
    })
    .await;
}
