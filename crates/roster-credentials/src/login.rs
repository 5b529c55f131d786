//! What follows from an attempt to log in: for the credential, and for whoever makes it. Pure.

use std::fmt;

use jiff::Timestamp;
use roster_api::credentials::Challenge;

use super::credential::{Credential, SetBy};
use super::hash::PasswordHash;
use super::lockout::Limits;
use super::policy::PasswordPolicy;
use super::seal::Sealer;
use super::totp::SecondFactor;

/// What was shown in the first place.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    /// A password; whether it is that of the credential.
    Password(bool),
    /// The code of an invitation.
    Invitation(&'a str),
}

/// Whether a second factor is needed where none is enrolled. One that is enrolled always is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// It is not.
    No,
    /// It is, and can be enrolled on the way.
    Enrollable,
    /// It is, and has to be enrolled elsewhere: nobody is shown a seed here.
    Elsewhere,
}

/// An attempt to log in, and what it is judged by.
#[derive(Clone)]
pub struct Attempt<'a> {
    /// Where it comes from.
    pub source: &'a str,
    /// Whether the user may log in at all, at this time and from there.
    pub is_welcome: bool,
    /// What was shown.
    pub proof: Proof<'a>,
    /// The code of the second factor.
    pub code: Option<&'a str>,
    /// The hash of a new password that the policy allows.
    pub replacement: Option<&'a PasswordHash>,
    /// Whether the user needs a second factor.
    pub second_factor: Need,
    /// Whether a password that somebody else has set must be changed.
    pub needs_own_password: bool,
    /// When somebody is locked out.
    pub limits: &'a Limits,
    /// Opens the seed of the second factor.
    pub sealer: &'a Sealer,
    /// What a password has to be.
    pub policy: &'a PasswordPolicy,
    /// Now.
    pub now: Timestamp,
}

/// What comes of an attempt.
#[derive(Clone, Eq, PartialEq)]
pub enum Verdict {
    /// Nothing. Why is nobody's business.
    Refused,
    /// What was shown is right, and more is asked for.
    Challenged(Challenge),
    /// It is them. Recovery codes, where the attempt has confirmed a second factor.
    Granted(Vec<String>),
}

/// Without the recovery codes.
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
    /// Whether it is them.
    pub const fn is_granted(&self) -> bool {
        matches!(self, Self::Granted(_))
    }
}

enum Factor {
    Passed(Vec<String>),
    Wrong,
    Asked(Challenge),
}

/// Judges an attempt. The credential becomes what has to be kept before the answer is given.
pub fn judge(credential: &mut Credential, attempt: &Attempt<'_>) -> Verdict {
    let now = attempt.now;
    if !attempt.is_welcome || credential.failed.is_locked(attempt.source, now) {
        return Verdict::Refused;
    }
    if !is_proven(credential, attempt) {
        credential.failed.fail(attempt.source, attempt.limits, now);
        return Verdict::Refused;
    }
    let before = credential.second_factor.clone();
    let recovery_codes = match second_factor(credential, attempt) {
        Factor::Passed(recovery_codes) => recovery_codes,
        Factor::Asked(challenge) => return Verdict::Challenged(challenge),
        Factor::Wrong => {
            credential.failed.fail(attempt.source, attempt.limits, now);
            return Verdict::Refused;
        }
    };
    if must_change(credential, attempt) {
        let Some(hash) = attempt.replacement else {
            // The code is used up by the attempt that comes with the new password.
            credential.second_factor = before;
            return Verdict::Challenged(Challenge::PasswordChange);
        };
        credential.set_password(hash.clone(), SetBy::Owner, attempt.policy.history, now);
    }
    credential.failed.succeed(attempt.source, attempt.limits, now);
    // Whoever has a password needs no invitation: what lies around for weeks would lead to what they are by then.
    credential.invitation = None;
    Verdict::Granted(recovery_codes)
}

fn is_proven(credential: &Credential, attempt: &Attempt<'_>) -> bool {
    match attempt.proof {
        Proof::Password(matches) => matches,
        Proof::Invitation(code) => {
            let open = credential.invitation.as_ref().filter(|invitation| invitation.expires > attempt.now);
            open.is_some_and(|invitation| invitation.digest.is_of(code))
        }
    }
}

fn must_change(credential: &Credential, attempt: &Attempt<'_>) -> bool {
    matches!(attempt.proof, Proof::Invitation(_))
        || attempt.needs_own_password && credential.summary().is_set_by_another()
        || attempt.policy.is_expired(credential.changed, attempt.now)
}

fn second_factor(credential: &mut Credential, attempt: &Attempt<'_>) -> Factor {
    let is_enrolled = credential.second_factor.as_ref().is_some_and(|factor| factor.confirmed.is_some());
    if !is_enrolled && attempt.second_factor == Need::No {
        return Factor::Passed(Vec::new());
    }
    let Some(code) = attempt.code else {
        if is_enrolled {
            return Factor::Asked(Challenge::Code);
        }
        // A new seed each time: one that somebody else was shown must not become this person's.
        if attempt.second_factor == Need::Enrollable {
            credential.second_factor = Some(SecondFactor::create(attempt.sealer));
        }
        return Factor::Asked(Challenge::Enrollment);
    };
    let factor = credential.second_factor.as_mut().filter(|_| is_enrolled || attempt.second_factor == Need::Enrollable);
    let Some(factor) = factor else { return Factor::Wrong };
    if is_enrolled {
        return if factor.accept(code, attempt.sealer, attempt.now) {
            Factor::Passed(Vec::new())
        } else {
            Factor::Wrong
        };
    }
    factor.confirm(code, attempt.sealer, attempt.now).map_or(Factor::Wrong, Factor::Passed)
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
