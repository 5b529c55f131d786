//! What a change of `User.spec` does to the access of the identity.

use jiff::Timestamp;
use roster_api::user::{DeletionPolicy, DesiredState};
use roster_api::{UserSpec, Validity};

/// Returns the part of a User's spec that controls the identity. A field counts as control unless it is cleared here.
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

/// Returns whether a change controls the identity only by disabling it, banning it or shortening its validity. It gives
/// nothing to anybody, because an inactive User counts as holding all its roles.
pub(super) fn is_reduction(old: &UserSpec, new: &UserSpec) -> bool {
    let rest = |spec: &UserSpec| UserSpec { state: DesiredState::default(), validity: None, ..controls(spec) };
    severity(old.state) <= severity(new.state) && contains(old, new) && rest(old) == rest(new)
}

/// Banned is permanent, so Disabled is a way back from it.
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
    fn only_less_access_is_a_reduction(
        #[case] old: (DesiredState, End, End),
        #[case] new: (DesiredState, End, End),
        #[case] expected: bool,
    ) {
        assert_eq!(is_reduction(&spec(old), &spec(new)), expected);
    }

    #[test]
    fn nothing_else_that_controls_the_identity_may_change_with_it() {
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
