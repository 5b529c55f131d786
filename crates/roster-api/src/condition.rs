//! Condition types and reasons, and how conditions are updated.
//!
//! Types and reasons are constants because people, `kubectl wait` and GitOps health checks depend on them. `Ready`,
//! `Reconciling` and `Stalled` follow the kstatus convention: the last two are present only while they are true.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use schemars::{Schema, SchemaGenerator, json_schema};

/// Everything declared has taken effect.
pub const READY: &str = "Ready";
/// Work is in progress, or waits for an object that does not exist yet (kstatus: InProgress).
pub const RECONCILING: &str = "Reconciling";
/// No further progress is possible until the object or the cluster is changed (kstatus: Failed).
pub const STALLED: &str = "Stalled";
/// The username and all emails are claimed: no other User has them.
pub const NAME_CLAIMED: &str = "NameClaimed";
/// A password is set, and it is the one that the spec refers to.
pub const CREDENTIAL_READY: &str = "CredentialReady";
/// Reason of [`CREDENTIAL_READY`]: the identity Secret was deleted, with all credentials in it.
pub const CREDENTIAL_LOST: &str = "CredentialLost";
/// The password was set by someone else, and `spec.requirePasswordChange` demands that the user changes it before any
/// other action. Present only while true.
pub const PASSWORD_CHANGE_REQUIRED: &str = "PasswordChangeRequired";
/// Too many logins failed, from all sources together: new logins are refused for some time. Present only while true.
pub const LOCKED_OUT: &str = "LockedOut";
/// The password or the User expires soon. Present only while true.
pub const EXPIRING: &str = "Expiring";
/// Reason of [`EXPIRING`]: the password expires.
pub const PASSWORD_EXPIRING: &str = "PasswordExpiring";
/// Reason of [`EXPIRING`]: the User expires.
pub const ACCOUNT_EXPIRING: &str = "AccountExpiring";
/// The User is bound to the administrator ClusterRole. Present only if `spec.admin` is set.
pub const ADMINISTRATOR_BOUND: &str = "AdministratorBound";
/// Usage is within the limits. Present only if there are limits.
pub const QUOTA_WITHIN_LIMITS: &str = "QuotaWithinLimits";
/// kube-apiserver enforces the quota in the User's namespaces. Present only while false.
pub const QUOTA_ENFORCED: &str = "QuotaEnforced";
/// Declared memberships have no effect yet. The message lists the groups (of a User) or the users (of a Group). Present
/// only while true.
pub const MEMBERSHIP_PENDING: &str = "MembershipPending";
/// Reason of [`MEMBERSHIP_PENDING`]: the Group does not accept declared members.
pub const NOT_ACCEPTED: &str = "NotAccepted";
/// The User is being deleted but still owns namespaces.
pub const DELETION_BLOCKED: &str = "DeletionBlocked";

/// Schema of a list of conditions. It is a map by type, so that several field managers can own one condition each.
pub fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<Condition>();
    json_schema!({
        "type": "array", "items": item, "maxItems": 32,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
    })
}

/// A condition without its transition time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DesiredCondition {
    /// Type: one of the constants of this module.
    pub kind: &'static str,
    /// `True` or `False`.
    pub status: bool,
    /// Reason, in CamelCase. Reasons are an interface: they do not change.
    pub reason: &'static str,
    /// Message for people: the state and what to do about it.
    pub message: String,
}

/// Returns `desired` as conditions. A condition whose status did not change keeps its transition time.
pub fn carry_over(
    before: &[Condition],
    desired: Vec<DesiredCondition>,
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

/// Maximum number of names that a message lists.
const MAX_LISTED: usize = 10;

/// Joins the first names and says how many more there are: `a, b and 7 more`. `count` is the number of all names.
pub fn list_names<'a>(names: impl Iterator<Item = &'a str>, count: usize) -> String {
    let named = names.take(MAX_LISTED).collect::<Vec<_>>().join(", ");
    match count.saturating_sub(MAX_LISTED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Returns the condition of type `kind`.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(status: bool, reason: &'static str) -> Vec<DesiredCondition> {
        vec![DesiredCondition { kind: READY, status, reason, message: String::new() }]
    }

    #[test]
    fn transition_time_changes_only_with_the_status() {
        let (early, late) = (Timestamp::from_second(1).unwrap(), Timestamp::from_second(2).unwrap());
        let first = carry_over(&[], desired(true, "A"), Some(1), early);
        let other_reason = carry_over(&first, desired(true, "B"), Some(2), late);
        assert_eq!(other_reason[0].last_transition_time, Time(early));
        assert_eq!(other_reason[0].reason, "B");
        let other_status = carry_over(&other_reason, desired(false, "B"), Some(2), late);
        assert_eq!(other_status[0].last_transition_time, Time(late));
    }
}
