//! `logins` and `passwordreviews`: verify credentials.

use axum::Extension;
use axum::extract::{RawQuery, Request, State};
use axum::http::Method;
use axum::response::Response;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use roster_api::credentials::{
    Challenge, Enrollment, LoginSpec, LoginStatus, PasswordReviewSpec, PasswordReviewStatus,
};
use roster_credentials::credential::Credential;
use roster_credentials::lockout::{source_of, source_of_application};
use roster_credentials::network::network_of;
use roster_credentials::token::{ONE_TIME_PASSWORD, PASSWORD};
use roster_runtime::logins::attempt::{Granted, LoginAttempt, LoginOutcome, Secret};
use roster_runtime::logins::login_user::LoginUser;
use serde_json::json;
use tracing::warn;

use crate::apiserver::body::{read_secret_body, read_write_params};
use crate::apiserver::control::failed;
use crate::apiserver::object::created;
use crate::apiserver::object::invalid_login;
use crate::apiserver::source::SourceAddress;
use crate::apiserver::state::{ApiState, CallerExtension, DirectoryApi};
use crate::apiserver::status::{About, ApiError};

/// Issuer name shown in authenticator apps.
pub(crate) const OTP_ISSUER: &str = "Roster";

/// Maximum length of a username or email address, in bytes.
const MAX_USERNAME_BYTES: usize = 320;

/// `POST logins`: exchanges credentials for a token. Public. Requests through kube-apiserver are subject to its RBAC.
///
/// # Errors
/// As [`read_secret_body`]; 401 for any wrong credential, without a reason; 422, 429 or 503.
pub(crate) async fn login(
    State(api): ApiState,
    SourceAddress(address): SourceAddress,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, ApiError> {
    refuse_dry_run(query.as_deref())?;
    let spec: LoginSpec = read_secret_body("Login", request).await?;
    check_login(&api, &spec)?;
    let _share = api.attempts.take(network_of(address)).ok_or_else(ApiError::too_many_requests)?;
    let secret = spec.password.as_ref().map(Secret::Password).or(spec.invitation.as_ref().map(Secret::Invitation));
    let secret = secret.ok_or_else(|| invalid_login("spec.password", "is required"))?;
    let attempt = LoginAttempt {
        username: &spec.username,
        secret,
        code: spec.code.as_ref(),
        new_password: spec.new_password.as_ref(),
        may_enroll: true,
        source: source_of(address),
        address: Some(address),
    };
    match api.logins.verifier.verify(&attempt).await.map_err(failed)? {
        LoginOutcome::Refused => Err(ApiError::unauthorized()),
        LoginOutcome::Challenged(person, challenge, credential) => {
            let enrollment = enrollment(&api, &person, challenge, &credential);
            let status = LoginStatus { challenge: Some(challenge), enrollment, ..LoginStatus::default() };
            Ok(created("Login", None, &json!({"username": spec.username}), &status))
        }
        LoginOutcome::Granted(granted) => {
            let status = token_for(&api, *granted, spec.audience.as_deref())?;
            Ok(created("Login", None, &json!({"username": spec.username}), &status))
        }
    }
}

fn check_login(api: &DirectoryApi, spec: &LoginSpec) -> Result<(), ApiError> {
    check_username("logins", &spec.username)?;
    if spec.password.is_some() == spec.invitation.is_some() {
        return Err(invalid_login("spec", "exactly one of password and invitation must be set"));
    }
    if spec.invitation.is_some() && spec.new_password.is_none() {
        return Err(invalid_login("spec.newPassword", "must be set with an invitation"));
    }
    if let Some(audience) = &spec.audience
        && !api.logins.issuer.audiences.issued().any(|known| known == audience)
    {
        let known: Vec<&str> = api.logins.issuer.audiences.issued().map(String::as_str).collect();
        return Err(invalid_login("spec.audience", &format!("must be one of: {}", known.join(", "))));
    }
    Ok(())
}

fn check_username(resource: &str, username: &str) -> Result<(), ApiError> {
    if username.is_empty() || username.len() > MAX_USERNAME_BYTES {
        let message = format!("must have 1 to {MAX_USERNAME_BYTES} bytes");
        return Err(ApiError::invalid(About { resource, name: "" }, "spec.username", &message));
    }
    Ok(())
}

/// Rejects `dryRun`, because every attempt counts towards lockout.
fn refuse_dry_run(query: Option<&str>) -> Result<(), ApiError> {
    if read_write_params(&Method::POST, query)? {
        return Err(ApiError::bad_parameter("dryRun", "is not supported here: every login attempt counts"));
    }
    Ok(())
}

fn enrollment(
    api: &DirectoryApi,
    person: &LoginUser,
    challenge: Challenge,
    credential: &Credential,
) -> Option<Enrollment> {
    let factor = credential.second_factor.as_ref().filter(|_| challenge == Challenge::Enrollment)?;
    factor.enrollment(&api.logins.sealer, OTP_ISSUER, &person.username)
}

fn token_for(api: &DirectoryApi, granted: Granted, audience: Option<&str>) -> Result<LoginStatus, ApiError> {
    let methods: &[&str] = if granted.has_second_factor { &[PASSWORD, ONE_TIME_PASSWORD] } else { &[PASSWORD] };
    let now = Timestamp::now();
    let issued = api.logins.issuer.issue(&granted.person, methods, audience, granted.password_changed, now);
    let (token, ends) = issued.map_err(|error| {
        warn!(error = format!("{error:#}"), "issuing a token failed");
        ApiError::internal("a token could not be issued")
    })?;
    let expiry = granted.password_changed.and_then(|changed| api.logins.verifier.policy.expiry(changed));
    Ok(LoginStatus {
        token: Some(token),
        expiration_timestamp: Some(Time(ends)),
        recovery_codes: granted.recovery_codes,
        password_expires_time: expiry.map(Time),
        ..LoginStatus::default()
    })
}

/// `POST passwordreviews`: verifies credentials on behalf of an authorized application.
///
/// # Errors
/// As [`read_secret_body`]; 401 or 403 for unauthorized callers; 422, 429 or 503.
pub(crate) async fn review(
    api: ApiState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, ApiError> {
    refuse_dry_run(query.as_deref())?;
    let spec = read_secret_body::<PasswordReviewSpec>("PasswordReview", request).await;
    api.admit(&caller, "create", "passwordreviews", "", "").await?;
    let spec = spec?;
    check_username("passwordreviews", &spec.username)?;
    let attempt = LoginAttempt {
        username: &spec.username,
        secret: Secret::Password(&spec.password),
        code: spec.code.as_ref(),
        new_password: None,
        may_enroll: false,
        source: spec.source_ip.map_or_else(|| source_of_application(&caller.username), source_of),
        address: spec.source_ip,
    };
    let status = match api.logins.verifier.verify(&attempt).await.map_err(failed)? {
        LoginOutcome::Refused => PasswordReviewStatus::default(),
        LoginOutcome::Challenged(_, challenge, _) => {
            PasswordReviewStatus { challenge: Some(challenge), ..PasswordReviewStatus::default() }
        }
        LoginOutcome::Granted(granted) => {
            PasswordReviewStatus { authenticated: true, user: Some(granted.person.user_info(None)), challenge: None }
        }
    };
    Ok(created("PasswordReview", None, &json!({"username": spec.username}), &status))
}
