//! Step 4: computes the status from the results of the writes. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use roster_api::condition::{
    ACCOUNT_EXPIRING, ADMINISTRATOR_BOUND, CREDENTIAL_LOST, CREDENTIAL_READY, DELETION_BLOCKED, DesiredCondition,
    EXPIRING, LOCKED_OUT, MEMBERSHIP_PENDING, NAME_CLAIMED, NOT_ACCEPTED, PASSWORD_CHANGE_REQUIRED, PASSWORD_EXPIRING,
    QUOTA_ENFORCED, QUOTA_WITHIN_LIMITS, READY, RECONCILING, STALLED, carry_over, find, list_names,
};
use roster_api::user::DesiredState;
use roster_api::{QuotaStatus, State, User, UserStatus};
use roster_core::directory::membership::query::Pending;
use roster_core::directory::owner_quota::OwnerQuota;
use roster_core::quota::amount::texts;
use roster_core::quota::limits::exceeded;
use roster_core::rbac::compile::reason::{NAME_TAKEN, ROLE_NOT_FOUND, USER_INACTIVE};
use roster_credentials::claim::{Identifier, IdentifierKind};

use super::apply::Applied;
use super::dereference::Obstacle;
use super::finalize::is_blocked;

/// Conditions that this controller owns. It keeps all others.
const OWN: &[&str] = &[
    READY,
    NAME_CLAIMED,
    CREDENTIAL_READY,
    PASSWORD_CHANGE_REQUIRED,
    LOCKED_OUT,
    EXPIRING,
    ADMINISTRATOR_BOUND,
    MEMBERSHIP_PENDING,
    DELETION_BLOCKED,
    QUOTA_WITHIN_LIMITS,
    QUOTA_ENFORCED,
    RECONCILING,
    STALLED,
];

/// Maximum time until the clock is checked again, because timers stop while a machine is suspended.
const MAX_SLEEP: Duration = Duration::from_secs(300);

/// How long before its expiry the condition Expiring reports a password or User.
const EXPIRY_NOTICE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Maximum number of pending groups that the status lists.
const MAX_PENDING_GROUPS: usize = 32;

/// State of the User in the directory.
#[derive(Debug, Default)]
pub(super) struct StatusInput {
    /// Effective groups.
    pub(super) groups: Vec<String>,
    /// Groups that the User declares but is not a member of.
    pub(super) pending: BTreeMap<String, Pending>,
    /// Whether the administrator role is bound, or why not. `None` if `spec.admin` is not set.
    pub(super) administrator: Option<Result<(), &'static str>>,
    /// Namespaces that the User owns.
    pub(super) namespaces: Vec<String>,
    /// Limits and usage.
    pub(super) quota: Option<OwnerQuota>,
    /// Maximum age of a password.
    pub(super) max_password_age: Option<Duration>,
}

pub(super) fn status(user: &User, applied: &Applied, input: StatusInput, now: Timestamp) -> UserStatus {
    let before = user.status.clone().unwrap_or_default();
    let generation = user.metadata.generation;
    let credential = &applied.credential;
    let expiry = password_expiry(applied, input.max_password_age);
    let mut wanted = desired(user, applied, &input);
    let locked_until = credential.locked_until.filter(|end| *end > now);
    wanted.extend(locked_until.map(locked_out));
    wanted.extend(expiring(user, expiry, now));
    wanted.extend(membership_pending(&input.pending));
    wanted.extend(input.quota.as_ref().and_then(within_limits));
    wanted.extend(input.quota.as_ref().and_then(unenforced));
    let mut conditions = carry_over(&before.conditions, wanted, generation, now);
    conditions.extend(before.conditions.iter().filter(|condition| !OWN.contains(&condition.type_.as_str())).cloned());
    UserStatus {
        observed_generation: generation,
        conditions,
        username: Some(user.username()),
        state: Some(state(user, applied, now)),
        groups: input.groups,
        pending_groups: input.pending.into_keys().take(MAX_PENDING_GROUPS).collect(),
        failed_logins: (credential.failed_logins > 0).then_some(credential.failed_logins.into()),
        locked_until: locked_until.map(Time),
        password_changed_time: credential.changed.map(Time),
        password_expires_time: expiry.map(Time),
        second_factor_enabled: Some(credential.second_factor.is_some()),
        quota: input.quota.as_ref().map(quota_status),
        ..before
    }
}

fn quota_status(quota: &OwnerQuota) -> QuotaStatus {
    QuotaStatus { hard: texts(&quota.hard), used: texts(&quota.used) }
}

/// Returns the quota condition, if there are limits.
fn within_limits(quota: &OwnerQuota) -> Option<DesiredCondition> {
    if quota.hard.is_empty() {
        return None;
    }
    let exceeded: Vec<String> = exceeded(&quota.hard, &quota.used)
        .map(|(name, used, hard)| format!("{name} {} of {}", used.text_for(name), hard.text_for(name)))
        .collect();
    let is_within = exceeded.is_empty();
    let message = if is_within {
        "usage is within the limits".to_owned()
    } else {
        format!(
            "usage exceeds the limits: {}; no further usage is admitted, and nothing is deleted",
            exceeded.join(", ")
        )
    };
    let reason = if is_within { "WithinLimits" } else { "Exceeded" };
    Some(DesiredCondition { kind: QUOTA_WITHIN_LIMITS, status: is_within, reason, message })
}

/// Returns the condition of a User in whose namespaces nothing can be created, because usage is not counted.
fn unenforced(quota: &OwnerQuota) -> Option<DesiredCondition> {
    let names = &quota.unenforced;
    (!names.is_empty()).then(|| DesiredCondition {
        kind: QUOTA_ENFORCED,
        status: false,
        reason: "NotCounted",
        message: format!(
            "no pods, claims or services can be created in {}: kube-controller-manager has not counted the usage for the \
             ResourceQuota roster; check that it runs with the resourcequota controller",
            list_names(names.iter().map(String::as_str), names.len())
        ),
    })
}

/// Lists the pending groups. This does not affect Ready, because the User works without them.
fn membership_pending(pending: &BTreeMap<String, Pending>) -> Option<DesiredCondition> {
    let listed = |why| {
        let names: Vec<&str> = pending.iter().filter(|(_, is)| **is == why).map(|(name, _)| name.as_str()).collect();
        (!names.is_empty()).then(|| list_names(names.iter().copied(), names.len()))
    };
    let (refused, absent) = (listed(Pending::NotAccepted), listed(Pending::NotFound));
    let reason = if refused.is_some() { NOT_ACCEPTED } else { "GroupNotFound" };
    let refused = refused.map(|names| {
        format!(
            "is not a member of {names}: a Group accepts members that are declared in User.spec.groups or by labels only with \
             spec.acceptDeclaredMembers: true; set it there, or add the User to spec.members of the Group"
        )
    });
    let absent = absent.map(|names| {
        format!("is not a member of {names}: no such Group exists; create it, or remove it from spec.groups")
    });
    let message = refused.into_iter().chain(absent).collect::<Vec<_>>().join(". ");
    (!message.is_empty()).then_some(DesiredCondition { kind: MEMBERSHIP_PENDING, status: true, reason, message })
}

fn holds_username(applied: &Applied) -> bool {
    applied.conflicts.iter().all(|(identifier, _)| identifier.kind != IdentifierKind::Username)
}

/// Returns the observed state. `spec.state` takes precedence over the validity.
fn state(user: &User, applied: &Applied, now: Timestamp) -> State {
    let validity = user.spec.validity.clone().unwrap_or_default();
    match user.spec.state {
        DesiredState::Banned => State::Banned,
        DesiredState::Disabled => State::Disabled,
        DesiredState::Active if user.metadata.deletion_timestamp.is_some() => State::Disabled,
        DesiredState::Active if validity.is_over(now) => State::Expired,
        DesiredState::Active if !validity.contains(now) => State::Pending,
        DesiredState::Active if !holds_username(applied) => State::Pending,
        DesiredState::Active => State::Active,
    }
}

fn password_expiry(applied: &Applied, max_age: Option<Duration>) -> Option<Timestamp> {
    let (changed, max_age) = applied.credential.changed.zip(max_age)?;
    changed.checked_add(max_age).ok()
}

fn account_expiry(user: &User) -> Option<Timestamp> {
    user.spec.validity.as_ref()?.not_after.as_ref().map(|end| end.0)
}

/// Returns the condition of a user that is locked out after too many failed logins.
fn locked_out(until: Timestamp) -> DesiredCondition {
    DesiredCondition {
        kind: LOCKED_OUT,
        status: true,
        reason: "TooManyFailedLogins",
        message: format!(
            "new logins are refused until {until}; sessions, API keys and bindings stay valid. users/unlock ends the lockout \
             immediately"
        ),
    }
}

/// Returns the condition for the password or the User, whichever expires first.
fn expiring(user: &User, password: Option<Timestamp>, now: Timestamp) -> Option<DesiredCondition> {
    let password = password.map(|at| (at, PASSWORD_EXPIRING, format!("the password must be changed by {at}")));
    let account = account_expiry(user).map(|at| (at, ACCOUNT_EXPIRING, format!("the user expires at {at}")));
    let soon = password.into_iter().chain(account).filter(|(at, ..)| *at > now && *at <= now + EXPIRY_NOTICE);
    let (_, reason, message) = soon.min_by_key(|(at, ..)| *at)?;
    Some(DesiredCondition { kind: EXPIRING, status: true, reason, message })
}

/// Returns the times at which the credential changes the status.
pub(super) fn credential_edges(applied: &Applied, max_age: Option<Duration>) -> Vec<Timestamp> {
    let expiry = password_expiry(applied, max_age);
    let ahead = expiry.and_then(|at| at.checked_sub(EXPIRY_NOTICE).ok());
    [applied.credential.locked_until, ahead, expiry].into_iter().flatten().collect()
}

/// Returns the time until the next scheduled change of the status.
pub(super) fn next_change(user: &User, edges: &[Timestamp], now: Timestamp) -> Option<Duration> {
    let validity = user.spec.validity.as_ref().and_then(|validity| validity.next_transition(now));
    let ahead = account_expiry(user).and_then(|at| at.checked_sub(EXPIRY_NOTICE).ok());
    let edges = validity.into_iter().chain(ahead).chain(edges.iter().copied());
    let edge = edges.filter(|edge| *edge > now).min()?;
    let left = Duration::try_from(edge.duration_since(now)).ok()?;
    Some(left.clamp(Duration::from_millis(1), MAX_SLEEP))
}

fn desired(user: &User, applied: &Applied, input: &StatusInput) -> Vec<DesiredCondition> {
    let name = name_claimed(applied);
    let credential = credential_ready(user, applied);
    let administrator = input.administrator.map(administrator_bound);
    let waiting = applied.problem.as_ref().is_some_and(|problem| problem.is_waiting) && applied.conflicts.is_empty();
    // A user without a password, or an inactive one, is as declared.
    let is_failure =
        |condition: &&DesiredCondition| !condition.status && !["NoPassword", USER_INACTIVE].contains(&condition.reason);
    let failure = [&name, &credential].into_iter().chain(&administrator).find(is_failure);
    let mut all = Vec::new();
    match failure {
        None => all.push(DesiredCondition {
            kind: READY,
            status: true,
            reason: "Succeeded",
            message: "the username and all emails are claimed, and the credential is as declared".to_owned(),
        }),
        Some(failure) => {
            all.push(DesiredCondition { kind: READY, ..failure.clone() });
            all.push(DesiredCondition {
                kind: if waiting { RECONCILING } else { STALLED },
                status: true,
                ..failure.clone()
            });
        }
    }
    all.push(name);
    all.push(credential);
    if user.spec.require_password_change && applied.credential.is_set_by_another() {
        all.push(DesiredCondition {
            kind: PASSWORD_CHANGE_REQUIRED,
            status: true,
            reason: "SetByAnother",
            message: "the user must change the password at the next login".to_owned(),
        });
    }
    all.extend(administrator);
    if user.metadata.deletion_timestamp.is_some() && is_blocked(user, &input.namespaces) {
        all.push(deletion_blocked(&input.namespaces));
    }
    all
}

fn name_claimed(applied: &Applied) -> DesiredCondition {
    let Some((first, _)) = applied.conflicts.first() else {
        return DesiredCondition {
            kind: NAME_CLAIMED,
            status: true,
            reason: "Claimed",
            message: "the username and all emails are claimed".to_owned(),
        };
    };
    let reason = match first.kind {
        IdentifierKind::Username => "UsernameConflict",
        IdentifierKind::Email => "EmailConflict",
    };
    let message = applied.conflicts.iter().map(|(Identifier { kind, text }, obstacle)| {
        let kind = match kind {
            IdentifierKind::Username => "username",
            IdentifierKind::Email => "email",
        };
        match obstacle {
            Obstacle::User => format!(
                "{kind} {text} already exists: another User holds it (kubectl get users.directory.roster.dev {text})"
            ),
            Obstacle::Object(object) => format!("{kind} {text} already exists: it is held by {object}"),
        }
    });
    DesiredCondition { kind: NAME_CLAIMED, status: false, reason, message: message.collect::<Vec<_>>().join("; ") }
}

/// Returns whether the identity Secret was deleted, now or earlier, and the credential has not been set since.
fn is_lost(user: &User, applied: &Applied) -> bool {
    let before = user.status.as_ref().map(|status| &status.conditions[..]).unwrap_or_default();
    let was_lost = find(before, CREDENTIAL_READY).is_some_and(|condition| condition.reason == CREDENTIAL_LOST);
    applied.is_lost || was_lost
}

fn credential_ready(user: &User, applied: &Applied) -> DesiredCondition {
    let (status, reason, message) = match (&applied.problem, applied.credential.changed) {
        (Some(problem), Some(_)) => {
            (false, problem.reason, format!("{}; the last good password stays in use", problem.message))
        }
        (Some(problem), None) => (false, problem.reason, problem.message.clone()),
        (None, Some(_)) => (true, "PasswordSet", "a password is set".to_owned()),
        (None, None) if is_lost(user, applied) => (
            false,
            CREDENTIAL_LOST,
            "the Secret with the credential was deleted, and with it the password, the second factor and all API keys: \
             invite the user (users/invitation of the directory API), or set a password"
                .to_owned(),
        ),
        (None, None) => (
            false,
            "NoPassword",
            "no password is set: to allow password logins, set spec.passwordSecretRef, or invite the user (users/invitation of the \
             directory API)".to_owned(),
        ),
    };
    DesiredCondition { kind: CREDENTIAL_READY, status, reason, message }
}

fn administrator_bound(outcome: Result<(), &'static str>) -> DesiredCondition {
    let (status, reason, message) = match outcome {
        Ok(()) => (true, "Bound", "the user is bound to the administrator ClusterRole"),
        Err(USER_INACTIVE) => (false, USER_INACTIVE, "the user is not active, so it has no bindings"),
        Err(ROLE_NOT_FOUND) => (false, ROLE_NOT_FOUND, "the installation's administrator ClusterRole does not exist"),
        Err(NAME_TAKEN) => {
            (false, NAME_TAKEN, "a native binding that Roster did not create has the name that Roster would use")
        }
        Err(reason) => (false, reason, "writing the ClusterRoleBinding failed and will be retried"),
    };
    DesiredCondition { kind: ADMINISTRATOR_BOUND, status, reason, message: message.to_owned() }
}

fn deletion_blocked(namespaces: &[String]) -> DesiredCondition {
    let named = list_names(namespaces.iter().map(String::as_str), namespaces.len());
    DesiredCondition {
        kind: DELETION_BLOCKED,
        status: true,
        reason: "NamespacesOwned",
        message: format!(
            "the user still owns {named}: delete them, give them another roster.dev/owner, or set spec.deletionPolicy to Orphan"
        ),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
