//! Password Secrets (type `roster.dev/password`): plaintext is replaced by its hash before anything is stored.
//!
//! ```text
//!  data.password ──▶ is it the password of the hash that was there? ──yes──▶ data.passwordHash stays as it was
//!                                                                  └──no───▶ data.passwordHash = argon2id(password)
//!  data.password and every copy of it in last-applied-configuration ──▶ removed
//! ```
//!
//! Keeping the old hash makes re-applying the same manifest change nothing, not even the resourceVersion. What can't
//! be made safe is refused: a password that is not acceptable, a value under `passwordHash` that is no hash and may be
//! a password, an annotation that may hold one and does not parse. A hash that is merely malformed or weak is let
//! through: the User's condition says what is wrong with it, and the last good credential stays in use.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::credentials::hash::{HashError, PasswordHash};
use crate::credentials::pool::{HashPool, Saturated};
use crate::credentials::source::{self, HASH_KEY, PASSWORD_KEY, Source, SourceError};

/// Where kubectl keeps the manifest that was applied last, as typed.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Why a Secret is refused. The messages name the field and say what to do, and never repeat a value.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// What it holds can't be stored safely.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// A key that is none of the two may hold the password.
    #[error(
        "data has neither the key {PASSWORD_KEY} nor {HASH_KEY}: name the key that holds the password {PASSWORD_KEY}"
    )]
    UnknownKeys,
    /// The annotation may hold the password.
    #[error("metadata.annotations[{LAST_APPLIED}] is not valid JSON and may hold a password: remove the annotation")]
    LastApplied,
    /// A tool other than kubectl keeps the manifest in an annotation of its own.
    #[error(
        "metadata.annotations[{0}] contains the password: have the tool that writes it leave Secrets out, or apply a passwordHash"
    )]
    Copied(String),
    /// No slot for hashing.
    #[error("{0}")]
    Saturated(#[from] Saturated),
}

/// Takes the plaintext out of `secret`. `old` is the Secret as stored, on an update.
///
/// # Errors
/// If the Secret can't be made safe.
pub async fn protect(secret: &mut Secret, old: Option<&Secret>, pool: &HashPool) -> Result<(), Refusal> {
    let empty = BTreeMap::new();
    match source::read_data(secret.data.as_ref().unwrap_or(&empty)) {
        Ok(Source::Password(password, beside)) => {
            let stored = old.and_then(stored_hash);
            let mut hash = None;
            for candidate in [beside, stored].into_iter().flatten() {
                if pool.verify(&password, &candidate).await? {
                    hash = Some(candidate);
                    break;
                }
            }
            let hash = match hash {
                Some(hash) => hash,
                None => pool.hash(&password).await?,
            };
            forbid_copies(secret, &password)?;
            let data = secret.data.get_or_insert_default();
            data.remove(PASSWORD_KEY);
            data.insert(HASH_KEY.to_owned(), ByteString(hash.expose().into()));
        }
        Err(
            error @ (SourceError::Password(_)
            | SourceError::Hash(HashError::NotAHash | HashError::UnsupportedAlgorithm)),
        ) => return Err(error.into()),
        // Under a mistyped key there may be a password.
        Err(SourceError::KeyMissing) if secret.data.as_ref().is_some_and(|data| !data.is_empty()) => {
            return Err(Refusal::UnknownKeys);
        }
        // Nothing in plain text: the controller says what is wrong, if anything is.
        Ok(Source::Hash(_)) | Err(_) => {}
    }
    forget_last_applied(secret)
}

fn stored_hash(secret: &Secret) -> Option<PasswordHash> {
    let bytes = secret.data.as_ref()?.get(HASH_KEY)?;
    PasswordHash::parse(str::from_utf8(&bytes.0).ok()?.trim()).ok()
}

/// Removes the password from kubectl's copy of the manifest, also where the data itself had none: the annotation
/// alone can be set too.
fn forget_last_applied(secret: &mut Secret) -> Result<(), Refusal> {
    let Some(annotation) =
        secret.metadata.annotations.as_mut().and_then(|annotations| annotations.get_mut(LAST_APPLIED))
    else {
        return Ok(());
    };
    let mut manifest: Value = serde_json::from_str(annotation).map_err(|_| Refusal::LastApplied)?;
    // A key that stands twice is read once: what is written back has it once.
    let mut found = annotation.contains(PASSWORD_KEY);
    for field in ["data", "stringData"] {
        if let Some(data) = manifest.get_mut(field).and_then(Value::as_object_mut) {
            found |= data.remove(PASSWORD_KEY).is_some();
            if data.get(HASH_KEY).is_some_and(|value| !is_hash(value, field)) {
                found |= data.remove(HASH_KEY).is_some();
            }
        }
    }
    if found {
        *annotation = format!("{manifest}\n");
    }
    Ok(())
}

/// Shortest password that is looked for: shorter ones stand in many a text by chance.
const SHORTEST_COPY: usize = 8;

fn forbid_copies(secret: &Secret, password: &SecretString) -> Result<(), Refusal> {
    let plain = password.expose_secret();
    if plain.len() < SHORTEST_COPY {
        return Ok(());
    }
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(plain));
    let annotations = secret.metadata.annotations.iter().flatten().filter(|(key, _)| *key != LAST_APPLIED);
    let mut copies = annotations.filter(|(_, value)| value.contains(plain) || value.contains(encoded.as_str()));
    copies.next().map_or(Ok(()), |(key, _)| Err(Refusal::Copied(key.clone())))
}

/// Whether the manifest has a hash, and not a password, under the hash's key.
fn is_hash(value: &Value, field: &str) -> bool {
    let text = value.as_str().map(str::as_bytes).unwrap_or_default();
    let bytes = if field == "data" { BASE64_STANDARD.decode(text).unwrap_or_default() } else { text.to_vec() };
    let text = String::from_utf8_lossy(&bytes);
    !matches!(PasswordHash::parse(text.trim()), Err(HashError::NotAHash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::hash::Argon2idCost;
    use crate::metrics::HashMetrics;
    use serde_json::json;

    fn pool() -> HashPool {
        HashPool::new(Argon2idCost::default(), 2, 16, HashMetrics::default())
    }

    fn secret(data: &[(&str, &str)], last_applied: Option<&str>) -> Secret {
        let mut secret = Secret {
            data: Some(data.iter().map(|(key, value)| ((*key).to_owned(), ByteString((*value).into()))).collect()),
            ..Secret::default()
        };
        secret.metadata.annotations = last_applied.map(|text| [(LAST_APPLIED.to_owned(), text.to_owned())].into());
        secret
    }

    fn hash_of(secret: &Secret) -> String {
        String::from_utf8(secret.data.as_ref().unwrap()[HASH_KEY].0.clone()).unwrap()
    }

    #[tokio::test]
    async fn plaintext_becomes_a_hash_everywhere() {
        let applied = json!({"kind": "Secret", "stringData": {"password": "hunter2", "other": "kept"}}).to_string();
        let mut new = secret(&[("password", "hunter2"), ("other", "kept")], Some(&applied));
        protect(&mut new, None, &pool()).await.unwrap();
        let text = serde_json::to_string(&new).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
        assert!(text.contains("kept"), "what is no password stays: {text}");
        assert!(hash_of(&new).starts_with("$argon2id$"));
        assert!(new.metadata.annotations.unwrap()[LAST_APPLIED].contains("\"other\":\"kept\""));
    }

    #[tokio::test]
    async fn the_same_password_again_changes_nothing_and_another_one_does() {
        let pool = pool();
        let mut first = secret(&[("password", "hunter2")], None);
        protect(&mut first, None, &pool).await.unwrap();
        for keys in [&[("password", "hunter2")][..], &[("password", "hunter2"), ("passwordHash", "$2b$junk")][..]] {
            let mut again = secret(keys, None);
            protect(&mut again, Some(&first), &pool).await.unwrap();
            assert_eq!(again.data, first.data);
        }
        let mut both = secret(&[("password", "hunter3"), ("passwordHash", &hash_of(&first))], None);
        protect(&mut both, Some(&first), &pool).await.unwrap();
        assert_ne!(both.data, first.data);
    }

    #[tokio::test]
    async fn what_may_be_a_password_is_never_let_through() {
        let pool = pool();
        let cases = [
            ("password", ""),
            ("password", "line\n"),
            ("passwordHash", "hunter2"),
            ("passwordHash", "$hunter2"),
            ("Password", "hunter2"),
        ];
        for data in cases.map(|case| [case]) {
            let refusal = protect(&mut secret(&data, None), None, &pool).await.unwrap_err().to_string();
            assert!(refusal.starts_with("data") && !refusal.contains("hunter2"), "{refusal}");
        }
        let mut odd = secret(&[], Some("stringData: {password: hunter2}"));
        assert!(matches!(protect(&mut odd, None, &pool).await, Err(Refusal::LastApplied)));
    }

    #[tokio::test]
    async fn the_annotation_alone_is_cleaned_too() {
        let applied = json!({"stringData": {"password": "hunter2"}, "data": {"password": "aHVudGVyMg=="}}).to_string();
        let mut only = secret(&[], Some(&applied));
        protect(&mut only, None, &pool()).await.unwrap();
        let text = serde_json::to_string(&only).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
    }

    #[tokio::test]
    async fn a_password_under_the_hashs_key_does_not_stay_in_the_annotation() {
        let applied = json!({"stringData": {"password": "hunter2", "passwordHash": "hunter3"}, "data": {"passwordHash": "aHVudGVyMw=="}});
        let mut both = secret(&[("password", "hunter2"), ("passwordHash", "hunter3")], Some(&applied.to_string()));
        protect(&mut both, None, &pool()).await.unwrap();
        let text = serde_json::to_string(&both).unwrap();
        assert!(!text.contains("hunter") && !text.contains("aHVudGVy"), "{text}");
    }

    #[tokio::test]
    async fn a_copy_in_another_annotation_is_refused_by_its_key() {
        let mut copied = secret(&[("password", "correct horse")], None);
        copied.metadata.annotations =
            Some([("kapp.k14s.io/original".to_owned(), "x: correct horse".to_owned())].into());
        let refusal = protect(&mut copied, None, &pool()).await.unwrap_err().to_string();
        assert!(refusal.contains("kapp.k14s.io/original") && !refusal.contains("correct horse"), "{refusal}");
    }

    #[tokio::test]
    async fn a_key_that_stands_twice_in_the_manifest_hides_nothing() {
        let applied = r#"{"stringData": {"password": "hunter2"}, "stringData": {}}"#;
        let mut twice = secret(&[("password", "hunter2")], Some(applied));
        protect(&mut twice, None, &pool()).await.unwrap();
        assert!(!serde_json::to_string(&twice).unwrap().contains("hunter2"));
    }

    #[tokio::test]
    async fn nothing_at_all_is_left_to_the_controller() {
        protect(&mut secret(&[], None), None, &pool()).await.unwrap();
    }

    #[tokio::test]
    async fn a_hash_is_left_to_the_controller() {
        for hash in ["$2y$05$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW", "$argon2id$broken"] {
            let mut weak = secret(&[("passwordHash", hash)], None);
            let before = weak.clone();
            protect(&mut weak, None, &pool()).await.unwrap();
            assert_eq!(weak, before);
        }
    }
}
