//! Quota across all namespaces of a user. There is no kubelet: pods stay Pending, and count in full.

mod bundles;
mod counting;
mod ledger;
mod limits;
mod namespaces;
mod replay;
mod strict;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Pod, ResourceQuota, ServiceAccount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use roster_api::{OWNER_LABEL, User};
use roster_harness::Flags;
use serde_json::{Value, json};

use crate::shared_cluster::SharedCluster;
use crate::support::{Cluster, audit_position, condition, create, eventually, operator_writes, user_where};

/// Name of Roster's objects in each owned namespace.
pub(crate) const ROSTER: &str = "roster";

/// Shared control plane with two operators, which must agree. Tests must not stop them.
fn quota() -> &'static Cluster {
    static QUOTA: SharedCluster = SharedCluster::new(|| {
        // kube-controller-manager corrects missed counts within 30 seconds.
        let flags = Flags { controller_manager: &["--resource-quota-sync-period=30s"], ..Flags::default() };
        let cluster = Cluster::create_with("quota", &[], flags);
        cluster.start_operator(&[]);
        cluster.start_operator(&[]);
        wait_for_policy(&cluster);
        cluster
    });
    QUOTA.get()
}

/// kube-apiserver enforces a new policy, and observes its parameter objects, shortly after they are created.
fn wait_for_policy(cluster: &Cluster) {
    const NAMESPACE: &str =
        "{apiVersion: v1, kind: Namespace, metadata: {name: probe, labels: {roster.dev/owner: probe}}}";
    // No ResourceQuota has that revision.
    const QUESTION: &str = "---\n{apiVersion: v1, kind: ResourceQuota, metadata: {name: roster-seen, namespace: probe, annotations: {roster.dev/seen: '9223372036854775807'}}}";
    cluster.apply(NAMESPACE);
    let is_enforced = || {
        let asked = cluster.plane.kubectl.run_with_input(&["create", "--dry-run=server", "-f", "-"], QUESTION);
        asked.is_err_and(|error| format!("{error:#}").contains("not seen this revision"))
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_enforced() {
        assert!(Instant::now() < deadline, "the policies of quota are not enforced");
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.kubectl(&["delete", "namespace", "probe", "--wait=false"]);
}

/// Returns a quota with these limits by name.
pub(crate) fn limits(hard: &[(&str, &str)]) -> Value {
    hard.iter().map(|(name, limit)| ((*name).to_owned(), Value::from(*limit))).collect::<serde_json::Map<_, _>>().into()
}

/// Creates a User with these limits.
pub(crate) fn owner(name: &str, hard: &[(&str, &str)]) -> User {
    let manifest = json!({
        "apiVersion": "roster.dev/v1alpha1", "kind": "User",
        "metadata": {"name": name}, "spec": {"quota": {"hard": limits(hard)}},
    });
    serde_json::from_value(manifest).expect("the manifest is a User")
}

/// Changes the limits of a User.
async fn limit(users: &Api<User>, name: &str, hard: &[(&str, &str)]) {
    let patch = Patch::Merge(json!({"spec": {"quota": {"hard": limits(hard)}}}));
    users.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

/// Returns a Namespace with or without an owner.
pub(crate) fn namespace(name: &str, owner: Option<&str>) -> Namespace {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    namespace.metadata.labels = owner.map(|owner| [(OWNER_LABEL.to_owned(), owner.to_owned())].into());
    namespace
}

/// Changes the owner of a Namespace by a merge patch.
async fn transfer(client: &Client, name: &str, to: Option<&str>) -> kube::Result<Namespace> {
    let patch = Patch::Merge(json!({"metadata": {"labels": {OWNER_LABEL: to}}}));
    Api::all(client.clone()).patch(name, &PatchParams::default(), &patch).await
}

/// Returns a pod with these CPU requests, or without any.
pub(crate) fn pod(name: &str, cpu: Option<&str>) -> Pod {
    let requests = cpu.map(|cpu| json!({"requests": {"cpu": cpu}}));
    let container = json!({"name": "main", "image": "nowhere.invalid/nothing", "resources": requests});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"containers": [container]}}))
        .expect("the manifest is a Pod")
}

/// Creates a User with usable namespaces `{name}-0`, `{name}-1`, ….
async fn owner_of(cluster: &Cluster, name: &str, hard: &[(&str, &str)], count: usize) -> Vec<String> {
    create(&cluster.users().await, &owner(name, hard)).await;
    let names: Vec<String> = (0..count).map(|at| format!("{name}-{at}")).collect();
    let client = cluster.client().await;
    for own in &names {
        create(&Api::all(client.clone()), &namespace(own, Some(name))).await;
    }
    for own in &names {
        wait_until_enforced(&client, own, ROSTER).await;
    }
    names
}

/// Waits until kube-apiserver enforces that ResourceQuota, and pods can be created.
pub(crate) async fn wait_until_enforced(client: &Client, namespace: &str, quota: &str) {
    wait_for_account(client, namespace).await;
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
    eventually(&format!("the ResourceQuota {quota} of {namespace} is enforced"), || async {
        let found = quotas.get_opt(quota).await.map_err(|error| error.to_string())?.ok_or("it does not exist")?;
        let enforced =
            found.status.as_ref().and_then(|status| status.hard.as_ref()).is_some_and(|hard| !hard.is_empty());
        if enforced { Ok(()) } else { Err(format!("{:?}", found.status)) }
    })
    .await;
}

/// Without its ServiceAccount, a namespace accepts no pods. kube-controller-manager creates it.
async fn wait_for_account(client: &Client, namespace: &str) {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    eventually(&format!("{namespace} has its service account"), || async {
        accounts.get_opt("default").await.map_err(|error| error.to_string())?.ok_or_else(|| "it has none".to_owned())
    })
    .await;
}

/// Result of an attempt to create an object.
#[derive(Debug)]
enum Outcome {
    Admitted,
    /// Denied by quota: nothing else returns Forbidden or Invalid to a cluster administrator with a valid object.
    Refused(String),
    /// Conflict: too many concurrent writes of one ResourceQuota, so that kube-apiserver gave up retrying.
    Conflict(String),
    /// Failed for another reason.
    Failed(String),
}

impl Outcome {
    fn of<K>(result: kube::Result<K>) -> Self {
        match result {
            Ok(_) => Self::Admitted,
            Err(kube::Error::Api(status)) if [403, 422].contains(&status.code) => Self::Refused(status.message.clone()),
            Err(kube::Error::Api(status)) if status.code == 409 => Self::Conflict(status.message.clone()),
            Err(error) => Self::Failed(error.to_string()),
        }
    }

    fn refusal(self) -> String {
        match self {
            Self::Refused(message) => message,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn is_admitted(&self) -> bool {
        matches!(self, Self::Admitted)
    }
}

/// Attempts once to create a pod.
async fn try_pod(client: &Client, namespace: &str, name: &str, cpu: Option<&str>) -> Outcome {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    Outcome::of(pods.create(&PostParams::default(), &pod(name, cpu)).await)
}

/// Attempts to create a pod until the result is not a conflict, which says nothing about the quota.
async fn create_pod_without_conflict(client: &Client, namespace: &str, name: &str, cpu: Option<&str>) -> Outcome {
    eventually(&format!("the quota decides on the pod {name} in {namespace}"), || async {
        match try_pod(client, namespace, name, cpu).await {
            Outcome::Conflict(message) => Err(message),
            other => Ok(other),
        }
    })
    .await
}

/// Returns the message of a denied pod.
async fn refused_pod(client: &Client, namespace: &str, name: &str, cpu: &str) -> String {
    create_pod_without_conflict(client, namespace, name, Some(cpu)).await.refusal()
}

/// Creates a pod. Retries while it is denied, because quota may have to be moved first.
async fn make_pod(client: &Client, namespace: &str, name: &str, cpu: Option<&str>) {
    eventually(&format!("{namespace} takes the pod {name}"), || async {
        match try_pod(client, namespace, name, cpu).await {
            Outcome::Admitted => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// A pod without a node is deleted immediately.
async fn delete_pod(client: &Client, namespace: &str, name: &str) {
    Api::<Pod>::namespaced(client.clone(), namespace).delete(name, &DeleteParams::default()).await.unwrap();
}

/// Returns a quantity in thousandths.
fn milli(quantity: &str) -> i128 {
    let digits = quantity.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let binary = |power| 1000 * 1024_i128.pow(power);
    let decimal = |power| 1000 * 1000_i128.pow(power);
    let factor = match &quantity[digits.len()..] {
        "m" => 1,
        "" => decimal(0),
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        other => panic!("{quantity}: {other} is no suffix"),
    };
    // Canonical quantities have no fraction.
    digits.parse::<i128>().unwrap_or_else(|error| panic!("{quantity}: {error}")) * factor
}

/// Amounts by name, in thousandths. Missing names count as zero.
type Amounts = BTreeMap<String, i128>;

fn amounts(quantities: &BTreeMap<String, Quantity>) -> Amounts {
    quantities.iter().map(|(name, quantity)| (name.clone(), milli(&quantity.0))).collect()
}

fn amount(amounts: &Amounts, name: &str) -> i128 {
    amounts.get(name).copied().unwrap_or_default()
}

/// Returns usage and limits from the User's status.
fn reported_quota(user: &User) -> (Amounts, Amounts) {
    let quota = user.status.as_ref().and_then(|status| status.quota.clone()).unwrap_or_default();
    let parse = |map: BTreeMap<String, String>| map.iter().map(|(name, text)| (name.clone(), milli(text))).collect();
    (parse(quota.used), parse(quota.hard))
}

/// Waits until the User's status has that usage.
async fn wait_for_use(cluster: &Cluster, name: &str, used: &[(&str, &str)]) -> User {
    let expected: Vec<(&str, i128)> = used.iter().map(|(name, quantity)| (*name, milli(quantity))).collect();
    user_where(&cluster.users().await, name, &format!("uses {used:?}"), |user| {
        let (used, _) = reported_quota(user);
        expected.iter().all(|(name, expected)| amount(&used, name) == *expected)
    })
    .await
}

/// Waits until the condition QuotaWithinLimits has that reason. Returns its message.
async fn wait_until_quota_is(cluster: &Cluster, name: &str, status: &str, reason: &str) -> String {
    let user = user_where(&cluster.users().await, name, reason, |user| {
        condition(user, "QuotaWithinLimits").is_some_and(|c| {
            (c.status.as_str(), c.reason.as_str()) == (status, reason)
                && c.observed_generation == user.metadata.generation
        })
    })
    .await;
    condition(&user, "QuotaWithinLimits").expect("the condition has just been seen").message.clone()
}

/// Returns the operator's writes since `position`, except those to its Lease.
pub(crate) fn writes_since(cluster: &Cluster, position: u64) -> Vec<String> {
    operator_writes(cluster, position).into_iter().filter(|write| !write.contains("/leases/")).collect()
}

/// Waits until the operator has written nothing for some seconds.
pub(crate) async fn wait_until_idle(cluster: &Cluster) {
    eventually("the operator is done", || async {
        let position = audit_position(cluster);
        tokio::time::sleep(Duration::from_secs(4)).await;
        let writes = writes_since(cluster, position);
        if writes.is_empty() { Ok(()) } else { Err(format!("{writes:#?}")) }
    })
    .await;
}

fn set<T: AsRef<str>>(names: &[T]) -> BTreeSet<String> {
    names.iter().map(|name| name.as_ref().to_owned()).collect()
}
