//! The status that follows from what was compiled and written. Pure.

use jiff::Timestamp;
use roster_api::condition::{Desired, READY, RECONCILING, STALLED, carry_over};
use roster_api::role_binding::PendingTarget;
use roster_api::{RoleBinding, RoleBindingStatus};
use roster_core::rbac::compile::{Phase, reason};

/// Most entries of `status.pending`.
const MOST_PENDING: usize = 100;

/// Most targets that a message names.
const NAMED: usize = 5;

/// What came of a reconciliation.
#[derive(Debug)]
pub(super) struct Applied {
    /// Native bindings that stand as they should.
    pub(super) bindings: usize,
    /// What keeps the binding from taking effect, and where.
    pub(super) pending: Vec<PendingTarget>,
    /// Where the binding stands in its time.
    pub(super) phase: Phase,
}

pub(super) fn status(binding: &RoleBinding, applied: &Applied, now: Timestamp) -> RoleBindingStatus {
    let before = binding.status.clone().unwrap_or_default();
    let generation = binding.metadata.generation;
    RoleBindingStatus {
        observed_generation: generation,
        conditions: carry_over(&before.conditions, conditions(applied), generation, now),
        bindings: i64::try_from(applied.bindings).ok(),
        pending: applied.pending.iter().take(MOST_PENDING).cloned().collect(),
    }
}

fn conditions(applied: &Applied) -> Vec<Desired> {
    // That a user is inactive is as somebody declared it: nothing is missing.
    let failures: Vec<&PendingTarget> =
        applied.pending.iter().filter(|pending| pending.reason != reason::USER_INACTIVE).collect();
    let Some(first) = failures.first() else {
        let (reason, message) = match applied.phase {
            Phase::InForce => ("Succeeded", format!("{} native bindings are in force", applied.bindings)),
            Phase::NotYetValid => ("NotYetValid", "spec.validity.notBefore lies ahead".to_owned()),
            Phase::Expired => ("Expired", "spec.validity.notAfter has passed".to_owned()),
        };
        return vec![Desired { kind: READY, status: true, reason, message }];
    };
    let (reason, waits) = known(&first.reason);
    let ready = Desired { kind: READY, status: false, reason, message: message(&failures) };
    let progress = Desired { kind: if waits { RECONCILING } else { STALLED }, status: true, ..ready.clone() };
    vec![ready, progress]
}

/// The reason, and whether it may come right by something that is still to be applied.
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
    let named = failures.iter().take(NAMED).map(describe).collect::<Vec<_>>().join("; ");
    match failures.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more, see status.pending"),
    }
}

fn advice(text: &str) -> &'static str {
    match text {
        reason::ROLE_NOT_BINDABLE => {
            ": the installation does not list the role among bindableClusterRoles (or bindableRoles, for a Role)"
        }
        reason::DELEGATOR_LACKS_ROLE => ": spec.delegatedBy must hold the role there other than by delegation",
        reason::NAME_TAKEN => {
            ": a native binding that Roster did not make has the name that it would use; rename that one"
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
    fn an_inactive_user_is_no_failure() {
        assert_eq!(
            ready(&applied(&[reason::USER_INACTIVE], Phase::InForce)),
            ("True".into(), "Succeeded".into(), vec![])
        );
    }

    #[test]
    fn what_may_come_right_is_reconciling_and_the_rest_is_stalled() {
        let (status, reason, others) =
            ready(&applied(&[reason::USER_INACTIVE, reason::NAMESPACE_NOT_FOUND], Phase::InForce));
        assert_eq!((&*status, &*reason, others), ("False", reason::NAMESPACE_NOT_FOUND, vec![RECONCILING.to_owned()]));
        let (_, _, others) = ready(&applied(&[reason::ROLE_NOT_BINDABLE], Phase::InForce));
        assert_eq!(others, [STALLED]);
    }

    #[test]
    fn time_is_as_declared() {
        assert_eq!(ready(&applied(&[], Phase::Expired)).1, "Expired");
        assert_eq!(ready(&applied(&[], Phase::NotYetValid)).1, "NotYetValid");
    }

    #[test]
    fn many_failures_are_summed_up() {
        let many = applied(&[reason::NAMESPACE_NOT_FOUND; 120], Phase::InForce);
        let status = status(&RoleBinding::default(), &many, Timestamp::UNIX_EPOCH);
        assert_eq!(status.pending.len(), MOST_PENDING);
        assert!(find(&status.conditions, READY).unwrap().message.ends_with("and 115 more, see status.pending"));
    }
}
