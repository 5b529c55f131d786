//! Blocks the deletion of Users that own namespaces, if their `deletionPolicy` says so.
//!
//! A User has the finalizer only while it owns namespaces. So most Users cost no write, and can be deleted while Roster is
//! not running.

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use roster_api::user::DeletionPolicy;
use roster_api::{OWNERSHIP_FINALIZER, User};
use serde_json::json;

use super::context::{Context, Error};
use super::dereference::Observed;

/// How to continue after a step.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Continue with names, credential and status.
    Proceed,
    /// Stop: the User was written, and the watch will queue it again.
    Stop,
}

/// Returns whether owned namespaces block the deletion of the User.
pub(super) fn is_blocked(user: &User, namespaces: &[String]) -> bool {
    user.spec.deletion_policy == DeletionPolicy::Block && !namespaces.is_empty()
}

pub(super) async fn finalize(user: &User, observed: &Observed, ctx: &Context) -> Result<Next, Error> {
    let is_deleted = user.metadata.deletion_timestamp.is_some();
    let blocked = is_blocked(user, &observed.namespaces);
    let has_finalizer = user.finalizers().iter().any(|finalizer| finalizer == OWNERSHIP_FINALIZER);
    // kube-apiserver rejects new finalizers on an object that is being deleted.
    if has_finalizer != blocked && (has_finalizer || !is_deleted) {
        let mut finalizers = user.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != OWNERSHIP_FINALIZER);
        if blocked {
            finalizers.push(OWNERSHIP_FINALIZER.to_owned());
        }
        let patch = json!({"metadata": {"resourceVersion": user.resource_version(), "finalizers": finalizers}});
        ctx.users
            .patch_metadata(&user.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(Error::Finalize)?;
        ctx.metrics.writes.inc("User");
        return Ok(Next::Stop);
    }
    Ok(Next::Proceed)
}
