//! Responses with objects that are not Users or Groups of the directory.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::core::Status;
use roster_api::directory::{API_VERSION, GROUP};
use serde::Serialize;
use serde_json::json;

use super::status::{About, ApiError};
use super::target::Target;

/// Returns a list of items that are not objects.
pub(super) fn items<T: Serialize>(kind: &str, items: &[T]) -> Response {
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

/// Returns an object about a User.
pub(super) fn about_user(kind: &str, target: &Target, status: impl Serialize) -> Response {
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

/// Returns 201 with the created object, about the target if there is one. `spec` must not contain secrets.
pub(super) fn created(kind: &str, target: Option<&Target>, spec: &impl Serialize, status: &impl Serialize) -> Response {
    let metadata = target.map_or_else(|| json!({}), |target| json!({"name": target.name}));
    let answer = json!({"kind": kind, "apiVersion": API_VERSION, "metadata": metadata, "spec": spec, "status": status});
    (StatusCode::CREATED, [("cache-control", "no-store")], axum::Json(answer)).into_response()
}

/// Returns the response to a successful deletion of `what`, which belonged to the target.
pub(super) fn deleted(what: &str, target: &Target) -> Response {
    let Target { name, username, uid, .. } = target;
    let mut status = json!(Status::success());
    status["kind"] = "Status".into();
    status["apiVersion"] = "v1".into();
    status["metadata"] = json!({});
    status["message"] = format!("{what} of User {name} (username {username}) is deleted").into();
    status["details"] = json!({"name": name, "group": GROUP, "kind": "users", "uid": uid});
    axum::Json(status).into_response()
}

/// 422: a field of a login is invalid.
pub(super) fn invalid_login(field: &str, message: &str) -> ApiError {
    ApiError::invalid(About { resource: "logins", name: "" }, field, message)
}
