//! Reads and writes of identity Secrets. Every write is told to the index at once.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use roster_api::User;
use roster_credentials::record::Claim;

use super::context::{Context, Error};

/// An identity Secret that is the User's own.
pub(super) async fn own(user: &User, name: &str, ctx: &Context) -> Result<Secret, Error> {
    let secret = ctx.identities.get(name).await.map_err(Error::Apply)?;
    // The name may have changed hands since it was looked up: nobody's password goes into another one's credential.
    if Claim::read(&secret.metadata).is_none_or(|claim| Some(&claim.owner_uid) != user.metadata.uid.as_ref()) {
        return Err(Error::Overtaken);
    }
    Ok(secret)
}

/// Writes an identity Secret. Its resourceVersion goes along: a change made meanwhile by another way is not overwritten.
pub(super) async fn replace(secret: &Secret, ctx: &Context) -> Result<Secret, Error> {
    let written =
        ctx.identities.replace(&secret.name_any(), &PostParams::default(), secret).await.map_err(Error::Apply)?;
    ctx.metrics.writes.inc("Secret");
    note(&written, ctx);
    Ok(written)
}

/// Removes an identity Secret, if it is still the one of that UID.
pub(super) async fn release(name: &str, uid: &str, ctx: &Context) -> Result<(), Error> {
    let only_this = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    match ctx.identities.delete(name, &DeleteParams::default().preconditions(only_this)).await {
        Ok(_) => ctx.metrics.writes.inc("Secret"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(Error::Apply(error)),
    }
    // Those who wait for it look for themselves; this User must not take it for its own any more.
    let waiting = ctx.index().remove_claim(name, uid);
    ctx.informers.waiting.users.mark(waiting);
    Ok(())
}

/// Tells the index at once what the watch will say in a moment.
pub(super) fn note(secret: &Secret, ctx: &Context) {
    if let Some(claim) = Claim::read(&secret.metadata) {
        ctx.index().written_claim(secret.name_any(), claim);
    }
}
