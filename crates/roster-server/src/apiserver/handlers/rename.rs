//! `users/{key}/rename`: gives somebody another username.
//!
//! `spec.username` is immutable to everybody else: with it go rights, tokens and the credential. The controller moves
//! the credential (`controllers/user/rename.rs`); until it has, the user is bound to nothing and can't log in.

use axum::Extension;
use axum::extract::{Path, RawQuery, Request};
use axum::response::Response;
use kube::Api as KubeApi;
use kube::api::{Patch, PatchParams};
use roster_api::credentials::RenameSpec;
use roster_api::{User, UserSpec};
use roster_core::rbac::guard::{Change, taken, worn_out};
use serde_json::json;
use tracing::info;

use crate::apiserver::body::{read_body, read_write_params};
use crate::apiserver::control::allow;
use crate::apiserver::identity::Caller;
use crate::apiserver::object::created;
use crate::apiserver::state::{Api, DirectoryApi, Who};
use crate::apiserver::status::{About, ApiError};
use crate::apiserver::target::{Target, authorised};

const RESOURCE: &str = "users/rename";

/// How often a write is tried that somebody else was faster than.
const ATTEMPTS: usize = 5;

/// `POST users/{key}/rename`
///
/// # Errors
/// As the request deserves.
pub async fn rename(
    api: Api,
    Extension(caller): Who,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, ApiError> {
    let is_dry_run = read_write_params(query.as_deref())?;
    let spec = read_body::<RenameSpec>("Rename", request).await;
    let target = authorised(&api, &caller, &key, "create", RESOURCE).await?;
    let spec = spec?;
    let about = About { resource: RESOURCE, name: &target.asked };
    for _ in 0..ATTEMPTS {
        match attempt(&api, &caller, &target, &spec, is_dry_run).await {
            // The status changes as well, most of all just after a rename.
            Ok(Written::Stale) => {}
            Ok(Written::Done) => return Ok(created("Rename", &spec, &json!({}))),
            Err(error) => return Err(error),
        }
    }
    Err(ApiError::conflict("the user is changed by others all the time, please try again", about))
}

enum Written {
    Done,
    /// Not done: somebody else has changed the User meanwhile.
    Stale,
}

async fn attempt(
    api: &DirectoryApi,
    caller: &Caller,
    target: &Target,
    spec: &RenameSpec,
    is_dry_run: bool,
) -> Result<Written, ApiError> {
    let about = About { resource: RESOURCE, name: &target.asked };
    let users: KubeApi<User> = KubeApi::all(api.client.clone());
    let user = users.get(&target.name).await.map_err(|error| ApiError::of_kube(error, about))?;
    if user.metadata.uid.as_ref() != Some(&target.uid) {
        return Err(ApiError::not_found(About { resource: "users", name: &target.asked }));
    }
    let renamed =
        User { spec: UserSpec { username: Some(spec.username.clone()), ..user.spec.clone() }, ..user.clone() };
    judge(api, caller, target, &user, &renamed).await?;
    if user.username() == spec.username {
        return Ok(Written::Done);
    }
    // Against what the change was judged by.
    let metadata = json!({"uid": target.uid, "resourceVersion": user.metadata.resource_version});
    let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"username": spec.username}}));
    let params = PatchParams { dry_run: is_dry_run, ..PatchParams::default() };
    match users.patch(&target.name, &params, &patch).await {
        Err(kube::Error::Api(status)) if status.code == 409 => return Ok(Written::Stale),
        outcome => outcome.map_err(|error| ApiError::of_kube(error, about))?,
    };
    if !is_dry_run {
        info!(user = target.name, by = caller.username, from = user.username(), to = spec.username, "renamed");
    }
    Ok(Written::Done)
}

async fn judge(
    api: &DirectoryApi,
    caller: &Caller,
    target: &Target,
    user: &User,
    renamed: &User,
) -> Result<(), ApiError> {
    allow(api, caller, target, RESOURCE, &Change::User(Some(user), Some(renamed))).await?;
    let about = About { resource: RESOURCE, name: &target.asked };
    let reported = user.status.as_ref().and_then(|status| status.username.as_ref());
    if reported != Some(&user.username()) {
        return Err(ApiError::conflict("the user is new, or being renamed; please try again", about));
    }
    let directory = api.informers.directory();
    let why = match taken(renamed, &directory) {
        Some(other) => Some(format!("spec.username: {} is held or wanted by user {other}", renamed.username())),
        None => worn_out(&target.name, &renamed.username(), &directory),
    };
    why.map_or(Ok(()), |why| Err(ApiError::conflict(why, about)))
}
