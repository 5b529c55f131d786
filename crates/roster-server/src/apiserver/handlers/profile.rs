//! `PATCH users/~`: lets users change fields of their own profile.
//!
//! Writes to the User of `roster.dev`, so that its validation, the guard and the audit log apply.

use std::sync::Arc;

use axum::extract::{Path, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use json_patch::PatchOperation;
use kube::Api;
use kube::api::{Patch, PatchParams};
use roster_api::User;
use roster_core::directory::entries::user::record;
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::apiserver::body::{DryRun, read_bytes};
use crate::apiserver::negotiate::Form;
use crate::apiserver::params::IncludeObject;
use crate::apiserver::read_only;
use crate::apiserver::render::Renderer;
use crate::apiserver::resource::USERS;
use crate::apiserver::revision::reached;
use crate::apiserver::state::{ApiState, DirectoryApi};
use crate::apiserver::status::{About, ApiError};
use crate::apiserver::target::{SELF, Target};

/// Fields of `spec` that users may change themselves.
const EDITABLE: &[&str] = &["displayName", "language", "mobile", "preferredShell", "timezone"];

const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

/// Maximum number of operations in a JSON patch. There are five editable fields.
const MAX_OPERATIONS: usize = 32;

/// Maximum number of attempts when writes conflict.
const MAX_ATTEMPTS: usize = 5;

/// `PATCH users/{key}`: changes the caller's own profile.
///
/// # Errors
/// 405 for any key but `~`, 413, 415, 401 if the caller is inactive, the errors of `changes`, or kube-apiserver's
/// status.
pub(crate) async fn patch(
    api: ApiState,
    form: Form,
    DryRun(is_dry_run): DryRun,
    Path(key): Path<String>,
    target: Result<Target, ApiError>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let target = target.map_err(|error| match error.code() {
        // The caller is authorized, and probably wants to create the User by server-side apply.
        StatusCode::NOT_FOUND if key != SELF => read_only::patch_of_another(""),
        _ => error,
    })?;
    let body = read_bytes(request).await?;
    if target.asked != SELF {
        return Err(read_only::patch_of_another(&target.name));
    }
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
    if media_type != MERGE_PATCH && media_type != JSON_PATCH {
        return Err(ApiError::unsupported_media_type(&format!("{MERGE_PATCH}, {JSON_PATCH}")));
    }
    let written = write(&api, &target, &media_type, &body, is_dry_run).await?;
    let revision = written.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0);
    if !is_dry_run && reached(&api.informers.user_catalogue, revision).await.is_err() {
        // The write succeeded, but the next read may not show it yet.
        warn!(revision, "the watch has not delivered a write yet");
    }
    Ok(respond(&api, &written, form))
}

fn respond(api: &Arc<DirectoryApi>, user: &User, form: Form) -> Response {
    let current = user.metadata.name.clone();
    let renderer = Renderer { resource: &USERS, form, include: IncludeObject::Metadata, current, alias: None };
    let (record, now) = ([Arc::new(record(user))], Timestamp::now());
    let joined = renderer.joined(&record, &api.informers, now).concat();
    let json = renderer.single(&record[0], &joined, now);
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

async fn write(
    api: &DirectoryApi,
    target: &Target,
    media_type: &str,
    body: &[u8],
    is_dry_run: bool,
) -> Result<User, ApiError> {
    let about = target.about();
    let users: Api<User> = Api::all(api.client.clone());
    let passed_on = |error| ApiError::of_kube(error, about);
    let params = PatchParams { dry_run: is_dry_run, ..PatchParams::default() };
    for _ in 0..MAX_ATTEMPTS {
        let user = users.get(&target.name).await.map_err(passed_on)?;
        let uid = user.metadata.uid.clone();
        // The User may have been deleted and recreated.
        if uid.as_ref() != Some(&target.uid) || !api.is_active(&target.name) {
            return Err(ApiError::unauthorized());
        }
        let changes = changes(&json!({"metadata": user.metadata, "spec": user.spec}), media_type, body, about)?;
        // Fails if the User has changed since it was read.
        let metadata = json!({"uid": uid, "resourceVersion": user.metadata.resource_version});
        let patch = json!({"metadata": metadata, "spec": changes});
        match users.patch(&target.name, &params, &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            outcome => return outcome.map_err(passed_on),
        }
    }
    Err(ApiError::conflict("too many concurrent changes to the user, please try again", about))
}

/// Returns the fields of `spec` that a patch changes.
///
/// # Errors
/// 400 if the patch is malformed, 422 if it does not apply, 403 if it changes other fields, 409 if it has another
/// resourceVersion.
fn changes(before: &Value, media_type: &str, body: &[u8], about: About<'_>) -> Result<Map<String, Value>, ApiError> {
    let malformed =
        |error: &dyn std::fmt::Display| ApiError::bad_request(format!("the body is not a valid {media_type}: {error}"));
    let mut after = before.clone();
    if media_type == JSON_PATCH {
        let patch: json_patch::Patch = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
        // Check first: each copy operation can double the document, so a few could exhaust the memory.
        check_operations(&patch, about)?;
        json_patch::patch(&mut after, &patch).map_err(|error| ApiError::invalid(about, "patch", &error.to_string()))?;
    } else {
        let patch: Value = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
        if !patch.is_object() {
            return Err(malformed(&"it must be an object"));
        }
        json_patch::merge(&mut after, &patch);
    }
    let version = |value: &Value| value["metadata"]["resourceVersion"].clone();
    if version(&after) != version(before) {
        return Err(ApiError::conflict("metadata.resourceVersion is not the current one of the user", about));
    }
    let refused = |field: &str| not_editable(field, about);
    for (key, value) in after.as_object().into_iter().flatten() {
        // apiVersion and kind may be repeated, and status, which only the directory has, is ignored.
        let is_repeated = matches!(key.as_str(), "apiVersion" | "kind" | "spec" | "status");
        if !is_repeated && before[key] != *value {
            return Err(refused(key));
        }
    }
    let (was, is) = (before["spec"].as_object(), after["spec"].as_object());
    let (Some(was), Some(is)) = (was, is) else { return Err(refused("spec")) };
    let mut changes = Map::new();
    for key in was.keys().chain(is.keys()) {
        let value = is.get(key).cloned().unwrap_or(Value::Null);
        if was.get(key).unwrap_or(&Value::Null) != &value {
            if !EDITABLE.contains(&key.as_str()) {
                return Err(refused(&format!("spec.{key}")));
            }
            changes.insert(key.clone(), value);
        }
    }
    Ok(changes)
}

/// 403: users may not change this field themselves.
fn not_editable(field: &str, about: About<'_>) -> ApiError {
    let editable: Vec<String> = EDITABLE.iter().map(|field| format!("spec.{field}")).collect();
    ApiError::refused(format!("you can't change {field} of your own user; allowed: {}", editable.join(", ")), about)
}

/// Rejects operations that read or write any field that users may not change.
fn check_operations(patch: &json_patch::Patch, about: About<'_>) -> Result<(), ApiError> {
    if patch.len() > MAX_OPERATIONS {
        return Err(ApiError::bad_request(format!("a patch may have at most {MAX_OPERATIONS} operations")));
    }
    for operation in patch.iter() {
        let path = operation.path().as_str();
        let is_editable = path.strip_prefix("/spec/").is_some_and(|field| EDITABLE.contains(&field));
        let is_allowed = match operation {
            PatchOperation::Add(_) | PatchOperation::Replace(_) | PatchOperation::Remove(_) => is_editable,
            PatchOperation::Test(_) => is_editable || matches!(path, "/metadata/resourceVersion" | "/metadata/uid"),
            PatchOperation::Move(_) | PatchOperation::Copy(_) => {
                return Err(ApiError::bad_request("operations must be add, replace, remove or test"));
            }
        };
        if !is_allowed {
            return Err(not_editable(&path.trim_start_matches('/').replace('/', "."), about));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'static> = About { resource: "users", name: SELF };

    fn try_patch(media_type: &str, patch: &Value) -> Result<Map<String, Value>, ApiError> {
        let before = json!({"metadata": {"name": "jane", "resourceVersion": "7"},
            "spec": {"displayName": "Jane", "language": "en", "admin": false}});
        changes(&before, media_type, patch.to_string().as_bytes(), ABOUT)
    }

    #[test]
    fn only_profile_fields_can_be_changed() {
        let merge = |patch: Value| try_patch(MERGE_PATCH, &patch);
        let changed = merge(json!({"spec": {"displayName": "J", "language": null}})).unwrap();
        assert_eq!(Value::Object(changed), json!({"displayName": "J", "language": null}));
        assert!(merge(json!({"spec": {"admin": false}})).unwrap().is_empty(), "an unchanged value is not a change");
        for refused in [
            json!({"spec": {"admin": true}}),
            json!({"spec": {"groups": ["admins"]}}),
            json!({"metadata": {"labels": {"team": "a"}}}),
            json!({"metadata": {"finalizers": ["x"]}}),
            json!({"spec": null}),
        ] {
            let error = merge(refused.clone()).unwrap_err().to_json();
            assert_eq!(
                (&error["code"], error["message"].as_str().unwrap().contains("spec.displayName")),
                (&json!(403), true),
                "{refused}"
            );
        }
        assert_eq!(merge(json!({"metadata": {"resourceVersion": "6"}})).unwrap_err().code(), 409);
        assert_eq!(merge(json!(["x"])).unwrap_err().code(), 400);
        let json_patch = |patch: Value| try_patch(JSON_PATCH, &patch);
        let changed = json_patch(json!([{"op": "replace", "path": "/spec/displayName", "value": "J"}])).unwrap();
        assert_eq!(Value::Object(changed), json!({"displayName": "J"}));
        assert_eq!(json_patch(json!([{"op": "add", "path": "/spec/admin", "value": true}])).unwrap_err().code(), 403);
        assert_eq!(
            json_patch(json!([{"op": "test", "path": "/spec/language", "value": "fr"}])).unwrap_err().code(),
            422
        );
        assert_eq!(
            json_patch(json!([{"op": "copy", "from": "/spec", "path": "/spec/displayName"}])).unwrap_err().code(),
            400
        );
        assert_eq!(
            json_patch(json!([{"op": "test", "path": "/metadata/name", "value": "x"}])).unwrap_err().code(),
            403
        );
        assert_eq!(json_patch(json!([{"op": "add", "path": "/spec", "value": {}}])).unwrap_err().code(), 403);
        let many: Vec<Value> = (0..33).map(|_| json!({"op": "remove", "path": "/spec/language"})).collect();
        assert_eq!(json_patch(json!(many)).unwrap_err().code(), 400);
    }
}
