//! Step 5: writes the status if it changed, sends notifications, and writes Events.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use roster_api::condition::{
    ADMINISTRATOR_BOUND, CREDENTIAL_READY, DELETION_BLOCKED, EXPIRING, LOCKED_OUT, NAME_CLAIMED, PASSWORD_EXPIRING,
    QUOTA_ENFORCED, QUOTA_WITHIN_LIMITS, READY, find,
};
use roster_api::{QuotaStatus, User, UserStatus};
use roster_core::rbac::compile::reason::USER_INACTIVE;
use roster_runtime::notifications::{Notice, Recipient};
use serde_json::{Map, Value, json};

use super::context::{Context, Error};
use crate::events::Transition;

pub(super) async fn report(user: &User, status: UserStatus, ctx: &Context) -> Result<(), Error> {
    let before = user.status.clone().unwrap_or_default();
    if before == status {
        return Ok(());
    }
    // Only the fields of this controller. The resourceVersion prevents an outdated status, or one of a previous leader, from
    // overwriting a newer one.
    let patch = json!({
        "metadata": {"resourceVersion": user.resource_version()},
        "status": {
            "observedGeneration": status.observed_generation,
            "conditions": status.conditions,
            "username": status.username,
            "state": status.state,
            "groups": (!status.groups.is_empty()).then_some(&status.groups),
            "pendingGroups": (!status.pending_groups.is_empty()).then_some(&status.pending_groups),
            "failedLogins": status.failed_logins,
            "lockedUntil": status.locked_until,
            "passwordChangedTime": status.password_changed_time,
            "passwordExpiresTime": status.password_expires_time,
            "secondFactorEnabled": status.second_factor_enabled,
            "quota": quota(before.quota.as_ref(), status.quota.as_ref()),
        },
    });
    match ctx.users.patch_status(&user.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(written) => ctx.written.note(&written),
        // Deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(Error::Status(error)),
    }
    ctx.metrics.writes.inc("UserStatus");
    if let Some(recipient) = Recipient::of(user) {
        let end = user.spec.validity.as_ref().and_then(|validity| validity.not_after.as_ref());
        for notice in notices(&before, &status, end) {
            ctx.notifier.notify(&recipient, notice);
        }
    }
    for transition in transitions(&before, &status) {
        ctx.reporter.publish(user, transition).await;
    }
    Ok(())
}

/// Returns the merge patch from one quota status to the other.
fn quota(before: Option<&QuotaStatus>, after: Option<&QuotaStatus>) -> Option<Value> {
    let after = after?;
    let patch = |before: Option<&BTreeMap<String, String>>, after: &BTreeMap<String, String>| {
        let gone = before.into_iter().flat_map(BTreeMap::keys).filter(|name| !after.contains_key(*name));
        let gone = gone.map(|name| (name.clone(), Value::Null));
        gone.chain(after.iter().map(|(name, text)| (name.clone(), json!(text)))).collect::<Map<_, _>>()
    };
    Some(json!({
        "hard": patch(before.map(|before| &before.hard), &after.hard),
        "used": patch(before.map(|before| &before.used), &after.used),
    }))
}

/// Returns the notifications for a change of status.
fn notices(before: &UserStatus, after: &UserStatus, end: Option<&Time>) -> Vec<Notice> {
    let mut notices = Vec::new();
    if let Some(until) = &after.locked_until
        && find(&before.conditions, LOCKED_OUT).is_none()
    {
        notices.push(Notice::Locked { until: until.0 });
    }
    if before.password_changed_time.is_some() && before.password_changed_time != after.password_changed_time {
        notices.push(Notice::PasswordChanged);
    }
    let expiring = |status: &UserStatus| find(&status.conditions, EXPIRING).map(|expiring| expiring.message.clone());
    if let Some(is) = find(&after.conditions, EXPIRING)
        && expiring(before).as_ref() != Some(&is.message)
    {
        let (password, account) = (after.password_expires_time.as_ref(), end);
        let notice = if is.reason == PASSWORD_EXPIRING {
            password.map(|at| Notice::PasswordExpiring { at: at.0 })
        } else {
            account.map(|at| Notice::AccountExpiring { at: at.0 })
        };
        notices.extend(notice);
    }
    notices
}

/// Returns the Events for a change of status. There is none if a User becomes ready for the first time: the status is enough,
/// and an import of 100,000 Users must not write as many Events.
fn transitions(before: &UserStatus, after: &UserStatus) -> Vec<Transition> {
    let mut transitions = Vec::new();
    let kinds = [
        NAME_CLAIMED,
        CREDENTIAL_READY,
        LOCKED_OUT,
        ADMINISTRATOR_BOUND,
        DELETION_BLOCKED,
        QUOTA_WITHIN_LIMITS,
        QUOTA_ENFORCED,
    ];
    for kind in kinds {
        let (was, is) = (find(&before.conditions, kind), find(&after.conditions, kind));
        let Some(is) = is else { continue };
        let is_bad = (is.status == "True") == [DELETION_BLOCKED, LOCKED_OUT].contains(&kind)
            && !["NoPassword", USER_INACTIVE].contains(&&*is.reason);
        if is_bad && was.is_none_or(|was| (&was.status, &was.reason) != (&is.status, &is.reason)) {
            transitions.push(Transition { is_warning: true, reason: is.reason.clone(), message: is.message.clone() });
        }
    }
    let ready = |status: &UserStatus| find(&status.conditions, READY).map(|ready| ready.status == "True");
    if ready(before) == Some(false) && ready(after) == Some(true) {
        transitions.push(Transition {
            is_warning: false,
            reason: "Recovered".into(),
            message: "the username and all emails are claimed, and the credential is as declared".into(),
        });
    }
    if let (Some(was), Some(is)) = (before.state, after.state)
        && was != is
    {
        transitions.push(Transition {
            is_warning: false,
            reason: "StateChanged".into(),
            message: format!("from {was} to {is}"),
        });
    }
    if before.password_changed_time.is_some() && before.password_changed_time != after.password_changed_time {
        transitions.push(Transition {
            is_warning: false,
            reason: "PasswordChanged".into(),
            message: "the password was changed".into(),
        });
    }
    transitions
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
