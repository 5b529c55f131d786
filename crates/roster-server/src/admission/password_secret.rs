//! Password Secrets (type `roster.dev/password`): plaintext is replaced by its hash before anything is stored.
//!
//! ```text
//!  data.password ──▶ is it the password of the hash that was there? ──yes──▶ data.passwordHash stays as it was
//!                                                                  └──no───▶ data.passwordHash = argon2id(password)
//!  data.password, and all of last-applied-configuration that may hold it ──▶ removed
//! ```
//!
//! Keeping the old hash makes re-applying the same manifest change nothing, not even the resourceVersion. What can't
//! be made safe is refused: a password that is not acceptable, a value under `passwordHash` that is no hash and may be
//! a password, any other key, a copy of the password in the metadata, an annotation that may hold one and does not parse.
//! A hash that is malformed, weak or too costly is let through: the User's condition says what is wrong with it, and the
//! last good credential stays in use.
//!
//! The requester decides what is in the Secret, so nothing in the request is verified against a hash in the same request.
//! The stored hash may be theirs as well, from an earlier write: it is compared with where it costs no more than what
//! Roster takes in today, within the memory that all hashing shares.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use roster_api::PASSWORD_SECRET_TYPE;
use roster_credentials::hash::{Algorithm, Ceiling, HashError, PasswordHash};
use roster_credentials::pool::{HashPool, Saturated};
use roster_credentials::source::{self, HASH_KEY, KEYS, PASSWORD_KEY, Source, SourceError};

use super::plaintext::{Copied, LAST_APPLIED, Needle, UnreadableManifest, without_plaintext};

/// Why a Secret is refused. The messages name the field and say what to do, and never repeat a value.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// What it holds can't be stored safely.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// Any other key may hold the password, mistyped or on purpose.
    #[error(
        "data has the key {}: Secrets of type {PASSWORD_SECRET_TYPE} hold {PASSWORD_KEY} or {HASH_KEY} and nothing else; rename the key that holds the password to {PASSWORD_KEY}, and keep everything else in another Secret", .0.join(", ")
    )]
    UnknownKeys(Vec<String>),
    /// The annotation may hold the password.
    #[error("metadata.annotations[{LAST_APPLIED}] {0}")]
    LastApplied(#[from] UnreadableManifest),
    /// A tool or a person keeps the password in the metadata too.
    #[error(
        "{0} contains the password: remove it there; if a tool writes it, have that tool leave Secrets out, or apply a {HASH_KEY}"
    )]
    Copied(#[from] Copied),
    /// No slot for hashing.
    #[error("{0}")]
    Saturated(#[from] Saturated),
}

impl Refusal {
    /// For the log, where names of keys and annotations do not belong: somebody may have typed a password there.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Source(error) => error.reason(),
            Self::UnknownKeys(_) => "SecretKeyUnknown",
            Self::LastApplied(_) => "LastAppliedUnreadable",
            Self::Copied(_) => "PasswordCopied",
            Self::Saturated(_) => "Saturated",
        }
    }
}

/// Takes the plaintext out of `secret`. `old` is the Secret as stored, on an update.
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
            // Before anything is hashed: it is the cheaper of the two.
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
        // Nothing in plain text: the controller says what is wrong, if anything is.
        Ok(Source::Hash(_)) | Err(_) => {}
    }
    // Also where the data itself had no password: the annotation alone can be set too.
    if let Some(manifest) = secret.metadata.annotations.as_mut().and_then(|all| all.get_mut(LAST_APPLIED)) {
        *manifest = without_plaintext(manifest, needle.as_ref())?;
    }
    Ok(())
}

/// Keys that a password Secret can't have. Those that an earlier version has stored may stay as they are: an update that
/// leaves them alone, such as a label, is not to fail for them.
fn unknown_keys(secret: &Secret, old: Option<&Secret>) -> Vec<String> {
    let before = old.and_then(|old| old.data.as_ref());
    let data = secret.data.iter().flatten().filter(|(key, _)| !KEYS.contains(&key.as_str()));
    let new = data.filter(|(key, value)| before.and_then(|before| before.get(*key)) != Some(value));
    new.map(|(key, _)| key.clone()).collect()
}

/// The stored hash, where it may be one that Roster has made: only those are worth a comparison.
fn comparable_hash(stored: &Secret, ceiling: Ceiling) -> Option<PasswordHash> {
    let bytes = stored.data.as_ref()?.get(HASH_KEY)?;
    source::parse_hash(&bytes.0, ceiling).ok().filter(|hash| hash.algorithm() == Algorithm::Argon2id)
}

#[cfg(test)]
#[path = "password_secret_tests.rs"]
mod tests;
