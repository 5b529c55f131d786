//! Writes ResourceQuotas and LimitRanges.
//!
//! kube-apiserver enforces `status.hard`, to which kube-controller-manager copies `spec.hard` after some time. Roster copies
//! it immediately, on the object that it has just written, so that no concurrent change of the usage is lost.

use k8s_openapi::api::core::v1::{LimitRange, Namespace, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Api, ResourceExt};
use roster_api::OWNER_LABEL;
use roster_core::quota::allotment::{
    Allotment, DEFAULTS_ANNOTATION, MANAGED_BY, NAME, OWNER_ANNOTATION, TERM_ANNOTATION, build, forget_requests_before,
};
use roster_core::quota::amount::write as quantities;
use roster_core::quota::defaults::Defaults;
use tracing::info;

use super::context::{Context, Error, now};
use super::plan::{Change, MAX_RETRY_WAIT};

/// Writes a ResourceQuota. Returns false after a conflict, or if the namespace no longer exists.
pub(super) async fn allot(change: &Change, ctx: &Context) -> Result<bool, Error> {
    let quotas: Api<ResourceQuota> = Api::namespaced(ctx.client.clone(), &change.namespace);
    let params = PostParams::default();
    let written = match &change.object {
        Some(object) if Allotment::of(object).has_scopes => {
            // Scopes are immutable, and change what is counted.
            let only_this = Preconditions { uid: object.uid(), resource_version: None };
            quotas.delete(NAME, &DeleteParams::default().preconditions(only_this)).await.map_err(|source| {
                Error::Write { what: "the ResourceQuota", namespace: change.namespace.clone(), source }
            })?;
            return Ok(false);
        }
        None => quotas.create(&params, &build(&change.namespace, &change.owner, &change.term, &change.spec)).await,
        Some(object) if is_as_planned(object, change) => Ok(object.clone()),
        Some(object) => quotas.replace(NAME, &params, &replacement(object, change)).await,
    };
    let Some(written) = outcome(written, change)? else { return Ok(false) };
    if change.object.as_ref() != Some(&written) {
        ctx.metrics.writes.inc("ResourceQuota");
        count_moves(change, ctx);
    }
    let Some(used) = &change.used else { return Ok(true) };
    let status = ResourceQuotaStatus { hard: Some(quantities(&change.spec)), used: Some(quantities(used)) };
    if written.status.as_ref() == Some(&status) {
        return Ok(true);
    }
    let enforced = ResourceQuota { status: Some(status), ..written };
    // After a conflict, kube-controller-manager has probably done the same. The next round checks it.
    if outcome(quotas.replace_status(NAME, &params, &enforced).await, change)?.is_some() {
        ctx.metrics.writes.inc("ResourceQuotaStatus");
    }
    Ok(true)
}

fn is_as_planned(object: &ResourceQuota, change: &Change) -> bool {
    let known = Allotment::of(object);
    let is_own = known.owner.as_ref() == Some(&change.owner);
    is_own
        && known.spec == change.spec
        && (known.term.as_ref() == Some(&change.term) || !(change.grows || change.fences))
}

fn replacement(object: &ResourceQuota, change: &Change) -> ResourceQuota {
    let mut object = object.clone();
    forget_requests_before(now() - MAX_RETRY_WAIT, object.annotations_mut());
    object.annotations_mut().insert(TERM_ANNOTATION.to_owned(), change.term.clone());
    object.annotations_mut().insert(OWNER_ANNOTATION.to_owned(), change.owner.clone());
    object.labels_mut().insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    // Without scopes, which would change what is counted.
    object.spec = Some(ResourceQuotaSpec { hard: Some(quantities(&change.spec)), ..ResourceQuotaSpec::default() });
    object
}

fn outcome(written: kube::Result<ResourceQuota>, change: &Change) -> Result<Option<ResourceQuota>, Error> {
    match written {
        Ok(written) => Ok(Some(written)),
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(None),
        // The namespace is terminating, and admits no new objects.
        Err(kube::Error::Api(status)) if is_terminating(&status) => Ok(None),
        Err(source) => Err(Error::Write { what: "the ResourceQuota", namespace: change.namespace.clone(), source }),
    }
}

/// Returns whether a creation failed because the namespace is terminating.
fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.map(|cause| cause.reason.as_str()).any(|reason| reason == "NamespaceTerminating")
}

fn count_moves(change: &Change, ctx: &Context) {
    if change.grows {
        ctx.metrics.quota_moves.inc("grow");
    }
    if change.shrinks {
        ctx.metrics.quota_moves.inc("shrink");
    }
}

/// Creates, updates or deletes the LimitRange of a namespace.
pub(super) async fn write_limit_range(namespace: &str, wanted: Option<&Defaults>, ctx: &Context) -> Result<(), Error> {
    let ranges: Api<LimitRange> = Api::namespaced(ctx.client.clone(), namespace);
    let failed = |source| Error::Write { what: "the LimitRange", namespace: namespace.to_owned(), source };
    let known = match ranges.get_metadata_opt(NAME).await {
        Ok(known) => known,
        Err(source) => return Err(failed(source)),
    };
    // An object with the same name that Roster did not create is left alone.
    if known.as_ref().is_some_and(|known| !known.annotations().contains_key(DEFAULTS_ANNOTATION)) {
        return Ok(());
    }
    let range = wanted.map(|wanted| wanted.build(namespace));
    let written = match (&known, &range) {
        (None, None) => return Ok(()),
        (Some(known), Some(range)) if known.annotations() == range.annotations() => return Ok(()),
        (None, Some(range)) => ranges.create(&PostParams::default(), range).await.map(drop),
        (Some(_), Some(range)) => ranges.replace(NAME, &PostParams::default(), range).await.map(drop),
        (Some(known), None) => {
            let only_this = Preconditions { uid: known.uid(), resource_version: None };
            ranges.delete(NAME, &DeleteParams::default().preconditions(only_this)).await.map(drop)
        }
    };
    match written {
        Ok(()) => ctx.metrics.writes.inc("LimitRange"),
        Err(kube::Error::Api(status)) if [403, 404, 409].contains(&status.code) => {}
        Err(source) => return Err(failed(source)),
    }
    Ok(())
}

/// Deletes Roster's objects in namespaces without an owner.
pub(super) async fn release_ownerless(ctx: &Context) -> Result<(), Error> {
    let ownerless: Vec<(String, String)> = {
        let directory = ctx.informers.directory();
        let ownerless = directory.quotas.allotted().filter(|namespace| directory.owner_of(namespace).is_none());
        // An object with the same name that Roster did not create is left alone.
        let own = |name: &String| directory.quotas.allotment(name).filter(|allotment| allotment.term.is_some());
        ownerless.filter_map(|name| Some((name.clone(), own(name)?.uid.clone()))).collect()
    };
    let namespaces: Api<Namespace> = Api::all(ctx.client.clone());
    let mut outcome = Ok(());
    for (namespace, uid) in ownerless {
        // A failure must not stop the others.
        if let Err(error) = release(&namespaces, &namespace, uid, ctx).await {
            outcome = Err(error);
        }
    }
    outcome
}

async fn release(namespaces: &Api<Namespace>, namespace: &str, uid: String, ctx: &Context) -> Result<(), Error> {
    // The directory may have the ResourceQuota of a new namespace but not its owner yet.
    let now = namespaces.get_metadata_opt(namespace).await.map_err(Error::Read)?;
    if now.is_some_and(|now| now.labels().get(OWNER_LABEL).is_some_and(|owner| !owner.is_empty())) {
        return Ok(());
    }
    let quotas: Api<ResourceQuota> = Api::namespaced(ctx.client.clone(), namespace);
    let only_this = Preconditions { uid: Some(uid), resource_version: None };
    match quotas.delete(NAME, &DeleteParams::default().preconditions(only_this)).await {
        Ok(_) => {
            ctx.metrics.writes.inc("ResourceQuota");
            info!(namespace, "removed the quota of a namespace without an owner");
        }
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
        Err(source) => {
            return Err(Error::Write { what: "the ResourceQuota", namespace: namespace.to_owned(), source });
        }
    }
    write_limit_range(namespace, None, ctx).await
}
