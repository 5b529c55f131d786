use roster_api::condition::find;
use roster_api::user::DeletionPolicy;
use roster_api::{UserSpec, Validity};
use roster_credentials::credential::{SetBy, Summary};
use rstest::rstest;

use super::super::dereference::Problem;
use super::*;

fn owning(namespaces: &[String]) -> StatusInput {
    StatusInput { namespaces: namespaces.to_vec(), ..StatusInput::default() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn user(state: DesiredState, begin: Option<i64>, end: Option<i64>) -> User {
    let validity = Validity { not_before: begin.map(|s| Time(at(s))), not_after: end.map(|s| Time(at(s))) };
    User::new("jane", UserSpec { state, validity: Some(validity), ..UserSpec::default() })
}

fn with_password() -> Summary {
    Summary { changed: Some(at(5)), set_by: Some(SetBy::Other), ..Summary::default() }
}

fn applied() -> Applied {
    Applied { conflicts: Vec::new(), credential: with_password(), problem: None, is_lost: false }
}

fn conflict(kind: IdentifierKind, text: &str) -> (Identifier, Obstacle) {
    (Identifier { kind, text: text.into() }, Obstacle::User)
}

fn problem(is_waiting: bool) -> Problem {
    Problem { reason: "SecretNotFound", message: "Secret team-a/x does not exist".into(), is_waiting }
}

#[rstest]
#[case(DesiredState::Active, None, None, State::Active)]
#[case(DesiredState::Active, Some(100), None, State::Active)]
#[case(DesiredState::Active, Some(101), None, State::Pending)]
#[case(DesiredState::Active, None, Some(101), State::Active)]
#[case(DesiredState::Active, None, Some(100), State::Expired)]
#[case(DesiredState::Disabled, None, Some(100), State::Disabled)]
#[case(DesiredState::Banned, Some(200), None, State::Banned)]
fn state_follows_the_spec_and_the_clock_to_the_second(
    #[case] state: DesiredState,
    #[case] begin: Option<i64>,
    #[case] end: Option<i64>,
    #[case] expected: State,
) {
    assert_eq!(status(&user(state, begin, end), &applied(), StatusInput::default(), at(100)).state, Some(expected));
}

#[test]
fn users_without_a_name_or_being_deleted_may_not_log_in() {
    let mut leaving = user(DesiredState::Active, None, None);
    leaving.metadata.deletion_timestamp = Some(Time(at(90)));
    assert_eq!(status(&leaving, &applied(), StatusInput::default(), at(100)).state, Some(State::Disabled));
    let nameless = Applied { conflicts: vec![conflict(IdentifierKind::Username, "jane")], ..applied() };
    let jane = user(DesiredState::Active, None, None);
    assert_eq!(status(&jane, &nameless, StatusInput::default(), at(100)).state, Some(State::Pending));
    let no_email = Applied { conflicts: vec![conflict(IdentifierKind::Email, "j@example.com")], ..applied() };
    assert_eq!(status(&jane, &no_email, StatusInput::default(), at(100)).state, Some(State::Active));
}

#[test]
fn the_next_change_is_the_nearest_future_edge() {
    let seconds = |s| Some(Duration::from_secs(s));
    assert_eq!(next_change(&user(DesiredState::Active, Some(110), Some(130)), &[], at(100)), seconds(10));
    assert_eq!(next_change(&user(DesiredState::Active, Some(110), Some(130)), &[], at(110)), seconds(20));
    assert_eq!(next_change(&user(DesiredState::Active, Some(110), Some(130)), &[], at(130)), None);
    assert_eq!(next_change(&user(DesiredState::Active, None, None), &[], at(100)), None);
    let far = next_change(&user(DesiredState::Active, None, Some(1_000_000)), &[], at(100));
    assert_eq!(far, Some(MAX_SLEEP), "a suspended machine must not sleep through the edge");
}

#[test]
fn a_lockout_is_reported_until_it_ends_and_changes_no_state() {
    let jane = user(DesiredState::Active, None, None);
    let locked = Summary { failed_logins: 100, locked_until: Some(at(130)), ..with_password() };
    let applied = Applied { credential: locked, ..applied() };
    let seen = status(&jane, &applied, StatusInput::default(), at(100));
    assert_eq!(
        (seen.state, seen.failed_logins, &seen.locked_until),
        (Some(State::Active), Some(100), &Some(Time(at(130))))
    );
    let condition = find(&seen.conditions, LOCKED_OUT).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "TooManyFailedLogins"));
    assert!(condition.message.contains(&at(130).to_string()), "{}", condition.message);
    assert_eq!(find(&seen.conditions, READY).unwrap().status, "True", "a lockout is not a failure");
    let over = status(&User { status: Some(seen), ..jane.clone() }, &applied, StatusInput::default(), at(130));
    assert_eq!((over.state, over.locked_until), (Some(State::Active), None));
    assert!(find(&over.conditions, LOCKED_OUT).is_none());
    assert_eq!(next_change(&jane, &[at(130)], at(100)), Some(Duration::from_secs(30)));
    assert_eq!(next_change(&jane, &[at(130)], at(130)), None);
    let banned = user(DesiredState::Banned, None, None);
    assert_eq!(status(&banned, &applied, StatusInput::default(), at(100)).state, Some(State::Banned));
}

#[test]
fn a_lost_credential_is_reported_until_it_is_replaced() {
    let mut jane = user(DesiredState::Active, None, None);
    let empty = Applied { credential: Summary::default(), ..applied() };
    let lost = Applied { credential: Summary::default(), is_lost: true, ..applied() };
    let reason = |status: &UserStatus, kind| find(&status.conditions, kind).map(|condition| condition.reason.clone());
    let seen = status(&jane, &lost, StatusInput::default(), at(9));
    assert_eq!(reason(&seen, READY), Some(CREDENTIAL_LOST.into()));
    assert_eq!(reason(&seen, STALLED), Some(CREDENTIAL_LOST.into()));
    jane.status = Some(seen);
    let later = status(&jane, &empty, StatusInput::default(), at(10));
    assert_eq!(reason(&later, CREDENTIAL_READY), Some(CREDENTIAL_LOST.into()), "the loss stays reported");
    let seen = status(&jane, &applied(), StatusInput::default(), at(11));
    assert_eq!(reason(&seen, CREDENTIAL_READY), Some("PasswordSet".into()));
    jane.status = Some(seen);
    let none = status(&jane, &empty, StatusInput::default(), at(12));
    assert_eq!(reason(&none, CREDENTIAL_READY), Some("NoPassword".into()));
}

#[test]
fn a_password_set_by_another_must_be_changed_if_the_user_requires_it() {
    let mut jane = user(DesiredState::Active, None, None);
    jane.spec.require_password_change = true;
    let is_required = |applied: &Applied| {
        find(&status(&jane, applied, StatusInput::default(), at(9)).conditions, PASSWORD_CHANGE_REQUIRED).is_some()
    };
    assert!(is_required(&applied()));
    assert!(is_required(&Applied { problem: Some(problem(false)), ..applied() }), "whatever is wrong with the Secret");
    let own = Summary { set_by: Some(SetBy::Owner), ..with_password() };
    assert!(!is_required(&Applied { credential: own, ..applied() }));
    let seen = status(
        &jane,
        &applied(),
        StatusInput { max_password_age: Some(Duration::from_secs(60)), ..StatusInput::default() },
        at(9),
    );
    assert_eq!(seen.password_expires_time, Some(Time(at(65))));
    assert_eq!(find(&seen.conditions, READY).map(|ready| &*ready.status), Some("True"));
}

#[test]
fn kstatus_can_tell_waiting_from_stuck() {
    let jane = user(DesiredState::Active, None, None);
    let condition = |applied: &Applied, kind: &str| {
        find(&status(&jane, applied, StatusInput::default(), at(100)).conditions, kind)
            .map(|c| (c.status.clone(), c.reason.clone()))
    };
    let is = |status: &str, reason: &str| Some((status.to_owned(), reason.to_owned()));

    assert_eq!(condition(&applied(), READY), is("True", "Succeeded"));
    assert_eq!(condition(&applied(), RECONCILING), None);
    assert_eq!(condition(&applied(), STALLED), None);

    let waiting = Applied { problem: Some(problem(true)), ..applied() };
    assert_eq!(condition(&waiting, READY), is("False", "SecretNotFound"));
    assert_eq!(condition(&waiting, RECONCILING), is("True", "SecretNotFound"));
    assert_eq!(condition(&waiting, STALLED), None);

    let stuck = Applied { problem: Some(problem(false)), ..applied() };
    assert_eq!(condition(&stuck, STALLED), is("True", "SecretNotFound"));
    assert_eq!(condition(&stuck, RECONCILING), None);

    let both = Applied { conflicts: vec![conflict(IdentifierKind::Email, "j@example.com")], ..waiting };
    assert_eq!(condition(&both, READY), is("False", "EmailConflict"));
    assert_eq!(condition(&both, STALLED), is("True", "EmailConflict"));
}

#[test]
fn username_and_email_conflicts_are_distinguished() {
    let applied = Applied {
        conflicts: vec![
            conflict(IdentifierKind::Email, "a@example.com"),
            conflict(IdentifierKind::Email, "b@example.com"),
        ],
        ..applied()
    };
    let name = name_claimed(&applied);
    assert_eq!(name.reason, "EmailConflict");
    let expected = ["a", "b"].map(|name| {
        format!(
            "email {name}@example.com already exists: another User holds it \
             (kubectl get users.directory.roster.dev {name}@example.com)"
        )
    });
    assert_eq!(name.message, expected.join("; "));
    let username = Applied { conflicts: vec![conflict(IdentifierKind::Username, "jane")], ..applied };
    assert_eq!(name_claimed(&username).reason, "UsernameConflict");
}

#[test]
fn a_problem_says_whether_an_earlier_password_stays_in_use() {
    let jane = user(DesiredState::Active, None, None);
    let with = credential_ready(&jane, &Applied { problem: Some(problem(false)), ..applied() });
    assert!(with.message.contains("last good password stays in use"));
    let without = credential_ready(
        &jane,
        &Applied { problem: Some(problem(false)), credential: Summary::default(), ..applied() },
    );
    assert!(!without.message.contains("last good"));
}

#[test]
fn a_missing_password_is_not_a_failure() {
    let status = status(
        &user(DesiredState::Active, None, None),
        &Applied { credential: Summary::default(), ..applied() },
        StatusInput::default(),
        at(100),
    );
    assert_eq!(find(&status.conditions, READY).unwrap().status, "True");
    assert_eq!(find(&status.conditions, CREDENTIAL_READY).unwrap().reason, "NoPassword");
}

#[test]
fn deletion_names_what_blocks_it() {
    let mut leaving = user(DesiredState::Active, None, None);
    leaving.metadata.deletion_timestamp = Some(Time(at(90)));
    let namespaces: Vec<String> = (0..12).map(|i| format!("ns-{i}")).collect();
    let blocked = status(&leaving, &applied(), owning(&namespaces), at(100));
    let message = &find(&blocked.conditions, DELETION_BLOCKED).unwrap().message;
    assert!(message.contains("ns-0") && message.contains("and 2 more"), "{message}");
    leaving.spec.deletion_policy = DeletionPolicy::Orphan;
    assert!(find(&status(&leaving, &applied(), owning(&namespaces), at(100)).conditions, DELETION_BLOCKED).is_none());
}

#[test]
fn pending_groups_are_listed_with_the_reason_and_change_nothing_else() {
    let jane = user(DesiredState::Active, None, None);
    let pending = |names: &[(&str, Pending)]| names.iter().map(|(name, why)| ((*name).to_owned(), *why)).collect();
    let status_with = |pending| {
        let seen = status(&jane, &applied(), StatusInput { pending, ..StatusInput::default() }, at(9));
        assert_eq!(find(&seen.conditions, READY).map(|ready| &*ready.status), Some("True"));
        let condition = find(&seen.conditions, MEMBERSHIP_PENDING).map(|is| (is.reason.clone(), is.message.clone()));
        (seen.pending_groups, condition)
    };
    assert_eq!(status_with(BTreeMap::new()), (Vec::new(), None));
    let (groups, condition) = status_with(pending(&[("admins", Pending::NotAccepted), ("nowhere", Pending::NotFound)]));
    assert_eq!(groups, ["admins", "nowhere"]);
    let (reason, message) = condition.unwrap();
    assert_eq!(reason, "NotAccepted");
    for part in
        ["is not a member of admins: ", "spec.acceptDeclaredMembers: true", "is not a member of nowhere: no such"]
    {
        assert!(message.contains(part), "{message}");
    }
    let (_, condition) = status_with(pending(&[("nowhere", Pending::NotFound)]));
    assert_eq!(condition.unwrap().0, "GroupNotFound");
    let many = (0..300).map(|i| (format!("g{i:03}"), Pending::NotFound)).collect();
    let (groups, condition) = status_with(many);
    assert_eq!((groups.len(), groups[31].as_str()), (32, "g031"));
    assert!(condition.unwrap().1.contains("g009 and 290 more"));
}

#[test]
fn foreign_conditions_are_kept_and_an_unchanged_status_is_equal() {
    let mut jane = user(DesiredState::Active, None, None);
    let mut first = status(&jane, &applied(), StatusInput::default(), at(100));
    let mut foreign = first.conditions[0].clone();
    foreign.type_ = "example.com/Audited".into();
    first.conditions.push(foreign);
    first.last_login_time = Some(Time(at(50)));
    jane.status = Some(first.clone());
    assert_eq!(status(&jane, &applied(), StatusInput::default(), at(200)), first);
}

#[test]
fn expirations_within_a_week_are_announced_and_scheduled() {
    const DAY: i64 = 86_400;
    let condition = |end: i64, max_age: Option<i64>, now: i64| {
        let max_password_age = max_age.map(|age| Duration::from_secs(age.unsigned_abs()));
        let input = StatusInput { max_password_age, ..StatusInput::default() };
        let seen = status(&user(DesiredState::Active, None, Some(end)), &applied(), input, at(now));
        find(&seen.conditions, EXPIRING).map(|expiring| expiring.reason.clone())
    };
    assert_eq!(condition(30 * DAY, None, 22 * DAY), None);
    assert_eq!(condition(30 * DAY, None, 23 * DAY).as_deref(), Some(ACCOUNT_EXPIRING));
    assert_eq!(condition(30 * DAY, None, 30 * DAY), None, "the user has expired already");
    assert_eq!(condition(30 * DAY, Some(25 * DAY), 23 * DAY).as_deref(), Some(PASSWORD_EXPIRING), "the earlier one");
    let edges = credential_edges(&applied(), Some(Duration::from_secs(10 * 86_400)));
    assert_eq!(edges, [at(5 + 3 * DAY), at(5 + 10 * DAY)]);
    let almost = next_change(&user(DesiredState::Active, None, Some(30 * DAY)), &[], at(23 * DAY - 60));
    assert_eq!(almost, Some(Duration::from_secs(60)));
}
