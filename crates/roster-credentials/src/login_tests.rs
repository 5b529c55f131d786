use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::credential::Invitation;
use crate::digest::Digest;

const BCRYPT: &str = "$2b$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u";

struct Rules {
    sealer: Sealer,
    limits: LockoutPolicy,
    policy: PasswordPolicy,
}

fn sealer() -> Sealer {
    Sealer::new(&[7; 32]).unwrap()
}

fn rules() -> Rules {
    let day = Duration::from_secs(86_400);
    Rules {
        sealer: sealer(),
        limits: LockoutPolicy { per_source: 3, per_user: 9, window: day, duration: day },
        policy: PasswordPolicy { min_length: 8, history: 3, max_age: Some(90 * day), denied: Arc::default() },
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn hash() -> PasswordHash {
    PasswordHash::parse(BCRYPT).unwrap()
}

fn credential() -> Credential {
    Credential { hash: Some(hash()), changed: Some(now()), set_by: Some(SetBy::Owner), ..Credential::default() }
}

fn attempt(rules: &Rules) -> AttemptContext<'_> {
    AttemptContext {
        source: "home",
        may_log_in: true,
        proof: Proof::Password(true),
        code: None,
        replacement: None,
        second_factor: SecondFactorNeed::No,
        needs_own_password: false,
        limits: &rules.limits,
        sealer: &rules.sealer,
        policy: &rules.policy,
        now: now(),
    }
}

/// Returns the code that an app shows for the factor.
fn code_of(factor: &SecondFactor) -> String {
    let secret = totp_rs::Secret::try_from_base32(factor.enrollment(&sealer(), "x", "x").unwrap().secret).unwrap();
    let totp = totp_rs::Builder::new().with_secret(secret).build().unwrap();
    totp.generate(now().as_second().unsigned_abs()).to_string()
}

#[test]
fn the_right_password_is_enough_and_changes_nothing() {
    let rules = rules();
    let mut kept = credential();
    assert_eq!(judge(&mut kept, &attempt(&rules)), Verdict::Granted(Vec::new()));
    assert_eq!(kept, credential());
}

#[test]
fn a_wrong_password_counts_until_the_source_is_locked_even_for_the_right_one() {
    let rules = rules();
    let mut kept = credential();
    for _ in 0..5 {
        let wrong = AttemptContext { proof: Proof::Password(false), source: "attacker", ..attempt(&rules) };
        assert_eq!(judge(&mut kept, &wrong), Verdict::Refused);
    }
    assert_eq!(kept.failed.count(), 3);
    let right = AttemptContext { source: "attacker", ..attempt(&rules) };
    assert_eq!(judge(&mut kept, &right), Verdict::Refused);
    assert_eq!(judge(&mut kept, &attempt(&rules)), Verdict::Granted(Vec::new()), "from their own address");
}

#[test]
fn users_who_may_not_log_in_are_refused_without_counting() {
    let rules = rules();
    let mut kept = credential();
    for proof in [Proof::Password(true), Proof::Password(false)] {
        let disallowed = AttemptContext { may_log_in: false, proof, ..attempt(&rules) };
        assert_eq!(judge(&mut kept, &disallowed), Verdict::Refused);
    }
    assert_eq!(kept, credential());
}

#[test]
fn a_confirmed_factor_requires_a_code_and_accepts_it_once() {
    let rules = rules();
    let mut factor = SecondFactor::create(&sealer());
    let code = code_of(&factor);
    factor.confirmed = Some(now());
    let mut kept = Credential { second_factor: Some(factor), ..credential() };
    assert_eq!(judge(&mut kept, &attempt(&rules)), Verdict::Challenged(Challenge::Code));
    let with_code = AttemptContext { code: Some(&code), ..attempt(&rules) };
    assert_eq!(judge(&mut kept, &with_code), Verdict::Granted(Vec::new()));
    assert_eq!(judge(&mut kept, &with_code), Verdict::Refused);
    assert_eq!(kept.failed.count(), 1, "a used code counts as a wrong one");
    let wrong = AttemptContext { proof: Proof::Password(false), ..with_code };
    assert_eq!(judge(&mut kept, &wrong), Verdict::Refused);
}

#[test]
fn a_required_factor_is_enrolled_at_login() {
    let rules = rules();
    let mut kept = credential();
    let required = AttemptContext { second_factor: SecondFactorNeed::Enrollable, ..attempt(&rules) };
    assert_eq!(judge(&mut kept, &required), Verdict::Challenged(Challenge::Enrollment));
    let previous = kept.second_factor.clone().unwrap();
    assert_eq!(judge(&mut kept, &required), Verdict::Challenged(Challenge::Enrollment));
    let seed = kept.second_factor.clone().unwrap();
    let code_of_previous = code_of(&previous);
    assert_eq!(
        judge(&mut kept, &AttemptContext { code: Some(&code_of_previous), ..required.clone() }),
        Verdict::Refused
    );
    let code = code_of(&seed);
    let Verdict::Granted(codes) = judge(&mut kept, &AttemptContext { code: Some(&code), ..required.clone() }) else {
        panic!("the code is right");
    };
    assert_eq!(codes.len(), 10);
    assert_eq!(judge(&mut kept, &required), Verdict::Challenged(Challenge::Code));
}

#[test]
fn passwords_set_by_others_and_expired_ones_must_be_changed_first() {
    let rules = rules();
    let new = hash();
    let others = Credential { set_by: Some(SetBy::Other), ..credential() };
    let needed = AttemptContext { needs_own_password: true, ..attempt(&rules) };
    let old = AttemptContext { now: now() + Duration::from_secs(90 * 86_400), ..attempt(&rules) };
    for (before, needed) in [(others, needed), (credential(), old)] {
        let mut kept = before.clone();
        assert_eq!(judge(&mut kept, &needed), Verdict::Challenged(Challenge::PasswordChange));
        assert_eq!(kept, before, "nothing changed");
        let changing = AttemptContext { replacement: Some(&new), ..needed.clone() };
        assert_eq!(judge(&mut kept, &changing), Verdict::Granted(Vec::new()));
        assert_eq!(judge(&mut kept, &needed), Verdict::Granted(Vec::new()));
        assert!(kept.changed > before.changed, "a later time ends existing sessions");
    }
}

#[test]
fn the_code_is_invalidated_by_the_attempt_that_changes_the_password() {
    let rules = rules();
    let new = hash();
    let mut factor = SecondFactor::create(&sealer());
    let code = code_of(&factor);
    factor.confirmed = Some(now());
    let mut kept = Credential { second_factor: Some(factor), set_by: Some(SetBy::Other), ..credential() };
    let needed = AttemptContext { needs_own_password: true, code: Some(&code), ..attempt(&rules) };
    assert_eq!(judge(&mut kept, &needed), Verdict::Challenged(Challenge::PasswordChange));
    let changing = AttemptContext { replacement: Some(&new), ..needed };
    assert_eq!(judge(&mut kept, &changing), Verdict::Granted(Vec::new()));
    assert_eq!(judge(&mut kept, &changing), Verdict::Refused);
}

#[test]
fn logins_that_cannot_show_a_seed_enroll_nothing() {
    let rules = rules();
    let mut kept = credential();
    let review = AttemptContext { second_factor: SecondFactorNeed::Elsewhere, ..attempt(&rules) };
    assert_eq!(judge(&mut kept, &review), Verdict::Challenged(Challenge::Enrollment));
    assert_eq!(kept, credential());
}

#[test]
fn a_login_revokes_the_invitation() {
    let rules = rules();
    let invitation = Invitation { digest: Digest::of("come"), expires: now() + Duration::from_secs(60) };
    let mut kept = Credential { invitation: Some(invitation), ..credential() };
    assert_eq!(judge(&mut kept, &attempt(&rules)), Verdict::Granted(Vec::new()));
    assert_eq!(kept.invitation, None);
}

#[test]
fn an_invitation_sets_a_password_once_and_before_it_expires() {
    let rules = rules();
    let new = hash();
    let invitation = Invitation { digest: Digest::of("come"), expires: now() + Duration::from_secs(1) };
    let before = Credential { invitation: Some(invitation), ..Credential::default() };
    let invited = AttemptContext { proof: Proof::Invitation("come"), ..attempt(&rules) };
    let mut kept = before.clone();
    assert_eq!(judge(&mut kept, &invited), Verdict::Challenged(Challenge::PasswordChange));
    let changing = AttemptContext { replacement: Some(&new), ..invited.clone() };
    assert_eq!(judge(&mut kept, &changing), Verdict::Granted(Vec::new()));
    assert_eq!(judge(&mut kept, &changing), Verdict::Refused, "the invitation has been used");

    let mut kept = before.clone();
    let wrong = AttemptContext { proof: Proof::Invitation("go"), ..changing.clone() };
    assert_eq!(judge(&mut kept, &wrong), Verdict::Refused);
    assert_eq!(kept.failed.count(), 1);
    let late = AttemptContext { now: now() + Duration::from_secs(1), ..changing };
    assert_eq!(judge(&mut before.clone(), &late), Verdict::Refused);
}
