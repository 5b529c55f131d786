//! Ten thousand users in a thousand groups, nested three deep, with a thousand role bindings over a thousand namespaces.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use roster_api::role_binding::{RoleBinding, RoleBindingSpec, RoleRef, Scope, Subject, SubjectKind};
use roster_api::{DOMAIN_LABEL, Group, GroupSpec, User, UserSpec};
use serde_json::json;

use super::{count, peak_memory};
use crate::support::{Cluster, audit_position, can, condition, operator_writes};

static USERS: LazyLock<u32> = LazyLock::new(|| super::size(10_000).try_into().expect("the number fits"));
/// Groups: 10 at the top, each with 9 in the middle, each with 10 at the bottom, which contain the users.
const TOP: u32 = 10;
const MIDDLE: u32 = 90;
const BOTTOM: u32 = 900;
const BINDINGS: u32 = 1000;
const NAMESPACES: u32 = 1000;
/// Bindings with a hundred namespaces each, by domain. The others have one.
const WIDE: u32 = 10;

async fn create_all<K>(api: &Api<K>, objects: impl Iterator<Item = K>)
where
    K: Resource<DynamicType = ()> + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    stream::iter(objects)
        .map(|object| async move { api.create(&PostParams::default(), &object).await.map(drop) })
        .buffer_unordered(32)
        .try_collect::<()>()
        .await
        .unwrap();
}

fn bottom(i: u32) -> String {
    format!("bottom-{}", i % BOTTOM)
}

fn groups() -> impl Iterator<Item = Group> {
    let nested = |name: String, inner: Vec<String>| {
        Group::new(&name, GroupSpec { member_groups: inner, accept_declared_members: true, ..GroupSpec::default() })
    };
    let top =
        (0..TOP).map(move |i| nested(format!("top-{i}"), (0..9).map(|j| format!("middle-{}", i * 9 + j)).collect()));
    let middle = (0..MIDDLE)
        .map(move |i| nested(format!("middle-{i}"), (0..10).map(|j| format!("bottom-{}", i * 10 + j)).collect()));
    let bottom = (0..BOTTOM).map(move |i| nested(format!("bottom-{i}"), Vec::new()));
    top.chain(middle).chain(bottom)
}

fn bindings() -> impl Iterator<Item = RoleBinding> {
    (0..BINDINGS).map(|i| {
        let group = match i % 3 {
            0 => bottom(i),
            1 => format!("middle-{}", i % MIDDLE),
            _ => format!("top-{}", i % TOP),
        };
        let scope = if i < WIDE {
            Scope { domain: Some(format!("domain-{i}")), ..Scope::default() }
        } else {
            Scope { namespaces: Some(vec![format!("space-{i}")]), ..Scope::default() }
        };
        let spec = RoleBindingSpec {
            subjects: vec![Subject { kind: SubjectKind::Group, name: group }],
            role_ref: RoleRef::cluster_role("view"),
            scope,
            ..RoleBindingSpec::default()
        };
        RoleBinding::new(&format!("binding-{i}"), spec)
    })
}

async fn populate(cluster: &Cluster) {
    let client = cluster.client().await;
    let namespaces = (0..NAMESPACES).map(|i| Namespace {
        metadata: ObjectMeta {
            name: Some(format!("space-{i}")),
            labels: Some([(DOMAIN_LABEL.to_owned(), format!("domain-{}", i % WIDE))].into()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    });
    create_all(&Api::all(client.clone()), namespaces).await;
    create_all(&Api::all(client.clone()), groups()).await;
    create_all(&Api::all(client.clone()), bindings()).await;
    let users = (0..*USERS)
        .map(|i| User::new(&format!("user-{i}"), UserSpec { groups: vec![bottom(i)], ..UserSpec::default() }));
    create_all(&Api::all(client), users).await;
}

/// Polls metrics until the condition holds.
async fn until(cluster: &Cluster, what: &str, accept: impl Fn(&str) -> bool) -> String {
    let started = Instant::now();
    loop {
        let metrics = cluster.operators()[0].probe("/metrics").unwrap();
        if accept(&metrics) {
            return metrics;
        }
        assert!(started.elapsed() < Duration::from_secs(900), "{what}: {metrics}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_users_in_a_thousand_groups_converge_and_a_change_writes_only_what_it_must() {
    let cluster = Cluster::create("scale-bindings", &[]);
    let started = Instant::now();
    populate(&cluster).await;
    println!("populated in {:.1} s", started.elapsed().as_secs_f64());

    let started = Instant::now();
    cluster.start_operator(&[]);
    let natives = NAMESPACES + BINDINGS - WIDE;
    until(&cluster, "native bindings", |metrics| {
        count(metrics, "roster_writes_total{kind=\"RoleBinding\"}") >= natives
    })
    .await;
    println!("{natives} native bindings after {:.1} s", started.elapsed().as_secs_f64());
    until(&cluster, "users", |metrics| count(metrics, "roster_writes_total{kind=\"UserStatus\"}") >= *USERS).await;
    println!("{} users after {:.1} s", *USERS, started.elapsed().as_secs_f64());
    // Groups are reconciled at most once a second, so the last counts follow the last users.
    tokio::time::sleep(Duration::from_secs(5)).await;

    let client = cluster.client().await;
    let members: i64 = list::<Group>(&client)
        .await
        .iter()
        .map(|group| group.status.as_ref().and_then(|status| status.members).unwrap_or_default())
        .sum();
    assert_eq!(members, i64::from(*USERS) * 3, "each user is in three groups");
    for binding in list::<RoleBinding>(&client).await {
        let status = binding.status.clone().unwrap_or_default();
        assert!(
            status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            "{}: {status:?}",
            binding.name_any()
        );
    }
    let users = list::<User>(&client).await;
    assert!(users.iter().all(|user| condition(user, "Ready").is_some_and(|c| c.status == "True")));
    assert!(users.iter().all(|user| user.status.as_ref().is_some_and(|status| status.groups.len() == 3)));
    assert!(can(&cluster, "user-12", &["list", "pods", "-n", "space-12"]), "by bottom-12");
    assert!(!can(&cluster, "user-13", &["list", "pods", "-n", "space-12"]));

    let writes = written(&cluster, 0);
    println!("writes in all: {writes:?}; peak memory {} MiB", peak_memory(cluster.operators()[0].id()));
    let per_user = |what: &str| writes.iter().find(|(kind, _)| kind == what).map_or(0, |(_, count)| *count);
    // The certificate authority exists before the operator starts.
    let keys = 2;
    assert_eq!(
        per_user("secrets"),
        *USERS as usize + keys,
        "one identity Secret per user, and the signing and sealing keys"
    );
    assert!(per_user("users/status") < *USERS as usize * 11 / 10, "one status per user, apart from conflicts");

    one_membership(&cluster).await;
    restart(&cluster).await;
    super::queries::measure(&cluster, *USERS).await;
}

async fn one_membership(cluster: &Cluster) {
    let position = audit_position(cluster);
    let users: Api<User> = Api::all(cluster.client().await);
    // From bottom-0 (middle-0, top-0) to bottom-899 (middle-89, top-9).
    let patch = Patch::Merge(json!({"spec": {"groups": ["bottom-899"]}}));
    users.patch("user-0", &PatchParams::default(), &patch).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let writes: Vec<String> =
        operator_writes(cluster, position).into_iter().filter(|write| !write.contains("/leases/")).collect();
    println!("one membership: {} writes", writes.len());
    assert_eq!(writes.iter().filter(|write| write.contains("users/user-0/status")).count(), 1, "{writes:#?}");
    let groups = ["bottom-0", "middle-0", "top-0", "bottom-899", "middle-89", "top-9"];
    for group in groups {
        let path = format!("groups/{group}/status");
        assert_eq!(writes.iter().filter(|write| write.contains(&path)).count(), 1, "{group}: {writes:#?}");
    }
    assert_eq!(writes.len(), 1 + groups.len(), "{writes:#?}");
}

async fn restart(cluster: &Cluster) {
    let position = audit_position(cluster);
    let operator = cluster.operators().remove(0);
    operator.stop().unwrap();
    let started = Instant::now();
    cluster.start_operator(&[]);
    println!("ready again after {:.1} s", started.elapsed().as_secs_f64());
    until(cluster, "everything is reconciled", |metrics| {
        count(metrics, "roster_user_reconciliations_total{outcome=\"ok\"}") >= *USERS
            && count(metrics, "roster_role_binding_reconciliations_total{outcome=\"ok\"}") >= BINDINGS
            && count(metrics, "roster_group_reconciliations_total{outcome=\"ok\"}") >= TOP + MIDDLE + BOTTOM
    })
    .await;
    println!("everything reconciled after {:.1} s", started.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let writes: Vec<String> =
        operator_writes(cluster, position).into_iter().filter(|write| !write.contains("/leases/")).collect();
    assert!(writes.is_empty(), "{writes:#?}");
}

async fn list<K>(client: &kube::Client) -> Vec<K>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    Api::<K>::all(client.clone()).list(&ListParams::default()).await.unwrap().items
}

/// Returns the operator's writes since `position`, by kind.
fn written(cluster: &Cluster, position: u64) -> Vec<(String, usize)> {
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for write in operator_writes(cluster, position) {
        let path = write.split(['?', ' ']).nth(1).unwrap_or_default();
        let segments: Vec<&str> = path.split('/').collect();
        let kinds_known = ["users", "groups", "rolebindings", "clusterrolebindings", "secrets", "leases", "events"];
        let Some(kind) = segments.iter().rev().find(|segment| kinds_known.contains(segment)) else { continue };
        let status = if segments.last() == Some(&"status") { "/status" } else { "" };
        *kinds.entry(format!("{kind}{status}")).or_default() += 1;
    }
    kinds.into_iter().collect()
}
