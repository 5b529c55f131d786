//! Users: lists, one by whatever names it, and what follows from a user.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde::Serialize;

use super::identity::Caller;
use super::limits::RequestPermit;
use super::list::{list as list_records, reached};
use super::negotiate::Form;
use super::params::{IncludeObject, ListParams, include_object, number, pairs, unknown};
use super::render::Renderer;
use super::resource::{Resource, USERS};
use super::server::{Api, DirectoryApi, Right, Who};
use super::status::{About, ApiError};
use super::watch::watch;
use crate::api::OWNER_LABEL;
use crate::api::directory::{
    API_VERSION, GroupMembership, NamespaceQuota, UserLocksStatus, UserNamespace, UserPermissionsStatus,
    UserQuotaStatus,
};
use crate::directory::Directory;
use crate::quota::amount::{Amount, Amounts, texts};
use crate::rbac::permissions::{groups_of, held_by, roles_by_namespace, rules};

/// How a caller names itself.
pub const SELF: &str = "~";

/// Most grants whose rules are told in one answer: each has dozens.
const MOST_GRANTS: usize = 500;

/// A User as a request names it, and the caller who may do what it asks for.
#[derive(Debug)]
pub struct Target {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// As the request wrote it.
    pub asked: String,
}

/// Answers a list or a watch of a resource, for a caller who may.
///
/// # Errors
/// As the request deserves.
pub async fn list_or_watch(
    api: &Arc<DirectoryApi>,
    caller: &Arc<Caller>,
    resource: &'static Resource,
    (params, form, permit): (ListParams, Form, RequestPermit),
) -> Result<Response, ApiError> {
    let verb = if params.is_watch { "watch" } else { "list" };
    // A query for a single one is authorised by its name, as kube-apiserver does.
    let name = params.single_name().unwrap_or_default();
    api.admit(caller, verb, resource.plural, &name, &name).await?;
    if params.is_watch {
        let current = api.user_of(caller);
        let renderer = Renderer { resource, form, include: params.include_object, current };
        let right = Right { verb, resource: resource.plural, name };
        return watch(api, caller, right, params, renderer, api.watches.admit(permit.source().clone())?).await;
    }
    list_records(api, caller, resource, &params, form, permit).await
}

/// `GET users`
///
/// # Errors
/// As the request deserves.
pub async fn list(
    api: Api,
    Extension(caller): Who,
    Extension(permit): Extension<RequestPermit>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let params = ListParams::read(USERS.fields, query.as_deref().unwrap_or_default())?;
    list_or_watch(&api, &caller, &USERS, (params, Form::of(&headers)?, permit)).await
}

/// `GET users/{key}`
///
/// # Errors
/// As the request deserves.
pub async fn get(
    api: Api,
    Extension(caller): Who,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (form, get) = (Form::of(&headers)?, GetParams::read(query.as_deref())?);
    let target = match authorised(&api, &caller, &key, "get", "users").await {
        // It may be in what is not known yet.
        Err(error) if error.code() == StatusCode::NOT_FOUND && get.resource_version > 0 => {
            reached(&api.informers.user_catalogue, get.resource_version).await?;
            authorised(&api, &caller, &key, "get", "users").await?
        }
        outcome => outcome?,
    };
    reached(&api.informers.user_catalogue, get.resource_version).await?;
    single(&api, &caller, &USERS, (&target.name, &target.asked), form, get.include)
}

/// One object, as it is now.
///
/// # Errors
/// 404.
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

/// The parameters of a get.
#[derive(Debug, Default)]
pub struct GetParams {
    /// What comes with the row of a table.
    pub include: IncludeObject,
    /// The object is to be at least as new as this revision.
    pub resource_version: u64,
}

impl GetParams {
    /// Reads a query string.
    ///
    /// # Errors
    /// 400.
    pub fn read(query: Option<&str>) -> Result<Self, ApiError> {
        let params = only(query, &["includeObject", "resourceVersion"])?;
        let value = |key: &str| params.get(key).map_or("", String::as_str);
        let revision = Some(value("resourceVersion")).filter(|revision| !revision.is_empty()).unwrap_or("0");
        Ok(Self {
            include: include_object(value("includeObject"))?,
            resource_version: number("resourceVersion", revision, 0)?,
        })
    }
}

/// Finds the User that `key` names, if the caller may do this to it. Whoever may not learns nothing: not even whether
/// there is one.
///
/// # Errors
/// 403, or 404 for those who may.
pub async fn authorised(
    api: &DirectoryApi,
    caller: &Arc<Caller>,
    key: &str,
    verb: &'static str,
    resource: &str,
) -> Result<Target, ApiError> {
    let found =
        if key == SELF { api.user_of(caller) } else { api.informers.directory().find_user(key).map(str::to_owned) };
    let found = found.and_then(|name| {
        let directory = api.informers.directory();
        directory.person(&name).map(|person| (person.uid.clone(), name.clone()))
    });
    // By oneself one is named so, and nobody else is.
    let name = if key == SELF { SELF } else { found.as_ref().map_or(key, |(_, name)| name) };
    api.admit(caller, verb, resource, name, key).await?;
    let asked = key.to_owned();
    found
        .map(|(uid, name)| Target { name, uid, asked })
        .ok_or_else(|| ApiError::not_found(About { resource: "users", name: key }))
}

/// A list of something that is no object of its own.
pub fn items<T: Serialize>(kind: &str, items: &[T]) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a, T> {
        kind: &'a str,
        api_version: &'a str,
        metadata: ListMeta,
        items: &'a [T],
    }
    let list = List { kind, api_version: API_VERSION, metadata: ListMeta::default(), items };
    axum::Json(list).into_response()
}

fn about_user(kind: &str, target: &Target, status: impl Serialize) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Object<'a, S> {
        kind: &'a str,
        api_version: &'a str,
        metadata: ObjectMeta,
        status: S,
    }
    let metadata = ObjectMeta { name: Some(target.name.clone()), ..ObjectMeta::default() };
    axum::Json(Object { kind, api_version: API_VERSION, metadata, status }).into_response()
}

/// Parameters that every client may send with every request.
pub const EVERYWHERE: &[&str] = &["pretty", "timeout"];

/// The only parameters of a request, by key, beside those that are allowed everywhere.
///
/// # Errors
/// 400 for any other.
pub fn only(query: Option<&str>, allowed: &[&str]) -> Result<BTreeMap<String, String>, ApiError> {
    let mut found = BTreeMap::new();
    for (key, value) in pairs(query.unwrap_or_default())? {
        if EVERYWHERE.contains(&key.as_str()) {
            continue;
        }
        if !allowed.contains(&key.as_str()) {
            return Err(unknown(&key, allowed));
        }
        if found.insert(key.clone(), value).is_some() {
            return Err(ApiError::bad_parameter(&key, "given more than once"));
        }
    }
    Ok(found)
}

/// `GET users/{key}/groups`: memberships, each with its path.
///
/// # Errors
/// As the request deserves.
pub async fn groups(
    api: Api,
    Extension(caller): Who,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    only(query.as_deref(), &[])?;
    let target = authorised(&api, &caller, &key, "get", "users/groups").await?;
    let directory = api.informers.directory();
    let groups: BTreeSet<&str> = directory.memberships.groups_of(&target.name).collect();
    let memberships: Vec<GroupMembership> =
        groups.into_iter().filter_map(|group| membership(&directory, &target.name, group)).collect();
    Ok(items("GroupMembershipList", &memberships))
}

/// How a user belongs to a group; `None`: not at all.
pub fn membership(directory: &Directory, user: &str, group: &str) -> Option<GroupMembership> {
    let path = directory.memberships.path(user, group)?;
    Some(GroupMembership {
        user: user.to_owned(),
        group: group.to_owned(),
        sources: path.sources.iter().map(|source| source.field().to_owned()).collect(),
        path: path.groups,
    })
}

/// `GET users/{key}/namespaces`: those that the user owns or holds a role in.
///
/// # Errors
/// As the request deserves.
pub async fn namespaces(
    api: Api,
    Extension(caller): Who,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    only(query.as_deref(), &[])?;
    let target = authorised(&api, &caller, &key, "get", "users/namespaces").await?;
    let directory = api.informers.directory();
    let held = held_by(&directory, &target.name, None, Timestamp::now());
    let roles = roles_by_namespace(&held);
    let everywhere = roles.get(&None).cloned().unwrap_or_default();
    let owned = directory.bindings.labelled(OWNER_LABEL, &target.name);
    let mut names: BTreeSet<String> = roles.keys().flatten().cloned().collect();
    names.extend(owned.iter().cloned());
    if !everywhere.is_empty() {
        names.extend(directory.bindings.namespaces().cloned());
    }
    let describe = |name: String| UserNamespace {
        used: directory
            .quotas
            .allotment(&name)
            .map(|allotment| texts(&allotment.used))
            .filter(|_| owned.contains(&name)),
        owned: owned.contains(&name),
        phase: if directory.bindings.is_terminating(&name) { "Terminating" } else { "Active" }.to_owned(),
        roles: roles.get(&Some(name.clone())).into_iter().flatten().chain(&everywhere).cloned().collect(),
        locked_by: directory.bindings.locked_by(&name).cloned(),
        name,
    };
    let existing = names.into_iter().filter(|name| directory.bindings.has_namespace(name));
    Ok(items("UserNamespaceList", &existing.map(describe).collect::<Vec<_>>()))
}

/// `GET users/{key}/quota`: limits, use, and what each namespace has of them.
///
/// # Errors
/// As the request deserves.
pub async fn quota(
    api: Api,
    Extension(caller): Who,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    only(query.as_deref(), &[])?;
    let target = authorised(&api, &caller, &key, "get", "users/quota").await?;
    let directory = api.informers.directory();
    let standing = directory.quota_of(&target.name).unwrap_or_default();
    let limited = |amounts: &Amounts| -> Amounts {
        let of = |(name, amount): (&String, &Amount)| (name.clone(), *amount);
        amounts.iter().filter(|(name, _)| standing.hard.contains_key(*name)).map(of).collect()
    };
    let describe = |name: String| {
        let allotment = directory.quotas.allotment(&name);
        NamespaceQuota {
            hard: allotment.and_then(|allotment| allotment.enforced.as_ref()).map(|hard| texts(&limited(hard))),
            used: allotment.map(|allotment| texts(&allotment.used)),
            name,
        }
    };
    let status = UserQuotaStatus {
        namespaces: directory.owned_by(&target.name).into_iter().map(describe).collect(),
        hard: texts(&standing.hard),
        used: texts(&standing.used),
    };
    Ok(about_user("UserQuota", &target, status))
}

/// `GET users/{key}/locks`: what blocks the user's deletion, and what the user keeps locked.
///
/// # Errors
/// As the request deserves.
pub async fn locks(
    api: Api,
    Extension(caller): Who,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    only(query.as_deref(), &[])?;
    let target = authorised(&api, &caller, &key, "get", "users/locks").await?;
    let directory = api.informers.directory();
    // A lock is held by a username. Whoever only waits for that holds nothing.
    let username =
        directory.person(&target.name).filter(|person| person.holds_username()).map(|person| &person.username);
    let status = UserLocksStatus {
        blocking_deletion: directory.bindings.labelled(OWNER_LABEL, &target.name).into_iter().collect(),
        held: username.into_iter().flat_map(|name| directory.bindings.locked(name)).cloned().collect(),
    };
    Ok(about_user("UserLocks", &target, status))
}

/// `GET users/{key}/permissions`: effective rules, each with why.
///
/// # Errors
/// As the request deserves.
pub async fn permissions(
    api: Api,
    Extension(caller): Who,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = only(query.as_deref(), &["namespace"])?;
    let namespace = params.get("namespace").map(String::as_str).filter(|namespace| !namespace.is_empty());
    let target = authorised(&api, &caller, &key, "get", "users/permissions").await?;
    let status = {
        let (directory, now) = (api.informers.directory(), Timestamp::now());
        let held = held_by(&directory, &target.name, namespace, now);
        if held.len() > MOST_GRANTS {
            let message =
                format!("{} holds roles in {} places: ask for one namespace at a time", target.name, held.len());
            return Err(ApiError::bad_parameter("namespace", &message));
        }
        UserPermissionsStatus {
            active: directory.person(&target.name).is_some_and(|person| person.is_active(now)),
            groups: groups_of(&directory, &target.name),
            rules: rules(&directory, &held),
        }
    };
    Ok(about_user("UserPermissions", &target, status))
}
