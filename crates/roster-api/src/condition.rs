//! Conditions: their types, their reasons, and the one way in which they change.
//!
//! Types and reasons are constants because people, `kubectl wait` and GitOps health checks depend on them. `Ready`,
//! `Reconciling` and `Stalled` follow the kstatus convention: the latter two are present only while they hold.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use schemars::{Schema, SchemaGenerator, json_schema};

/// Everything declared has taken effect.
pub const READY: &str = "Ready";
/// Work is under way, or waits for something that is to come (kstatus: InProgress).
pub const RECONCILING: &str = "Reconciling";
/// Nothing more will happen until someone changes something (kstatus: Failed).
pub const STALLED: &str = "Stalled";
/// The username and all emails are held.
pub const NAME_CLAIMED: &str = "NameClaimed";
/// A password is in use, and it is the one that the spec refers to.
pub const CREDENTIAL_READY: &str = "CredentialReady";
/// Reason of [`CREDENTIAL_READY`]: the identity Secret was deleted, and everything in it is gone.
pub const CREDENTIAL_LOST: &str = "CredentialLost";
/// The password in use was set by somebody else, and the User says that it must be changed before anything else is done.
/// Present while it holds.
pub const PASSWORD_CHANGE_REQUIRED: &str = "PasswordChangeRequired";
/// Too many logins failed, from all sources together: new logins are refused for a while. Present while it holds.
pub const LOCKED_OUT: &str = "LockedOut";
/// The password must be changed soon, or the User ends soon. Present while it holds.
pub const EXPIRING: &str = "Expiring";
/// Reason of [`EXPIRING`]: the password.
pub const PASSWORD_EXPIRING: &str = "PasswordExpiring";
/// Reason of [`EXPIRING`]: the User.
pub const ACCOUNT_EXPIRING: &str = "AccountExpiring";
/// The User is bound to the administrator ClusterRole. Present while `spec.admin` is set.
pub const ADMINISTRATOR_BOUND: &str = "AdministratorBound";
/// No more is used than there may be. Present where anything is limited.
pub const QUOTA_WITHIN_LIMITS: &str = "QuotaWithinLimits";
/// Users declare memberships that have no effect: of a User, in which groups; of a Group, which users. Present while it
/// holds.
pub const MEMBERSHIP_PENDING: &str = "MembershipPending";
/// Reason of [`MEMBERSHIP_PENDING`]: the Group does not accept declared members.
pub const NOT_ACCEPTED: &str = "NotAccepted";
/// The User is to be deleted but still owns something.
pub const DELETION_BLOCKED: &str = "DeletionBlocked";

/// The schema of a list of conditions: one of each type, so that several writers can own one each.
pub fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<Condition>();
    json_schema!({
        "type": "array", "items": item, "maxItems": 32,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
    })
}

/// What a condition is to say, without the time at which it came to say so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Desired {
    /// One of the constants of this module.
    pub kind: &'static str,
    /// `True` or `False`.
    pub status: bool,
    /// `CamelCase`, stable.
    pub reason: &'static str,
    /// For people: what is the case and what to do.
    pub message: String,
}

/// Carries `desired` over into conditions, keeping the transition time of each whose status is the same as before.
pub fn carry_over(
    before: &[Condition],
    desired: Vec<Desired>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    desired
        .into_iter()
        .map(|want| {
            let status = if want.status { "True" } else { "False" };
            let since = before.iter().find(|had| had.type_ == want.kind && had.status == status);
            Condition {
                type_: want.kind.to_owned(),
                status: status.to_owned(),
                reason: want.reason.to_owned(),
                message: want.message,
                observed_generation: generation,
                last_transition_time: since.map_or(Time(now), |had| had.last_transition_time.clone()),
            }
        })
        .collect()
}

/// How many names a message lists.
const NAMED: usize = 10;

/// The first names, and how many more there are: `a, b and 7 more`. `count`: of all names.
pub fn list_names<'a>(names: impl Iterator<Item = &'a str>, count: usize) -> String {
    let named = names.take(NAMED).collect::<Vec<_>>().join(", ");
    match count.saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// The condition of that type, if there is one.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(status: bool, reason: &'static str) -> Vec<Desired> {
        vec![Desired { kind: READY, status, reason, message: String::new() }]
    }

    #[test]
    fn transition_time_moves_with_the_status_alone() {
        let (early, late) = (Timestamp::from_second(1).unwrap(), Timestamp::from_second(2).unwrap());
        let first = carry_over(&[], desired(true, "A"), Some(1), early);
        let other_reason = carry_over(&first, desired(true, "B"), Some(2), late);
        assert_eq!(other_reason[0].last_transition_time, Time(early));
        assert_eq!(other_reason[0].reason, "B");
        let other_status = carry_over(&other_reason, desired(false, "B"), Some(2), late);
        assert_eq!(other_status[0].last_transition_time, Time(late));
    }
}
