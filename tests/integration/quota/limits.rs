//! Sums of limits, the objects that Roster maintains for them in owned namespaces, and objects that it leaves alone.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LimitRange, Pod, ResourceQuota};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use roster_api::Group;
use serde_json::json;

use super::{
    ROSTER, amount, amounts, create_pod_without_conflict, limit, limits, make_pod, milli, namespace, owner, owner_of,
    quota, refused_pod, reported_quota, transfer, wait_for_account, wait_for_use, wait_until_enforced, wait_until_idle,
    wait_until_quota_is, writes_since,
};
use crate::support::{Cluster, FAST_LEASE, audit_position, create, eventually, unique, user_where};

fn group(name: &str, hard: &[(&str, &str)], inner: &[&str]) -> Group {
    let manifest = json!({
        "apiVersion": "roster.dev/v1alpha1", "kind": "Group", "metadata": {"name": name},
        "spec": {"quota": {"hard": limits(hard)}, "memberGroups": inner, "acceptDeclaredMembers": true},
    });
    serde_json::from_value(manifest).expect("the manifest is a Group")
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_of_groups_is_added_for_each_member() {
    let cluster = quota();
    let (client, users, name) = (cluster.client().await, cluster.users().await, unique("team"));
    let (inner, outer) = (format!("{name}-inner"), format!("{name}-outer"));
    let groups: Api<Group> = Api::all(client.clone());
    create(&groups, &group(&inner, &[("requests.cpu", "2"), ("pods", "5")], &[])).await;
    create(&groups, &group(&outer, &[("pods", "3"), ("namespaces", "2")], &[&inner])).await;
    let members = ["a", "b"].map(|member| format!("{name}-{member}"));
    for member in &members {
        let mut user = owner(member, &[("requests.cpu", "1")]);
        user.spec.groups = vec![inner.clone()];
        create(&users, &user).await;
        create(&Api::all(client.clone()), &namespace(&format!("{member}-0"), Some(member))).await;
    }
    let expected: super::Amounts =
        [("requests.cpu", "3"), ("pods", "8"), ("namespaces", "2")].map(|(n, q)| (n.to_owned(), milli(q))).into();
    for member in &members {
        user_where(&users, member, "has its own and those of its groups", |user| reported_quota(user).1 == expected)
            .await;
        wait_until_enforced(&client, &format!("{member}-0"), ROSTER).await;
    }
    let own = format!("{}-0", members[0]);
    for at in 0..3 {
        make_pod(&client, &own, &format!("pod-{at}"), Some("1")).await;
    }
    // kube-apiserver may admit a pod before it knows a ResourceQuota that was just created. Roster counts it afterwards.
    wait_for_use(cluster, &members[0], &[("requests.cpu", "3")]).await;
    let refusal = refused_pod(&client, &own, "beyond", "1").await;
    assert!(refusal.contains("exceeded quota: roster"), "{refusal}");
    // Members do not share a group's quota: each has all of it.
    make_pod(&client, &format!("{}-0", members[1]), "own", Some("3")).await;

    // A user that leaves the group has less, and the others do not.
    let leaves = Patch::Merge(json!({"spec": {"groups": []}}));
    users.patch(&members[0], &PatchParams::default(), &leaves).await.unwrap();
    let alone = [("requests.cpu".to_owned(), 1000)].into();
    user_where(&users, &members[0], "has its own", |user| reported_quota(user).1 == alone).await;
    wait_until_quota_is(cluster, &members[0], "False", "Exceeded").await;
    wait_until_quota_is(cluster, &members[1], "True", "WithinLimits").await;
}

/// Waits until no namespace has free quota.
async fn wait_until_full(client: &Client, namespaces: &[String], name: &str) {
    for namespace in namespaces {
        let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
        eventually(&format!("{namespace} has no {name} left"), || async {
            let status = quotas.get(ROSTER).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
            let of = |map: Option<BTreeMap<_, _>>| amount(&amounts(&map.unwrap_or_default()), name);
            let (hard, used) = (of(status.hard), of(status.used));
            if hard <= used { Ok(()) } else { Err(format!("{used} of {hard}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_below_usage_are_reported_stop_growth_and_delete_nothing() {
    let cluster = quota();
    let (client, users, name) = (cluster.client().await, cluster.users().await, unique("lowered"));
    let owned = owner_of(cluster, &name, &[("requests.cpu", "4"), ("namespaces", "2")], 2).await;
    for at in 0..6 {
        make_pod(&client, &owned[at % 2], &format!("pod-{at}"), Some("500m")).await;
    }
    wait_for_use(cluster, &name, &[("requests.cpu", "3")]).await;
    wait_until_quota_is(cluster, &name, "True", "WithinLimits").await;

    limit(&users, &name, &[("requests.cpu", "2"), ("namespaces", "1")]).await;
    let message = wait_until_quota_is(cluster, &name, "False", "Exceeded").await;
    for part in ["requests.cpu", "namespaces", "3", "2", "1"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    wait_until_full(&client, &owned, "requests.cpu").await;
    for own in &owned {
        let refusal = refused_pod(&client, own, "beyond", "100m").await;
        assert!(refusal.contains("exceeded quota: roster"), "{refusal}");
        let pods = Api::<Pod>::namespaced(client.clone(), own).list(&ListParams::default()).await.unwrap();
        assert_eq!(pods.items.len(), 3, "nothing is deleted");
    }
    // Existing objects can still be changed.
    cluster.kubectl(&["label", "namespace", &owned[0], "colour=blue"]);
    cluster.kubectl(&["label", "pod", "pod-0", "-n", &owned[0], "colour=blue"]);

    limit(&users, &name, &[("requests.cpu", "4"), ("namespaces", "2")]).await;
    wait_until_quota_is(cluster, &name, "True", "WithinLimits").await;
    make_pod(&client, &owned[0], "again", Some("500m")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_of_others_are_left_alone_and_enforced() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, unique("shared"));
    create(&cluster.users().await, &owner(&name, &[("requests.cpu", "8"), ("pods", "50")])).await;
    // One existed before the owner, one is created afterwards.
    let own = format!("{name}-0");
    create(&Api::all(client.clone()), &namespace(&own, None)).await;
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &own);
    let theirs = |name: &str, hard: &[(&str, &str)]| -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"hard": limits(hard)}})).unwrap()
    };
    let before = create(&quotas, &theirs("before", &[("pods", "2")])).await;
    transfer(&client, &own, Some(&name)).await.unwrap();
    wait_until_enforced(&client, &own, ROSTER).await;
    let after = create(&quotas, &theirs("after", &[("requests.cpu", "1")])).await;
    for quota in ["before", "after"] {
        wait_until_enforced(&client, &own, quota).await;
    }

    make_pod(&client, &own, "first", Some("600m")).await;
    let refusal = refused_pod(&client, &own, "too-big", "600m").await;
    assert!(refusal.contains("exceeded quota: after"), "{refusal}");
    make_pod(&client, &own, "second", Some("100m")).await;
    let refusal = refused_pod(&client, &own, "too-many", "100m").await;
    assert!(refusal.contains("exceeded quota: before"), "{refusal}");

    wait_for_use(cluster, &name, &[("pods", "2"), ("requests.cpu", "700m")]).await;
    for quota in [before, after] {
        let now = quotas.get(&quota.name_any()).await.unwrap();
        assert_eq!(
            (now.spec, now.metadata.labels, now.metadata.annotations, now.metadata.uid),
            (quota.spec, quota.metadata.labels, quota.metadata.annotations, quota.metadata.uid)
        );
    }
}

/// Waits until a namespace has these LimitRanges.
async fn wait_for_ranges(ranges: &Api<LimitRange>, expected: &[&str]) {
    eventually(&format!("the LimitRanges are {expected:?}"), || async {
        let found = ranges.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let names: Vec<String> = found.iter().map(ResourceExt::name_any).collect();
        if names == expected { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_range_is_maintained_where_no_other_exists() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, unique("ranged"));
    let owned = owner_of(cluster, &name, &[("requests.cpu", "4"), ("limits.memory", "4Gi")], 1).await;
    let ranges: Api<LimitRange> = Api::namespaced(client.clone(), &owned[0]);
    wait_for_ranges(&ranges, &[ROSTER]).await;
    let own = ranges.get(ROSTER).await.unwrap();
    assert_eq!(own.labels()["app.kubernetes.io/managed-by"], ROSTER);

    // A pod without requests gets defaults for limited resources, and zero for those that are only counted.
    make_pod(&client, &owned[0], "says-nothing", None).await;
    let made = Api::<Pod>::namespaced(client.clone(), &owned[0]).get("says-nothing").await.unwrap();
    let resources = made.spec.unwrap().containers[0].resources.clone().unwrap_or_default();
    let (requests, limits) = (resources.requests.unwrap_or_default(), resources.limits.unwrap_or_default());
    assert_eq!(amount(&amounts(&requests), "cpu"), milli("100m"), "{requests:?}");
    assert_eq!(amount(&amounts(&limits), "memory"), milli("512Mi"), "{limits:?}");
    assert!(!limits.contains_key("cpu"), "nothing limits the CPU that may be used: {limits:?}");
    wait_for_use(cluster, &name, &[("requests.cpu", "100m"), ("limits.memory", "512Mi"), ("pods", "1")]).await;

    let theirs = json!({"metadata": {"name": "theirs"},
        "spec": {"limits": [{"type": "Container", "defaultRequest": {"cpu": "300m", "memory": "1Mi"}, "default": {"memory": "1Gi"}}]}});
    let theirs: LimitRange = serde_json::from_value(theirs).unwrap();
    create(&ranges, &theirs).await;
    wait_for_ranges(&ranges, &["theirs"]).await;
    make_pod(&client, &owned[0], "by-their-defaults", None).await;
    wait_for_use(cluster, &name, &[("requests.cpu", "400m")]).await;
    ranges.delete("theirs", &DeleteParams::default()).await.unwrap();
    wait_for_ranges(&ranges, &[ROSTER]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_and_raised_quotas_are_repaired() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, unique("mended"));
    let owned = owner_of(cluster, &name, &[("requests.cpu", "1")], 1).await;
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &owned[0]);
    let ranges: Api<LimitRange> = Api::namespaced(client.clone(), &owned[0]);
    wait_for_ranges(&ranges, &[ROSTER]).await;
    let before = quotas.get(ROSTER).await.unwrap();
    quotas.delete(ROSTER, &DeleteParams::default()).await.unwrap();
    ranges.delete(ROSTER, &DeleteParams::default()).await.unwrap();
    eventually("another ResourceQuota exists", || async {
        match quotas.get_opt(ROSTER).await.map_err(|error| error.to_string())? {
            Some(quota) if quota.uid() != before.uid() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    wait_for_ranges(&ranges, &[ROSTER]).await;
    cluster.kubectl(&[
        "patch",
        "resourcequota",
        ROSTER,
        "-n",
        &owned[0],
        "--type=merge",
        "-p",
        r#"{"spec": {"hard": {"requests.cpu": "50"}}}"#,
    ]);
    eventually("the limit is the User's again", || async {
        let found = quotas.get(ROSTER).await.map_err(|error| error.to_string())?;
        let of = |map: Option<BTreeMap<_, _>>| amount(&amounts(&map.unwrap_or_default()), "requests.cpu");
        let hard = (of(found.spec.and_then(|spec| spec.hard)), of(found.status.and_then(|status| status.hard)));
        if hard.0 <= 1000 && hard.1 <= 1000 { Ok(()) } else { Err(format!("{hard:?}")) }
    })
    .await;
    refused_pod(&client, &owned[0], "too-big", "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_usable_once_its_quota_is_enforced_and_may_come_before_its_user() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, unique("late"));
    let own = format!("{name}-0");
    create(&Api::all(client.clone()), &namespace(&own, Some(&name))).await;
    wait_for_account(&client, &own).await;
    // There is no limit yet, and existing objects are counted later.
    let early = create_pod_without_conflict(&client, &own, "early", Some("100m")).await;
    assert!(early.is_admitted(), "{early:?}");

    create(&cluster.users().await, &owner(&name, &[("requests.cpu", "1"), ("namespaces", "1")])).await;
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &own);
    eventually("the limit is enforced", || async {
        let status = quotas.get(ROSTER).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let hard = amount(&amounts(&status.hard.unwrap_or_default()), "requests.cpu");
        if hard <= 1000 { Ok(()) } else { Err(format!("{hard}m")) }
    })
    .await;
    make_pod(&client, &own, "in-time", Some("600m")).await;
    let refusal = refused_pod(&client, &own, "beyond", "600m").await;
    assert!(refusal.contains("exceeded quota: roster"), "{refusal}");
    wait_for_use(cluster, &name, &[("requests.cpu", "700m"), ("namespaces", "1"), ("namespaces.running", "1")]).await;
}

/// Returns the resource versions of all objects that the operator maintains for quota.
async fn versions(cluster: &Cluster) -> BTreeMap<String, String> {
    let client = cluster.client().await;
    let version = |kind: &str, meta: &kube::api::ObjectMeta| {
        let name = format!("{kind} {}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_ref().unwrap());
        (name, meta.resource_version.clone().unwrap())
    };
    let quotas = Api::<ResourceQuota>::all(client.clone()).list(&ListParams::default()).await.unwrap().items;
    let ranges = Api::<LimitRange>::all(client).list(&ListParams::default()).await.unwrap().items;
    let users = cluster.users().await.list(&ListParams::default()).await.unwrap().items;
    let quotas = quotas.iter().map(|quota| version("quota", &quota.metadata));
    let ranges = ranges.iter().map(|range| version("range", &range.metadata));
    quotas.chain(ranges).chain(users.iter().map(|user| version("user", &user.metadata))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn steady_state_and_a_restart_write_nothing() {
    const USERS: usize = 10;
    let cluster = Cluster::create("quota-steady", &[]);
    cluster.start_operator(FAST_LEASE);
    let (client, users) = (cluster.client().await, cluster.users().await);
    for at in 0..USERS {
        let name = format!("steady-{at}");
        let owned = owner_of(&cluster, &name, &[("requests.cpu", "2"), ("namespaces", "2")], 2).await;
        make_pod(&client, &owned[0], "big", Some("1")).await;
        make_pod(&client, &owned[1], "small", Some("100m")).await;
    }
    // Failing objects must not be written repeatedly either: a user over its limit, and a namespace of a missing owner.
    limit(&users, "steady-0", &[("requests.cpu", "500m"), ("namespaces", "1")]).await;
    wait_until_quota_is(&cluster, "steady-0", "False", "Exceeded").await;
    create(&Api::all(client.clone()), &namespace("nobodys", Some("nobody"))).await;
    for at in 0..USERS {
        wait_for_use(&cluster, &format!("steady-{at}"), &[("requests.cpu", "1100m"), ("pods", "2")]).await;
    }
    wait_until_idle(&cluster).await;

    let (before, position) = (versions(&cluster).await, audit_position(&cluster));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let operator = cluster.operators().remove(0);
    operator.stop().expect("SIGTERM stops the operator");
    cluster.start_operator(FAST_LEASE);
    eventually("the leader has reconciled every User", || async {
        let metrics = cluster.operators()[0].probe("/metrics").map_err(|error| error.to_string())?;
        let ok = "roster_user_reconciliations_total{outcome=\"ok\"} ";
        let looked = metrics.lines().find_map(|line| line.strip_prefix(ok)?.parse::<usize>().ok()).unwrap_or_default();
        if looked >= USERS { Ok(()) } else { Err(format!("{looked} reconciliations")) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let writes = writes_since(&cluster, position);
    assert!(writes.is_empty(), "{writes:#?}");
    assert_eq!(versions(&cluster).await, before);
    // The operator does work: new usage is reported.
    make_pod(&client, "steady-1-1", "later", Some("100m")).await;
    wait_for_use(&cluster, "steady-1", &[("requests.cpu", "1200m"), ("pods", "3")]).await;
}
