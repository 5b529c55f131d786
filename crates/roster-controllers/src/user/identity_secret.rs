//! Reads and writes of identity Secrets. Every write updates the index immediately.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use roster_api::User;
use roster_credentials::record::Claim;

use super::context::{Context, Error};

/// Reads an identity Secret of the User. Fails if another User owns it.
pub(super) async fn own(user: &User, name: &str, ctx: &Context) -> Result<Secret, Error> {
    let secret = ctx.identities.get(name).await.map_err(Error::Apply)?;
    // Another User may have claimed the name since it was looked up.
    if Claim::read(&secret.metadata).is_none_or(|claim| Some(&claim.owner_uid) != user.metadata.uid.as_ref()) {
        return Err(Error::Overtaken);
    }
    Ok(secret)
}

/// Replaces an identity Secret. Its resourceVersion prevents concurrent changes from being overwritten.
pub(super) async fn replace(secret: &Secret, ctx: &Context) -> Result<Secret, Error> {
    let written =
        ctx.identities.replace(&secret.name_any(), &PostParams::default(), secret).await.map_err(Error::Apply)?;
    ctx.metrics.writes.inc("Secret");
    note(&written, ctx);
    Ok(written)
}

/// Deletes an identity Secret, if it still has this UID.
pub(super) async fn release(name: &str, uid: &str, ctx: &Context) -> Result<(), Error> {
    let only_this = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    match ctx.identities.delete(name, &DeleteParams::default().preconditions(only_this)).await {
        Ok(_) => ctx.metrics.writes.inc("Secret"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(Error::Apply(error)),
    }
    // Wakes the Users that wait for the name.
    let waiting = ctx.index().remove_claim(name, uid);
    ctx.informers.queues.users.mark(waiting);
    Ok(())
}

/// Updates the index with a written Secret, ahead of the watch.
pub(super) fn note(secret: &Secret, ctx: &Context) {
    if let Some(claim) = Claim::read(&secret.metadata) {
        ctx.index().written_claim(secret.name_any(), claim);
    }
}
