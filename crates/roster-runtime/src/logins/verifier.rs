//! An attempt to log in, from what was shown to what comes of it.
//!
//! Whoever fails learns nothing but that: an unknown name costs the same read and the same hash as a known one, and
//! every refusal is given at the next tick of a clock that began with the attempt, whatever was done meanwhile.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use roster_api::credentials::Challenge;
use roster_api::user::SecondFactor;
use roster_credentials::claim::fold;
use roster_credentials::credential::Credential;
use roster_credentials::digest::{hex, random};
use roster_credentials::hash::{Memory, PasswordHash};
use roster_credentials::lockout::{Limits, SESSIONS};
use roster_credentials::login::{Attempt, Need, Proof, Verdict, judge};
use roster_credentials::password;
use roster_credentials::policy::{PasswordPolicy, Unacceptable};
use roster_credentials::pool::{HashPool, Saturated};
use roster_credentials::seal::Sealer;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tokio::sync::MutexGuard;
use tokio::time::Instant;
use tracing::{info, warn};

use super::hashed::Hashed;
use super::last_use::LastUse;
use super::person::Person;
use super::turns::{Judging, MOST_AT_A_TIME, Turn};
use super::vault::{LostWrite, Opened, Vault, VaultError};
use crate::informers::Informers;
use crate::metrics::Metrics;
use crate::operations::seats::Seats;

/// Refusals are given at multiples of this after the attempt began. Longer than a hash, a read and a write take.
const REFUSAL_TICK: Duration = Duration::from_millis(400);

/// How often an attempt is judged anew because somebody else has changed the credential.
const ATTEMPTS: usize = 16;

/// Users are told apart by as many hashes.
const STRIPES: usize = 1024;

/// How old what was read of a credential may be when it grants a login without a write. A write fails if it is out of date.
const MOST_AGE: Duration = Duration::from_millis(500);

/// What somebody shows in order to be let in.
pub struct Shown<'a> {
    /// Username or email.
    pub username: &'a str,
    /// A password, or the code of an invitation.
    pub secret: Secret<'a>,
    /// Code of the second factor.
    pub code: Option<&'a SecretString>,
    /// The password from now on.
    pub new_password: Option<&'a SecretString>,
    /// Whether a second factor that is needed can be enrolled on the way.
    pub may_enroll: bool,
    /// Where they come from, as the lockout counts.
    pub source: String,
    /// The same, as `allowedCIDRs` goes by.
    pub address: Option<IpAddr>,
}

/// What is shown first.
#[derive(Clone, Copy)]
pub enum Secret<'a> {
    /// The password.
    Password(&'a SecretString),
    /// The code of an invitation.
    Invitation(&'a SecretString),
}

/// What comes of it.
pub enum Outcome {
    /// Nothing.
    Refused,
    /// It was right, and more is asked for.
    Challenged(Box<Person>, Challenge, Box<Credential>),
    /// It is them.
    Granted(Box<Granted>),
}

/// Somebody who was let in.
pub struct Granted {
    /// Who.
    pub person: Person,
    /// Recovery codes of a second factor that this has confirmed.
    pub recovery_codes: Vec<String>,
    /// Whether a second factor was shown.
    pub has_second_factor: bool,
    /// When the password was set.
    pub password_changed: Option<Timestamp>,
}

/// Why there is no outcome.
#[derive(Clone, Debug, Error)]
pub enum Failure {
    /// Too many at the same time.
    #[error(transparent)]
    Saturated(#[from] Saturated),
    /// The credential can't be reached.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The new password is none that the policy allows.
    #[error(transparent)]
    Unacceptable(#[from] Unacceptable),
    /// A new password, where none is due.
    #[error("no new password is due")]
    NotDue,
}

/// Verifies what people show.
pub struct Verifier {
    informers: Arc<Informers>,
    vault: Arc<Vault>,
    last_use: Arc<LastUse>,
    pool: HashPool,
    limits: Limits,
    sealer: Arc<Sealer>,
    /// What passwords have to be.
    pub policy: Arc<PasswordPolicy>,
    metrics: Arc<Metrics>,
    /// The hash of a password that nobody knows, for those who have none.
    decoy: PasswordHash,
    /// Attempts in flight, by a hash of the name and source.
    attempts: Arc<Seats<u64>>,
    turns: Vec<Turn>,
    judging: Vec<Judging>,
    hasher: RandomState,
}

/// What came of a credential that was asked for again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recheck {
    /// It is right and may be used.
    Right,
    /// It is wrong, and was counted.
    Wrong,
    /// Nothing was judged: the user's sessions are locked out, or failures can't be counted.
    Locked,
}

impl Verifier {
    /// A verifier by way of a pool of its own.
    pub fn new(
        informers: Arc<Informers>,
        (vault, last_use): (Arc<Vault>, Arc<LastUse>),
        pool: HashPool,
        (limits, policy, sealer): (Limits, Arc<PasswordPolicy>, Arc<Sealer>),
        metrics: Arc<Metrics>,
    ) -> Self {
        let decoy = PasswordHash::create(&hex(&random::<16>()), pool.cost(), &mut Memory::default());
        let turns = (0..STRIPES).map(|_| Turn::default()).collect();
        let judging = (0..STRIPES).map(|_| Judging::default()).collect();
        Self {
            informers,
            vault,
            last_use,
            pool,
            limits,
            sealer,
            policy,
            metrics,
            decoy,
            attempts: Seats::new(MOST_AT_A_TIME),
            turns,
            judging,
            hasher: RandomState::new(),
        }
    }

    /// Judges what somebody shows.
    ///
    /// # Errors
    /// If there is no room for it, the credential can't be reached, or the new password is not acceptable.
    pub async fn verify(&self, shown: &Shown<'_>) -> Result<Outcome, Failure> {
        let began = Instant::now();
        // Until the answer, tick included: a name that nobody has is not free again sooner than others. By the name as it
        // was typed: two names of one person must not be recognizable as such.
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
        // For every name: what is known of users may be out of date.
        if self.informers.is_blind_to_users() {
            return Err(VaultError::Unavailable.into());
        }
        if self.vault.uncounted.blocks_everybody() {
            return Err(VaultError::Uncounted.into());
        }
        let person = Person::holding(&self.informers, shown.username);
        // A name that nobody has is looked up like any other.
        let (username, uid) = person.as_ref().map_or((shown.username, ""), |person| (&person.username, &person.uid));
        let judging = &self.judging[self.stripe(uid)];
        let (mut hashed, mut turn, mut lost) = (Hashed::default(), None, None);
        let mut newer = None;
        for _ in 0..ATTEMPTS {
            let failures = judging.failures();
            let opened = match newer.take() {
                Some(opened) => Some(opened),
                None => self.vault.open(username, uid).await?,
            };
            let known = opened.as_ref().and_then(|opened| opened.credential.hash.as_ref());
            let (Secret::Password(secret) | Secret::Invitation(secret)) = shown.secret;
            let matches = self.compare(secret, known, &mut hashed).await?;
            let (Some(person), Some(opened)) = (&person, opened) else { return Ok(Outcome::Refused) };
            // From here on one after the other, and nothing is told of an attempt before those that failed are counted.
            if turn.is_none() {
                turn = Some(judging.turn().await);
            }
            let turn = turn.as_mut().expect("it is this attempt's turn");
            if judging.failures() != failures {
                newer = turn.newer_than(&opened, uid);
                continue;
            }
            let Some(person) = self.again(shown, person)? else { return Ok(Outcome::Refused) };
            if !self.can_count(&person, &opened) {
                return Ok(Outcome::Refused);
            }
            let (verdict, credential) = self.verdict(shown, &person, &opened.credential, matches, &mut hashed).await?;
            if verdict.is_granted() && credential == opened.credential && opened.read.elapsed() > MOST_AGE {
                let Some(latest) = self.vault.open(username, uid).await? else { return Ok(Outcome::Refused) };
                if !opened.is_as_new_as(&latest) {
                    newer = Some(latest);
                    continue;
                }
            }
            let saved = self.vault.save_and_keep(&opened, &credential).await;
            LostWrite::settle(&mut lost);
            let saved = match saved {
                // The vault keeps the failure. The answer is that of any refusal, so that known names do not differ.
                Err(_) if verdict == Verdict::Refused => return Ok(Outcome::Refused),
                saved => saved?,
            };
            if let Some(saved) = saved {
                turn.saved(saved, uid, credential.failed != opened.credential.failed);
                if shown.new_password.is_some()
                    && credential.changed == opened.credential.changed
                    && verdict.is_granted()
                {
                    return Err(Failure::NotDue);
                }
                if verdict == Verdict::Refused {
                    return Ok(self.outcome(shown, person, verdict, credential, &opened.credential));
                }
                // New hashes and the write take time, too.
                let person = self.again(shown, &person)?;
                return Ok(match person.filter(|person| is_welcome(person, shown)) {
                    Some(person) => self.outcome(shown, person, verdict, credential, &opened.credential),
                    None => Outcome::Refused,
                });
            }
            lost = Some(self.vault.lost(opened, credential));
        }
        warn!(
            user = person.map(|person| person.name),
            "an attempt was refused: others change the credential all the time"
        );
        Ok(Outcome::Refused)
    }

    /// Returns the User as it is known now. It may have been disabled, renamed or deleted since it was read, because hashes
    /// and turns are waited for. `None` if it no longer has the name that was shown.
    fn again(&self, shown: &Shown<'_>, before: &Person) -> Result<Option<Person>, Failure> {
        if self.informers.is_blind_to_users() {
            return Err(VaultError::Unavailable.into());
        }
        let now = Person::holding(&self.informers, shown.username);
        Ok(now.filter(|now| now.uid == before.uid && now.username == before.username))
    }

    /// Whether a failure of that user could be counted. While it could not, even the right password is refused: otherwise
    /// guesses would be free.
    fn can_count(&self, person: &Person, opened: &Opened) -> bool {
        let is_blocked = self.vault.uncounted.blocks(&person.uid) || self.vault.uncounted.blocks_everybody();
        if is_blocked || opened.is_immutable() {
            self.metrics.logins_uncountable.inc();
            let is_immutable = opened.is_immutable();
            warn!(user = person.name, is_immutable, "a login was refused, because failures can't be counted");
            return false;
        }
        true
    }

    /// Judges a credential that a logged-in caller was asked for again, and counts a wrong one. The caller saves `credential` in any case, also for a dry run, by [`Vault::update`] or
    /// after [`Vault::open_to_change`].
    ///
    /// Sessions have a count of their own, so guesses from outside do not keep a person from changing their password,
    /// and a stolen session has few guesses wherever it is used.
    pub fn count(&self, person: &Person, credential: &mut Credential, matches: bool) -> Recheck {
        let (now, uncounted) = (Timestamp::now(), &self.vault.uncounted);
        if uncounted.blocks(&person.uid) || uncounted.blocks_everybody() || credential.failed.is_locked(SESSIONS, now) {
            return Recheck::Locked;
        }
        if matches {
            return Recheck::Right;
        }
        credential.failed.fail(SESSIONS, &self.limits, now);
        Recheck::Wrong
    }

    /// A turn to ask a person for a credential again: one request at a time, from whatever address, because what one has
    /// failed with counts for the next.
    ///
    /// # Errors
    /// If too many wait for it.
    pub async fn turn(&self, username: &str) -> Result<MutexGuard<'_, ()>, Saturated> {
        self.turns[self.stripe(fold(username))].take().await
    }

    fn stripe(&self, key: impl Hash) -> usize {
        usize::try_from(self.hasher.hash_one(key) % STRIPES as u64).expect("it is below a thousand")
    }

    /// Compares a password with a hash: once for each hash.
    ///
    /// # Errors
    /// If there is no room for it.
    pub async fn compare(
        &self,
        password: &SecretString,
        known: Option<&PasswordHash>,
        hashed: &mut Hashed,
    ) -> Result<bool, Failure> {
        if let Some((hash, matches)) = &hashed.compared
            && hash.as_ref() == known
        {
            return Ok(*matches);
        }
        let matches = self.pool.verify(password, known.unwrap_or(&self.decoy)).await? && known.is_some();
        hashed.compared = Some((known.cloned(), matches));
        Ok(matches)
    }

    /// What follows, and what the credential becomes.
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
            (Verdict::Granted(_), None) => self.strengthen(shown, &mut after, hashed).await?,
            _ => {}
        }
        Ok((verdict, after))
    }

    /// Hashes a new password of theirs, if the policy allows it. `used` are hashes of those that can't be used again.
    ///
    /// # Errors
    /// If it does not, or there is no room for it.
    pub async fn accept(
        &self,
        password: &SecretString,
        person: &Person,
        used: impl Iterator<Item = &PasswordHash>,
        hashed: &mut Hashed,
    ) -> Result<PasswordHash, Failure> {
        password::accept(password.expose_secret().as_bytes()).map_err(Unacceptable::NoPassword)?;
        let names = [&person.username, &person.name].into_iter();
        let emails = person.spec.email.iter().chain(&person.spec.additional_emails);
        self.policy.check(password.expose_secret(), names.chain(emails).map(String::as_str))?;
        let used: Vec<PasswordHash> = used.cloned().collect();
        if let Some(hash) = hashed.created_for(&used) {
            return Ok(hash);
        }
        for used in &used {
            if self.pool.is_same(password, used).await? {
                return Err(Unacceptable::UsedBefore(self.policy.history + 1).into());
            }
        }
        let hash = self.pool.hash(password).await?;
        hashed.created = Some((used, hash.clone()));
        Ok(hash)
    }

    /// Makes the hash anew that no longer is what a new one would be: here the password is known.
    async fn strengthen(
        &self,
        shown: &Shown<'_>,
        credential: &mut Credential,
        hashed: &mut Hashed,
    ) -> Result<(), Failure> {
        let (Secret::Password(password), Some(hash)) = (shown.secret, &credential.hash) else { return Ok(()) };
        if !hash.is_outdated(self.pool.cost()) || !hash.covers(password.expose_secret()) {
            return Ok(());
        }
        let replaced = vec![hash.clone()];
        let stronger = match hashed.created_for(&replaced) {
            Some(stronger) => stronger,
            None => self.pool.hash(password).await?,
        };
        hashed.created = Some((replaced, stronger.clone()));
        credential.hash = Some(stronger);
        Ok(())
    }

    fn outcome(
        &self,
        shown: &Shown<'_>,
        person: Person,
        verdict: Verdict,
        credential: Credential,
        before: &Credential,
    ) -> Outcome {
        match verdict {
            Verdict::Refused => {
                let (user, until) = (&person.name, credential.failed.locked_until);
                if until == before.failed.locked_until {
                    info!(user, source = shown.source, "a login was refused");
                } else {
                    self.metrics.lockouts.inc();
                    warn!(user, ?until, "a user is locked after failed logins");
                }
                Outcome::Refused
            }
            Verdict::Challenged(challenge) => Outcome::Challenged(Box::new(person), challenge, Box::new(credential)),
            Verdict::Granted(recovery_codes) => {
                self.last_use.note_login(&person, Timestamp::now());
                Outcome::Granted(Box::new(Granted {
                    person,
                    recovery_codes,
                    has_second_factor: credential.summary().second_factor.is_some(),
                    password_changed: credential.changed,
                }))
            }
        }
    }
}

fn is_welcome(person: &Person, shown: &Shown<'_>) -> bool {
    person.is_active && person.may_come_from(shown.address)
}

/// The first multiple of the tick after the beginning that lies ahead.
fn next_tick(began: Instant, now: Instant) -> Instant {
    let ticks = now.duration_since(began).as_nanos() / REFUSAL_TICK.as_nanos() + 1;
    began + REFUSAL_TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
