//! Password Secrets (type `roster.dev/password`): replaces the plaintext with its hash before the Secret is stored.
//!
//! ```text
//!  data.password ──▶ does it match the stored hash? ──yes──▶ keep data.passwordHash
//!                                                   └──no───▶ data.passwordHash = argon2id(password)
//!  data.password, and fields of last-applied-configuration that may hold it ──▶ removed
//! ```
//!
//! Keeping the old hash makes re-applying the same manifest a no-op. Secrets that can't be made safe are denied: an
//! unacceptable password, a `passwordHash` that is not a hash and may be a password, any other key, a copy of the
//! password in the metadata, or an annotation that may hold a password and does not parse. A malformed, weak or too
//! costly hash is allowed: the User's condition reports it, and the last valid credential stays in use.
//!
//! The requester controls the Secret, so nothing in it is verified against a hash in it. The stored hash may also come
//! from the requester, in an earlier write, or be made up by a client that knows the path of the webhook. It is compared
//! only if it costs no more than the hashes that Roster accepts, within the shared memory limit for hashing, and in the
//! part of the pool that [`super::password_shares`] gives to the requester, or to all reviews that prove only the path.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use roster_api::PASSWORD_SECRET_TYPE;
use roster_credentials::hash::{Algorithm, Ceiling, HashError, PasswordHash};
use roster_credentials::pool::{HashPool, Saturated};
use roster_credentials::source::{self, HASH_KEY, KEYS, PASSWORD_KEY, Source, SourceError};

use super::plaintext::{LAST_APPLIED, Needle, PasswordInMetadata, UnreadableManifest, without_plaintext};

/// Why a Secret is denied. Messages name the field and the fix, and never repeat a value.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The data can't be stored safely.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// Other keys may hold the password, by mistake or on purpose.
    #[error(
        "data has the key {}: Secrets of type {PASSWORD_SECRET_TYPE} may contain only {PASSWORD_KEY} or {HASH_KEY}; \
         rename the key that holds the password to {PASSWORD_KEY}, and keep everything else in another Secret", .0.join(", ")
    )]
    UnknownKeys(Vec<String>),
    /// The annotation can't be redacted.
    #[error("metadata.annotations[{LAST_APPLIED}] {0}")]
    LastApplied(#[from] UnreadableManifest),
    /// The metadata contains the password.
    #[error(
        "{0} contains the password: remove it from there; if a tool writes it, exclude Secrets from that tool, or \
         apply a {HASH_KEY}"
    )]
    PasswordInMetadata(#[from] PasswordInMetadata),
    /// No free slot for hashing.
    #[error("{0}")]
    Saturated(#[from] Saturated),
    /// The share of this owner, namespace or requester is used up.
    #[error("too many passwords of one {0} are being hashed; try again in a few seconds")]
    OverShare(&'static str),
}

impl Refusal {
    /// Reason for the log. Names of keys and annotations are not logged, because they may be a mistyped password.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Source(error) => error.reason(),
            Self::UnknownKeys(_) => "SecretKeyUnknown",
            Self::LastApplied(_) => "LastAppliedUnreadable",
            Self::PasswordInMetadata(_) => "PasswordCopied",
            Self::Saturated(_) | Self::OverShare(_) => "Saturated",
        }
    }
}

/// Replaces the plaintext in `secret` with a hash. `old` is the stored Secret, on an update.
///
/// # Errors
/// If the Secret can't be made safe.
pub async fn protect(secret: &mut Secret, old: Option<&Secret>, pool: &HashPool) -> Result<(), Refusal> {
    let ceiling = pool.cost().ceiling();
    let unknown = unknown_keys(secret, old);
    if !unknown.is_empty() {
        return Err(Refusal::UnknownKeys(unknown));
    }
    let empty = BTreeMap::new();
    let mut needle = None;
    match source::read_data(secret.data.as_ref().unwrap_or(&empty), ceiling) {
        Ok(Source::Password(password)) => {
            // Before hashing, because it is cheaper.
            let searched = needle.insert(Needle::new(&password));
            searched.forbid_in(&secret.metadata)?;
            let hash = match old.and_then(|old| comparable_hash(old, ceiling)) {
                Some(stored) if pool.is_same(&password, &stored).await? => stored,
                _ => pool.hash(&password).await?,
            };
            let data = secret.data.get_or_insert_default();
            data.remove(PASSWORD_KEY);
            data.insert(HASH_KEY.to_owned(), ByteString(hash.expose().into()));
        }
        Err(
            error @ (SourceError::Password(_)
            | SourceError::Hash(HashError::NotAHash | HashError::UnsupportedAlgorithm)),
        ) => return Err(error.into()),
        // No plaintext. The controller reports errors.
        Ok(Source::Hash(_)) | Err(_) => {}
    }
    // Even without a password in the data: the annotation may still hold one.
    if let Some(manifest) = secret.metadata.annotations.as_mut().and_then(|all| all.get_mut(LAST_APPLIED)) {
        *manifest = without_plaintext(manifest, needle.as_ref())?;
    }
    Ok(())
}

/// Returns keys that are not allowed. Keys that an earlier version stored are ignored while unchanged, so that
/// unrelated updates succeed.
fn unknown_keys(secret: &Secret, old: Option<&Secret>) -> Vec<String> {
    let before = old.and_then(|old| old.data.as_ref());
    let data = secret.data.iter().flatten().filter(|(key, _)| !KEYS.contains(&key.as_str()));
    let new = data.filter(|(key, value)| before.and_then(|before| before.get(*key)) != Some(value));
    new.map(|(key, _)| key.clone()).collect()
}

/// Returns the stored hash if Roster may have generated it. Other hashes are not compared.
fn comparable_hash(stored: &Secret, ceiling: Ceiling) -> Option<PasswordHash> {
    let bytes = stored.data.as_ref()?.get(HASH_KEY)?;
    source::parse_hash(&bytes.0, ceiling).ok().filter(|hash| hash.algorithm() == Algorithm::Argon2id)
}

#[cfg(test)]
#[path = "password_secret_tests.rs"]
mod tests;
