//! `users/{key}/rename`: changes a username.
//!
//! Only this request can change `spec.username`, because rights, tokens and the credential depend on it. The controller
//! moves the credential (`roster-controllers`, `user/rename.rs`). Until then, the user has no bindings and can't log
//! in.

use axum::extract::Request;
use axum::response::Response;
use kube::Api;
use kube::api::{Patch, PatchParams};
use roster_api::credentials::{ActionStatus, RenameSpec, UserReference};
use roster_api::{User, UserSpec};
use roster_core::rbac::conflict::of_rename;
use roster_core::rbac::guard::GuardedChange;
use serde_json::json;
use tracing::info;

use crate::apiserver::body::{DryRun, read_body};
use crate::apiserver::control::{allow, conflicting};
use crate::apiserver::object::created;
use crate::apiserver::state::{ApiState, DirectoryApi};
use crate::apiserver::status::{About, ApiError};
use crate::apiserver::target::Target;

/// Maximum number of attempts when writes conflict.
const MAX_ATTEMPTS: usize = 5;

/// `POST users/{key}/rename`: changes the username.
///
/// # Errors
/// As [`read_body`]; 403 if the guard denies it, 404, 409 if the name is taken or writes conflict, 503.
pub(crate) async fn rename(
    api: ApiState,
    DryRun(is_dry_run): DryRun,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let spec = read_body::<RenameSpec>("Rename", request).await?;
    for _ in 0..MAX_ATTEMPTS {
        match attempt(&api, &target, &spec, is_dry_run).await {
            // Retry: the status also changes, especially right after a rename.
            Ok(RenameOutcome::Stale) => {}
            Ok(RenameOutcome::Done) => {
                let user = UserReference { username: spec.username.clone(), ..target.reference() };
                return Ok(created("Rename", Some(&target), &spec, &ActionStatus { user }));
            }
            Err(error) => return Err(error),
        }
    }
    Err(ApiError::conflict("too many concurrent changes to the user, please try again", target.about()))
}

enum RenameOutcome {
    Done,
    /// Not written: the User has changed since it was read.
    Stale,
}

async fn attempt(
    api: &DirectoryApi,
    target: &Target,
    spec: &RenameSpec,
    is_dry_run: bool,
) -> Result<RenameOutcome, ApiError> {
    let about = target.about();
    let users: Api<User> = Api::all(api.client.clone());
    let user = users.get(&target.name).await.map_err(|error| ApiError::of_kube(error, about))?;
    if user.metadata.uid.as_ref() != Some(&target.uid) {
        return Err(ApiError::not_found(About { resource: "users", name: &target.asked }));
    }
    let renamed =
        User { spec: UserSpec { username: Some(spec.username.clone()), ..user.spec.clone() }, ..user.clone() };
    judge(api, target, &user, &renamed).await?;
    if user.username() == spec.username {
        return Ok(RenameOutcome::Done);
    }
    // Fails if the User has changed since it was read.
    let metadata = json!({"uid": target.uid, "resourceVersion": user.metadata.resource_version});
    let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"username": spec.username}}));
    let params = PatchParams { dry_run: is_dry_run, ..PatchParams::default() };
    match users.patch(&target.name, &params, &patch).await {
        Err(kube::Error::Api(status)) if status.code == 409 => return Ok(RenameOutcome::Stale),
        outcome => outcome.map_err(|error| ApiError::of_kube(error, about))?,
    };
    if !is_dry_run {
        info!(
            user = target.name,
            by = target.caller.username,
            from = user.username(),
            to = spec.username,
            "user renamed"
        );
    }
    Ok(RenameOutcome::Done)
}

async fn judge(api: &DirectoryApi, target: &Target, user: &User, renamed: &User) -> Result<(), ApiError> {
    allow(api, target, &GuardedChange::User(Some(user), Some(renamed))).await?;
    let about = target.about();
    let reported = user.status.as_ref().and_then(|status| status.username.as_ref());
    if reported != Some(&user.username()) {
        return Err(ApiError::conflict("the user is new, or being renamed; please try again", about));
    }
    let conflict = of_rename(user, renamed, &api.informers.directory());
    match conflict {
        Some(conflict) => Err(conflicting(api, target, &conflict).await),
        None => Ok(()),
    }
}
