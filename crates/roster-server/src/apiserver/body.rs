//! Reads the body and the parameters of a write.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use roster_api::directory::API_VERSION;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::limits::MAX_BODY_BYTES;
use super::params::{pairs, unknown};
use super::status::ApiError;

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
pub struct DryRun(pub bool);

impl<S: Sync> FromRequestParts<S> for DryRun {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        read_write_params(parts.uri.query()).map(Self)
    }
}

/// Reads a JSON body of this kind.
///
/// # Errors
/// 400, 413 or 415, with what is wrong.
pub async fn read_body<S: DeserializeOwned>(kind: &str, request: Request) -> Result<S, ApiError> {
    let bytes = read_json(request).await?;
    let body = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is no {kind} of {API_VERSION}: {error}")))?;
    spec_of(kind, body)
}

/// Reads a body that contains a secret. Errors do not repeat its contents.
///
/// # Errors
/// As [`read_body`].
pub async fn read_secret_body<S: DeserializeOwned + JsonSchema>(kind: &str, request: Request) -> Result<S, ApiError> {
    let bytes = read_json(request).await?;
    let body = serde_json::from_slice(&bytes).map_err(|error: serde_json::Error| {
        let fields = fields_of::<S>().join(", ");
        let (line, column) = (error.line(), error.column());
        ApiError::bad_request(format!(
            "the body is no {kind} of {API_VERSION}: see line {line}, column {column}; its spec has the fields {fields}"
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
        let found = format!("{} of {}", body.kind, body.api_version);
        return Err(ApiError::bad_request(format!("the body must be a {kind} of {API_VERSION}, not a {found}")));
    }
    Ok(body.spec)
}

/// Reads a body without parsing it.
///
/// # Errors
/// 413 if it is too large, 400 if it is incomplete.
pub async fn read_bytes(request: Request) -> Result<axum::body::Bytes, ApiError> {
    axum::body::Bytes::from_request(request, &()).await.map_err(|rejection| match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(MAX_BODY_BYTES),
        _ => ApiError::bad_request("the body could not be read"),
    })
}

/// Parses the parameters of a write. Returns whether it is a dry run.
///
/// # Errors
/// 400 for an unknown parameter or an invalid value.
pub fn read_write_params(query: Option<&str>) -> Result<bool, ApiError> {
    const ALLOWED: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "pretty", "timeout"];
    let mut is_dry_run = false;
    for (key, value) in pairs(query.unwrap_or_default())? {
        match (key.as_str(), value.as_str()) {
            ("dryRun", "All") => is_dry_run = true,
            ("dryRun", "")
            | ("fieldValidation", "" | "Strict" | "Warn" | "Ignore")
            | ("fieldManager" | "pretty" | "timeout", _) => {}
            ("dryRun", _) => return Err(ApiError::bad_parameter("dryRun", "must be All")),
            ("fieldValidation", _) => {
                return Err(ApiError::bad_parameter("fieldValidation", "must be Strict, Warn or Ignore"));
            }
            _ => return Err(unknown(&key, ALLOWED)),
        }
    }
    Ok(is_dry_run)
}
