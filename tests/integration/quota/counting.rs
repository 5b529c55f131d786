//! Reported usage equals the existing objects.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod, ResourceQuota, Secret, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, Resource};
use serde_json::{Value, json};

use super::{
    Amounts, Outcome, ROSTER, amount, amounts, delete_pod, limit, make_pod, milli, namespace, owner, owner_of, quota,
    reported_quota, transfer, wait_for_account, wait_for_use, wait_until_enforced, wait_until_quota_is,
};
use crate::directory::{get, wait_until_served};
use crate::support::{Cluster, TIMEOUT, condition, create, eventually, eventually_within, unique, wait_until_ready};

/// Resources that are counted even without limits.
const COUNTED: &[&str] = &[
    "pods",
    "services",
    "services.loadbalancers",
    "services.nodeports",
    "persistentvolumeclaims",
    "requests.storage",
    "secrets",
    "configmaps",
    "requests.cpu",
    "requests.memory",
    "namespaces",
    "namespaces.running",
];

async fn list<K>(client: &Client, namespace: &str) -> Vec<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    Api::<K>::namespaced(client.clone(), namespace).list(&ListParams::default()).await.unwrap().items
}

/// Returns the usage of the objects in these namespaces.
async fn counted_usage(client: &Client, namespaces: &[String]) -> Amounts {
    let mut sums = Amounts::new();
    let mut add = |name: &str, amount: i128| *sums.entry(name.to_owned()).or_default() += amount;
    let one = |list: usize| i128::try_from(list).expect("the number is small") * 1000;
    let sized = |quantities: Option<BTreeMap<String, Quantity>>, name: &str| {
        amount(&amounts(&quantities.unwrap_or_default()), name)
    };
    for namespace in namespaces {
        let pods: Vec<Pod> = list(client, namespace).await;
        add("namespaces", 1000);
        add("namespaces.running", if pods.is_empty() { 0 } else { 1000 });
        add("pods", one(pods.len()));
        for container in pods.iter().filter_map(|pod| pod.spec.as_ref()).flat_map(|spec| &spec.containers) {
            let requests = container.resources.clone().and_then(|resources| resources.requests);
            add("requests.cpu", sized(requests.clone(), "cpu"));
            add("requests.memory", sized(requests, "memory"));
        }
        let services: Vec<Service> = list(client, namespace).await;
        add("services", one(services.len()));
        for spec in services.iter().filter_map(|service| service.spec.as_ref()) {
            add("services.loadbalancers", one(usize::from(spec.type_.as_deref() == Some("LoadBalancer"))));
            let ports = spec.ports.iter().flatten().filter(|port| port.node_port.is_some());
            add("services.nodeports", one(ports.count()));
        }
        let claims: Vec<PersistentVolumeClaim> = list(client, namespace).await;
        add("persistentvolumeclaims", one(claims.len()));
        for spec in claims.into_iter().filter_map(|claim| claim.spec) {
            add("requests.storage", sized(spec.resources.and_then(|resources| resources.requests), "storage"));
        }
        add("secrets", one(list::<Secret>(client, namespace).await.len()));
        add("configmaps", one(list::<ConfigMap>(client, namespace).await.len()));
    }
    sums
}

/// Waits until the reported usage equals that of the existing objects for every name, and returns it.
async fn wait_until_counted(cluster: &Cluster, name: &str, namespaces: &[String]) -> Amounts {
    wait_until_counted_within(TIMEOUT, cluster, name, namespaces).await
}

async fn wait_until_counted_within(timeout: Duration, cluster: &Cluster, name: &str, namespaces: &[String]) -> Amounts {
    let (client, users) = (cluster.client().await, cluster.users().await);
    eventually_within(timeout, &format!("the status of {name} matches the actual usage"), || async {
        let (used, _) = reported_quota(&users.get(name).await.map_err(|error| error.to_string())?);
        // Read each time: kube-controller-manager creates objects, too.
        let counted_usage = counted_usage(&client, namespaces).await;
        let differs = |counted: &&&str| amount(&used, counted) != amount(&counted_usage, counted);
        let wrong: Vec<_> = COUNTED.iter().filter(differs).collect();
        if wrong.is_empty() {
            Ok(used)
        } else {
            Err(format!("{wrong:?}: {used:?} reported, {counted_usage:?} counted"))
        }
    })
    .await
}

/// Creates a Namespace and transfers it once kube-controller-manager has created its objects there: objects created at
/// the same instant as a ResourceQuota may stay uncounted for some minutes.
async fn transfer_when_settled(client: &Client, name: &str, to: &str) {
    create(&Api::all(client.clone()), &namespace(name, None)).await;
    wait_for_account(client, name).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), name);
    eventually(&format!("{name} has its root certificates"), || async {
        maps.get_opt("kube-root-ca.crt")
            .await
            .map_err(|error| error.to_string())?
            .ok_or_else(|| "it has none".to_owned())
    })
    .await;
    transfer(client, name, Some(to)).await.unwrap();
    wait_until_enforced(client, name, ROSTER).await;
}

/// Returns manifests of every kind of countable object.
fn countable_objects(namespace: &str) -> String {
    let service = |name: &str, kind: &str, ports: usize| {
        let ports: Vec<Value> = (0..ports).map(|at| json!({"name": format!("p{at}"), "port": 80 + at})).collect();
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
               "spec": {"type": kind, "ports": ports}})
    };
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "claim", "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "3Gi"}}},
    });
    let container = |requests: Value| json!({"name": "main", "image": "nowhere.invalid/nothing", "resources": {"requests": requests}});
    let pod = |name: &str, requests: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
               "spec": {"containers": [container(requests)]}})
    };
    let plain = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}});
    let items = json!([
        service("inside", "ClusterIP", 1),
        service("node", "NodePort", 2),
        service("balanced", "LoadBalancer", 1),
        claim,
        plain("Secret", "one"),
        plain("Secret", "two"),
        plain("ConfigMap", "settings"),
        pod("sized", json!({"cpu": "250m", "memory": "64Mi"})),
        pod("half-sized", json!({"cpu": "1"})),
    ]);
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_equals_existing_objects() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, unique("counted"));
    // More than needed even if it is split in two.
    let hard = [("requests.cpu", "20"), ("requests.memory", "20Gi"), ("requests.storage", "100Gi"), ("pods", "40")];
    create(&cluster.users().await, &owner(&name, &hard)).await;
    let owned = [0, 1].map(|at| format!("{name}-{at}"));
    for own in &owned {
        transfer_when_settled(&client, own, &name).await;
    }
    cluster.apply(&countable_objects(&owned[0]));
    let used = wait_until_counted(cluster, &name, &owned).await;
    for (counted, expected) in [
        ("pods", "2"),
        ("services", "3"),
        ("services.loadbalancers", "1"),
        ("services.nodeports", "3"),
        ("persistentvolumeclaims", "1"),
        ("requests.storage", "3Gi"),
        ("secrets", "2"),
        ("requests.cpu", "1250m"),
        ("namespaces", "2"),
        ("namespaces.running", "1"),
    ] {
        assert_eq!(amount(&used, counted), milli(expected), "{counted}: {used:?}");
    }
    cluster.apply(&countable_objects(&owned[1]));
    let used = wait_until_counted(cluster, &name, &owned).await;
    assert_eq!(amount(&used, "namespaces.running"), milli("2"), "{used:?}");

    delete_pod(&client, &owned[0], "sized").await;
    Api::<Secret>::namespaced(client.clone(), &owned[0]).delete("one", &DeleteParams::default()).await.unwrap();
    Api::<Service>::namespaced(client.clone(), &owned[0]).delete("node", &DeleteParams::default()).await.unwrap();
    let used = wait_until_counted(cluster, &name, &owned).await;
    assert_eq!(amount(&used, "pods"), milli("3"), "{used:?}");

    Api::<Namespace>::all(client).delete(&owned[0], &DeleteParams::default()).await.unwrap();
    let used = wait_until_counted(cluster, &name, &owned[1..]).await;
    assert_eq!(amount(&used, "namespaces"), milli("1"), "{used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_created_with_a_namespace_are_counted_eventually() {
    let (cluster, name) = (quota(), unique("newborn"));
    let owned = owner_of(cluster, &name, &[("requests.cpu", "1")], 1).await;
    // kube-controller-manager recounts every five minutes.
    let used = wait_until_counted_within(Duration::from_secs(420), cluster, &name, &owned).await;
    assert_eq!(amount(&used, "configmaps"), milli("1"), "kube-root-ca.crt: {used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_counted_without_limits() {
    let cluster = quota();
    let (client, users, name) = (cluster.client().await, cluster.users().await, unique("unlimited"));
    create(&users, &crate::support::user(&name, false)).await;
    let own = format!("{name}-0");
    transfer_when_settled(&client, &own, &name).await;
    cluster.apply(&countable_objects(&own));
    // Resources that are only counted need no requests.
    make_pod(&client, &own, "unsized", None).await;
    let used = wait_until_counted(cluster, &name, &[own]).await;
    assert_eq!(
        (amount(&used, "pods"), amount(&used, "requests.cpu"), amount(&used, "requests.memory")),
        (milli("3"), milli("1250m"), milli("64Mi")),
        "{used:?}"
    );
    let user = wait_until_ready(&users, &name).await;
    assert_eq!(reported_quota(&user).1, Amounts::new(), "nothing is limited");
    assert!(condition(&user, "QuotaWithinLimits").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transferred_namespace_takes_its_usage_along() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, unique("giver"));
    let owned = owner_of(cluster, &name, &[("requests.cpu", "4"), ("namespaces", "3")], 2).await;
    let heir = format!("{name}-heir");
    create(&cluster.users().await, &owner(&heir, &[("requests.cpu", "1"), ("namespaces", "3")])).await;
    make_pod(&client, &owned[0], "small", Some("500m")).await;
    for name in ["big-0", "big-1"] {
        make_pod(&client, &owned[1], name, Some("1")).await;
    }
    wait_for_use(cluster, &name, &[("requests.cpu", "2500m"), ("pods", "3"), ("namespaces", "2")]).await;
    wait_until_quota_is(cluster, &name, "True", "WithinLimits").await;

    // Never to an owner who would exceed a limit, for any requester.
    let refusal = Outcome::of(transfer(&client, &owned[1], Some(&heir)).await).refusal();
    assert!(refusal.contains("spec.quota.hard.requests.cpu") && refusal.contains("0 of 1"), "{refusal}");
    limit(&cluster.users().await, &heir, &[("requests.cpu", "2"), ("namespaces", "3")]).await;
    eventually("the higher limit is known", || async {
        transfer(&client, &owned[1], Some(&heir)).await.map_err(|error| error.to_string())
    })
    .await;
    wait_for_use(cluster, &name, &[("requests.cpu", "500m"), ("pods", "1"), ("namespaces", "1")]).await;
    let taken = [("requests.cpu", "2"), ("pods", "2"), ("namespaces", "1"), ("namespaces.running", "1")];
    wait_for_use(cluster, &heir, &taken).await;
    wait_until_quota_is(cluster, &heir, "True", "WithinLimits").await;
    // The new owner's limit is lower than the usage now. Nothing is deleted because of that.
    limit(&cluster.users().await, &heir, &[("requests.cpu", "1"), ("namespaces", "3")]).await;
    wait_until_quota_is(cluster, &heir, "False", "Exceeded").await;
    wait_until_quota_is(cluster, &name, "True", "WithinLimits").await;
    assert_eq!(list::<Pod>(&client, &owned[1]).await.len(), 2);

    // Roster does not limit namespaces without an owner.
    transfer(&client, &owned[1], None).await.unwrap();
    wait_for_use(cluster, &heir, &[("requests.cpu", "0"), ("pods", "0"), ("namespaces", "0")]).await;
    wait_until_quota_is(cluster, &heir, "True", "WithinLimits").await;
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &owned[1]);
    eventually("the ResourceQuota goes with the owner", || async {
        match quotas.get_opt(ROSTER).await.map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(quota) => Err(format!("{quota:?}")),
        }
    })
    .await;
    make_pod(&client, &owned[1], "beyond", Some("100")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_reports_the_usage_of_each_namespace() {
    let cluster = quota();
    wait_until_served(cluster);
    let (client, name) = (cluster.client().await, unique("told"));
    let owned = owner_of(cluster, &name, &[("requests.cpu", "4"), ("namespaces", "3")], 2).await;
    make_pod(&client, &owned[0], "one", Some("500m")).await;
    make_pod(&client, &owned[1], "two", Some("700m")).await;
    make_pod(&client, &owned[1], "three", Some("100m")).await;
    let user = wait_for_use(cluster, &name, &[("requests.cpu", "1300m"), ("namespaces", "2")]).await;
    eventually("users/quota reports the same", || async {
        let answer = get(cluster, &format!("users/{name}/quota"));
        assert_eq!(answer["kind"], "UserQuota", "{answer}");
        let cpu = |of: &Value| of["used"]["requests.cpu"].as_str().map_or(0, milli);
        let status = &answer["status"];
        let namespaces = status["namespaces"].as_array().cloned().unwrap_or_default();
        let each: BTreeMap<&str, i128> =
            namespaces.iter().filter_map(|own| Some((own["name"].as_str()?, cpu(own)))).collect();
        let expected = [(owned[0].as_str(), 500), (owned[1].as_str(), 800)].into();
        let hard = status["hard"]["requests.cpu"].as_str().map(milli);
        if each == expected && cpu(status) == 1300 && hard == Some(4000) { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    assert_eq!(reported_quota(&user).1, [("requests.cpu".to_owned(), 4000), ("namespaces".to_owned(), 3000)].into());
    // The allotments of the namespaces add up to the user's quota.
    let rooms = get(cluster, &format!("users/{name}/quota"));
    let rooms = rooms["status"]["namespaces"].as_array().unwrap().iter();
    let sum: i128 = rooms.filter_map(|own| own["hard"]["requests.cpu"].as_str()).map(milli).sum();
    assert!(sum <= 4000, "{sum}m");
}
