//! Repairs identity Secrets that were made immutable.
//!
//! `immutable: true` can't be reverted, so the Secret is replaced in the same way as for a rename:
//!
//! ```text
//!  1 copy it into a closed spare ─▶ 2 delete it ─▶ 3 claim it again, with the spare's credential ─▶ 4 delete the spare
//! ```
//!
//! This module does steps 1 and 2. The watch then queues the User again, and its credential is found in the spare, which
//! looks like the Secret of an earlier username. A crash between two steps loses nothing, and while the spare exists, no
//! other User can claim the name.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use roster_api::User;
use roster_credentials::record;
use tracing::warn;

use super::context::{Context, Error, is_conflict};
use super::dereference::Observed;
use super::finalize::Next;
use super::identity_secret::{note, own, release};
use crate::events::Transition;

/// Replaces the identity Secret of the username if it is immutable.
pub(super) async fn repair(user: &User, observed: &Observed, ctx: &Context) -> Result<Next, Error> {
    let Some(name) = observed.immutable.as_ref().filter(|_| user.metadata.deletion_timestamp.is_none()) else {
        return Ok(Next::Proceed);
    };
    let secret = own(user, name, ctx).await?;
    if secret.immutable != Some(true) {
        return Ok(Next::Proceed);
    }
    let user_name = user.name_any();
    if secret.metadata.deletion_timestamp.is_some() {
        warn!(user = user_name, secret = name, "cannot replace an immutable identity Secret that has finalizers");
        return Ok(Next::Stop);
    }
    warn!(user = user_name, secret = name, "replacing an immutable identity Secret");
    let message = format!("Secret {}/{name} was immutable: failed logins could not be counted in it", ctx.namespace);
    let transition = Transition { is_warning: true, reason: "IdentitySecretReplaced".to_owned(), message };
    create_spare(user, &secret, ctx).await?;
    let only_this = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
    // The watch updates the index, because a Secret with a finalizer is not deleted yet.
    ctx.identities.delete(name, &DeleteParams::default().preconditions(only_this)).await.map_err(Error::Apply)?;
    ctx.metrics.writes.inc("Secret");
    ctx.reporter.publish(user, transition).await;
    Ok(Next::Stop)
}

/// Copies the Secret. The spare of an earlier attempt is replaced, because it may be older than the Secret.
async fn create_spare(user: &User, secret: &Secret, ctx: &Context) -> Result<(), Error> {
    let spare = record::spare_of(secret);
    let mut created = ctx.identities.create(&PostParams::default(), &spare).await;
    if created.as_ref().is_err_and(is_conflict) {
        let old = own(user, &spare.name_any(), ctx).await?;
        release(&old.name_any(), &old.uid().unwrap_or_default(), ctx).await?;
        created = ctx.identities.create(&PostParams::default(), &spare).await;
    }
    note(&created.map_err(Error::Apply)?, ctx);
    ctx.metrics.writes.inc("Secret");
    Ok(())
}

/// Reports that the identity Secret was deleted, with all credentials in it.
pub(super) async fn report_loss(user: &User, ctx: &Context) {
    warn!(user = user.name_any(), "the identity Secret was deleted and has been recreated without its credential");
    let message = "the Secret with the credential was deleted: the second factor, the API keys, and a password that did not \
                   come from spec.passwordSecretRef are lost";
    let transition = Transition { is_warning: true, reason: "CredentialLost".to_owned(), message: message.to_owned() };
    ctx.reporter.publish(user, transition).await;
}
