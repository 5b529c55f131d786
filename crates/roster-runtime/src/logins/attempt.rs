//! A login attempt, from the credentials presented to the outcome.
//!
//! A refusal reveals nothing else: an unknown name costs the same read and the same hash as a known one, and every
//! refusal is returned at the next tick of a clock started with the attempt, whatever happened in the meantime.
//!
//! Hashes, turns, reads and writes take time. Every answer that reveals more than a refusal is therefore judged by the
//! state after the wait for the turn, and checked against the User again when the answer is returned.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use roster_api::credentials::Challenge;
use roster_api::user::SecondFactor;
use roster_credentials::claim::fold;
use roster_credentials::credential::Credential;
use roster_credentials::login::{Attempt, Need, Proof, Verdict, judge};
use roster_credentials::pool::Saturated;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::{info, warn};

use super::hashed::Hashed;
use super::person::Person;
use super::turns::{Judging, JudgingTurn};
use super::vault::{LostWrite, Opened, VaultError};
use super::verifier::{Failure, Verifier};

/// Refusals are returned at multiples of this after the attempt began. Longer than a hash, a read and a write take.
const REFUSAL_TICK: Duration = Duration::from_millis(400);

/// Maximum number of times an attempt is judged if other writers keep changing the credential.
const MAX_ROUNDS: usize = 16;

/// Maximum age of a read credential for an answer without a write. A write fails if the read is out of date.
const MAX_AGE: Duration = Duration::from_millis(500);

/// Credentials presented in a login attempt.
pub struct Shown<'a> {
    /// Username or email.
    pub username: &'a str,
    /// Password or invitation code.
    pub secret: Secret<'a>,
    /// Code of the second factor.
    pub code: Option<&'a SecretString>,
    /// New password to set.
    pub new_password: Option<&'a SecretString>,
    /// Whether a required second factor can be enrolled during this attempt.
    pub may_enroll: bool,
    /// Source of the attempt, as counted for lockouts.
    pub source: String,
    /// Source address, as checked against `allowedCIDRs`.
    pub address: Option<IpAddr>,
}

/// First factor of an attempt.
#[derive(Clone, Copy)]
pub enum Secret<'a> {
    /// The password.
    Password(&'a SecretString),
    /// The code of an invitation.
    Invitation(&'a SecretString),
}

/// Outcome of a login attempt.
pub enum Outcome {
    /// The login failed.
    Refused,
    /// The credentials are right, but more is required.
    Challenged(Box<Person>, Challenge, Box<Credential>),
    /// The login succeeded.
    Granted(Box<Granted>),
}

/// A successful login.
pub struct Granted {
    /// The User that logged in.
    pub person: Person,
    /// Recovery codes of a second factor that this attempt confirmed.
    pub recovery_codes: Vec<String>,
    /// Whether a second factor was presented.
    pub has_second_factor: bool,
    /// When the password was set.
    pub password_changed: Option<Timestamp>,
}

/// A credential as it was read, and whether the password matches it.
struct Read {
    /// [`Judging::failures`] before it was read.
    failures: u64,
    opened: Opened,
    /// Whether the password matches the credential.
    matches: bool,
}

/// A decision on an attempt, already saved.
struct Decided {
    verdict: Verdict,
    before: Credential,
    after: Credential,
}

/// Next step after a judgement.
enum Step {
    /// The decision is final. `None`: refused, and nothing was saved.
    Done(Option<Box<Decided>>),
    /// The credential changed in the meantime. Holds its new state, if known.
    Again(Option<Box<Opened>>),
}

impl Verifier {
    /// Judges a login attempt.
    ///
    /// # Errors
    /// If too many attempts are in flight, the credential can't be read or written, or the new password is not
    /// acceptable.
    pub async fn verify(&self, shown: &Shown<'_>) -> Result<Outcome, Failure> {
        let began = Instant::now();
        // Held until the answer, tick included: a slot of an unknown name must not become free sooner than others.
        // Keyed by the name as typed: two names of one person must not be recognizable as such.
        let attempts = self.hasher.hash_one((fold(shown.username), &shown.source));
        let Some(_attempt) = self.attempts.take(attempts) else {
            self.metrics.logins.inc("saturated");
            return Err(Saturated.into());
        };
        let outcome = self.judged(shown).await;
        self.metrics.logins.inc(match &outcome {
            Ok(Outcome::Granted(_)) => "granted",
            Ok(Outcome::Challenged(..)) => "challenged",
            Ok(Outcome::Refused) => "refused",
            Err(Failure::Saturated(_)) => "saturated",
            Err(Failure::Vault(_)) => "unavailable",
            Err(Failure::Unacceptable(_) | Failure::NotDue) => "invalid",
        });
        if let Ok(Outcome::Refused) = &outcome {
            tokio::time::sleep_until(next_tick(began, Instant::now())).await;
        }
        outcome
    }

    async fn judged(&self, shown: &Shown<'_>) -> Result<Outcome, Failure> {
        // For every name: the informers' view of users may be out of date.
        if self.informers.is_blind_to_users() {
            return Err(VaultError::Unavailable.into());
        }
        if self.vault.uncounted.blocks_everybody() {
            return Err(VaultError::Uncounted.into());
        }
        let person = Person::holding(&self.informers, shown.username);
        // An unknown name is looked up like any other.
        let (username, uid) = person.as_ref().map_or((shown.username, ""), |person| (&person.username, &person.uid));
        let (judging, mut hashed) = (self.judging(uid), Hashed::default());
        // Failures up to here occur for every name. Later ones are reported only if the password is right.
        let read = self.read(shown, (username, uid), judging, None, &mut hashed).await?;
        let (Some(person), Some(read)) = (person, read) else { return Ok(Outcome::Refused) };
        let decided = match self.decide(shown, &person, judging, read, &mut hashed).await {
            Ok(None) => return Ok(Outcome::Refused),
            Ok(Some(decided)) if decided.verdict == Verdict::Refused => {
                self.note_refusal(shown, &person, &decided);
                return Ok(Outcome::Refused);
            }
            Ok(Some(decided)) => Ok(decided),
            Err(failure) => Err(failure),
        };
        let now = self.again(shown, &person).filter(|person| is_welcome(person, shown));
        let Some(person) = now else { return Ok(Outcome::Refused) };
        self.outcome(shown, person, *decided?)
    }

    /// Reads the credential, unless `newer` is it, and compares the password with it. `None`: there is none, which
    /// costs the same hash.
    async fn read(
        &self,
        shown: &Shown<'_>,
        (username, uid): (&str, &str),
        judging: &Judging,
        newer: Option<Opened>,
        hashed: &mut Hashed,
    ) -> Result<Option<Read>, Failure> {
        let failures = judging.failures();
        let opened = match newer {
            Some(opened) => Some(opened),
            None => self.open(username, uid).await?,
        };
        let known = opened.as_ref().and_then(|opened| opened.credential.hash.as_ref());
        let (Secret::Password(secret) | Secret::Invitation(secret)) = shown.secret;
        let matches = self.compare(secret, known, hashed).await?;
        Ok(opened.map(|opened| Read { failures, opened, matches }))
    }

    /// Opens a credential. One that does not parse counts as absent: an unknown name can't have one, so the answer must
    /// be that of any other refusal.
    async fn open(&self, username: &str, uid: &str) -> Result<Option<Opened>, VaultError> {
        match self.vault.open(username, uid).await {
            Err(VaultError::Corrupt(error)) => {
                self.metrics.logins_uncountable.inc();
                warn!(uid, %error, "login refused: the credential can't be read");
                Ok(None)
            }
            opened => opened,
        }
    }

    /// Decides an attempt on a User, in its turn. `None`: refused, and nothing was saved.
    ///
    /// # Errors
    /// Only if the password is right. For a wrong one, every failure becomes a refusal.
    async fn decide(
        &self,
        shown: &Shown<'_>,
        person: &Person,
        judging: &Judging,
        mut read: Read,
        hashed: &mut Hashed,
    ) -> Result<Option<Box<Decided>>, Failure> {
        // From here on attempts are serialized, and nothing is revealed of one before earlier failures are counted.
        let (mut turn, mut lost) = (judging.turn().await, None);
        for _ in 0..MAX_ROUNDS {
            let newer = if judging.failures() == read.failures {
                match self.step(shown, person, &mut turn, read, hashed, &mut lost).await? {
                    Step::Done(decided) => return Ok(decided),
                    Step::Again(newer) => newer.map(|newer| *newer),
                }
            } else {
                turn.newer_than(&read.opened, &person.uid)
            };
            let again = self.read(shown, (&person.username, &person.uid), judging, newer, hashed).await;
            let Ok(Some(again)) = again else { return Ok(None) };
            read = again;
        }
        warn!(user = person.name, "login refused: too many concurrent changes to the credential");
        Ok(None)
    }

    /// Judges an attempt and saves the resulting credential.
    async fn step<'a>(
        &'a self,
        shown: &Shown<'_>,
        person: &Person,
        turn: &mut JudgingTurn<'_>,
        Read { opened, matches, .. }: Read,
        hashed: &mut Hashed,
        lost: &mut Option<LostWrite<'a>>,
    ) -> Result<Step, Failure> {
        let person = self.again(shown, person).filter(|person| self.can_count(person, &opened));
        let Some(person) = person else { return Ok(Step::Done(None)) };
        let judged = self.verdict(shown, &person, &opened.credential, matches, hashed).await;
        if must_be_current(&judged, &opened) {
            match self.open(&person.username, &person.uid).await? {
                Some(latest) if opened.is_as_new_as(&latest) => {}
                Some(latest) => return Ok(Step::Again(Some(Box::new(latest)))),
                None => return Ok(Step::Done(None)),
            }
        }
        let (verdict, after) = judged?;
        let saved = self.vault.save_and_keep(&opened, &after).await;
        LostWrite::settle(lost);
        match saved {
            Ok(Some(saved)) => {
                turn.saved(saved, &person.uid, after.failed != opened.credential.failed);
                Ok(Step::Done(Some(Box::new(Decided { verdict, before: opened.credential, after }))))
            }
            Ok(None) => {
                *lost = Some(self.vault.lost(opened, after));
                Ok(Step::Again(None))
            }
            // The vault keeps the failure. Any refusal gets this answer, so that known names do not differ.
            Err(_) if verdict == Verdict::Refused => Ok(Step::Done(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the User's current state. It may have been disabled, renamed or deleted during hashing and waiting.
    /// `None` if it no longer has the name presented or its state is unknown: an error would distinguish known names
    /// from unknown ones.
    fn again(&self, shown: &Shown<'_>, before: &Person) -> Option<Person> {
        if self.informers.is_blind_to_users() {
            return None;
        }
        let now = Person::holding(&self.informers, shown.username);
        now.filter(|now| now.uid == before.uid && now.username == before.username)
    }

    /// Whether a failure of that user could be counted. While it could not, even the right password is refused:
    /// otherwise guesses would be free.
    fn can_count(&self, person: &Person, opened: &Opened) -> bool {
        let is_blocked = self.vault.uncounted.blocks(&person.uid) || self.vault.uncounted.blocks_everybody();
        if is_blocked || opened.is_immutable() {
            self.metrics.logins_uncountable.inc();
            let is_immutable = opened.is_immutable();
            warn!(user = person.name, is_immutable, "login refused: failures can't be counted");
            return false;
        }
        true
    }

    /// Returns the verdict and the resulting credential.
    async fn verdict(
        &self,
        shown: &Shown<'_>,
        person: &Person,
        before: &Credential,
        matches: bool,
        hashed: &mut Hashed,
    ) -> Result<(Verdict, Credential), Failure> {
        let now = Timestamp::now();
        let attempt = Attempt {
            source: &shown.source,
            is_welcome: is_welcome(person, shown),
            proof: match shown.secret {
                Secret::Password(_) => Proof::Password(matches),
                Secret::Invitation(code) => Proof::Invitation(code.expose_secret()),
            },
            code: shown.code.map(ExposeSecret::expose_secret),
            replacement: None,
            second_factor: match (person.spec.second_factor, shown.may_enroll) {
                (SecondFactor::Optional, _) => Need::No,
                (SecondFactor::Required, true) => Need::Enrollable,
                (SecondFactor::Required, false) => Need::Elsewhere,
            },
            needs_own_password: person.spec.require_password_change,
            limits: &self.limits,
            sealer: &self.sealer,
            policy: &self.policy,
            now,
        };
        let mut after = before.clone();
        let mut verdict = judge(&mut after, &attempt);
        match (&verdict, shown.new_password) {
            (Verdict::Challenged(Challenge::PasswordChange), Some(password)) => {
                let hash = self.accept(password, person, before.used(self.policy.history), hashed).await?;
                after = before.clone();
                verdict = judge(&mut after, &Attempt { replacement: Some(&hash), ..attempt });
            }
            (Verdict::Granted(_), None) => {
                if let Secret::Password(password) = shown.secret {
                    self.strengthen(password, &mut after, hashed).await?;
                }
            }
            _ => {}
        }
        Ok((verdict, after))
    }

    fn note_refusal(&self, shown: &Shown<'_>, person: &Person, decided: &Decided) {
        let (user, until) = (&person.name, decided.after.failed.locked_until);
        if until == decided.before.failed.locked_until {
            info!(user, source = shown.source, "login refused");
        } else {
            self.metrics.lockouts.inc();
            warn!(user, ?until, "user locked out after failed logins");
        }
    }

    /// Builds the answer to an attempt with the right password.
    fn outcome(&self, shown: &Shown<'_>, person: Person, decided: Decided) -> Result<Outcome, Failure> {
        let Decided { verdict, before, after } = decided;
        match verdict {
            Verdict::Refused => Ok(Outcome::Refused),
            Verdict::Challenged(challenge) => Ok(Outcome::Challenged(Box::new(person), challenge, Box::new(after))),
            Verdict::Granted(_) if shown.new_password.is_some() && after.changed == before.changed => {
                Err(Failure::NotDue)
            }
            Verdict::Granted(recovery_codes) => {
                self.last_use.note_login(&person, Timestamp::now());
                Ok(Outcome::Granted(Box::new(Granted {
                    person,
                    recovery_codes,
                    has_second_factor: after.summary().second_factor.is_some(),
                    password_changed: after.changed,
                })))
            }
        }
    }
}

/// Whether an answer must not rely on an old read: it reveals more than a refusal and involves no write.
fn must_be_current(judged: &Result<(Verdict, Credential), Failure>, opened: &Opened) -> bool {
    let is_settled = match judged {
        Ok((verdict, after)) => *verdict == Verdict::Refused || *after != opened.credential,
        Err(_) => false,
    };
    !is_settled && opened.read.elapsed() > MAX_AGE
}

fn is_welcome(person: &Person, shown: &Shown<'_>) -> bool {
    person.is_active && person.may_come_from(shown.address)
}

/// Returns the first multiple of the tick after `began` that lies in the future.
fn next_tick(began: Instant, now: Instant) -> Instant {
    let ticks = now.duration_since(began).as_nanos() / REFUSAL_TICK.as_nanos() + 1;
    began + REFUSAL_TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
