//! The number of namespaces is limited at admission, for every requester.

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use roster_api::OWNER_LABEL;
use serde_json::json;

use super::{Outcome, amount, limit, milli, namespace, owner, quota, reported_quota, transfer, wait_for_use};
use crate::support::{Cluster, create, eventually, unique, user_where};

/// Attempts once to create a Namespace, possibly as a dry run.
async fn try_namespace(client: &Client, name: &str, owner: &str, dry_run: bool) -> Outcome {
    let params = PostParams { dry_run, ..PostParams::default() };
    Outcome::of(Api::<Namespace>::all(client.clone()).create(&params, &namespace(name, Some(owner))).await)
}

/// Returns the number of an owner's namespaces.
async fn count(client: &Client, owner: &str) -> usize {
    let owned = ListParams::default().labels(&format!("{OWNER_LABEL}={owner}"));
    Api::<Namespace>::all(client.clone()).list(&owned).await.unwrap().items.len()
}

/// Creates a User with that limit and some namespaces, and waits until all operators know them.
async fn owner_with(cluster: &Cluster, prefix: &str, hard: &str, has: usize) -> String {
    let name = unique(prefix);
    let users = cluster.users().await;
    create(&users, &owner(&name, &[("namespaces", hard)])).await;
    user_where(&users, &name, "has its limit", |user| amount(&reported_quota(user).1, "namespaces") == milli(hard))
        .await;
    let client = cluster.client().await;
    for at in 0..has {
        eventually("a namespace within the limit is admitted", || async {
            match try_namespace(&client, &format!("{name}-{at}"), &name, false).await {
                Outcome::Admitted => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    wait_for_use(cluster, &name, &[("namespaces", &has.to_string())]).await;
    name
}

/// Checks the message of a denial.
fn assert_refused(outcome: Outcome, name: &str, number: usize) {
    let message = outcome.refusal();
    let expected = format!("the quota: spec.quota.hard.namespaces: User {name} has {number} of {number} namespaces");
    assert!(message.contains(&expected), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_concurrent_namespaces_exactly_the_limit_is_admitted() {
    let cluster = quota();
    let client = cluster.client().await;
    // Repeatedly, because a race may be lost only sometimes.
    for _ in 0..5 {
        let name = owner_with(cluster, "racing", "2", 0).await;
        // The balancer distributes the reviews to both operators.
        let attempts = stream::iter(0..10).map(|at| {
            let (client, name) = (&client, &name);
            async move { try_namespace(client, &format!("{name}-{at}"), name, false).await }
        });
        let outcomes: Vec<Outcome> = attempts.buffer_unordered(10).collect().await;
        let admitted = outcomes.iter().filter(|outcome| outcome.is_admitted()).count();
        assert_eq!((admitted, count(&client, &name).await), (2, 2), "{outcomes:#?}");
        for outcome in outcomes.into_iter().filter(|outcome| !outcome.is_admitted()) {
            let message = outcome.refusal();
            assert!(message.contains("spec.quota.hard.namespaces") && message.contains(&name), "{message}");
        }
        wait_for_use(cluster, &name, &[("namespaces", "2")]).await;
        assert_refused(try_namespace(&client, &format!("{name}-late"), &name, false).await, &name, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_forbidden_and_names_the_full_quota() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, owner_with(cluster, "full", "1", 1).await);
    let beyond = namespace(&format!("{name}-beyond"), Some(&name));
    match Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &beyond).await {
        Err(kube::Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"), "{status:?}");
            assert!(status.message.contains(&format!("{name} has 1 of 1 namespaces")), "{status:?}");
        }
        other => panic!("{other:?}"),
    }
    // Namespaces of others are not limited.
    assert!(matches!(
        try_namespace(&client, &format!("{name}-free"), &format!("{name}-other"), false).await,
        Outcome::Admitted
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_reserves_nothing() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, owner_with(cluster, "rehearsed", "2", 0).await);
    for at in 0..5 {
        let outcome = try_namespace(&client, &format!("{name}-dry-{at}"), &name, true).await;
        assert!(outcome.is_admitted(), "{outcome:?}");
    }
    for at in 0..2 {
        let outcome = try_namespace(&client, &format!("{name}-{at}"), &name, false).await;
        assert!(outcome.is_admitted(), "{outcome:?}");
    }
    // The dry run reports what would happen.
    wait_for_use(cluster, &name, &[("namespaces", "2")]).await;
    assert_refused(try_namespace(&client, &format!("{name}-dry"), &name, true).await, &name, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_frees_its_slot() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, owner_with(cluster, "turnover", "2", 2).await);
    let next = |name: String| {
        let client = client.clone();
        let owner = name.rsplit_once('-').unwrap().0.to_owned();
        async move {
            eventually("there is room for another", || async {
                match try_namespace(&client, &name, &owner, false).await {
                    Outcome::Admitted => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    };
    // By deletion.
    Api::<Namespace>::all(client.clone()).delete(&format!("{name}-0"), &DeleteParams::default()).await.unwrap();
    next(format!("{name}-third")).await;
    wait_for_use(cluster, &name, &[("namespaces", "2")]).await;
    assert_refused(try_namespace(&client, &format!("{name}-fourth"), &name, false).await, &name, 2);
    // By transferring it.
    transfer(&client, &format!("{name}-1"), None).await.unwrap();
    next(format!("{name}-fifth")).await;
    wait_for_use(cluster, &name, &[("namespaces", "2")]).await;
    // By a create that fails after admission: its reservation ends.
    Api::<Namespace>::all(client.clone()).delete(&format!("{name}-third"), &DeleteParams::default()).await.unwrap();
    wait_for_use(cluster, &name, &[("namespaces", "1")]).await;
    let outcome = try_namespace(&client, "default", &name, false).await;
    assert!(matches!(outcome, Outcome::Conflict(_)), "it exists: {outcome:?}");
    next(format!("{name}-sixth")).await;
    assert!(count(&client, &name).await <= 2);
    // By a higher limit.
    wait_for_use(cluster, &name, &[("namespaces", "2")]).await;
    limit(&cluster.users().await, &name, &[("namespaces", "3")]).await;
    next(format!("{name}-seventh")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_quota_limits_cluster_administrators_on_every_path() {
    let cluster = quota();
    let (client, name) = (cluster.client().await, owner_with(cluster, "bound", "1", 1).await);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    assert!(cluster.kubectl(&["auth", "whoami"]).contains("system:masters"));
    let error = cluster
        .plane
        .kubectl
        .apply(
            &json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": format!("{name}-applied"), "labels": {OWNER_LABEL: name}}})
            .to_string(),
        )
        .expect_err("it is one too many");
    assert!(format!("{error:#}").contains("spec.quota.hard.namespaces"), "{error:#}");

    let free = format!("{name}-free");
    create(&namespaces, &namespace(&free, None)).await;
    assert_refused(Outcome::of(transfer(&client, &free, Some(&name)).await), &name, 1);
    let label = Patch::Merge(json!({"metadata": {"labels": {OWNER_LABEL: name}}}));
    let by_status = namespaces.patch_status(&free, &PatchParams::default(), &label).await;
    assert_refused(Outcome::of(by_status), &name, 1);
    let mut whole = namespaces.get(&free).await.unwrap();
    whole.metadata.labels.get_or_insert_default().insert(OWNER_LABEL.to_owned(), name.clone());
    let by_finalize = namespaces.replace_subresource("finalize", &free, &PostParams::default(), &whole).await;
    assert_refused(Outcome::of(by_finalize), &name, 1);
    assert_eq!(count(&client, &name).await, 1);

    // Owned namespaces may be changed, and transferred to an owner with enough quota.
    cluster.kubectl(&["label", "namespace", &format!("{name}-0"), "colour=blue"]);
    cluster.kubectl(&["annotate", "namespace", &format!("{name}-0"), "colour=blue"]);
    let heir = owner_with(cluster, "heir", "1", 0).await;
    transfer(&client, &format!("{name}-0"), Some(&heir)).await.unwrap();
    wait_for_use(cluster, &heir, &[("namespaces", "1")]).await;
    wait_for_use(cluster, &name, &[("namespaces", "0")]).await;
}
