//! I6: in steady state, Roster writes nothing: not on restart, leader change, or relist.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::ListParams;
use roster_harness::Operator;

use crate::support::{
    Cluster, FAST_LEASE, audit_position, create, eventually, has_streamed, operator_requests, operator_writes,
    password_secret, user, wait_for_reason, wait_until_ready,
};

const USERS: usize = 60;

const DECLARED: &str = "/apis/roster.dev/v1alpha1";

async fn versions(cluster: &Cluster) -> BTreeMap<String, String> {
    let users = cluster.users().await.list(&ListParams::default()).await.unwrap();
    let secrets = cluster.secrets("roster-system").await.list(&ListParams::default()).await.unwrap();
    let users = users.items.iter().map(|user| (format!("user/{}", user.name_any()), user.resource_version().unwrap()));
    let secrets = secrets
        .items
        .iter()
        .map(|secret| (format!("secret/{}", secret.name_any()), secret.resource_version().unwrap()));
    users.chain(secrets).collect()
}

/// Waits until the leader has reconciled every User.
async fn all_reconciled(cluster: &Cluster) {
    eventually("the leader has reconciled every User", || async {
        let looked: usize = cluster
            .operators()
            .iter()
            .filter_map(|operator| operator.probe("/metrics").ok())
            .filter_map(|metrics| {
                let line = metrics
                    .lines()
                    .find(|line| line.starts_with("roster_user_reconciliations_total{outcome=\"ok\"}"))
                    .map(str::to_owned);
                line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
            })
            .sum();
        if looked >= USERS + 3 { Ok(()) } else { Err(format!("{looked} reconciliations")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_restart_leader_change_and_relist_write_nothing() {
    let cluster = Cluster::create("i6", &[]);
    cluster.start_operator(FAST_LEASE);
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    for i in 0..USERS {
        let name = format!("steady-{i}");
        create(&secrets, &password_secret(&name, "password", format!("password {i}"))).await;
        let mut user = user(&name, true);
        user.spec.email = Some(format!("{name}@example.com"));
        create(&users, &user).await;
    }
    // Failing objects must not be written repeatedly either.
    let mut conflict = user("trouble-conflict", false);
    conflict.spec.email = Some("steady-0@example.com".into());
    wait_until_ready(&users, "steady-0").await;
    create(&users, &conflict).await;
    let mut missing = user("trouble-missing", true);
    missing.spec.groups = vec!["nowhere".into()];
    create(&users, &missing).await;
    create(
        &secrets,
        &password_secret(
            "trouble-weak",
            "passwordHash",
            "$2y$05$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW",
        ),
    )
    .await;
    create(&users, &user("trouble-weak", true)).await;
    for i in 0..USERS {
        wait_until_ready(&users, &format!("steady-{i}")).await;
    }
    wait_for_reason(&users, "trouble-conflict", "Ready", "EmailConflict").await;
    wait_for_reason(&users, "trouble-missing", "Ready", "SecretNotFound").await;
    wait_for_reason(&users, "trouble-weak", "Ready", "PasswordHashTooWeak").await;

    let before = versions(&cluster).await;
    let position = audit_position(&cluster);

    let first = cluster.operators().remove(0);
    first.stop().expect("SIGTERM stops the operator");
    cluster.start_operator(FAST_LEASE);
    all_reconciled(&cluster).await;

    cluster.start_operator(&[]);
    let leader = cluster.operators().remove(0);
    leader.kill();
    all_reconciled(&cluster).await;

    let requests = operator_requests(&cluster, position);
    let is_paged = |request: &&String| {
        ["users", "groups", "rolebindings"].iter().any(|kind| request.starts_with(&format!("list {DECLARED}/{kind}?")))
    };
    let paged: Vec<&String> = requests.iter().filter(is_paged).collect();
    assert!(paged.is_empty(), "lists are streamed by watches: {paged:?}");

    let relisting = audit_position(&cluster);
    cluster.plane.restart_api_server().expect("kube-apiserver restarts");
    eventually("the running operator has listed Secrets again", || async {
        let requests = operator_requests(&cluster, relisting);
        let is_list =
            |request: &String| request.starts_with("list ") && request.contains("/namespaces/roster-system/secrets?");
        if requests.iter().any(is_list) { Ok(()) } else { Err(format!("{requests:?}")) }
    })
    .await;
    for path in ["/users?", "/groups?", "/rolebindings?"] {
        eventually("the running operator has received a streaming list", || async {
            if has_streamed(&cluster, relisting, path) { Ok(()) } else { Err(path.into()) }
        })
        .await;
    }
    assert!(cluster.operators().iter_mut().all(Operator::is_running), "the operator must survive the restart");
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;

    assert_eq!(versions(&cluster).await, before);
    let writes = operator_writes(&cluster, position);
    let others: Vec<&String> = writes.iter().filter(|write| !write.contains("/leases/roster")).collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(!writes.is_empty(), "the renewals of the lease must be in the audit log");
}
