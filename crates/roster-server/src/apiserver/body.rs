//! Reads the body and the parameters of a write.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::IntoResponse;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use roster_api::directory::API_VERSION;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::limits::MAX_BODY_BYTES;
use super::params::{EVERYWHERE, flag, number, pairs, unknown};
use super::status::{About, ApiError};

/// A request body of this group-version.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "S: DeserializeOwned"))]
struct Body<S> {
    api_version: String,
    kind: String,
    spec: S,
    /// Accepted and ignored.
    #[serde(rename = "metadata")]
    _metadata: Option<Value>,
    #[serde(rename = "status")]
    _status: Option<Value>,
}

/// Whether the `dryRun` parameter asks for a dry run.
#[derive(Clone, Copy, Debug)]
pub(super) struct DryRun(pub bool);

impl<S: Sync> FromRequestParts<S> for DryRun {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        read_write_params(&parts.method, parts.uri.query()).map(Self)
    }
}

/// Reads a JSON body of this kind.
///
/// # Errors
/// 400, 413 or 415, with what is wrong.
pub(super) async fn read_body<S: DeserializeOwned>(kind: &str, request: Request) -> Result<S, ApiError> {
    let bytes = read_json(request).await?;
    let body = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not a {API_VERSION} {kind}: {error}")))?;
    spec_of(kind, body)
}

/// Reads a body that contains a secret. Errors do not repeat its contents.
///
/// # Errors
/// As [`read_body`].
pub(super) async fn read_secret_body<S: DeserializeOwned + JsonSchema>(
    kind: &str,
    request: Request,
) -> Result<S, ApiError> {
    secret_spec_of(kind, &read_json(request).await?)
}

fn secret_spec_of<S: DeserializeOwned + JsonSchema>(kind: &str, bytes: &[u8]) -> Result<S, ApiError> {
    let body = serde_json::from_slice(bytes).map_err(|error: serde_json::Error| {
        let fields = fields_of::<S>().join(", ");
        let (line, column) = (error.line(), error.column());
        ApiError::bad_request(format!(
            "the body is not a {API_VERSION} {kind}: see line {line}, column {column}; fields of its spec: {fields}"
        ))
    })?;
    spec_of(kind, body)
}

fn fields_of<S: JsonSchema>() -> Vec<String> {
    let schema = schemars::schema_for!(S).to_value();
    schema["properties"].as_object().into_iter().flatten().map(|(field, _)| field.clone()).collect()
}

async fn read_json(request: Request) -> Result<axum::body::Bytes, ApiError> {
    let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.unwrap_or("application/json").split(';').next().unwrap_or_default().trim();
    if media_type != "application/json" {
        return Err(ApiError::unsupported_media_type("application/json"));
    }
    read_bytes(request).await
}

fn spec_of<S>(kind: &str, body: Body<S>) -> Result<S, ApiError> {
    if body.api_version != API_VERSION || body.kind != kind {
        let found = format!("{} {}", body.api_version, body.kind);
        return Err(ApiError::bad_request(format!("the body must be a {API_VERSION} {kind}, not a {found}")));
    }
    Ok(body.spec)
}

/// Reads a body without parsing it.
///
/// # Errors
/// 413 if it is too large, 400 if it is incomplete.
pub(super) async fn read_bytes(request: Request) -> Result<axum::body::Bytes, ApiError> {
    axum::body::Bytes::from_request(request, &()).await.map_err(|rejection| match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(MAX_BODY_BYTES),
        _ => ApiError::bad_request("the body could not be read"),
    })
}

/// Contents of the body of a delete request.
#[derive(Debug)]
pub(super) struct Deletion<S> {
    /// Whether this is a dry run.
    pub is_dry_run: bool,
    /// Spec of an object that authorizes the deletion.
    pub spec: Option<S>,
}

/// Reads the body of a delete request: nothing, `DeleteOptions`, or an object of this kind, which may contain a secret.
///
/// # Errors
/// As [`read_secret_body`]; 409 for preconditions that can't hold.
pub(super) async fn read_deletion<S: DeserializeOwned + JsonSchema>(
    kind: &str,
    request: Request,
) -> Result<Deletion<S>, ApiError> {
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    let bytes = read_json(request).await?;
    let is_other = serde_json::from_slice::<Kind>(&bytes).is_ok_and(|body| body.kind != "DeleteOptions");
    if is_other {
        return Ok(Deletion { is_dry_run: false, spec: Some(secret_spec_of(kind, &bytes)?) });
    }
    Ok(Deletion { is_dry_run: is_dry_run_by(&bytes)?, spec: None })
}

/// Reads the `DeleteOptions` of a delete request, which may have no body. Returns whether it is a dry run.
///
/// # Errors
/// 400, 413 or 415, with what is wrong; 409 for preconditions that can't hold.
pub(super) async fn read_delete_options(request: Request) -> Result<bool, ApiError> {
    is_dry_run_by(&read_json(request).await?)
}

fn is_dry_run_by(options: &[u8]) -> Result<bool, ApiError> {
    if options.is_empty() {
        return Ok(false);
    }
    let options: DeleteOptions = serde_json::from_slice(options)
        .map_err(|error| ApiError::bad_request(format!("the body is not DeleteOptions: {error}")))?;
    if options.preconditions.is_some_and(|required| required.uid.is_some() || required.resource_version.is_some()) {
        let message = "preconditions: this object has neither a UID nor a resourceVersion";
        return Err(ApiError::conflict(message, About { resource: "", name: "" }));
    }
    let dry_run = options.dry_run.unwrap_or_default();
    if dry_run.iter().any(|stage| stage != "All") {
        return Err(ApiError::bad_parameter("dryRun", "must be All"));
    }
    Ok(!dry_run.is_empty())
}

/// Options of every write.
const WRITE_OPTIONS: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];

/// Further options of a patch.
const PATCH_OPTIONS: &[&str] = &["force"];

/// Further options of a deletion. Nothing here has dependents or a grace period.
const DELETE_OPTIONS: &[&str] = &[
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];

/// Parses the parameters of a write: the options of Kubernetes clients, of which only `dryRun` has a meaning here.
/// Returns whether it is a dry run.
///
/// # Errors
/// 400 for an unknown parameter or an invalid value.
pub(super) fn read_write_params(method: &Method, query: Option<&str>) -> Result<bool, ApiError> {
    let further = match *method {
        Method::PATCH => PATCH_OPTIONS,
        Method::DELETE => DELETE_OPTIONS,
        _ => &[],
    };
    let mut is_dry_run = false;
    for (key, value) in pairs(query.unwrap_or_default())? {
        if ![WRITE_OPTIONS, EVERYWHERE, further].iter().any(|allowed| allowed.contains(&key.as_str())) {
            return Err(unknown(&key, &[WRITE_OPTIONS, EVERYWHERE, further].concat()));
        }
        let one_of = |allowed: &[&str]| {
            let is_allowed = value.is_empty() || allowed.contains(&value.as_str());
            let error = || ApiError::bad_parameter(&key, &format!("must be one of {}", allowed.join(", ")));
            is_allowed.then_some(()).ok_or_else(error)
        };
        match key.as_str() {
            "dryRun" => {
                one_of(&["All"])?;
                is_dry_run |= !value.is_empty();
            }
            "fieldValidation" => one_of(&["Strict", "Warn", "Ignore"])?,
            "propagationPolicy" => one_of(&["Orphan", "Background", "Foreground"])?,
            "gracePeriodSeconds" => drop(number::<i64>(&key, &value, 0)?),
            "force" | "ignoreStoreReadErrorWithClusterBreakingPotential" | "orphanDependents" => {
                flag(&key, &value)?;
            }
            _ => {}
        }
    }
    Ok(is_dry_run)
}
