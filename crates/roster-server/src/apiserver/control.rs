//! Authorizes changes to a User's credentials.

use std::fmt::Display;

use k8s_openapi::api::authentication::v1::UserInfo;
use roster_core::rbac::conflict::Conflict;
use roster_core::rbac::guard::GuardedChange;
use roster_runtime::informers::callers::{API_KEY_CREDENTIAL, credential_ids};
use roster_runtime::logins::login_user::LoginUser;
use roster_runtime::logins::vault::VaultError;
use roster_runtime::logins::verifier::VerifyError;
use secrecy::{ExposeSecret, SecretString};
use tracing::{info, warn};

use super::object::invalid_login;
use super::state::DirectoryApi;
use super::status::{About, ApiError};
use super::target::Target;

/// Returns the User that a request is about, as logins know it.
///
/// # Errors
/// 404 if it has been deleted or recreated.
pub(super) fn load_user(api: &DirectoryApi, target: &Target) -> Result<LoginUser, ApiError> {
    let person = LoginUser::named(&api.informers, &target.name).filter(|person| person.uid == target.uid);
    person.ok_or_else(|| ApiError::not_found(About { resource: "users", name: &target.asked }))
}

/// Returns whether the caller is the User that the request is about.
pub(super) fn is_self(api: &DirectoryApi, target: &Target) -> bool {
    let presented = target.caller.presented(&api.informers);
    api.informers.directory().requester(presented) == Some(&target.name)
}

/// Checks that the caller controls the identity, that is, could bind every role that it holds.
///
/// # Errors
/// 403 with what is missing; 503 if that can't be judged.
pub(super) async fn control(api: &DirectoryApi, target: &Target) -> Result<(), ApiError> {
    allow(api, target, &GuardedChange::Credential([target.name.as_str()].into())).await
}

/// Checks that the guard allows the caller to make the change, and that the caller does not use an API key.
///
/// # Errors
/// 403 with what is missing; 503 if that can't be judged.
pub(super) async fn allow(api: &DirectoryApi, target: &Target, change: &GuardedChange<'_>) -> Result<(), ApiError> {
    refuse_api_key(target)?;
    let refusal = api.guard.refusal(&requester(target), change).await.map_err(|why| not_judged(target, &why))?;
    refusal.map_or(Ok(()), |why| {
        let requester = &target.caller.username;
        info!(user = target.name, requester, why, "guard denied a request");
        Err(ApiError::refused(format!("the guard: {why}"), target.about()))
    })
}

/// Returns the response to a request that conflicts: 409, or 503 if it can't be determined how much the
/// caller may know.
pub(super) async fn conflicting(api: &DirectoryApi, target: &Target, conflict: &Conflict) -> ApiError {
    match api.guard.explain(&requester(target), conflict).await {
        Ok(why) => ApiError::conflict(why, target.about()),
        Err(error) => not_judged(target, &error),
    }
}

fn requester(target: &Target) -> UserInfo {
    let caller = &target.caller;
    UserInfo {
        username: Some(caller.username.clone()),
        uid: Some(caller.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(caller.groups.clone()),
        extra: Some(caller.extra.clone()),
    }
}

fn not_judged(target: &Target, why: &impl Display) -> ApiError {
    warn!(user = target.name, %why, "guard could not decide on a request");
    ApiError::unavailable("the guard can't decide this at the moment")
}

/// Rejects callers that use an API key: a leaked key must not allow prolonging it or taking over other identities.
///
/// # Errors
/// 403 if the caller uses an API key.
pub(super) fn refuse_api_key(target: &Target) -> Result<(), ApiError> {
    if credential_ids(&target.caller.extra, API_KEY_CREDENTIAL).next().is_some() {
        let message = "API keys are not accepted for this: log in with the password";
        return Err(ApiError::refused(message, target.about()));
    }
    Ok(())
}

/// Converts a vault error to a response.
pub(super) fn unreachable(error: VaultError) -> ApiError {
    failed(VerifyError::Vault(error))
}

/// 409: the User has no credential to change, because it does not hold its username.
pub(super) fn no_credential(target: &Target) -> ApiError {
    ApiError::conflict("the user does not hold its username yet", target.about())
}

/// Converts a failure to a response.
pub(super) fn failed(failure: VerifyError) -> ApiError {
    match failure {
        VerifyError::Saturated(_) => ApiError::too_many_requests(),
        VerifyError::Vault(error) => {
            warn!(%error, "credential unavailable");
            ApiError::unavailable("the credential is unavailable, please try again later")
        }
        VerifyError::Policy(why) => invalid_login("spec.newPassword", &why.to_string()),
        VerifyError::NotDue => invalid_login("spec.newPassword", "no password change is due: use users/~/password"),
    }
}

/// Returns the text of an optional secret.
pub(super) fn expose(secret: Option<&SecretString>) -> Option<&str> {
    secret.map(ExposeSecret::expose_secret)
}
