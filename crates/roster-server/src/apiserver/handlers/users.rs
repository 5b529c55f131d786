//! Users: lists, lookup by UID, name, username or email, and information derived from a user.

use std::collections::BTreeSet;

use axum::Extension;
use axum::extract::{FromRequestParts, Path, RawQuery};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use jiff::Timestamp;
use roster_api::OWNER_LABEL;
use roster_api::directory::{
    GroupMembership, NamespaceQuota, UserLocksStatus, UserNamespace, UserPermissionsStatus, UserQuotaStatus,
};
use roster_core::directory::Directory;
use roster_core::quota::amount::{Amount, Amounts, texts};
use roster_core::rbac::permissions::{groups_of, held_by, roles_by_namespace, rules};

use crate::apiserver::authenticate::RequestCredential;
use crate::apiserver::collection::list_or_watch;
use crate::apiserver::collection::single;
use crate::apiserver::limits::RequestPermit;
use crate::apiserver::negotiate::Form;
use crate::apiserver::object::about_user;
use crate::apiserver::object::items;
use crate::apiserver::params::GET_OPTIONS;
use crate::apiserver::params::GetParams;
use crate::apiserver::params::ListParams;
use crate::apiserver::params::NoParams;
use crate::apiserver::params::only;
use crate::apiserver::resource::USERS;
use crate::apiserver::revision::reached;
use crate::apiserver::state::{ApiState, CallerExtension};
use crate::apiserver::status::ApiError;
use crate::apiserver::target::{Target, authorized};

/// Maximum number of grants whose rules are returned in one response. Each has dozens of rules.
const MAX_GRANTS: usize = 500;

/// `GET users`: lists or watches users.
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
    let params = ListParams::read(USERS.fields, query.as_deref().unwrap_or_default())?;
    list_or_watch(&api, (&caller, credential), &USERS, params, Form::of(&headers)?, permit).await
}

/// `GET users/{key}`: returns a user.
///
/// # Errors
/// 400 or 406 for an invalid request, 401, 403 or 503 from authorization, 404, 504 for an unknown revision.
pub(crate) async fn get(
    api: ApiState,
    Extension(caller): CallerExtension,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (form, get) = (Form::of(&headers)?, GetParams::read(query.as_deref())?);
    let target = match authorized(&api, &caller, &key, "get", "users").await {
        // The User may be newer than the state that this replica has seen.
        Err(error) if error.code() == StatusCode::NOT_FOUND && get.resource_version > 0 => {
            reached(&api.informers.user_catalogue, get.resource_version).await?;
            authorized(&api, &caller, &key, "get", "users").await?
        }
        outcome => outcome?,
    };
    reached(&api.informers.user_catalogue, get.resource_version).await?;
    single(&api, &caller, &USERS, (&target.name, Some(&target.uid), &target.asked), form, get.include)
}

/// `GET users/{key}/groups`: memberships, each with its path through nested groups.
///
/// # Errors
/// 404 if the user has been deleted.
pub(crate) async fn groups(api: ApiState, _: NoParams, target: Target) -> Result<Response, ApiError> {
    let directory = api.informers.directory();
    target.find_in(&directory)?;
    let groups: BTreeSet<&str> = directory.memberships.groups_of(&target.name).collect();
    let memberships: Vec<GroupMembership> =
        groups.into_iter().filter_map(|group| membership(&directory, &target.name, group)).collect();
    Ok(items("GroupMembershipList", &memberships))
}

/// `GET users/{key}/namespaces`: namespaces that the user owns or holds a role in.
///
/// # Errors
/// 404 if the user has been deleted.
pub(crate) async fn namespaces(api: ApiState, _: NoParams, target: Target) -> Result<Response, ApiError> {
    let directory = api.informers.directory();
    target.find_in(&directory)?;
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

/// `GET users/{key}/quota`: limits, usage, and the allotment of each namespace.
///
/// # Errors
/// 404 if the user has been deleted.
pub(crate) async fn quota(api: ApiState, _: NoParams, target: Target) -> Result<Response, ApiError> {
    let directory = api.informers.directory();
    target.find_in(&directory)?;
    let quota = directory.quota_of(&target.name).unwrap_or_default();
    let limited = |amounts: &Amounts| -> Amounts {
        let of = |(name, amount): (&String, &Amount)| (name.clone(), *amount);
        amounts.iter().filter(|(name, _)| quota.hard.contains_key(*name)).map(of).collect()
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
        hard: texts(&quota.hard),
        used: texts(&quota.used),
    };
    Ok(about_user("UserQuota", &target, status))
}

/// `GET users/{key}/locks`: objects that block the user's deletion, and objects that the user keeps locked.
///
/// # Errors
/// 404 if the user has been deleted.
pub(crate) async fn locks(api: ApiState, _: NoParams, target: Target) -> Result<Response, ApiError> {
    let directory = api.informers.directory();
    let person = target.find_in(&directory)?;
    // Locks are held by username, so a User that does not hold its username has none.
    let username = Some(&person.username).filter(|_| person.holds_username());
    let status = UserLocksStatus {
        blocking_deletion: directory.bindings.labelled(OWNER_LABEL, &target.name).into_iter().collect(),
        held: username.into_iter().flat_map(|name| directory.bindings.locked(name)).cloned().collect(),
    };
    Ok(about_user("UserLocks", &target, status))
}

/// The parameter `namespace`; `None` if it is not given or empty.
pub(crate) struct NamespaceParam(Option<String>);

impl<S: Sync> FromRequestParts<S> for NamespaceParam {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut params = only(parts.uri.query(), &[&["namespace"], GET_OPTIONS].concat())?;
        Ok(Self(params.remove("namespace").filter(|namespace| !namespace.is_empty())))
    }
}

/// `GET users/{key}/permissions`: effective rules, each with its origin.
///
/// # Errors
/// 400 if the user has too many grants for one response, 404 if it has been deleted.
pub(crate) async fn permissions(
    api: ApiState,
    NamespaceParam(namespace): NamespaceParam,
    target: Target,
) -> Result<Response, ApiError> {
    let status = {
        let (directory, now) = (api.informers.directory(), Timestamp::now());
        let person = target.find_in(&directory)?;
        let held = held_by(&directory, &target.name, namespace.as_deref(), now);
        if held.len() > MAX_GRANTS {
            let message = format!(
                "{} has {} role grants, too many for one response: set namespace to one namespace at a time",
                target.name,
                held.len()
            );
            return Err(ApiError::bad_parameter("namespace", &message));
        }
        UserPermissionsStatus {
            active: person.is_active(now),
            groups: groups_of(&directory, &target.name),
            rules: rules(&directory, &held),
        }
    };
    Ok(about_user("UserPermissions", &target, status))
}

/// Returns how a user belongs to a group, or `None` if it does not.
pub(crate) fn membership(directory: &Directory, user: &str, group: &str) -> Option<GroupMembership> {
    let path = directory.memberships.path(user, group)?;
    Some(GroupMembership {
        user: user.to_owned(),
        group: group.to_owned(),
        sources: path.sources.iter().map(|source| source.field().to_owned()).collect(),
        path: path.groups,
    })
}
