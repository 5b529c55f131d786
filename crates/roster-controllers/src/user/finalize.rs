//! Deletion: a User that still owns namespaces is kept, where its `deletionPolicy` says so.
//!
//! The finalizer stands on a User only while it owns something, so that the many who own nothing cost no write and
//! can be deleted while Roster is away.

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use roster_api::user::DeletionPolicy;
use roster_api::{OWNERSHIP_FINALIZER, User};
use serde_json::json;

use super::context::{Context, Error};
use super::dereference::Observed;

/// Whether there is more to do now.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Go on with names, credential and status.
    Proceed,
    /// Nothing more: the User has just been written and comes back through the watch, if it is still there.
    Stop,
}

/// Whether something keeps the User from being deleted.
pub(super) fn is_blocked(user: &User, namespaces: &[String]) -> bool {
    user.spec.deletion_policy == DeletionPolicy::Block && !namespaces.is_empty()
}

pub(super) async fn finalize(user: &User, observed: &Observed, ctx: &Context) -> Result<Next, Error> {
    let is_deleted = user.metadata.deletion_timestamp.is_some();
    let blocked = is_blocked(user, &observed.namespaces);
    let has_finalizer = user.finalizers().iter().any(|finalizer| finalizer == OWNERSHIP_FINALIZER);
    // Finalizers can't be added to what is being deleted.
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
