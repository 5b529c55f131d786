//! `users/{key}/apikeys`: creates, lists and revokes API keys. Revocation takes effect at once.

use std::time::Duration;

use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use roster_api::credentials::{ApiKeySpec, ApiKeyStatus};
use roster_api::directory::API_VERSION;
use roster_api::printable::is_unsafe;
use roster_credentials::api_key::{ApiKey, MAX_KEYS, MAX_NAME_CHARACTERS};
use roster_credentials::credential::Credential;
use roster_runtime::notifications::Notice;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tracing::info;

use crate::apiserver::body::{DryRun, read_delete_options, read_secret_body};
use crate::apiserver::confirm::{Confirmation, CredentialChange};
use crate::apiserver::control::{control, is_self, load_user, refuse_api_key, unreachable};
use crate::apiserver::object::deleted;
use crate::apiserver::params::NoParams;
use crate::apiserver::source::SourceAddress;
use crate::apiserver::state::{ApiState, DirectoryApi};
use crate::apiserver::status::{About, ApiError};
use crate::apiserver::target::Target;

/// Lifetime of a key without an expiration timestamp.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

fn object(key: &ApiKey, now: Timestamp) -> Value {
    object_with(key, ApiKeyStatus::default(), now)
}

fn object_with(key: &ApiKey, status: ApiKeyStatus, now: Timestamp) -> Value {
    let spec = ApiKeySpec {
        display_name: key.display_name.clone(),
        expiration_timestamp: Some(Time(key.expires)),
        current_password: None,
    };
    let status = ApiKeyStatus { last_used_time: key.last_used.map(Time), expired: key.is_expired(now), ..status };
    json!({
        "kind": "APIKey", "apiVersion": API_VERSION,
        "metadata": {"name": key.name, "creationTimestamp": Time(key.created)},
        "spec": spec, "status": status,
    })
}

/// `GET users/{key}/apikeys`: lists the keys without their secrets.
///
/// # Errors
/// 404 if the user is gone, 503 if its credential can't be read.
pub(crate) async fn list(api: ApiState, _: NoParams, target: Target) -> Result<Response, ApiError> {
    let keys = keys_of(&api, &target).await?;
    let now = Timestamp::now();
    let items: Vec<Value> = keys.iter().map(|key| object(key, now)).collect();
    let list = json!({"kind": "APIKeyList", "apiVersion": API_VERSION, "metadata": {}, "items": items});
    Ok(axum::Json(list).into_response())
}

/// `GET users/{key}/apikeys/{name}`: returns a key without its secret.
///
/// # Errors
/// 404 if there is no such key, 503 if the credential can't be read.
pub(crate) async fn get(
    api: ApiState,
    _: NoParams,
    target: Target,
    Path((_, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let keys = keys_of(&api, &target).await?;
    let found = keys.iter().find(|key| key.name == name);
    let found = found.ok_or_else(|| ApiError::not_found(About { resource: &target.resource, name: &name }))?;
    Ok(axum::Json(object(found, Timestamp::now())).into_response())
}

async fn keys_of(api: &DirectoryApi, target: &Target) -> Result<Vec<ApiKey>, ApiError> {
    let person = load_user(api, target)?;
    let opened = api.logins.vault.open(&person.username, &person.uid).await.map_err(unreachable)?;
    Ok(opened.map(|opened| opened.credential.api_keys).unwrap_or_default())
}

/// `POST users/{key}/apikeys`: creates a key. Only this response contains the secret.
///
/// # Errors
/// As [`read_secret_body`] and [`CredentialChange::make`]; 403 without control of the identity, or for too many keys.
pub(crate) async fn create(
    api: ApiState,
    SourceAddress(source): SourceAddress,
    DryRun(is_dry_run): DryRun,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let spec = read_secret_body::<ApiKeySpec>("APIKey", request).await?;
    let (person, about) = (load_user(&api, &target)?, target.about());
    refuse_api_key(&target)?;
    let is_own = is_self(&api, &target);
    if !is_own {
        control(&api, &target).await?;
    }
    let now = Timestamp::now();
    let expires = expiry(&spec, api.logins.max_key_lifetime, now, about)?;
    let made = ApiKey::create(&person.uid, spec.display_name.trim(), now, expires);
    let (made, secret) = made.ok_or_else(|| ApiError::internal("the UID of the user is not a UUID"))?;
    let confirmation = Confirmation {
        field: "spec.currentPassword",
        password: spec.current_password.as_ref(),
        source,
        is_waived_without_password: true,
    };
    let add = |credential: &mut Credential| {
        // Expired keys are removed to make space.
        let is_current = |key: &&ApiKey| !key.is_expired(now);
        let has_room = credential.api_keys.iter().filter(is_current).count() < MAX_KEYS;
        if has_room && !is_dry_run {
            credential.api_keys.retain(|key| !key.is_expired(now));
            credential.api_keys.push(made.clone());
        }
        has_room
    };
    let confirmation = Some(confirmation).filter(|_| is_own);
    let change = CredentialChange { api: &api, target: &target, person: &person, is_own, confirmation };
    if !change.make(add).await? {
        return Err(ApiError::refused(format!("a user may have at most {MAX_KEYS} API keys: revoke one first"), about));
    }
    if !is_dry_run {
        info!(user = target.name, by = target.caller.username, key = made.name, "API key created");
        if let Some(recipient) = person.recipient() {
            let (id, display_name) = (made.name.clone(), made.display_name.clone());
            api.logins.notifier.notify(&recipient, Notice::ApiKeyCreated { id, display_name });
        }
    }
    let (user, key) = (Some(target.reference()), Some(secret.expose_secret().to_owned()));
    let answer = object_with(&made, ApiKeyStatus { user, key, ..ApiKeyStatus::default() }, now);
    Ok((StatusCode::CREATED, [("cache-control", "no-store")], axum::Json(answer)).into_response())
}

fn expiry(spec: &ApiKeySpec, max_lifetime: Duration, now: Timestamp, about: About<'_>) -> Result<Timestamp, ApiError> {
    let name = spec.display_name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARACTERS || name.chars().any(is_unsafe) {
        let message = format!(
            "must have 1 to {MAX_NAME_CHARACTERS} characters, without control characters or marks of the direction of writing"
        );
        return Err(ApiError::invalid(about, "spec.displayName", &message));
    }
    let Some(expires) = &spec.expiration_timestamp else { return Ok(now + LIFETIME.min(max_lifetime)) };
    if expires.0 <= now || expires.0 > now + max_lifetime {
        let days = max_lifetime.as_secs() / 86_400;
        let message = format!("must be in the future, at most {days} days from now");
        return Err(ApiError::invalid(about, "spec.expirationTimestamp", &message));
    }
    Ok(expires.0)
}

/// `DELETE users/{key}/apikeys/{name}`: revokes a key.
///
/// # Errors
/// As [`read_delete_options`]; 403 without control of the identity, 404 if there is no such key, 503 if it can't be
/// written.
pub(crate) async fn revoke(
    api: ApiState,
    DryRun(is_dry_run): DryRun,
    target: Target,
    Path((_, name)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    let is_dry_run = is_dry_run || read_delete_options(request).await?;
    let person = load_user(&api, &target)?;
    let is_own = is_self(&api, &target);
    if !is_own {
        control(&api, &target).await?;
    }
    let revoke = |credential: &mut Credential| {
        let found = credential.api_keys.iter().position(|key| key.name == name);
        if let Some(at) = found.filter(|_| !is_dry_run) {
            credential.api_keys.remove(at);
        }
        found.is_some()
    };
    let change = CredentialChange { api: &api, target: &target, person: &person, is_own, confirmation: None };
    let found = change.apply(revoke).await?;
    if !found.unwrap_or(false) {
        return Err(ApiError::not_found(About { resource: &target.resource, name: &name }));
    }
    if !is_dry_run {
        info!(user = target.name, by = target.caller.username, key = name, "API key revoked");
    }
    Ok(deleted(&format!("API key {name}"), &target))
}
