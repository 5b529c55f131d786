//! `users/{key}/accessreviews`: whether a user may do something, as decided by kube-apiserver, and the bindings that
//! allow it.

use std::collections::BTreeMap;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use roster_api::directory::{API_VERSION, AccessReviewSpec, AccessReviewStatus};
use roster_core::rbac::permissions::{allowing, groups_of, held_by};
use roster_runtime::informers::Informers;
use serde_json::json;

use crate::apiserver::body::{DryRun, read_body};
use crate::apiserver::identity::Caller;
use crate::apiserver::state::ApiState;
use crate::apiserver::status::ApiError;
use crate::apiserver::target::Target;

/// Returns the `UserInfo.extra` of the User's requests.
fn extra_of(informers: &Informers, user: &str) -> BTreeMap<String, Vec<String>> {
    let record = informers.user_catalogue.peek().table.get(user).cloned();
    let extra = record.map(|record| record.to_value()["spec"]["extra"].take());
    extra.and_then(|extra| serde_json::from_value(extra).ok()).unwrap_or_default()
}

/// `POST users/{key}/accessreviews`: asks whether the user may do something.
///
/// # Errors
/// As [`read_body`]; 404, 422, or 503 if kube-apiserver does not respond.
pub(crate) async fn create(
    api: ApiState,
    // A review changes nothing, so a dry run is the same.
    _: DryRun,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let spec = read_body::<AccessReviewSpec>("AccessReview", request).await?;
    if spec.resource_attributes.is_some() == spec.non_resource_attributes.is_some() {
        return Err(ApiError::invalid(
            target.about(),
            "spec",
            "exactly one of resourceAttributes and nonResourceAttributes must be set",
        ));
    }
    let (asked, path) = {
        let (directory, now) = (api.informers.directory(), Timestamp::now());
        let person = target.find_in(&directory)?;
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
