//! Groups and their members.

use axum::Extension;
use axum::extract::{Path, RawQuery};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use roster_api::directory::API_VERSION;
use roster_core::directory::entries::user;
use roster_core::directory::index::field::fold;
use roster_core::directory::index::query::{Condition, ValueTest};
use serde_json::json;

use super::users::membership;
use crate::apiserver::authenticate::RequestCredential;
use crate::apiserver::collection::{list_or_watch, single};
use crate::apiserver::limits::RequestPermit;
use crate::apiserver::list::list as list_records;
use crate::apiserver::negotiate::Form;
use crate::apiserver::params::ListParams;
use crate::apiserver::params::{GET_OPTIONS, GetParams, only};
use crate::apiserver::resource::{GROUPS, USERS};
use crate::apiserver::revision::reached;
use crate::apiserver::state::{ApiState, CallerExtension};
use crate::apiserver::status::{About, ApiError};

/// `GET groups`: lists or watches groups.
///
/// # Errors
/// 400, 406, or as [`list_or_watch`].
pub(crate) async fn list(
    api: ApiState,
    Extension(caller): CallerExtension,
    Extension(credential): Extension<RequestCredential>,
    Extension(permit): Extension<RequestPermit>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let params = ListParams::read(GROUPS.fields, query.as_deref().unwrap_or_default())?;
    list_or_watch(&api, (&caller, credential), &GROUPS, params, Form::of(&headers)?, permit).await
}

/// `GET groups/{name}`: returns a group.
///
/// # Errors
/// 400 or 406 for an invalid request, 401, 403 or 503 from authorization, 404, 504 for an unknown revision.
pub(crate) async fn get(
    api: ApiState,
    Extension(caller): CallerExtension,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (form, get) = (Form::of(&headers)?, GetParams::read(query.as_deref())?);
    api.admit(&caller, "get", "groups", &name, &name).await?;
    reached(&api.informers.group_catalogue, get.resource_version).await?;
    single(&api, &caller, &GROUPS, (&name, None, &name), form, get.include)
}

/// `GET groups/{name}/members`: lists the users in a group. Supports all list parameters, but no watch.
///
/// # Errors
/// As [`list`]; 400 for a watch, 404 if the group does not exist.
pub(crate) async fn members(
    api: ApiState,
    Extension(caller): CallerExtension,
    Extension(permit): Extension<RequestPermit>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut params = ListParams::read(USERS.fields, query.as_deref().unwrap_or_default())?;
    let form = Form::of(&headers)?;
    if params.is_watch {
        return Err(ApiError::bad_parameter(
            "watch",
            "members can't be watched; watch users with fieldSelector=status.groups=<name>",
        ));
    }
    api.admit(&caller, "get", "groups/members", &name, &name).await?;
    if !api.informers.directory().memberships.has_group(&name) {
        return Err(ApiError::not_found(About { resource: "groups", name: &name }));
    }
    let belongs =
        Condition { field: user::field("groups"), any: vec![ValueTest::Equal(fold(&name))], ..Condition::default() };
    params.query.conditions.push(belongs);
    params.written.extend(["members=", &name, "&"]);
    list_records(&api, &caller, &USERS, &params, form, permit).await
}

/// `GET groups/{name}/members/{user}`: returns how the user belongs to the group.
///
/// # Errors
/// 404 if the user does not belong to it, 400 for an unknown parameter, 409 if the key stands for several Users, 401,
/// 403 or 503 from authorization.
pub(crate) async fn member(
    api: ApiState,
    Extension(caller): CallerExtension,
    Path((name, key)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    only(query.as_deref(), GET_OPTIONS)?;
    api.admit(&caller, "get", "groups/members", &name, &name).await?;
    let directory = api.informers.directory();
    let users = directory.users_by_key(&key);
    if users.len() > 1 {
        // The message does not name them: the caller may read members of this group, but perhaps not other users.
        let message = format!("{key:?} stands for several users: use the UID");
        return Err(ApiError::conflict(message, About { resource: "groups/members", name: &key }));
    }
    let found = users.first().and_then(|user| membership(&directory, user, &name));
    let found = found.ok_or_else(|| ApiError::not_found(About { resource: "groups/members", name: &key }))?;
    let answer = json!({"kind": "GroupMembership", "apiVersion": API_VERSION, "metadata": {"name": found.user}, "status": found});
    Ok(axum::Json(answer).into_response())
}
