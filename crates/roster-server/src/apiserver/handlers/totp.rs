//! `users/{key}/totp`: the second factor, enrolled by its owner, removed by its owner or a caller that controls the
//! identity.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use roster_api::credentials::{TotpEnrollmentSpec, TotpEnrollmentStatus};
use roster_api::directory::API_VERSION;
use roster_api::user::SecondFactor as Policy;
use roster_credentials::credential::Credential;
use roster_credentials::lockout::source_of;
use roster_credentials::totp::SecondFactor;
use roster_runtime::logins::login_user::LoginUser;
use roster_runtime::logins::verifier::Recheck;
use serde_json::json;
use tracing::info;

use super::logins::OTP_ISSUER;
use crate::apiserver::body::{Deletion, DryRun, read_deletion, read_secret_body};
use crate::apiserver::confirm::{Confirmation, CredentialChange, lock_for_recheck, log_recheck};
use crate::apiserver::control::{control, expose, is_self, load_user, refuse_api_key, unreachable};
use crate::apiserver::object::created;
use crate::apiserver::object::deleted;
use crate::apiserver::params::NoParams;
use crate::apiserver::source::SourceAddress;
use crate::apiserver::state::{ApiState, DirectoryApi};
use crate::apiserver::status::ApiError;
use crate::apiserver::target::Target;

const KIND: &str = "TOTPEnrollment";

fn status_of(factor: Option<&SecondFactor>) -> TotpEnrollmentStatus {
    let confirmed = factor.and_then(|factor| factor.confirmed);
    TotpEnrollmentStatus {
        enabled: confirmed.is_some(),
        confirmed_time: confirmed.map(Time),
        recovery_codes_left: factor.filter(|_| confirmed.is_some()).map(SecondFactor::recovery_codes_left),
        ..TotpEnrollmentStatus::default()
    }
}

/// `GET users/{key}/totp`: returns the state of the second factor.
///
/// # Errors
/// 404 if the user is gone, 503 if its credential can't be read.
pub(crate) async fn get(api: ApiState, _: NoParams, target: Target) -> Result<Response, ApiError> {
    let person = load_user(&api, &target)?;
    let opened = api.logins.vault.open(&person.username, &person.uid).await.map_err(unreachable)?;
    let factor = opened.and_then(|opened| opened.credential.second_factor);
    let (metadata, status) = (json!({"name": target.name}), status_of(factor.as_ref()));
    let answer = json!({"kind": KIND, "apiVersion": API_VERSION, "metadata": metadata, "status": status});
    Ok(axum::Json(answer).into_response())
}

enum Enrolled {
    AlreadyEnabled,
    NothingToConfirm,
    WrongCode(Recheck),
    Done(TotpEnrollmentStatus),
}

/// `POST users/{key}/totp`: without a code, creates a seed, after a check of the password; with a code, confirms the
/// seed.
///
/// # Errors
/// As [`read_secret_body`] and [`CredentialChange::make`]; 403 for others and API keys, 409 if a factor is enabled, 422
/// for a wrong code.
pub(crate) async fn enroll(
    api: ApiState,
    SourceAddress(source): SourceAddress,
    DryRun(is_dry_run): DryRun,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let spec = read_secret_body::<TotpEnrollmentSpec>(KIND, request).await?;
    let (person, about) = (load_user(&api, &target)?, target.about());
    if !is_self(&api, &target) {
        let message = "users can enroll a second factor only for themselves: no other user may see the seed";
        return Err(ApiError::refused(message, about));
    }
    refuse_api_key(&target)?;
    let (code, now) = (expose(spec.code.as_ref()), Timestamp::now());
    let confirmation = Confirmation {
        field: "spec.currentPassword",
        password: spec.current_password.as_ref(),
        source,
        is_waived_without_password: true,
    };
    // A code proves that the caller has the seed, which was returned only after a check of the password.
    let confirmation = Some(confirmation).filter(|_| code.is_none());
    let change = CredentialChange { api: &api, target: &target, person: &person, is_own: true, confirmation };
    let enroll = |credential: &mut Credential| {
        let before = credential.second_factor.clone();
        let outcome = match code {
            None => seeded(&api, &person, credential),
            Some(code) => confirmed(&api, &person, credential, code, now),
        };
        if is_dry_run {
            // Undo everything but the count of a wrong code.
            credential.second_factor = before;
        }
        outcome
    };
    match change.make(enroll).await? {
        Enrolled::AlreadyEnabled => {
            Err(ApiError::conflict("a second factor is enabled: remove it before you enroll another one", about))
        }
        Enrolled::NothingToConfirm => Err(ApiError::invalid(
            about,
            "spec.code",
            "there is no seed to confirm: send the request without a code to get one",
        )),
        Enrolled::WrongCode(recheck) => {
            log_recheck(recheck, &person, &source_of(source));
            Err(ApiError::invalid(about, "spec.code", "is not the current code of the app"))
        }
        Enrolled::Done(status) => {
            if status.enabled && !is_dry_run {
                info!(user = target.name, "second factor enabled");
            }
            let status = TotpEnrollmentStatus { user: Some(target.reference()), ..status };
            Ok(created(KIND, Some(&target), &json!({}), &status))
        }
    }
}

fn is_enabled(credential: &Credential) -> bool {
    credential.second_factor.as_ref().is_some_and(|factor| factor.confirmed.is_some())
}

fn seeded(api: &DirectoryApi, person: &LoginUser, credential: &mut Credential) -> Enrolled {
    if is_enabled(credential) {
        return Enrolled::AlreadyEnabled;
    }
    let sealer = &api.logins.sealer;
    let factor = credential.second_factor.insert(SecondFactor::create(sealer));
    let enrollment = factor.enrollment(sealer, OTP_ISSUER, &person.username);
    Enrolled::Done(TotpEnrollmentStatus { enrollment, ..TotpEnrollmentStatus::default() })
}

/// Confirms the seed. A wrong code counts as a failed login: a stolen session must not allow trying all codes on a seed
/// that its owner has not confirmed.
fn confirmed(
    api: &DirectoryApi,
    person: &LoginUser,
    credential: &mut Credential,
    code: &str,
    now: Timestamp,
) -> Enrolled {
    if is_enabled(credential) {
        return Enrolled::AlreadyEnabled;
    }
    let Some(mut factor) = credential.second_factor.clone() else { return Enrolled::NothingToConfirm };
    let recovery_codes = factor.confirm(code, &api.logins.sealer, now);
    let recheck = api.logins.verifier.count(person, credential, recovery_codes.is_some());
    let Some(recovery_codes) = recovery_codes.filter(|_| recheck == Recheck::Right) else {
        return Enrolled::WrongCode(recheck);
    };
    let status = TotpEnrollmentStatus { recovery_codes, ..status_of(Some(&factor)) };
    credential.second_factor = Some(factor);
    Enrolled::Done(status)
}

/// `DELETE users/{key}/totp`: removes the second factor: one's own with a code, others' with control of the identity.
///
/// # Errors
/// As [`read_deletion`]; 401, 403, 404 if there is none, 422 for a wrong code, 429 or 503.
pub(crate) async fn remove(
    api: ApiState,
    SourceAddress(source): SourceAddress,
    DryRun(is_dry_run): DryRun,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let source = source_of(source);
    let (person, about) = (load_user(&api, &target)?, target.about());
    let Deletion { is_dry_run: is_dry_run_by_options, spec } = read_deletion(KIND, request).await?;
    let is_dry_run = is_dry_run || is_dry_run_by_options;
    let is_own = is_self(&api, &target);
    let code = if is_own {
        let spec: TotpEnrollmentSpec = spec.unwrap_or_default();
        refuse_api_key(&target)?;
        if person.spec.second_factor == Policy::Required {
            return Err(ApiError::refused(
                "a second factor is required for this user: only an administrator can remove it",
                about,
            ));
        }
        let code = spec.code.ok_or_else(|| {
            ApiError::invalid(about, "spec.code", "is required: a code from the app, or a recovery code")
        })?;
        Some(code)
    } else {
        control(&api, &target).await?;
        None
    };
    let now = Timestamp::now();
    let remove = |credential: &mut Credential| {
        let mut factor = credential.second_factor.clone()?;
        let is_unconfirmed = factor.confirmed.is_none();
        // A wrong code counts as a failed login: a stolen session must not allow trying all codes.
        let matches =
            expose(code.as_ref()).is_none_or(|code| is_unconfirmed || factor.accept(code, &api.logins.sealer, now));
        let recheck =
            if code.is_none() { Recheck::Right } else { api.logins.verifier.count(&person, credential, matches) };
        if recheck == Recheck::Right && !is_dry_run {
            credential.second_factor = None;
        }
        Some(recheck)
    };
    let _lock = lock_for_recheck(&api, &person).await?;
    let change = CredentialChange { api: &api, target: &target, person: &person, is_own, confirmation: None };
    match change.apply(remove).await?.flatten() {
        None => Err(ApiError::not_found(about)),
        Some(recheck @ (Recheck::Wrong | Recheck::Locked)) => {
            log_recheck(recheck, &person, &source);
            Err(ApiError::invalid(about, "spec.code", "is not the current code of the app"))
        }
        Some(Recheck::Right) => {
            if !is_dry_run {
                info!(user = target.name, by = target.caller.username, "second factor removed");
            }
            Ok(deleted("the second factor", &target))
        }
    }
}
