//! Lists, watches and gets of a resource.

use std::sync::Arc;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use super::identity::Caller;
use super::limits::RequestPermit;
use super::list::list as list_records;
use super::negotiate::Form;
use super::params::{IncludeObject, ListParams};
use super::render::Renderer;
use super::resource::Resource;
use super::state::{DirectoryApi, Permission};
use super::status::{About, ApiError};
use super::watch::watch;

/// Authorizes and answers a list or a watch of a resource.
///
/// # Errors
/// 401, 403 or 503 from authorization; 429 for too many watches; the errors of the list or the watch.
pub async fn list_or_watch(
    api: &Arc<DirectoryApi>,
    caller: &Arc<Caller>,
    resource: &'static Resource,
    params: ListParams,
    form: Form,
    permit: RequestPermit,
) -> Result<Response, ApiError> {
    let verb = if params.is_watch { "watch" } else { "list" };
    // As in kube-apiserver, a query for a single object is authorized by its name.
    let name = params.single_name().unwrap_or_default();
    api.admit(caller, verb, resource.plural, &name, &name).await?;
    if params.is_watch {
        let current = api.user_of(caller);
        let renderer = Renderer { resource, form, include: params.include_object, current };
        let permission = Permission { verb, resource: resource.plural, name };
        return watch(api, caller, permission, params, renderer, api.watches.admit(permit.source().clone())?).await;
    }
    list_records(api, caller, resource, &params, form, permit).await
}

/// Returns the current state of one object.
///
/// # Errors
/// 404 if it does not exist.
pub fn single(
    api: &DirectoryApi,
    caller: &Caller,
    resource: &'static Resource,
    (name, asked): (&str, &str),
    form: Form,
    include: IncludeObject,
) -> Result<Response, ApiError> {
    let view = (resource.catalogue)(&api.informers).view();
    let not_found = || ApiError::not_found(About { resource: resource.plural, name: asked });
    let record = view.table.get(name).ok_or_else(not_found)?;
    let renderer = Renderer { resource, form, include, current: api.user_of(caller) };
    let now = Timestamp::now();
    let joined = renderer.joined(std::slice::from_ref(record), &api.informers, now).concat();
    let json = renderer.single(record, &joined, now);
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}
