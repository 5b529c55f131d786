//! A login attempt, from the credentials presented to the outcome.
//!
//! A refusal does not reveal its reason: an unknown name costs the same read and the same hash as a known one, and
//! every refusal is returned at a multiple of `REFUSAL_TICK` after the attempt began, whatever happened in the
//! meantime.
//!
//! Hashing, waiting in the queue, reading and writing take time. Every answer that reveals more than a refusal is
//! therefore based on state read after the wait in the queue, and the User is checked again when the answer is
//! returned.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use roster_api::credentials::Challenge;
use roster_api::user::SecondFactor;
use roster_credentials::claim::fold;
use roster_credentials::credential::Credential;
use roster_credentials::login::{AttemptContext, Proof, SecondFactorNeed, Verdict, judge};
use roster_credentials::pool::Saturated;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::{info, warn};

use super::hashed::ComputedHashes;
use super::judgement::{Judgement, JudgementQueue};
use super::login_user::LoginUser;
use super::vault::{LostWrite, OpenedCredential, VaultError};
use super::verifier::{Verifier, VerifyError};

/// Refusals are returned at multiples of this after the attempt began. Longer than a hash, a read and a write take.
const REFUSAL_TICK: Duration = Duration::from_millis(400);

/// Maximum number of times an attempt is judged if other writers keep changing the credential.
const MAX_ROUNDS: usize = 16;

/// Maximum age of the credential that was read, if the answer involves no write. A write fails if the read is out of
/// date.
const MAX_AGE: Duration = Duration::from_millis(500);

/// Credentials presented in a login attempt.
pub struct LoginAttempt<'a> {
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
pub enum LoginOutcome {
    /// The login failed.
    Refused,
    /// The credentials are correct, but another step is required.
    Challenged(Box<LoginUser>, Challenge, Box<Credential>),
    /// The login succeeded.
    Granted(Box<Granted>),
}

/// A successful login.
pub struct Granted {
    /// The User that logged in.
    pub person: LoginUser,
    /// Recovery codes of a second factor that this attempt confirmed.
    pub recovery_codes: Vec<String>,
    /// Whether a second factor was presented.
    pub has_second_factor: bool,
    /// When the password was set.
    pub password_changed: Option<Timestamp>,
}

/// A credential as it was read, and whether the password matches it.
struct Read {
    /// [`JudgementQueue::failures`] before it was read.
    failures: u64,
    opened: OpenedCredential,
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
    Again(Option<Box<OpenedCredential>>),
}

impl Verifier {
    /// Judges a login attempt.
    ///
    /// # Errors
    /// If too many attempts are in flight, the credential can't be read or written, or the new password is not
    /// acceptable.
    pub async fn verify(&self, attempt: &LoginAttempt<'_>) -> Result<LoginOutcome, VerifyError> {
        let began = Instant::now();
        // Held until the answer is returned, including the delay of a refusal: the permit for an unknown name must not
        // be released sooner than others. Keyed by the name as typed: callers must not find out that two names belong
        // to one user.
        let attempts = self.hasher.hash_one((fold(attempt.username), &attempt.source));
        let Some(_attempt) = self.attempts.take(attempts) else {
            self.metrics.logins.inc("saturated");
            return Err(Saturated.into());
        };
        let outcome = self.judged(attempt).await;
        self.metrics.logins.inc(match &outcome {
            Ok(LoginOutcome::Granted(_)) => "granted",
            Ok(LoginOutcome::Challenged(..)) => "challenged",
            Ok(LoginOutcome::Refused) => "refused",
            Err(VerifyError::Saturated(_)) => "saturated",
            Err(VerifyError::Vault(_)) => "unavailable",
            Err(VerifyError::Policy(_) | VerifyError::NotDue) => "invalid",
        });
        if let Ok(LoginOutcome::Refused) = &outcome {
            tokio::time::sleep_until(next_tick(began, Instant::now())).await;
        }
        outcome
    }

    async fn judged(&self, attempt: &LoginAttempt<'_>) -> Result<LoginOutcome, VerifyError> {
        // Fails for every name, known or not: the informers' view of Users may be out of date.
        if self.informers.is_user_watch_failing() {
            return Err(VaultError::Unavailable.into());
        }
        if self.vault.uncounted.blocks_all_users() {
            return Err(VaultError::Uncounted.into());
        }
        let person = LoginUser::holding(&self.informers, attempt.username);
        // An unknown name is looked up like any other.
        let (username, uid) = person.as_ref().map_or((attempt.username, ""), |person| (&person.username, &person.uid));
        let (queue, mut hashed) = (self.judgement_queue(uid), ComputedHashes::default());
        // Errors up to here can occur for any name. Later ones are returned only if the password is right.
        let read = self.read(attempt, (username, uid), queue, None, &mut hashed).await?;
        let (Some(person), Some(read)) = (person, read) else { return Ok(LoginOutcome::Refused) };
        let decided = match self.decide(attempt, &person, queue, read, &mut hashed).await {
            Ok(None) => return Ok(LoginOutcome::Refused),
            Ok(Some(decided)) if decided.verdict == Verdict::Refused => {
                self.note_refusal(attempt, &person, &decided);
                return Ok(LoginOutcome::Refused);
            }
            Ok(Some(decided)) => Ok(decided),
            Err(failure) => Err(failure),
        };
        let now = self.current(attempt, &person).filter(|person| may_log_in(person, attempt));
        let Some(person) = now else { return Ok(LoginOutcome::Refused) };
        self.outcome(attempt, person, *decided?)
    }

    /// Reads the credential, unless `newer` already holds it, and compares the password with it. Returns `None` if
    /// there is no credential, at the cost of the same hash.
    async fn read(
        &self,
        attempt: &LoginAttempt<'_>,
        (username, uid): (&str, &str),
        queue: &JudgementQueue,
        newer: Option<OpenedCredential>,
        hashed: &mut ComputedHashes,
    ) -> Result<Option<Read>, VerifyError> {
        let failures = queue.failures();
        let opened = match newer {
            Some(opened) => Some(opened),
            None => self.open(username, uid).await?,
        };
        let known = opened.as_ref().and_then(|opened| opened.credential.hash.as_ref());
        let (Secret::Password(secret) | Secret::Invitation(secret)) = attempt.secret;
        let matches = self.compare(secret, known, hashed).await?;
        Ok(opened.map(|opened| Read { failures, opened, matches }))
    }

    /// Opens a credential. A credential that does not parse counts as absent: an error would reveal that the name is
    /// known, so the attempt is refused like any other.
    async fn open(&self, username: &str, uid: &str) -> Result<Option<OpenedCredential>, VaultError> {
        match self.vault.open(username, uid).await {
            Err(VaultError::Corrupt(error)) => {
                self.metrics.logins_uncountable.inc();
                warn!(uid, %error, "login refused: the credential can't be read");
                Ok(None)
            }
            opened => opened,
        }
    }

    /// Waits for the turn of an attempt on a User and decides it. `None`: refused, and nothing was saved.
    ///
    /// # Errors
    /// Only if the password is right. For a wrong one, every failure becomes a refusal.
    async fn decide(
        &self,
        attempt: &LoginAttempt<'_>,
        person: &LoginUser,
        queue: &JudgementQueue,
        mut read: Read,
        hashed: &mut ComputedHashes,
    ) -> Result<Option<Box<Decided>>, VerifyError> {
        // From here on, attempts on the User are serialized: none is answered before earlier failures are counted.
        let (mut judgement, mut lost) = (queue.wait().await, None);
        for _ in 0..MAX_ROUNDS {
            let newer = if queue.failures() == read.failures {
                match self.step(attempt, person, &mut judgement, read, hashed, &mut lost).await? {
                    Step::Done(decided) => return Ok(decided),
                    Step::Again(newer) => newer.map(|newer| *newer),
                }
            } else {
                judgement.newer_than(&read.opened, &person.uid)
            };
            let again = self.read(attempt, (&person.username, &person.uid), queue, newer, hashed).await;
            let Ok(Some(again)) = again else { return Ok(None) };
            read = again;
        }
        warn!(user = person.name, "login refused: too many concurrent changes to the credential");
        Ok(None)
    }

    /// Judges an attempt and saves the resulting credential.
    async fn step<'a>(
        &'a self,
        attempt: &LoginAttempt<'_>,
        person: &LoginUser,
        judgement: &mut Judgement<'_>,
        Read { opened, matches, .. }: Read,
        hashed: &mut ComputedHashes,
        lost: &mut Option<LostWrite<'a>>,
    ) -> Result<Step, VerifyError> {
        let person = self.current(attempt, person).filter(|person| self.can_count(person, &opened));
        let Some(person) = person else { return Ok(Step::Done(None)) };
        let judged = self.verdict(attempt, &person, &opened.credential, matches, hashed).await;
        if must_be_current(&judged, &opened) {
            match self.open(&person.username, &person.uid).await? {
                Some(latest) if opened.is_as_new_as(&latest) => {}
                Some(latest) => return Ok(Step::Again(Some(Box::new(latest)))),
                None => return Ok(Step::Done(None)),
            }
        }
        let (verdict, after) = judged?;
        let saved = self.vault.save_or_defer(&opened, &after).await;
        LostWrite::settle(lost);
        match saved {
            Ok(Some(saved)) => {
                judgement.saved(saved, &person.uid, after.failed != opened.credential.failed);
                Ok(Step::Done(Some(Box::new(Decided { verdict, before: opened.credential, after }))))
            }
            Ok(None) => {
                *lost = Some(self.vault.lost(opened, after));
                Ok(Step::Again(None))
            }
            // The vault keeps the failure for later. An error would distinguish known names from unknown ones.
            Err(_) if verdict == Verdict::Refused => Ok(Step::Done(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the User's current state: it may have been disabled, renamed or deleted during hashing and waiting.
    /// `None` if it no longer holds the name presented, or its state is unknown: an error would distinguish known names
    /// from unknown ones.
    fn current(&self, attempt: &LoginAttempt<'_>, before: &LoginUser) -> Option<LoginUser> {
        if self.informers.is_user_watch_failing() {
            return None;
        }
        let now = LoginUser::holding(&self.informers, attempt.username);
        now.filter(|now| now.uid == before.uid && now.username == before.username)
    }

    /// Whether a failed attempt on that User could be counted. If not, even the right password is refused: otherwise
    /// guesses would be free.
    fn can_count(&self, person: &LoginUser, opened: &OpenedCredential) -> bool {
        let is_blocked = self.vault.uncounted.blocks(&person.uid) || self.vault.uncounted.blocks_all_users();
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
        attempt: &LoginAttempt<'_>,
        person: &LoginUser,
        before: &Credential,
        matches: bool,
        hashed: &mut ComputedHashes,
    ) -> Result<(Verdict, Credential), VerifyError> {
        let now = Timestamp::now();
        let context = AttemptContext {
            source: &attempt.source,
            may_log_in: may_log_in(person, attempt),
            proof: match attempt.secret {
                Secret::Password(_) => Proof::Password(matches),
                Secret::Invitation(code) => Proof::Invitation(code.expose_secret()),
            },
            code: attempt.code.map(ExposeSecret::expose_secret),
            replacement: None,
            second_factor: match (person.spec.second_factor, attempt.may_enroll) {
                (SecondFactor::Optional, _) => SecondFactorNeed::No,
                (SecondFactor::Required, true) => SecondFactorNeed::Enrollable,
                (SecondFactor::Required, false) => SecondFactorNeed::Elsewhere,
            },
            needs_own_password: person.spec.require_password_change,
            limits: &self.limits,
            sealer: &self.sealer,
            policy: &self.policy,
            now,
        };
        let mut after = before.clone();
        let mut verdict = judge(&mut after, &context);
        match (&verdict, attempt.new_password) {
            (Verdict::Challenged(Challenge::PasswordChange), Some(password)) => {
                let hash = self.accept(password, person, before.used(self.policy.history), hashed).await?;
                after = before.clone();
                verdict = judge(&mut after, &AttemptContext { replacement: Some(&hash), ..context });
            }
            (Verdict::Granted(_), None) => {
                if let Secret::Password(password) = attempt.secret {
                    self.strengthen(password, &mut after, hashed).await?;
                }
            }
            _ => {}
        }
        Ok((verdict, after))
    }

    fn note_refusal(&self, attempt: &LoginAttempt<'_>, person: &LoginUser, decided: &Decided) {
        let (user, until) = (&person.name, decided.after.failed.locked_until);
        if until == decided.before.failed.locked_until {
            info!(user, source = attempt.source, "login refused");
        } else {
            self.metrics.lockouts.inc();
            warn!(user, ?until, "user locked out after failed logins");
        }
    }

    /// Builds the answer to an attempt with the right password.
    fn outcome(
        &self,
        attempt: &LoginAttempt<'_>,
        person: LoginUser,
        decided: Decided,
    ) -> Result<LoginOutcome, VerifyError> {
        let Decided { verdict, before, after } = decided;
        match verdict {
            Verdict::Refused => Ok(LoginOutcome::Refused),
            Verdict::Challenged(challenge) => {
                Ok(LoginOutcome::Challenged(Box::new(person), challenge, Box::new(after)))
            }
            Verdict::Granted(_) if attempt.new_password.is_some() && after.changed == before.changed => {
                Err(VerifyError::NotDue)
            }
            Verdict::Granted(recovery_codes) => {
                self.last_use.note_login(&person, Timestamp::now());
                Ok(LoginOutcome::Granted(Box::new(Granted {
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
fn must_be_current(judged: &Result<(Verdict, Credential), VerifyError>, opened: &OpenedCredential) -> bool {
    let is_settled = match judged {
        Ok((verdict, after)) => *verdict == Verdict::Refused || *after != opened.credential,
        Err(_) => false,
    };
    !is_settled && opened.read.elapsed() > MAX_AGE
}

fn may_log_in(person: &LoginUser, attempt: &LoginAttempt<'_>) -> bool {
    person.is_active && person.may_log_in_from(attempt.address)
}

/// Returns the first multiple of the tick after `began` that lies in the future.
fn next_tick(began: Instant, now: Instant) -> Instant {
    let ticks = now.duration_since(began).as_nanos() / REFUSAL_TICK.as_nanos() + 1;
    began + REFUSAL_TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
