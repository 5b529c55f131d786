//! `users/{key}/password`, `/invitation` and `/unlock`: sets passwords, and restores access.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use roster_api::credentials::{
    ActionStatus, InvitationSpec, InvitationStatus, PasswordChangeSpec, PasswordChangeStatus, UnlockSpec,
};
use roster_credentials::credential::{Credential, Invitation, SetBy};
use roster_credentials::digest::{Digest, hex, random};
use roster_credentials::lockout::FailedLogins;
use roster_runtime::logins::hashed::ComputedHashes;
use roster_runtime::logins::login_user::LoginUser;
use roster_runtime::logins::verifier::VerifyError;
use serde_json::json;
use tracing::info;

use crate::apiserver::body::{DryRun, read_body, read_secret_body};
use crate::apiserver::confirm::{Confirmation, CredentialChange, MAX_ATTEMPTS, contended, lock_for_recheck};
use crate::apiserver::control::{control, failed, is_self, load_user, no_credential, refuse_api_key, unreachable};
use crate::apiserver::object::created;
use crate::apiserver::source::SourceAddress;
use crate::apiserver::state::{ApiState, DirectoryApi};
use crate::apiserver::status::ApiError;
use crate::apiserver::target::Target;

/// Lifetime of an invitation without an expiration timestamp.
const INVITATION_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Maximum lifetime of an invitation.
const MAX_INVITATION_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// `POST users/{key}/password`: sets a password.
///
/// # Errors
/// As [`read_secret_body`] and [`CredentialChange::make`]; 403 without control of the identity, 422 for a bad password.
pub(crate) async fn change(
    api: ApiState,
    SourceAddress(source): SourceAddress,
    DryRun(is_dry_run): DryRun,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let spec = read_secret_body::<PasswordChangeSpec>("PasswordChange", request).await?;
    let person = load_user(&api, &target)?;
    let is_own = is_self(&api, &target);
    if is_own {
        refuse_api_key(&target)?;
    } else {
        control(&api, &target).await?;
    }
    let change = PasswordChange { spec, source, is_own, is_dry_run };
    let status = change_password(&api, &target, &person, &change).await?;
    if !is_dry_run {
        info!(user = target.name, by = target.caller.username, "password set");
    }
    Ok(created("PasswordChange", Some(&target), &json!({"revokeAPIKeys": change.spec.revoke_api_keys}), &status))
}

struct PasswordChange {
    spec: PasswordChangeSpec,
    source: IpAddr,
    is_own: bool,
    is_dry_run: bool,
}

async fn change_password(
    api: &DirectoryApi,
    target: &Target,
    person: &LoginUser,
    change: &PasswordChange,
) -> Result<PasswordChangeStatus, ApiError> {
    let invalid = |failure| match failure {
        VerifyError::Policy(why) => ApiError::invalid(target.about(), "spec.newPassword", &why.to_string()),
        other => failed(other),
    };
    let verifier = &api.logins.verifier;
    let _lock = lock_for_recheck(api, person).await?;
    let confirmation = Confirmation {
        field: "spec.oldPassword",
        password: change.spec.old_password.as_ref(),
        source: change.source,
        is_waived_without_password: false,
    };
    let is_own = change.is_own;
    let credential =
        CredentialChange { api, target, person, is_own, confirmation: Some(confirmation).filter(|_| is_own) };
    let mut hashed = ComputedHashes::default();
    for _ in 0..MAX_ATTEMPTS {
        let opened = credential.open(&mut hashed).await?;
        let (opened, mut after) = opened.ok_or_else(|| no_credential(target))?;
        // Another user's password history is not checked: the response would reveal that a password was used before.
        let used = opened.credential.used(verifier.policy.history).filter(|_| change.is_own);
        let hash = verifier.accept(&change.spec.new_password, person, used, &mut hashed).await;
        // Hashing takes time.
        credential.check().await?;
        let hash = hash.map_err(invalid)?;
        let set_by = if change.is_own { SetBy::Owner } else { SetBy::Other };
        let now = Timestamp::now();
        after.set_password(hash, set_by, verifier.policy.history, now);
        let revoked = if change.spec.revoke_api_keys { std::mem::take(&mut after.api_keys).len() } else { 0 };
        if change.is_dry_run || api.logins.vault.save(&opened, &after).await.map_err(unreachable)? {
            let changed = Time(after.changed.unwrap_or(now));
            let user = Some(target.reference());
            return Ok(PasswordChangeStatus { user, password_changed_time: changed, revoked_api_keys: revoked });
        }
    }
    Err(contended(target.about()))
}

/// `POST users/{key}/invitation`: creates a code with which the user can set a password.
///
/// # Errors
/// As [`read_body`]; 403 for oneself or without control of the identity, 404, 409, 422 or 503.
pub(crate) async fn invite(
    api: ApiState,
    DryRun(is_dry_run): DryRun,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let spec = read_body::<InvitationSpec>("Invitation", request).await?;
    let person = load_user(&api, &target)?;
    let about = target.about();
    if is_self(&api, &target) {
        return Err(ApiError::refused("you can't invite yourself: change your password with users/~/password", about));
    }
    control(&api, &target).await?;
    let now = Timestamp::now();
    let expires = spec.expiration_timestamp.as_ref().map_or(now + INVITATION_LIFETIME, |time| time.0);
    if expires <= now || expires > now + MAX_INVITATION_LIFETIME {
        return Err(ApiError::invalid(
            about,
            "spec.expirationTimestamp",
            "must be in the future, at most 30 days from now",
        ));
    }
    let code = hex(&random::<16>());
    let invitation = Invitation { digest: Digest::of(&code), expires };
    if !is_dry_run {
        let set = |credential: &mut Credential| credential.invitation = Some(invitation.clone());
        let change =
            CredentialChange { api: &api, target: &target, person: &person, is_own: false, confirmation: None };
        change.apply(set).await?.ok_or_else(|| no_credential(&target))?;
        info!(user = target.name, by = target.caller.username, "user invited to set a password");
    }
    let status = InvitationStatus { user: Some(target.reference()), code, expiration_timestamp: Time(expires) };
    Ok(created("Invitation", Some(&target), &spec, &status))
}

/// `POST users/{key}/unlock`: resets the counter of failed logins.
///
/// # Errors
/// As [`read_body`]; 403 without control of the identity, 404, 409 or 503.
pub(crate) async fn unlock(
    api: ApiState,
    DryRun(is_dry_run): DryRun,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let spec = read_body::<UnlockSpec>("Unlock", request).await?;
    let person = load_user(&api, &target)?;
    control(&api, &target).await?;
    if !is_dry_run {
        let unlock = |credential: &mut Credential| credential.failed = FailedLogins::default();
        // Users can't unlock themselves without control of the identity either.
        let change =
            CredentialChange { api: &api, target: &target, person: &person, is_own: false, confirmation: None };
        change.apply(unlock).await?.ok_or_else(|| no_credential(&target))?;
        info!(user = target.name, by = target.caller.username, "user unlocked");
    }
    Ok(created("Unlock", Some(&target), &spec, &ActionStatus { user: target.reference() }))
}
