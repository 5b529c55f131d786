//! How a change of `User.spec` affects control of the identity.

use jiff::Timestamp;
use roster_api::user::{DeletionPolicy, DesiredState};
use roster_api::{UserSpec, Validity};

/// Returns the part of a User's spec that controls the identity. Every field counts as control unless it is cleared
/// here, so new fields count by default.
pub(super) fn controls(spec: &UserSpec) -> UserSpec {
    UserSpec {
        display_name: None,
        first_name: None,
        last_name: None,
        mobile: None,
        language: None,
        timezone: None,
        preferred_shell: None,
        zone: None,
        quota: None,
        deletion_policy: DeletionPolicy::default(),
        ..spec.clone()
    }
}

/// Whether a field of `User.spec`, by its JSON name, does not control the identity. The same fields as in [`controls`].
pub fn is_descriptive(field: &str) -> bool {
    matches!(
        field,
        "displayName"
            | "firstName"
            | "lastName"
            | "mobile"
            | "language"
            | "timezone"
            | "preferredShell"
            | "zone"
            | "quota"
            | "deletionPolicy"
    )
}

/// Returns whether a change affects control of the identity only by disabling or banning it or by shortening its
/// validity. Such a change is no step towards taking the identity over, because the guard treats an inactive User as if
/// it still held all its roles.
pub(super) fn is_reduction(old: &UserSpec, new: &UserSpec) -> bool {
    let rest = |spec: &UserSpec| UserSpec { state: DesiredState::default(), validity: None, ..controls(spec) };
    severity(old.state) <= severity(new.state) && contains(old, new) && rest(old) == rest(new)
}

/// Returns whether this field, by its JSON name, disables, bans or limits the User in time.
pub(super) fn restricts(spec: &UserSpec, field: &str) -> bool {
    match field {
        "state" => spec.state != DesiredState::Active,
        "validity" => spec.validity.as_ref().is_some_and(|validity| *validity != Validity::default()),
        _ => false,
    }
}

/// Returns how far a state restricts the User. Bans are meant to be permanent, so a change from Banned to Disabled
/// relaxes the state.
const fn severity(state: DesiredState) -> u8 {
    match state {
        DesiredState::Active => 0,
        DesiredState::Disabled => 1,
        DesiredState::Banned => 2,
    }
}

/// Returns whether the old validity contains the new one.
fn contains(old: &UserSpec, new: &UserSpec) -> bool {
    let period = |spec: &UserSpec| {
        let Validity { not_before, not_after } = spec.validity.clone().unwrap_or_default();
        (not_before.map_or(Timestamp::MIN, |at| at.0), not_after.map_or(Timestamp::MAX, |at| at.0))
    };
    let ((old_begin, old_end), (new_begin, new_end)) = (period(old), period(new));
    old_begin <= new_begin && new_end <= old_end
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use rstest::rstest;

    use super::*;
    use DesiredState::{Active, Banned, Disabled};

    type End = Option<i64>;

    fn spec((state, not_before, not_after): (DesiredState, End, End)) -> UserSpec {
        let at = |second: End| second.map(|second| Time(Timestamp::from_second(second).unwrap()));
        let validity = Validity { not_before: at(not_before), not_after: at(not_after) };
        UserSpec { state, validity: Some(validity), ..UserSpec::default() }
    }

    #[rstest]
    #[case((Active, None, None), (Disabled, None, None), true)]
    #[case((Active, None, None), (Banned, None, None), true)]
    #[case((Disabled, None, None), (Banned, None, None), true)]
    #[case((Banned, None, None), (Disabled, None, None), false)]
    #[case((Disabled, None, None), (Active, None, None), false)]
    #[case((Active, None, None), (Active, None, Some(5)), true)]
    #[case((Active, None, None), (Active, Some(5), None), true)]
    #[case((Active, Some(1), Some(9)), (Active, Some(2), Some(8)), true)]
    #[case((Active, Some(1), Some(9)), (Active, Some(0), Some(8)), false)]
    #[case((Active, Some(1), Some(9)), (Active, None, Some(8)), false)]
    #[case((Active, Some(1), Some(9)), (Active, Some(2), Some(10)), false)]
    #[case((Active, Some(1), Some(9)), (Disabled, Some(2), None), false)]
    fn only_changes_that_reduce_access_are_reductions(
        #[case] old: (DesiredState, End, End),
        #[case] new: (DesiredState, End, End),
        #[case] expected: bool,
    ) {
        assert_eq!(is_reduction(&spec(old), &spec(new)), expected);
    }

    #[test]
    fn descriptive_fields_are_those_that_control_nothing() {
        let text = include_str!("../../../roster-api/testdata/full_user_spec.json");
        let spec: serde_json::Value = serde_json::from_str(text).unwrap();
        let full: UserSpec = serde_json::from_value(spec.clone()).unwrap();
        let serialized = serde_json::to_value(&full).unwrap();
        assert_eq!(
            serialized.as_object().unwrap().keys().collect::<Vec<_>>(),
            spec.as_object().unwrap().keys().collect::<Vec<_>>()
        );
        for field in spec.as_object().unwrap().keys() {
            let mut without = spec.clone();
            without.as_object_mut().unwrap().remove(field);
            let without: UserSpec = serde_json::from_value(without).unwrap();
            assert_ne!(without, full, "{field}: this is the default");
            assert_eq!(is_descriptive(field), controls(&without) == controls(&full), "{field}");
        }
    }

    #[test]
    fn a_reduction_changes_nothing_else_that_controls_the_identity() {
        let active = UserSpec::default();
        let disabled = UserSpec { state: Disabled, ..active.clone() };
        assert!(is_reduction(&active, &UserSpec { display_name: Some("Jane".to_owned()), ..disabled.clone() }));
        assert!(is_reduction(&active, &UserSpec { validity: Some(Validity::default()), ..disabled.clone() }));
        for more in [
            UserSpec { email: Some("jane@example.com".to_owned()), ..disabled.clone() },
            UserSpec { groups: vec!["sre".to_owned()], ..disabled.clone() },
            UserSpec { require_password_change: true, ..disabled },
        ] {
            assert!(!is_reduction(&active, &more), "{more:?}");
        }
    }
}
