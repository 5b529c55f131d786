//! Evaluates login attempts: decides the outcome and updates the credential. Pure logic.

use std::fmt;

use jiff::Timestamp;
use roster_api::credentials::Challenge;

use super::credential::{Credential, SetBy};
use super::hash::PasswordHash;
use super::lockout::LockoutPolicy;
use super::policy::PasswordPolicy;
use super::seal::Sealer;
use super::totp::SecondFactor;

/// First factor of a login attempt.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    /// A password. The value is whether it matches the credential.
    Password(bool),
    /// Code of an invitation.
    Invitation(&'a str),
}

/// Whether a user without an enrolled second factor needs one. An enrolled one is always required.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SecondFactorNeed {
    /// Not required.
    No,
    /// Required. The login can enroll it.
    Enrollable,
    /// Required, but this kind of login can't enroll it, because it can't show the seed.
    Elsewhere,
}

/// A login attempt, and the rules for it.
#[derive(Clone)]
pub struct AttemptContext<'a> {
    /// Source for the lockout: see [`super::lockout::source_of`].
    pub source: &'a str,
    /// Whether the user may log in at all, at this time and from this address.
    pub may_log_in: bool,
    pub proof: Proof<'a>,
    /// Code of the second factor.
    pub code: Option<&'a str>,
    /// Hash of a new password that complies with the policy.
    pub replacement: Option<&'a PasswordHash>,
    pub second_factor: SecondFactorNeed,
    /// Whether the user must change a password that someone else set.
    pub needs_own_password: bool,
    pub limits: &'a LockoutPolicy,
    /// Decrypts the seed of the second factor.
    pub sealer: &'a Sealer,
    pub policy: &'a PasswordPolicy,
    pub now: Timestamp,
}

/// Outcome of an attempt.
#[derive(Clone, Eq, PartialEq)]
pub enum Verdict {
    /// Rejected. The reason is not disclosed.
    Refused,
    /// The credentials are right, but the login needs more.
    Challenged(Challenge),
    /// Successful. Contains recovery codes if the attempt confirmed a second factor.
    Granted(Vec<String>),
}

/// Omits the recovery codes.
impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("Refused"),
            Self::Challenged(challenge) => write!(f, "Challenged({challenge:?})"),
            Self::Granted(codes) => write!(f, "Granted({} recovery codes)", codes.len()),
        }
    }
}

impl Verdict {
    /// Returns whether the attempt was successful.
    pub const fn is_granted(&self) -> bool {
        matches!(self, Self::Granted(_))
    }
}

/// Result of checking the second factor.
enum FactorCheck {
    /// Right or not required. Contains recovery codes if the code confirmed the factor.
    Passed(Vec<String>),
    /// The code is wrong, or there is no factor that it could confirm.
    Wrong,
    /// A code or an enrollment is required.
    Challenged(Challenge),
}

/// Evaluates an attempt. Updates the credential, which the caller must store before it sends the response.
pub fn judge(credential: &mut Credential, attempt: &AttemptContext<'_>) -> Verdict {
    let now = attempt.now;
    if !attempt.may_log_in || credential.failed.is_locked(attempt.source, now) {
        return Verdict::Refused;
    }
    if !is_proven(credential, attempt) {
        credential.failed.fail(attempt.source, attempt.limits, now);
        return Verdict::Refused;
    }
    let before = credential.second_factor.clone();
    let recovery_codes = match second_factor(credential, attempt) {
        FactorCheck::Passed(recovery_codes) => recovery_codes,
        FactorCheck::Challenged(challenge) => return Verdict::Challenged(challenge),
        FactorCheck::Wrong => {
            credential.failed.fail(attempt.source, attempt.limits, now);
            return Verdict::Refused;
        }
    };
    if must_change(credential, attempt) {
        let Some(hash) = attempt.replacement else {
            // Do not invalidate the code yet: the attempt with the new password sends it again.
            credential.second_factor = before;
            return Verdict::Challenged(Challenge::PasswordChange);
        };
        credential.set_password(hash.clone(), SetBy::Owner, attempt.policy.history, now);
    }
    credential.failed.succeed(attempt.source, attempt.limits, now);
    // The user has a password, so the invitation is no longer needed. A leaked one must not give access later.
    credential.invitation = None;
    Verdict::Granted(recovery_codes)
}

fn is_proven(credential: &Credential, attempt: &AttemptContext<'_>) -> bool {
    match attempt.proof {
        Proof::Password(matches) => matches,
        Proof::Invitation(code) => {
            let open = credential.invitation.as_ref().filter(|invitation| invitation.expires > attempt.now);
            open.is_some_and(|invitation| invitation.digest.is_of(code))
        }
    }
}

fn must_change(credential: &Credential, attempt: &AttemptContext<'_>) -> bool {
    matches!(attempt.proof, Proof::Invitation(_))
        || attempt.needs_own_password && credential.summary().is_set_by_another()
        || attempt.policy.is_expired(credential.changed, attempt.now)
}

fn second_factor(credential: &mut Credential, attempt: &AttemptContext<'_>) -> FactorCheck {
    let is_enrolled = credential.second_factor.as_ref().is_some_and(|factor| factor.confirmed.is_some());
    if !is_enrolled && attempt.second_factor == SecondFactorNeed::No {
        return FactorCheck::Passed(Vec::new());
    }
    let Some(code) = attempt.code else {
        if is_enrolled {
            return FactorCheck::Challenged(Challenge::Code);
        }
        // Create a new seed each time, because someone else with the password may have seen the previous one.
        if attempt.second_factor == SecondFactorNeed::Enrollable {
            credential.second_factor = Some(SecondFactor::create(attempt.sealer));
        }
        return FactorCheck::Challenged(Challenge::Enrollment);
    };
    let factor = credential
        .second_factor
        .as_mut()
        .filter(|_| is_enrolled || attempt.second_factor == SecondFactorNeed::Enrollable);
    let Some(factor) = factor else { return FactorCheck::Wrong };
    if is_enrolled {
        return if factor.accept(code, attempt.sealer, attempt.now) {
            FactorCheck::Passed(Vec::new())
        } else {
            FactorCheck::Wrong
        };
    }
    factor.confirm(code, attempt.sealer, attempt.now).map_or(FactorCheck::Wrong, FactorCheck::Passed)
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
