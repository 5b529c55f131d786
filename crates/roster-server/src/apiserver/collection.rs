//! Lists, watches and gets of a resource.

use std::sync::Arc;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use roster_core::directory::index::field::fold;
use roster_core::directory::index::query::{Condition, ValueTest};
use roster_core::directory::index::record::{Record, UID};

use super::authenticate::RequestCredential;
use super::identity::Caller;
use super::limits::RequestPermit;
use super::list::list as list_records;
use super::negotiate::Form;
use super::params::{IncludeObject, ListParams, SelectedName};
use super::render::Renderer;
use super::resource::{Resource, USERS};
use super::selected_key::SelectedKey;
use super::state::{DirectoryApi, Permission};
use super::status::{About, ApiError};
use super::target::{SELF, find_authorized};
use super::watch::watch;

/// Authorizes and answers a list or a watch of a resource.
///
/// # Errors
/// 401, 403 or 503 from authorization; 409 for a key of several Users; 429 for too many watches; the errors of the list
/// or the watch.
pub(super) async fn list_or_watch(
    api: &Arc<DirectoryApi>,
    (caller, credential): (&Arc<Caller>, RequestCredential),
    resource: &'static Resource,
    mut params: ListParams,
    form: Form,
    permit: RequestPermit,
) -> Result<Response, ApiError> {
    let verb = if params.is_watch { "watch" } else { "list" };
    // As in kube-apiserver, a query for a single object is authorized by its name.
    let (name, key) = match params.single_name() {
        Some(selected) if selected.is_selector && resource.plural == USERS.plural => {
            let (name, key) = select_by_key(api, caller, verb, &mut params, selected).await?;
            (name, Some(key))
        }
        selected => {
            let name = selected.map(|selected| selected.text).unwrap_or_default();
            api.admit(caller, verb, resource.plural, &name, &name).await?;
            (name, None)
        }
    };
    if params.is_watch {
        let current = api.user_of(caller);
        let alias = params.alias.clone();
        let renderer = Renderer { resource, form, include: params.include_object, current, alias };
        let permission = Permission { verb, resource: resource.plural, name };
        let permit = api.watches.admit(permit.source().clone())?;
        return watch(api, (caller, credential), (permission, key), params, renderer, permit).await;
    }
    list_records(api, caller, resource, &params, form, permit).await
}

/// Authorizes a query for the one User that a key stands for, as in the path `users/{key}`, and rewrites the query to
/// select that User. Returns the name that was authorized.
///
/// A key other than the name identifies a User by its UID: earlier revisions may contain another User with its name.
///
/// # Errors
/// As [`find_authorized`].
async fn select_by_key(
    api: &Arc<DirectoryApi>,
    caller: &Arc<Caller>,
    verb: &'static str,
    params: &mut ListParams,
    SelectedName { condition, text: key, .. }: SelectedName,
) -> Result<(String, SelectedKey), ApiError> {
    // Created before the User is looked up, so that a change in between is noticed.
    let selected = SelectedKey::new(api, caller, key.clone());
    let Some(target) = find_authorized(api, caller, &key, verb, USERS.plural).await? else {
        return Ok((key, selected));
    };
    if target.name != key {
        params.query.conditions[condition].any = vec![ValueTest::Equal(fold(&target.name))];
        let same = Condition { field: UID, any: vec![ValueTest::Equal(fold(&target.uid))], ..Condition::default() };
        params.query.conditions.push(same);
        params.alias = params.is_for_cache().then(|| key.clone());
    }
    let authorized = if key == SELF { key } else { target.name };
    Ok((authorized, selected))
}

/// Returns the current state of one object. `uid`: the only one that it may have, if it was found by another key.
///
/// # Errors
/// 404 if it does not exist.
pub(super) fn single(
    api: &DirectoryApi,
    caller: &Caller,
    resource: &'static Resource,
    (name, uid, asked): (&str, Option<&str>, &str),
    form: Form,
    include: IncludeObject,
) -> Result<Response, ApiError> {
    let view = (resource.catalogue)(&api.informers).view();
    let not_found = || ApiError::not_found(About { resource: resource.plural, name: asked });
    let is_same = |record: &&Arc<Record>| uid.is_none_or(|uid| record.uid() == uid);
    let record = view.table.get(name).filter(is_same).ok_or_else(not_found)?;
    let renderer = Renderer { resource, form, include, current: api.user_of(caller), alias: None };
    let now = Timestamp::now();
    let joined = renderer.joined(std::slice::from_ref(record), &api.informers, now).concat();
    let json = renderer.single(record, &joined, now);
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}
