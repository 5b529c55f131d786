//! Checks passwords and codes against stored credentials and counts failures: for login [attempts](super::attempt), and
//! for credentials that a logged-in caller must present again.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use jiff::Timestamp;
use roster_credentials::claim::fold;
use roster_credentials::credential::Credential;
use roster_credentials::digest::{hex, random};
use roster_credentials::hash::{Memory, PasswordHash};
use roster_credentials::lockout::{LockoutPolicy, SESSIONS};
use roster_credentials::password;
use roster_credentials::policy::{PasswordPolicy, PolicyError};
use roster_credentials::pool::{HashPool, Saturated};
use roster_credentials::seal::Sealer;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tokio::sync::MutexGuard;

use super::hashed::ComputedHashes;
use super::judgement::{JudgementQueue, MAX_CONCURRENT, WaitLimitedMutex};
use super::last_use::LastUse;
use super::login_user::LoginUser;
use super::vault::{Vault, VaultError};
use crate::informers::Informers;
use crate::metrics::Metrics;
use crate::operations::keyed_permits::KeyedPermits;

/// Number of stripes that users are hashed into.
pub(super) const STRIPES: usize = 1024;

/// Why an attempt has no outcome.
#[derive(Clone, Debug, Error)]
pub enum VerifyError {
    /// Too many requests at the same time.
    #[error(transparent)]
    Saturated(#[from] Saturated),
    /// The credential can't be read or written.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The password policy rejects the new password.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A new password was presented, but none is due.
    #[error("no new password is due")]
    NotDue,
}

/// Dependencies of a [`Verifier`].
pub struct VerifierParts {
    /// Current Users.
    pub informers: Arc<Informers>,
    /// Stores credentials.
    pub vault: Arc<Vault>,
    /// Collects last logins.
    pub last_use: Arc<LastUse>,
    /// Computes hashes.
    pub pool: HashPool,
    /// Threshold and duration of lockouts.
    pub limits: LockoutPolicy,
    /// Requirements for passwords.
    pub policy: Arc<PasswordPolicy>,
    /// Opens the seeds of second factors.
    pub sealer: Arc<Sealer>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
}

/// Verifies credentials.
pub struct Verifier {
    pub(super) informers: Arc<Informers>,
    pub(super) vault: Arc<Vault>,
    pub(super) last_use: Arc<LastUse>,
    pool: HashPool,
    pub(super) limits: LockoutPolicy,
    pub(super) sealer: Arc<Sealer>,
    /// Requirements for passwords.
    pub policy: Arc<PasswordPolicy>,
    pub(super) metrics: Arc<Metrics>,
    /// Hash of a random password, compared with if there is no hash to compare with.
    decoy: PasswordHash,
    /// Attempts in flight, by a hash of the name and source.
    pub(super) attempts: Arc<KeyedPermits<u64>>,
    recheck_locks: Vec<WaitLimitedMutex>,
    judgement_queues: Vec<JudgementQueue>,
    pub(super) hasher: RandomState,
}

/// Result of checking a credential again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recheck {
    /// The credential is right and may be used.
    Right,
    /// The credential is wrong, and the failure was counted.
    Wrong,
    /// Not judged: the user's sessions are locked out, or failures can't be counted.
    Locked,
}

impl Verifier {
    /// Creates a verifier with no attempts in flight.
    pub fn new(parts: VerifierParts) -> Self {
        let VerifierParts { informers, vault, last_use, pool, limits, policy, sealer, metrics } = parts;
        let decoy = PasswordHash::create(&hex(&random::<16>()), pool.cost(), &mut Memory::default());
        let recheck_locks = (0..STRIPES).map(|_| WaitLimitedMutex::default()).collect();
        let judgement_queues = (0..STRIPES).map(|_| JudgementQueue::default()).collect();
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
            attempts: KeyedPermits::new(MAX_CONCURRENT),
            recheck_locks,
            judgement_queues,
            hasher: RandomState::new(),
        }
    }

    /// Judges a credential that a logged-in caller presented again, and counts a wrong one. The caller must save
    /// `credential` in any case, even for a dry run, with [`Vault::update`] or after [`Vault::open_for_update`].
    ///
    /// Sessions have their own count, so guesses from outside do not keep users from changing their password, and a
    /// stolen session has few guesses wherever it is used.
    pub fn count(&self, person: &LoginUser, credential: &mut Credential, matches: bool) -> Recheck {
        let (now, uncounted) = (Timestamp::now(), &self.vault.uncounted);
        if uncounted.blocks(&person.uid) || uncounted.blocks_all_users() || credential.failed.is_locked(SESSIONS, now) {
            return Recheck::Locked;
        }
        if matches {
            return Recheck::Right;
        }
        credential.failed.fail(SESSIONS, &self.limits, now);
        Recheck::Wrong
    }

    /// Takes the lock under which this user's credential is checked again: one request at a time, from any address,
    /// because a failure of one counts for the next.
    ///
    /// # Errors
    /// If too many requests are waiting already.
    pub async fn lock_for_recheck(&self, username: &str) -> Result<MutexGuard<'_, ()>, Saturated> {
        self.recheck_locks[self.stripe(fold(username))].take().await
    }

    /// Returns the queue of attempts on the User with that UID.
    pub(super) fn judgement_queue(&self, uid: &str) -> &JudgementQueue {
        &self.judgement_queues[self.stripe(uid)]
    }

    fn stripe(&self, key: impl Hash) -> usize {
        usize::try_from(self.hasher.hash_one(key) % STRIPES as u64).expect("it is below STRIPES")
    }

    /// Compares a password with a hash, at most once per hash.
    ///
    /// # Errors
    /// If the hash pool is saturated.
    pub async fn compare(
        &self,
        password: &SecretString,
        known: Option<&PasswordHash>,
        hashed: &mut ComputedHashes,
    ) -> Result<bool, VerifyError> {
        if let Some((hash, matches)) = &hashed.compared
            && hash.as_ref() == known
        {
            return Ok(*matches);
        }
        let matches = self.pool.verify(password, known.unwrap_or(&self.decoy)).await? && known.is_some();
        hashed.compared = Some((known.cloned(), matches));
        Ok(matches)
    }

    /// Hashes a user's new password if the policy allows it. `used` are hashes of passwords that must not be reused.
    ///
    /// # Errors
    /// If the policy rejects it or the hash pool is saturated.
    pub async fn accept(
        &self,
        password: &SecretString,
        person: &LoginUser,
        used: impl Iterator<Item = &PasswordHash>,
        hashed: &mut ComputedHashes,
    ) -> Result<PasswordHash, VerifyError> {
        password::accept(password.expose_secret().as_bytes()).map_err(PolicyError::NoPassword)?;
        let names = [&person.username, &person.name].into_iter();
        let emails = person.spec.email.iter().chain(&person.spec.additional_emails);
        // The policy checks the form that will be hashed.
        let normalized = password::normalize(password.expose_secret());
        self.policy.check(&normalized, names.chain(emails).map(String::as_str))?;
        let used: Vec<PasswordHash> = used.cloned().collect();
        if let Some(hash) = hashed.created_for(&used) {
            return Ok(hash);
        }
        for used in &used {
            // A match counts even if it proves nothing, because a bcrypt hash covers only a prefix of the password:
            // otherwise a required change could be met with the same password.
            if self.pool.verify(password, used).await? {
                let (last, is_proven) = (self.policy.history + 1, used.covers(password.expose_secret()));
                let why = if is_proven { PolicyError::UsedBefore } else { PolicyError::MayBeUsedBefore };
                return Err(why(last).into());
            }
        }
        let hash = self.pool.hash(password).await?;
        hashed.created = Some((used, hash.clone()));
        Ok(hash)
    }

    /// Replaces a hash that is weaker than a new one would be, now that the password is known.
    pub(super) async fn strengthen(
        &self,
        password: &SecretString,
        credential: &mut Credential,
        hashed: &mut ComputedHashes,
    ) -> Result<(), VerifyError> {
        let is_replaced =
            |hash: &&PasswordHash| hash.is_outdated(self.pool.cost()) && hash.covers(password.expose_secret());
        let Some(hash) = credential.hash.as_ref().filter(is_replaced) else {
            return Ok(());
        };
        let replaced = vec![hash.clone()];
        let stronger = match hashed.created_for(&replaced) {
            Some(stronger) => stronger,
            None => self.pool.hash(password).await?,
        };
        hashed.created = Some((replaced, stronger.clone()));
        credential.hash = Some(stronger);
        Ok(())
    }
}
