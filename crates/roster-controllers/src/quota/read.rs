//! Reads the ResourceQuotas of an owner's namespaces, and then counts the usage.
//!
//! In this order, because a count after `status.used` was read contains everything that `status.used` misses.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use kube::api::{ListParams, PartialObjectMeta};
use kube::core::ApiResource;
use kube::{Api, Client};
use roster_core::quota::allotment::{Allotment, NAME};
use roster_core::quota::amount::{Amount, Amounts, add_all};
use roster_core::quota::countable::{OF_CLAIMS, OF_PODS, OF_SERVICES, countable, is_of};
use roster_core::quota::usage::{of_claim, of_counted, of_pod, of_service};
use serde::de::DeserializeOwned;

use super::context::{Context, Error, now};
use super::plan::{Owned, View};

/// Maximum number of namespaces of one owner that are read concurrently.
const CONCURRENCY: usize = 8;

/// Page size of lists.
const PAGE: u32 = 500;

/// Reads the state of all namespaces from kube-apiserver. `has_new`: some of the namespaces were just created.
pub(super) async fn read_current(view: &mut View, has_new: bool, ctx: &Context) -> Result<(), Error> {
    // Objects that are created with each namespace are the most likely to be missed by kube-controller-manager's count.
    let with_new = ["configmaps", "secrets"].into_iter().filter(|_| has_new).map(str::to_owned);
    let names = view.limits.keys().cloned().chain(with_new).collect();
    let all = std::mem::take(&mut view.namespaces).into_iter().map(|owned| read(owned, &names, ctx));
    view.namespaces = stream::iter(all).buffered(CONCURRENCY).try_collect().await.map_err(Error::Read)?;
    Ok(())
}

async fn read(owned: Owned, names: &BTreeSet<String>, ctx: &Context) -> kube::Result<Owned> {
    let object = Api::<ResourceQuota>::namespaced(ctx.client.clone(), &owned.name).get_opt(NAME).await?;
    let counted = Some(count(&owned.name, names, ctx).await?);
    Ok(Owned { allotment: object.as_ref().map(Allotment::of), object, counted, ..owned })
}

/// Counts the usage of the named resources in a namespace, if they can be counted.
async fn count(namespace: &str, names: &BTreeSet<String>, ctx: &Context) -> kube::Result<Amounts> {
    let client = &ctx.client;
    let mut counted = Amounts::new();
    let mut count = |known: &[&str], found: Amounts| {
        for name in names.iter().filter(|name| known.iter().any(|known| is_of(name, known))) {
            counted.insert(name.clone(), found.get(name).copied().unwrap_or_default());
        }
    };
    let concerns = |known: &[&str]| names.iter().any(|name| known.iter().any(|known| is_of(name, known)));
    if concerns(OF_PODS) {
        let now = now();
        count(OF_PODS, sum::<Pod>(namespace, client, |pod| of_pod(pod, now)).await?);
    }
    if concerns(OF_CLAIMS) {
        count(OF_CLAIMS, sum::<PersistentVolumeClaim>(namespace, client, of_claim).await?);
    }
    if concerns(OF_SERVICES) {
        count(OF_SERVICES, sum::<Service>(namespace, client, of_service).await?);
    }
    for (plural, group, version, kind) in countable(ctx.counts_secrets) {
        let one = of_counted(plural, group);
        if !names.iter().any(|name| one.contains_key(name)) {
            continue;
        }
        let api_version = if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
        let resource = ApiResource {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
            api_version,
            kind: (*kind).to_owned(),
            plural: (*plural).to_owned(),
        };
        let all = how_many(namespace, client, &resource).await?;
        for name in one.into_keys().filter(|name| names.contains(name)) {
            counted.insert(name, Amount::units(all));
        }
    }
    Ok(counted)
}

async fn sum<K>(namespace: &str, client: &Client, usage: impl Fn(&K) -> Amounts) -> kube::Result<Amounts>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let mut params = ListParams::default().limit(PAGE);
    let mut sums = Amounts::new();
    loop {
        let page = api.list(&params).await?;
        page.items.iter().for_each(|object| add_all(&mut sums, &usage(object)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(sums),
        }
    }
}

async fn how_many(namespace: &str, client: &Client, resource: &ApiResource) -> kube::Result<i64> {
    let api: Api<PartialObjectMeta<kube::core::DynamicObject>> =
        Api::namespaced_with(client.clone(), namespace, resource);
    let page = api.list_metadata(&ListParams::default().limit(1)).await?;
    let listed = i64::try_from(page.items.len()).unwrap_or(i64::MAX);
    Ok(listed.saturating_add(page.metadata.remaining_item_count.unwrap_or(0)))
}
