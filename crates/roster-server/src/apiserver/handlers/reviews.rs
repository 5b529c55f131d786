//! `users/{key}/accessreviews`: may this user do this? The API server's own answer, and the bindings behind it.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Path, RawQuery, Request};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use roster_api::directory::{API_VERSION, AccessReviewSpec, AccessReviewStatus};
use roster_core::rbac::permissions::{allowing, groups_of, held_by};
use roster_runtime::informers::Informers;
use serde_json::json;

use crate::apiserver::body::read_body;
use crate::apiserver::body::read_write_params;
use crate::apiserver::identity::Caller;
use crate::apiserver::state::{Api, Who};
use crate::apiserver::status::{About, ApiError};
use crate::apiserver::target::authorised;

/// What reaches `UserInfo.extra` of the User's requests.
fn extra_of(informers: &Informers, user: &str) -> BTreeMap<String, Vec<String>> {
    let record = informers.user_catalogue.peek().table.get(user).cloned();
    let extra = record.map(|record| record.to_value()["spec"]["extra"].take());
    extra.and_then(|extra| serde_json::from_value(extra).ok()).unwrap_or_default()
}

/// `POST users/{key}/accessreviews`
///
/// # Errors
/// As the request deserves.
pub async fn create(
    api: Api,
    Extension(caller): Who,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, ApiError> {
    // A review changes nothing: to try it is to do it.
    read_write_params(query.as_deref())?;
    // All of it, before anything is judged: nobody waits in between. Who may not, learns nothing of what is wrong with it.
    let spec = read_body::<AccessReviewSpec>("AccessReview", request).await;
    let target = authorised(&api, &caller, &key, "create", "users/accessreviews").await?;
    let spec = spec?;
    if spec.resource_attributes.is_some() == spec.non_resource_attributes.is_some() {
        let about = About { resource: "users/accessreviews", name: &target.asked };
        return Err(ApiError::invalid(
            about,
            "spec",
            "exactly one of resourceAttributes and nonResourceAttributes must be set",
        ));
    }
    let (asked, path) = {
        let (directory, now) = (api.informers.directory(), Timestamp::now());
        let about = About { resource: "users", name: &target.asked };
        let person = directory.person(&target.name).ok_or_else(|| ApiError::not_found(about))?;
        let asked = Caller {
            username: person.username.clone(),
            uid: person.uid.clone(),
            groups: groups_of(&directory, &target.name),
            extra: extra_of(&api.informers, &target.name),
        };
        let held = held_by(&directory, &target.name, None, now);
        (person.is_active(now).then_some(asked), allowing(&directory, held, &spec))
    };
    let status = match asked {
        None => AccessReviewStatus {
            reason: Some(format!("the user {} is not active", target.name)),
            ..AccessReviewStatus::default()
        },
        Some(asked) => {
            let (resource, path_attributes) = (spec.resource_attributes.clone(), spec.non_resource_attributes.clone());
            let answer = api.authorizer.review(&asked, resource, path_attributes).await?;
            AccessReviewStatus {
                allowed: answer.allowed,
                reason: answer.reason,
                evaluation_error: answer.evaluation_error,
                path: if answer.allowed { path } else { Vec::new() },
            }
        }
    };
    let answer = json!({"kind": "AccessReview", "apiVersion": API_VERSION, "metadata": {"name": target.name},
        "spec": spec, "status": status});
    Ok((axum::http::StatusCode::CREATED, axum::Json(answer)).into_response())
}
