//! `roleassignments`: which subject holds which role, and where.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{FromRequestParts, RawQuery};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use roster_api::credentials::UserReference;
use roster_api::directory::{API_VERSION, RoleAssignment};
use roster_api::role_binding::{RoleKind, Subject, SubjectKind};
use roster_core::directory::index::query::Query;
use roster_core::rbac::assignments::{Assignee, AssignmentScope, DisplayName, Filter, find};
use roster_credentials::digest::hex;
use roster_runtime::informers::Informers;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::apiserver::limits::RequestPermit;
use crate::apiserver::negotiate::Form;
use crate::apiserver::pages::{Position, RevisionRange, list_id};
use crate::apiserver::params::{EVERYWHERE, IncludeObject, flag, include_object, number, pairs, unknown};
use crate::apiserver::render::{cell, columns, partial};
use crate::apiserver::resource::{Cell, Column};
use crate::apiserver::revision::blocking;
use crate::apiserver::state::{ApiState, CallerExtension, DirectoryApi};
use crate::apiserver::status::ApiError;
use crate::apiserver::target::{Target, ambiguous};

/// Maximum number of assignments in a response; `metadata.continue` leads to the rest. With groups expanded to their
/// members, a large cluster has millions.
const MAX_ITEMS: usize = 1000;

/// Filter parameters, which are also allowed in a field selector.
const FIELDS: &[&str] = &["effective", "group", "includeNames", "role", "scope", "user"];

/// Other parameters.
const OTHERS: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "includeObject",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "shardSelector",
    "timeoutSeconds",
    "watch",
];

static COLUMNS: &[Column] = &[
    column("Role", Cell::Path("spec.role.name"), "Name of the role"),
    column("Role Kind", Cell::Path("spec.role.kind"), "ClusterRole or Role"),
    column("Subject", Cell::Path("spec.subject.name"), "Username, or name of the group"),
    column("Subject Kind", Cell::Path("spec.subject.kind"), "User or Group"),
    column("Namespace", Cell::Path("spec.namespace"), "Where; empty for the whole cluster"),
    column("Role Binding", Cell::Path("spec.roleBinding"), "RoleBinding of Roster that grants it"),
    column("Binding", Cell::Path("spec.binding.name"), "Native binding"),
];

const fn column(name: &'static str, cell: Cell, description: &'static str) -> Column {
    Column { name, kind: "string", description, priority: 0, cell }
}

/// Parsed parameters of a list.
#[derive(Debug, Default)]
struct Request {
    filter: Filter,
    /// Any key of a User, or a username that belongs to no User.
    user: Option<String>,
    /// Whether a label selector excludes all assignments, which have no labels.
    is_empty: bool,
    include_names: bool,
    limit: Option<usize>,
    continue_token: Option<String>,
    include: IncludeObject,
    written: String,
}

impl Request {
    fn read(query: &str) -> Result<Self, ApiError> {
        let mut request = Self::default();
        let mut seen = BTreeSet::new();
        for (key, value) in pairs(query)? {
            if EVERYWHERE.contains(&key.as_str()) {
                continue;
            }
            if !FIELDS.contains(&key.as_str()) && !OTHERS.contains(&key.as_str()) {
                return Err(unknown(&key, &[FIELDS, OTHERS].concat()));
            }
            if !seen.insert(key.clone()) {
                return Err(ApiError::bad_parameter(&key, "must not be given more than once"));
            }
            match key.as_str() {
                "fieldSelector" => request.field_selector(&value)?,
                "limit" => request.limit = Some(number(&key, &value, 0)?).filter(|limit| *limit > 0),
                "continue" => request.continue_token = Some(value).filter(|token| !token.is_empty()),
                "includeObject" => request.include = include_object(&value)?,
                "labelSelector" => request.label_selector(&value)?,
                "watch" if flag(&key, &value)? => {
                    return Err(ApiError::method_not_allowed("roleassignments can't be watched: list them again"));
                }
                // Ignored: the response is always current and complete, and never takes long.
                "allowWatchBookmarks"
                | "resourceVersion"
                | "resourceVersionMatch"
                | "sendInitialEvents"
                | "shardSelector"
                | "timeoutSeconds"
                | "watch" => {}
                _ => request.filter(&key, &value)?,
            }
        }
        if request.user.is_some() && request.filter.group.is_some() {
            return Err(ApiError::bad_parameter("group", "can't be combined with user"));
        }
        Ok(request)
    }

    /// Parses the field selector, for kubectl: the same filters, as in `user=jane,scope=cluster`.
    fn field_selector(&mut self, text: &str) -> Result<(), ApiError> {
        for term in text.split(',').filter(|term| !term.is_empty()) {
            match term.split_once("==").or_else(|| term.split_once('=')) {
                Some((key, value)) if FIELDS.contains(&key) => self.filter(key, value)?,
                _ => {
                    let message = format!("{term:?} must be field=value; allowed fields: {}", FIELDS.join(", "));
                    return Err(ApiError::bad_parameter("fieldSelector", &message));
                }
            }
        }
        Ok(())
    }

    fn label_selector(&mut self, text: &str) -> Result<(), ApiError> {
        let mut query = Query::default();
        query.label_selector(text)?;
        self.is_empty = !query.labels.iter().all(|requirement| requirement.operator.holds(None));
        Ok(())
    }

    fn filter(&mut self, key: &str, value: &str) -> Result<(), ApiError> {
        if value.is_empty() && !matches!(key, "effective" | "includeNames") {
            return Err(ApiError::bad_parameter(key, "must not be empty"));
        }
        match key {
            "user" => self.user = Some(value.to_owned()),
            "group" => self.filter.group = Some(value.to_owned()),
            "role" => self.filter.role = Some(read_role(value)?),
            "scope" => self.filter.scope = Some(read_scope(value)?),
            "effective" => self.filter.is_effective = flag(key, value)?,
            _ => self.include_names = flag(key, value)?,
        }
        self.written.extend([key, "=", value, "&"]);
        Ok(())
    }
}

fn read_role(text: &str) -> Result<(Option<RoleKind>, String), ApiError> {
    match text.split_once('/') {
        None => Ok((None, text.to_owned())),
        Some(("ClusterRole", name)) => Ok((Some(RoleKind::ClusterRole), name.to_owned())),
        Some(("Role", name)) => Ok((Some(RoleKind::Role), name.to_owned())),
        Some(_) => Err(ApiError::bad_parameter("role", "must be a name, ClusterRole/name or Role/name")),
    }
}

fn read_scope(text: &str) -> Result<AssignmentScope, ApiError> {
    match text.split_once(':') {
        None if text == "cluster" => Ok(AssignmentScope::Cluster),
        Some(("namespace", name)) if !name.is_empty() => Ok(AssignmentScope::Namespace(name.to_owned())),
        Some(("domain", name)) if !name.is_empty() => Ok(AssignmentScope::Domain(name.to_owned())),
        _ => Err(ApiError::bad_parameter("scope", "must be cluster, namespace:<name> or domain:<name>")),
    }
}

/// `GET roleassignments`: lists assignments.
///
/// # Errors
/// 400 or 406 for an invalid request, 405 for a watch, 409 for a key of several Users, 401, 403 or 503 from
/// authorization.
pub(crate) async fn list(
    api: ApiState,
    Extension(caller): CallerExtension,
    Extension(permit): Extension<RequestPermit>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut request = Request::read(query.as_deref().unwrap_or_default())?;
    let form = Form::of(&headers)?;
    api.admit(&caller, "list", "roleassignments", "", "").await?;
    request.filter.user = request.user.as_deref().map(|key| assignee(&api, key)).transpose()?;
    answer(&api, request, None, form, permit).await
}

/// Finds the user that a key stands for. An error may name users, because the caller may list all assignments anyway.
fn assignee(api: &DirectoryApi, key: &str) -> Result<Assignee, ApiError> {
    let directory = api.informers.directory();
    match directory.users_by_key(key).as_slice() {
        [] => Ok(Assignee::Username(key.to_owned())),
        [user] => Ok(Assignee::User((*user).to_owned())),
        several => {
            let reference = |name: &&str| {
                let person = directory.user(name)?;
                let (username, uid) = (person.username.clone(), person.uid.clone());
                Some(UserReference { name: (*name).to_owned(), username, uid })
            };
            Err(ambiguous(key, &several.iter().filter_map(reference).collect::<Vec<_>>()))
        }
    }
}

/// Parameters of a list of one user's assignments.
pub(crate) struct UserAssignmentsRequest {
    request: Request,
    form: Form,
}

impl<S: Sync> FromRequestParts<S> for UserAssignmentsRequest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let request = Request::read(parts.uri.query().unwrap_or_default())?;
        let form = Form::of(&parts.headers)?;
        if request.user.is_some() || request.filter.group.is_some() {
            return Err(ApiError::bad_parameter("user", "is already given by the path"));
        }
        Ok(Self { request, form })
    }
}

/// `GET users/{key}/roleassignments`: assignments of the user, direct or through groups.
///
/// # Errors
/// 400 for an invalid continue token, 404 if the user has been deleted.
pub(crate) async fn of_user(
    api: ApiState,
    Extension(permit): Extension<RequestPermit>,
    UserAssignmentsRequest { mut request, form }: UserAssignmentsRequest,
    target: Target,
) -> Result<Response, ApiError> {
    request.written.extend(["of=", &target.uid, "&"]);
    request.filter.user = Some(Assignee::User(target.name.clone()));
    request.filter.is_effective = true;
    answer(&api, request, Some(target), form, permit).await
}

async fn answer(
    api: &Arc<DirectoryApi>,
    request: Request,
    target: Option<Target>,
    form: Form,
    permit: RequestPermit,
) -> Result<Response, ApiError> {
    let id = list_id("roleassignments", &request.written);
    let offset = match &request.continue_token {
        Some(token) => api.tokens.read(id, token)?.offset,
        None => 0,
    };
    let limit = request.limit.map_or(MAX_ITEMS, |limit| limit.min(MAX_ITEMS));
    let (informers, filter, include_names) = (Arc::clone(&api.informers), request.filter, request.include_names);
    let search = move || {
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let name = |subject: &Subject| display_name(&informers, subject);
        let display_name = include_names.then_some(&name as &DisplayName<'_>);
        let directory = informers.directory();
        if let Some(target) = target {
            target.find_in(&directory)?;
        }
        if request.is_empty {
            return Ok(Vec::new());
        }
        // Find one more than is returned, to know whether there are more.
        Ok::<_, ApiError>(find(&directory, &filter, (skip, limit + 1), display_name))
    };
    let mut found = blocking(move || (search(), permit)).await?.0?;
    let mut metadata = json!({"resourceVersion": api.informers.user_catalogue.peek().revision.to_string()});
    if found.len() > limit {
        found.truncate(limit);
        let position =
            Position { revisions: RevisionRange { since: 0, until: 0 }, offset: offset.saturating_add(limit as u64) };
        metadata["continue"] = api.tokens.write(id, position).into();
    }
    let items: Vec<Value> = found.iter().map(object).collect();
    let answer = write(form, request.include, &metadata, &items);
    Ok(([(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response())
}

fn display_name(informers: &Informers, subject: &Subject) -> Option<String> {
    let catalogue = match subject.kind {
        SubjectKind::User => &informers.user_catalogue,
        SubjectKind::Group => &informers.group_catalogue,
    };
    let record = catalogue.peek().table.get(&subject.name).cloned()?;
    record.to_value()["spec"]["displayName"].as_str().map(str::to_owned)
}

/// Renders an assignment. It has no name, but clients need one, so the name is a digest of its contents.
fn object(assignment: &RoleAssignment) -> Value {
    let spec = json!(assignment);
    let name = hex(&Sha256::digest(spec.to_string())[..10]);
    json!({"kind": "RoleAssignment", "apiVersion": API_VERSION, "metadata": {"name": name}, "spec": spec})
}

fn write(form: Form, include: IncludeObject, metadata: &Value, items: &[Value]) -> Value {
    let now = Timestamp::now();
    let row = |item: &Value| {
        let mut row = json!({"cells": COLUMNS.iter().map(|column| cell(column.cell, item, now)).collect::<Vec<_>>()});
        match include {
            IncludeObject::None => {}
            IncludeObject::Metadata => row["object"] = partial(&item["metadata"]),
            IncludeObject::Object => row["object"] = item.clone(),
        }
        row
    };
    match form {
        Form::Object => {
            json!({"kind": "RoleAssignmentList", "apiVersion": API_VERSION, "metadata": metadata, "items": items})
        }
        Form::Metadata => json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata, "items": items.iter().map(|item| partial(&item["metadata"])).collect::<Vec<_>>()}),
        Form::Table => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "columnDefinitions": columns(COLUMNS), "rows": items.iter().map(row).collect::<Vec<_>>()}),
    }
}
