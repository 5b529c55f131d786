//! Computes the status from the results of a reconciliation. Pure.

use jiff::Timestamp;
use roster_api::condition::{DesiredCondition, READY, RECONCILING, STALLED, carry_over};
use roster_api::role_binding::PendingTarget;
use roster_api::{RoleBinding, RoleBindingStatus};
use roster_core::rbac::compile::{Phase, reason};

/// Maximum number of entries in `status.pending`.
const MAX_PENDING: usize = 100;

/// Maximum number of targets that a message lists.
const MAX_LISTED: usize = 5;

/// Results of a reconciliation.
#[derive(Debug)]
pub(super) struct Applied {
    /// Number of native bindings that exist as compiled.
    pub(super) bindings: usize,
    /// Targets in which the binding has no effect, and why.
    pub(super) pending: Vec<PendingTarget>,
    /// Whether the binding is valid at present.
    pub(super) phase: Phase,
}

pub(super) fn status(binding: &RoleBinding, applied: &Applied, now: Timestamp) -> RoleBindingStatus {
    let before = binding.status.clone().unwrap_or_default();
    let generation = binding.metadata.generation;
    RoleBindingStatus {
        observed_generation: generation,
        conditions: carry_over(&before.conditions, conditions(applied), generation, now),
        bindings: i64::try_from(applied.bindings).ok(),
        pending: applied.pending.iter().take(MAX_PENDING).cloned().collect(),
    }
}

fn conditions(applied: &Applied) -> Vec<DesiredCondition> {
    // Users are inactive because they are declared so, which is not a failure.
    let failures: Vec<&PendingTarget> =
        applied.pending.iter().filter(|pending| pending.reason != reason::USER_INACTIVE).collect();
    let Some(first) = failures.first() else {
        let (reason, message) = match applied.phase {
            Phase::InForce => ("Succeeded", format!("{} native bindings are in force", applied.bindings)),
            Phase::NotYetValid => ("NotYetValid", "spec.validity.notBefore is in the future".to_owned()),
            Phase::Expired => ("Expired", "spec.validity.notAfter has passed".to_owned()),
        };
        return vec![DesiredCondition { kind: READY, status: true, reason, message }];
    };
    let (reason, waits) = known(&first.reason);
    let ready = DesiredCondition { kind: READY, status: false, reason, message: message(&failures) };
    let progress = DesiredCondition { kind: if waits { RECONCILING } else { STALLED }, status: true, ..ready.clone() };
    vec![ready, progress]
}

/// Returns the reason, and whether the problem may resolve itself when another object is applied.
fn known(text: &str) -> (&'static str, bool) {
    use reason::{
        DELEGATOR_INACTIVE, DELEGATOR_LACKS_ROLE, DELEGATOR_NOT_FOUND, GROUP_NOT_FOUND, NAME_TAKEN,
        NAMESPACE_NOT_FOUND, NAMESPACE_TERMINATING, ROLE_NOT_BINDABLE, ROLE_NOT_FOUND, USER_NOT_FOUND,
    };
    let all = [
        (USER_NOT_FOUND, true),
        (GROUP_NOT_FOUND, true),
        (NAMESPACE_NOT_FOUND, true),
        (NAMESPACE_TERMINATING, true),
        (ROLE_NOT_FOUND, true),
        (DELEGATOR_NOT_FOUND, true),
        (DELEGATOR_INACTIVE, false),
        (DELEGATOR_LACKS_ROLE, false),
        (ROLE_NOT_BINDABLE, false),
        (NAME_TAKEN, false),
    ];
    all.into_iter().find(|(reason, _)| *reason == text).unwrap_or(("WriteFailed", true))
}

fn message(failures: &[&PendingTarget]) -> String {
    let describe = |pending: &&PendingTarget| {
        let place =
            pending.namespace.as_ref().map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
        let subject = pending.subject.as_ref().map(|subject| format!(" for {subject}")).unwrap_or_default();
        format!("{}{subject}{place}{}", pending.reason, advice(&pending.reason))
    };
    let named = failures.iter().take(MAX_LISTED).map(describe).collect::<Vec<_>>().join("; ");
    match failures.len().saturating_sub(MAX_LISTED) {
        0 => named,
        more => format!("{named}; and {more} more, see status.pending"),
    }
}

fn advice(text: &str) -> &'static str {
    match text {
        reason::ROLE_NOT_BINDABLE => {
            ": add the role to the installation's bindableClusterRoles (or bindableRoles, for a Role)"
        }
        reason::DELEGATOR_LACKS_ROLE => {
            ": the User in spec.delegatedBy must hold the role there, and not by delegation"
        }
        reason::NAME_TAKEN => {
            ": a native binding that Roster did not create has the name that Roster would use; recreate it under another name"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster_api::condition::find;

    fn applied(reasons: &[&str], phase: Phase) -> Applied {
        let pending =
            reasons.iter().map(|reason| PendingTarget { reason: (*reason).to_owned(), ..PendingTarget::default() });
        Applied { bindings: 1, pending: pending.collect(), phase }
    }

    fn ready(applied: &Applied) -> (String, String, Vec<String>) {
        let status = status(&RoleBinding::default(), applied, Timestamp::UNIX_EPOCH);
        let ready = find(&status.conditions, READY).unwrap().clone();
        let others = status.conditions.iter().filter(|c| c.type_ != READY).map(|c| c.type_.clone()).collect();
        (ready.status, ready.reason, others)
    }

    #[test]
    fn an_inactive_user_is_not_a_failure() {
        assert_eq!(
            ready(&applied(&[reason::USER_INACTIVE], Phase::InForce)),
            ("True".into(), "Succeeded".into(), vec![])
        );
    }

    #[test]
    fn problems_that_may_resolve_are_reconciling_and_others_stalled() {
        let (status, reason, others) =
            ready(&applied(&[reason::USER_INACTIVE, reason::NAMESPACE_NOT_FOUND], Phase::InForce));
        assert_eq!((&*status, &*reason, others), ("False", reason::NAMESPACE_NOT_FOUND, vec![RECONCILING.to_owned()]));
        let (_, _, others) = ready(&applied(&[reason::ROLE_NOT_BINDABLE], Phase::InForce));
        assert_eq!(others, [STALLED]);
    }

    #[test]
    fn an_invalid_period_is_not_a_failure() {
        assert_eq!(ready(&applied(&[], Phase::Expired)).1, "Expired");
        assert_eq!(ready(&applied(&[], Phase::NotYetValid)).1, "NotYetValid");
    }

    #[test]
    fn messages_list_only_the_first_failures() {
        let many = applied(&[reason::NAMESPACE_NOT_FOUND; 120], Phase::InForce);
        let status = status(&RoleBinding::default(), &many, Timestamp::UNIX_EPOCH);
        assert_eq!(status.pending.len(), MAX_PENDING);
        assert!(find(&status.conditions, READY).unwrap().message.ends_with("and 115 more, see status.pending"));
    }
}
