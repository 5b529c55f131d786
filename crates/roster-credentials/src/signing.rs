//! The keys that tokens are signed with (ES256): pure functions over those that there are.
//!
//! Replicas share them through a Secret. A new key is published a while before it signs, so that whoever verifies has
//! fetched it by then; an old one is published until the last token of it has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, KeyOperations, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use k8s_openapi::ByteString;
use rcgen::KeyPair;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// Longest life of a token: RFC 8725 and the design ask for short ones.
pub const LONGEST_TOKEN: Duration = Duration::from_secs(3600);

/// How long a new key is published before it signs: kube-apiserver looks for new keys when it meets one that it does not
/// know, others by the hour.
const PROPAGATION: Duration = Duration::from_secs(2 * 3600);

/// One key.
#[derive(Clone)]
pub struct SigningKey {
    /// Its name: the thumbprint of the public key (RFC 7638).
    pub id: String,
    /// PKCS #8.
    der: Zeroizing<Vec<u8>>,
    created: Timestamp,
    /// For signing.
    pub private: EncodingKey,
    /// For verifying.
    pub public: DecodingKey,
    jwk: Value,
}

impl SigningKey {
    fn create(now: Timestamp) -> Result<Self> {
        // P-256, which is what ES256 is on (RFC 7518, section 3.4).
        Self::read(Zeroizing::new(KeyPair::generate()?.serialize_der()), now)
    }

    fn read(der: Zeroizing<Vec<u8>>, created: Timestamp) -> Result<Self> {
        let private = EncodingKey::from_ec_der(&der);
        let mut jwk = Jwk::from_encoding_key(&private, Algorithm::ES256).context("the key is no P-256 key")?;
        let id = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_operations = Some(vec![KeyOperations::Verify]);
        let public = DecodingKey::from_jwk(&jwk)?;
        Ok(Self { id, der, created, private, public, jwk: serde_json::to_value(&jwk)? })
    }

    fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.created)).unwrap_or_default()
    }
}

/// All keys that are published, oldest first. Never empty.
#[derive(Clone)]
pub struct SigningKeys(Vec<SigningKey>);

impl SigningKeys {
    /// A first key.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn create(now: Timestamp) -> Result<Self> {
        Ok(Self(vec![SigningKey::create(now)?]))
    }

    /// Reads the data of the Secret: `<seconds>.der` for each key, by the time at which it was made.
    ///
    /// # Errors
    /// If there is none, or one does not parse.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Self> {
        let mut keys = Vec::new();
        for (name, der) in data {
            let second = name.strip_suffix(".der").and_then(|second| second.parse().ok());
            let created = second.with_context(|| format!("the key {name} is not named <seconds>.der"))?;
            keys.push(SigningKey::read(Zeroizing::new(der.0.clone()), Timestamp::from_second(created)?)?);
        }
        keys.sort_by_key(|key| key.created);
        ensure!(!keys.is_empty(), "there is no key in it");
        Ok(Self(keys))
    }

    /// The data of the Secret.
    pub fn write(&self) -> BTreeMap<String, ByteString> {
        let entry = |key: &SigningKey| (format!("{}.der", key.created.as_second()), ByteString(key.der.to_vec()));
        self.0.iter().map(entry).collect()
    }

    /// The key that signs now: the newest that has been published long enough, or else the oldest.
    pub fn signer(&self, now: Timestamp) -> &SigningKey {
        let propagated = self.0.iter().rev().find(|key| key.age(now) >= PROPAGATION);
        propagated.or_else(|| self.0.first()).expect("never empty")
    }

    /// The key of that name.
    pub fn get(&self, id: &str) -> Option<&SigningKey> {
        self.0.iter().find(|key| key.id == id)
    }

    /// What the keys should become, where each signs for `lifetime`: a successor where one is due, and none whose tokens
    /// have all ended. `None`: they are right as they are.
    ///
    /// # Errors
    /// If a key can't be made.
    pub fn rotated(&self, now: Timestamp, lifetime: Duration) -> Result<Option<Self>> {
        let is_over = |successor: &SigningKey| successor.age(now) >= PROPAGATION + LONGEST_TOKEN;
        // A key ends when the next one has signed for as long as a token lasts.
        let first = self.0.iter().skip(1).take_while(|successor| is_over(successor)).count();
        let mut next = self.0[first..].to_vec();
        let is_due = next.last().is_none_or(|newest| newest.age(now) >= lifetime);
        if is_due {
            next.push(SigningKey::create(now)?);
        }
        Ok((is_due || first > 0).then_some(Self(next)))
    }

    /// The public keys, as a JWK set (RFC 7517).
    pub fn jwks(&self) -> Value {
        json!({"keys": self.0.iter().map(|key| key.jwk.clone()).collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn start() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn the_secret_keeps_every_key() {
        let both = SigningKeys::create(start()).unwrap().rotated(start() + 30 * DAY, 30 * DAY).unwrap().unwrap();
        let read = SigningKeys::read(&both.write()).unwrap();
        assert_eq!(read.jwks(), both.jwks());
        assert_eq!(read.jwks()["keys"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn only_public_parts_are_published() {
        let keys = SigningKeys::create(start()).unwrap();
        let key = keys.jwks()["keys"][0].clone();
        assert!(key.get("d").is_none());
        assert_eq!(
            (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
            (&"EC".into(), &"P-256".into(), &"ES256".into(), &"sig".into())
        );
        assert_eq!(key["kid"].as_str().unwrap(), keys.signer(start()).id);
    }

    #[test]
    fn a_successor_is_published_before_it_signs_and_the_old_one_until_its_tokens_have_ended() {
        let first = SigningKeys::create(start()).unwrap();
        let old = first.signer(start()).id.clone();
        assert!(first.rotated(start() + 29 * DAY, 30 * DAY).unwrap().is_none());
        let handover = start() + 30 * DAY;
        let both = first.rotated(handover, 30 * DAY).unwrap().unwrap();
        assert_eq!(both.signer(handover).id, old, "the successor may not be known everywhere");
        assert!(both.rotated(handover, 30 * DAY).unwrap().is_none());
        let later = handover + PROPAGATION;
        assert_ne!(both.signer(later).id, old);
        assert!(both.rotated(later, 30 * DAY).unwrap().is_none(), "tokens of the old one are still around");
        let after = both.rotated(later + LONGEST_TOKEN, 30 * DAY).unwrap().unwrap();
        assert!(after.get(&old).is_none());
    }

    #[test]
    fn a_broken_secret_is_an_error_not_a_panic() {
        assert!(SigningKeys::read(&BTreeMap::new()).is_err());
        assert!(SigningKeys::read(&[("1800000000.der".to_owned(), ByteString(b"junk".to_vec()))].into()).is_err());
        let data = SigningKeys::create(start()).unwrap().write();
        let renamed = data.into_values().map(|der| ("key".to_owned(), der)).collect();
        assert!(SigningKeys::read(&renamed).is_err());
    }
}
