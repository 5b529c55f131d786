use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use roster_api::State;
use roster_api::condition::{DesiredCondition, carry_over};

use super::*;

fn status(conditions: &[(&'static str, bool, &'static str)], state: State) -> UserStatus {
    let desired = conditions
        .iter()
        .map(|(kind, status, reason)| DesiredCondition { kind, status: *status, reason, message: (*reason).to_owned() })
        .collect();
    UserStatus {
        conditions: carry_over(&[], desired, Some(1), Timestamp::UNIX_EPOCH),
        state: Some(state),
        ..UserStatus::default()
    }
}

fn reasons(before: &UserStatus, after: &UserStatus) -> Vec<String> {
    transitions(before, after).into_iter().map(|transition| transition.reason).collect()
}

#[test]
fn the_first_failure_is_an_event_and_the_first_success_is_not() {
    let new = UserStatus::default();
    let fine = status(
        &[(READY, true, "Succeeded"), (NAME_CLAIMED, true, "Claimed"), (CREDENTIAL_READY, false, "NoPassword")],
        State::Active,
    );
    assert!(transitions(&new, &fine).is_empty());
    let lost = status(&[(READY, false, "EmailConflict"), (NAME_CLAIMED, false, "EmailConflict")], State::Active);
    assert_eq!(reasons(&new, &lost), ["EmailConflict"]);
    assert!(transitions(&lost, &lost).is_empty(), "a failure that persists is reported once");
    assert_eq!(reasons(&lost, &fine), ["Recovered"]);
}

#[test]
fn changes_of_state_password_and_blocked_deletion_are_reported() {
    let fine = status(&[(READY, true, "Succeeded")], State::Active);
    let disabled = UserStatus { state: Some(State::Disabled), ..fine.clone() };
    assert_eq!(reasons(&fine, &disabled), ["StateChanged"]);
    let set = UserStatus { password_changed_time: Some(Time(Timestamp::UNIX_EPOCH)), ..fine.clone() };
    assert!(transitions(&fine, &set).is_empty(), "the first password is no change");
    let changed = UserStatus { password_changed_time: Some(Time(Timestamp::from_second(9).unwrap())), ..fine.clone() };
    assert_eq!(reasons(&set, &changed), ["PasswordChanged"]);
    let blocked = status(&[(READY, true, "Succeeded"), (DELETION_BLOCKED, true, "NamespacesOwned")], State::Active);
    assert_eq!(reasons(&fine, &blocked), ["NamespacesOwned"]);
}

#[test]
fn users_are_notified_of_each_transition_once() {
    let at = |second| Some(Time(Timestamp::from_second(second).unwrap()));
    let fine = UserStatus { password_changed_time: at(1), ..status(&[(READY, true, "Succeeded")], State::Active) };
    assert_eq!(notices(&UserStatus::default(), &fine, None), [], "a first password is no news");
    let changed = UserStatus { password_changed_time: at(2), ..fine.clone() };
    assert_eq!(notices(&fine, &changed, None), [Notice::PasswordChanged]);
    let locked_out = status(&[(READY, true, "Succeeded"), (LOCKED_OUT, true, "TooManyFailedLogins")], State::Active);
    let locked = UserStatus { locked_until: at(90), password_changed_time: at(1), ..locked_out };
    assert_eq!(reasons(&fine, &locked), ["TooManyFailedLogins"]);
    assert!(reasons(&locked, &locked).is_empty());
    assert_eq!(notices(&fine, &locked, None), [Notice::Locked { until: at(90).unwrap().0 }]);
    assert_eq!(notices(&locked, &locked, None), []);
    assert_eq!(notices(&locked, &fine, None), []);
    let ahead = |reason| UserStatus {
        password_expires_time: at(100),
        ..status(&[(READY, true, "Succeeded"), (EXPIRING, true, reason)], State::Active)
    };
    let password = ahead(PASSWORD_EXPIRING);
    assert_eq!(
        notices(&UserStatus { password_changed_time: None, ..fine.clone() }, &password, None),
        [Notice::PasswordExpiring { at: at(100).unwrap().0 }]
    );
    assert_eq!(notices(&password, &password, None), []);
    let account = ahead("AccountExpiring");
    assert_eq!(notices(&password, &account, at(70).as_ref()), [Notice::AccountExpiring { at: at(70).unwrap().0 }]);
}
