//! A bundle of a User, its namespaces and their content can be applied at once, in any order that kube-apiserver itself
//! accepts, and does not bypass the quota.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, Service};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use roster_harness::{Flags, Operator, target_dir};
use serde_json::{Value, json};

use super::ledger::Ledger;
use super::{
    Outcome, ROSTER, amount, amounts, create_pod_without_conflict, limit, namespace, owner, owner_of, pod, quota,
    refused_pod, reported_quota, set, try_pod, wait_for_account, wait_for_policy, wait_for_use, wait_until_quota_is,
};
use crate::fixtures::Fixtures;
use crate::support::{Cluster, FAST_LEASE, condition, create, eventually, unique, user_where, wait_for_reason};

/// The documents of a bundle. The claim requests more than a new namespace is allotted in advance.
fn documents(name: &str) -> [Value; 4] {
    let own = format!("{name}-apollo");
    [
        json!({"apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {"name": name},
            "spec": {"quota": {"hard": {"pods": "5", "requests.storage": "5Gi"}}}}),
        json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": own, "labels": {"roster.dev/owner": name}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": own},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": own},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "4Gi"}}}}),
    ]
}

fn bundle(documents: &[&Value]) -> String {
    documents.iter().fold(String::new(), |mut text, document| {
        writeln!(text, "---\n{document}").expect("writing to a String never fails");
        text
    })
}

const CLIENT_SIDE: &[&str] = &["apply", "-f", "-"];
const SERVER_SIDE: &[&str] = &["apply", "--server-side", "-f", "-"];
const DRY_RUN: &[&str] = &["apply", "--server-side", "--dry-run=server", "-f", "-"];

/// Applies a bundle and returns the number of applied documents.
fn applied(cluster: &Cluster, args: &[&str], bundle: &str) -> usize {
    let kubectl = &cluster.plane.kubectl;
    let printed = kubectl.run_with_input(args, bundle).unwrap_or_else(|error| panic!("{error:#}\n{bundle}"));
    printed.lines().count()
}

/// All orders of four documents.
fn orders() -> Vec<[usize; 4]> {
    let at = |number: usize| [number / 64, number / 16 % 4, number / 4 % 4, number % 4];
    (0..256).map(at).filter(|order| (0..4).all(|document| order.contains(&document))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn case_d1_a_bundle_is_applied_at_the_first_attempt_in_every_order() {
    let cluster = quota();
    for (at, order) in orders().iter().enumerate() {
        let name = unique("dora");
        let documents = documents(&name);
        let ordered = bundle(&order.map(|at| &documents[at]));
        let args = [CLIENT_SIDE, SERVER_SIDE][at % 2];
        let position =
            |document| order.iter().position(|at| *at == document).expect("the order contains every document");
        if position(1) > position(2).min(position(3)) {
            // kube-apiserver itself denies that.
            let error = cluster.plane.kubectl.run_with_input(args, &ordered).expect_err("there is no namespace yet");
            let error = format!("{error:#}");
            assert!(error.contains("not found") && !error.contains("quota"), "{error}");
        }
        assert_eq!(applied(cluster, args, &ordered), 4, "{order:?}");
        wait_for_use(cluster, &name, &[("services", "1"), ("requests.storage", "4Gi"), ("namespaces", "1")]).await;
    }
}

/// Flux applies namespaces first, and then sends a dry run of everything before it applies the rest.
#[tokio::test(flavor = "multi_thread")]
async fn case_d1_a_bundle_passes_a_dry_run_before_its_user_exists() {
    let cluster = quota();
    let name = unique("dry-run");
    let documents = documents(&name);
    let whole = bundle(&documents.iter().collect::<Vec<_>>());
    applied(cluster, SERVER_SIDE, &bundle(&[&documents[1]]));
    assert_eq!(applied(cluster, DRY_RUN, &whole), 4);
    assert!(cluster.users().await.get_opt(&name).await.unwrap().is_none(), "it was a dry run");
    assert_eq!(applied(cluster, SERVER_SIDE, &whole), 4);
    wait_for_use(cluster, &name, &[("requests.storage", "4Gi")]).await;
    // A dry run also gets quota that is allotted to another namespace.
    let other = format!("{name}-gemini");
    let client = cluster.client().await;
    create(&Api::all(client), &namespace(&other, Some(&name))).await;
    let mut claim = documents[3].clone();
    claim["metadata"]["namespace"] = json!(other);
    claim["spec"]["resources"]["requests"]["storage"] = json!("1Gi");
    assert_eq!(applied(cluster, DRY_RUN, &bundle(&[&claim])), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_d1_a_helm_chart_can_contain_the_whole_bundle() {
    let cluster = quota();
    let name = unique("charted");
    let chart = target_dir().join("tests").join(&name);
    std::fs::create_dir_all(chart.join("templates")).unwrap();
    std::fs::write(chart.join("Chart.yaml"), format!("{{apiVersion: v2, name: {name}, version: 0.1.0}}")).unwrap();
    for (at, document) in documents(&name).iter().enumerate() {
        std::fs::write(chart.join(format!("templates/{at}.yaml")), document.to_string()).unwrap();
    }
    let chart = chart.to_str().expect("the path is text");
    cluster.plane.kubectl.helm(&["install", &name, chart, "-n", "default"]).unwrap_or_else(|error| panic!("{error:#}"));
    wait_for_use(cluster, &name, &[("services", "1"), ("requests.storage", "4Gi")]).await;
    cluster.plane.kubectl.helm(&["uninstall", &name, "-n", "default"]).unwrap();
}

/// The order of Velero: namespaces, claims, service accounts, limit ranges, pods, and at the end custom resources.
#[tokio::test(flavor = "multi_thread")]
async fn case_d2_a_backup_is_restored_in_the_order_of_velero() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, unique("restored"));
    let [user, own, service, claim] = documents(&name);
    let namespace = format!("{name}-apollo");
    applied(cluster, CLIENT_SIDE, &bundle(&[&own]));
    applied(cluster, CLIENT_SIDE, &bundle(&[&claim]));
    wait_for_account(&client, &namespace).await;
    // Without requests, as it was when it was backed up.
    let outcome = try_pod(&client, &namespace, "web", None).await;
    assert!(outcome.is_admitted(), "{outcome:?}");
    applied(cluster, CLIENT_SIDE, &bundle(&[&service]));
    applied(cluster, CLIENT_SIDE, &bundle(&[&user]));
    wait_for_use(cluster, &name, &[("pods", "1"), ("requests.storage", "4Gi"), ("services", "1")]).await;
    wait_until_quota_is(cluster, &name, "True", "WithinLimits").await;
}

/// Objects that were created before there was a limit count towards it, and no more can be added.
#[tokio::test(flavor = "multi_thread")]
async fn case_d1_objects_of_a_bundle_count_as_soon_as_its_user_exists() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, unique("early"));
    let own = format!("{name}-0");
    create(&Api::<Namespace>::all(client.clone()), &namespace(&own, Some(&name))).await;
    wait_for_account(&client, &own).await;
    for at in 0..3 {
        let outcome = create_pod_without_conflict(&client, &own, &format!("early-{at}"), Some("1")).await;
        assert!(outcome.is_admitted(), "the User does not exist yet, so there is no limit: {outcome:?}");
    }
    create(&cluster.users().await, &owner(&name, &[("requests.cpu", "2")])).await;
    wait_until_quota_is(cluster, &name, "False", "Exceeded").await;
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &own);
    eventually("the limit is enforced, not the use", || async {
        let status = quotas.get(ROSTER).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let hard = amount(&amounts(&status.hard.unwrap_or_default()), "requests.cpu");
        if hard == 2000 { Ok(()) } else { Err(format!("{hard}m")) }
    })
    .await;
    let refused = refused_pod(&client, &own, "late", "100m").await;
    assert!(refused.contains("exceeded quota: roster"), "{refused}");
    // Deleting the User does not lift the limit either: otherwise a recreated User could be further over it.
    cluster.kubectl(&[
        "patch",
        "users.roster.dev",
        &name,
        "--type=merge",
        "-p",
        r#"{"spec": {"deletionPolicy": "Orphan"}}"#,
    ]);
    cluster.kubectl(&["delete", "users.roster.dev", &name]);
    eventually("the User is gone from the directory", || async {
        let gone = cluster.plane.kubectl.run(&["get", "users.directory.roster.dev", &name]);
        if gone.is_err() { Ok(()) } else { Err("it still exists".to_owned()) }
    })
    .await;
    let refused = refused_pod(&client, &own, "orphaned", "100m").await;
    assert!(refused.contains("exceeded quota: roster"), "{refused}");
}

/// `{n}-limited` may make and change namespaces and whatever is in them, create Users, and make anybody an owner.
const DESK: &str = "
---
{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: '{n}-limited'}, spec: {quota: {hard: {namespaces: '3', requests.cpu: '2'}}}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: '{n}-desk'}, rules: [{apiGroups: [''], resources: [namespaces, namespaces/status, namespaces/finalize, pods], verbs: ['*']}, {apiGroups: [roster.dev], resources: [users], verbs: [create, get, assign]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: '{n}-desk'}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: '{n}-desk'}, subjects: [{kind: User, name: '{n}-limited'}]}
";

/// A user with a quota cannot create a namespace that is not counted, because its content would not be limited.
#[tokio::test(flavor = "multi_thread")]
async fn case_d1_bundles_of_users_with_a_quota_do_not_bypass_it() {
    let cluster = quota();
    let stage = Fixtures { cluster, n: unique("bypass"), refuser: "the guard: " };
    cluster.apply(&DESK.replace("{n}", &stage.n));
    let limited = stage.name("limited");
    user_where(&cluster.users().await, &limited, "has its limit", |user| {
        amount(&reported_quota(user).1, "requests.cpu") > 0
    })
    .await;
    let manifest = |name: &str, owner: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: '{name}', labels: {{roster.dev/owner: '{owner}'}}}}}}"
        )
    };
    let created = ["create", "-f", "-"];
    // While the owner does not exist, by every way to write the label.
    stage.refused("limited", &created, &manifest("{n}-ghost-0", "{n}-ghost"), "{n}-ghost does not exist");
    stage.refused("limited", &created, &manifest("{n}-ghost-0", ""), "is required");
    stage.passes("limited", &created, &manifest("{n}-own", "{n}-limited"));
    let label = r#"{"metadata": {"labels": {"roster.dev/owner": "{n}-ghost"}}}"#.replace("{n}", &stage.n);
    for subresource in [&[][..], &["--subresource=status"]] {
        let patch = ["patch", "namespace", "{n}-own", "--type=merge", "-p", &label];
        stage.refused("limited", &[&patch[..], subresource].concat(), "", "{n}-ghost does not exist");
    }
    // Racing the creation of the owner, who has no quota, or comes too late to count.
    for round in 0..5 {
        let user = format!(
            "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: '{{n}}-late-{round}'}}, spec: {{}}}}"
        );
        let name = format!("{{n}}-late-{round}-0");
        let namespace = manifest(&name, &format!("{{n}}-late-{round}"));
        tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let attempts = scope.spawn(|| [0; 5].map(|_| stage.run("limited", &created, &namespace)));
                stage.passes("limited", &created, &user);
                for attempt in attempts.join().expect("the thread does not panic") {
                    let refusal = attempt.expect_err("it would not be counted");
                    assert!(refusal.contains("the guard: "), "{refusal}");
                }
            });
        });
    }
    // Counted namespaces are limited from the first moment, also in a bundle.
    let own = format!("{}-own", stage.n);
    wait_for_account(&cluster.client().await, &own).await;
    let mut pods = String::new();
    for at in 0..5 {
        let mut pod = serde_json::to_value(pod(&format!("pod-{at}"), Some("1"))).unwrap();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["namespace"] = json!(own);
        writeln!(pods, "---\n{pod}").unwrap();
    }
    let bundle = format!("{}{pods}", manifest("{n}-own-too", "{n}-limited"));
    let ledger = Ledger::start(&cluster.client().await, set(&[&own, &format!("{own}-too")])).await;
    stage.run("limited", &["apply", "-f", "-"], &bundle).expect_err("two CPUs of five are allowed");
    assert!(ledger.finish(2000).await.pods >= 2, "two CPUs are allowed");
}

/// Content waits for the next leader.
#[tokio::test(flavor = "multi_thread")]
async fn case_d1_a_bundle_survives_the_death_of_the_leader_between_its_documents() {
    let cluster = Cluster::create("quota-bundles", &[]);
    cluster.start_operator(FAST_LEASE);
    cluster.start_operator(FAST_LEASE);
    wait_for_policy(&cluster);
    let client = cluster.client().await;
    for round in 0..4 {
        let name = unique("orphaned");
        let documents = documents(&name);
        let own = format!("{name}-apollo");
        if round % 2 == 0 {
            create(&cluster.users().await, &serde_json::from_value(documents[0].clone()).unwrap()).await;
        }
        // There is no leader when the namespace is created. In every second round, its owner does not exist yet either.
        kill_the_leader(&cluster).await;
        // Retried, because kube-apiserver may send an admission review to the killed leader.
        let namespaces: Api<Namespace> = Api::all(client.clone());
        eventually("the namespace is created", || async {
            let created = namespaces.create(&PostParams::default(), &namespace(&own, Some(&name))).await;
            created.map(drop).map_err(|error| error.to_string())
        })
        .await;
        wait_for_account(&client, &own).await;
        // Nothing sets the pod's requests when it is sent: the next leader creates the LimitRange.
        let mut pod = serde_json::to_value(pod("web", None)).unwrap();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["namespace"] = json!(own);
        assert_eq!(applied(&cluster, CLIENT_SIDE, &bundle(&[&pod, &documents[2], &documents[3], &documents[0]])), 4);
        cluster.start_operator(FAST_LEASE);
        wait_for_use(&cluster, &name, &[("pods", "1"), ("services", "1"), ("requests.storage", "4Gi")]).await;
    }
}

/// Kills the operator that leads.
async fn kill_the_leader(cluster: &Cluster) {
    let holder = eventually("a replica leads", || async {
        let lease = ["get", "lease", "roster", "-n", "roster-system", "-o", "jsonpath={.spec.holderIdentity}"];
        let holder = cluster.plane.kubectl.run(&lease).map_err(|error| format!("{error:#}"))?;
        let is_leader = |operator: &Operator| {
            let name = operator.log().file_stem().unwrap_or_default().to_string_lossy().into_owned();
            holder.starts_with(&format!("{name}_"))
        };
        cluster.operators().iter().position(is_leader).ok_or(holder)
    })
    .await;
    cluster.operators().remove(holder).kill();
}

/// The owner has 4 CPUs free and asks for 3, in a namespace that has fewer. Nobody leads for a while, longer than a request
/// waits.
#[tokio::test(flavor = "multi_thread")]
async fn free_quota_is_not_rejected_while_nobody_leads() {
    let cluster = Cluster::create("quota-leaderless", &[]);
    cluster.start_operator(&[]);
    cluster.start_operator(&[]);
    wait_for_policy(&cluster);
    let owned = owner_of(&cluster, "alone", &[("requests.cpu", "4")], 2).await;
    kill_the_leader(&cluster).await;
    let mut pod = serde_json::to_value(pod("web", Some("3"))).unwrap();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["namespace"] = json!(owned[0]);
    assert_eq!(applied(&cluster, CLIENT_SIDE, &bundle(&[&pod])), 1);
    // Requests beyond the free quota are still rejected, immediately.
    let refused = try_pod(&cluster.client().await, &owned[1], "more", Some("2")).await.refusal();
    assert!(refused.contains("exceeded quota: roster"), "{refused}");
    limit(&cluster.users().await, "alone", &[("requests.cpu", "5")]).await;
    wait_for_use(&cluster, "alone", &[("requests.cpu", "3")]).await;
    pod["metadata"]["namespace"] = json!(owned[1]);
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2");
    user_where(&cluster.users().await, "alone", "has 5", |user| {
        amount(&reported_quota(user).1, "requests.cpu") == 5000
    })
    .await;
    assert_eq!(applied(&cluster, CLIENT_SIDE, &bundle(&[&pod])), 1);
}

/// Without an operator, the policy decides alone.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_admitted_uncounted_while_no_operator_runs() {
    let cluster = Cluster::create("quota-unattended", &[]);
    cluster.start_operator(FAST_LEASE);
    wait_for_policy(&cluster);
    let client = cluster.client().await;
    create(&Api::<Namespace>::all(client.clone()), &namespace("unattended", Some("nobody"))).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    let service: Service = serde_json::from_value(service).unwrap();
    let services: Api<Service> = Api::namespaced(client, "unattended");
    create(&services, &service).await;
    cluster.operators().pop().expect("there is one").kill();
    cluster.kubectl(&["delete", "resourcequota", "roster", "-n", "unattended"]);
    let mut another = service;
    another.metadata.name = Some("another".to_owned());
    eventually("the policy rejects it", || async {
        match Outcome::of(services.create(&PostParams { dry_run: true, ..PostParams::default() }, &another).await) {
            Outcome::Refused(message) if message.contains("roster-quota") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Without kube-controller-manager's count, a limit on what Roster cannot count is never enforced.
#[tokio::test(flavor = "multi_thread")]
async fn case_d6_a_controller_manager_that_does_not_count_is_reported() {
    let flags = Flags { controller_manager: &["--controllers=*,-resourcequota-controller"], ..Flags::default() };
    let cluster = Cluster::create_with("quota-uncounted", &[], flags);
    cluster.start_operator(&[]);
    wait_for_policy(&cluster);
    let (client, users) = (cluster.client().await, cluster.users().await);
    create(&users, &owner("ada", &[("count/widgets.example.com", "2"), ("pods", "3")])).await;
    create(&Api::<Namespace>::all(client.clone()), &namespace("uncounted", Some("ada"))).await;
    let ada = wait_for_reason(&users, "ada", "QuotaEnforced", "NotCounted").await;
    let message = &condition(&ada, "QuotaEnforced").expect("the condition has just been seen").message;
    assert!(message.contains("uncounted") && message.contains("kube-controller-manager"), "{message}");
    let events = ["get", "events", "-n", "default", "-o", "jsonpath={.items[?(@.reason=='QuotaNotEnforced')].message}"];
    eventually("there is an Event", || async {
        let note = cluster.kubectl(&events);
        let is_complete = note.contains("User ada") && note.contains("kube-controller-manager");
        if is_complete { Ok(()) } else { Err(note) }
    })
    .await;
    let logs = cluster.operator_logs().iter().map(|log| std::fs::read_to_string(log).unwrap()).collect::<String>();
    assert_eq!(logs.matches("quota of a namespace is not enforced").count(), 1, "{logs}");

    // The denial says whose quota it is, and what to do.
    let service = &documents("uncounted")[2];
    let mut service = service.clone();
    service["metadata"]["namespace"] = json!("uncounted");
    let refused =
        cluster.plane.kubectl.run_with_input(CLIENT_SIDE, &bundle(&[&service])).expect_err("usage is not counted");
    let refused = format!("{refused:#}");
    for part in ["the quota: namespace uncounted belongs to User ada", "kube-controller-manager", "check that"] {
        assert!(refused.contains(part), "{refused}");
    }

    // The condition ends once the usage is counted.
    let status = json!({"status": {
        "hard": {"count/widgets.example.com": "2", "pods": "3"}, "used": {"count/widgets.example.com": "0", "pods": "0"},
    }});
    let quotas: Api<ResourceQuota> = Api::namespaced(client, "uncounted");
    quotas.patch_status(ROSTER, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    user_where(&users, "ada", "is counted", |user| condition(user, "QuotaEnforced").is_none()).await;
    assert_eq!(applied(&cluster, CLIENT_SIDE, &bundle(&[&service])), 1);
}
