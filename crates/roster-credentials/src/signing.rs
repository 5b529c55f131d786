//! Keys that sign tokens, and their rotation. Pure logic.
//!
//! Replicas share the keys through a Secret. A new key is published some time before it signs, so that verifiers have
//! fetched it by then. An old key is published until its last token has expired.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, KeyOperations, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use k8s_openapi::ByteString;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// Maximum lifetime of a token. RFC 8725 recommends short lifetimes.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// How long a new key is published before it signs. kube-apiserver fetches the keys when it sees an unknown key ID,
/// other verifiers every hour.
const PROPAGATION: Duration = Duration::from_secs(2 * 3600);

/// Algorithm of new keys (RFC 7518).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SigningAlgorithm {
    /// ECDSA with P-256 and SHA-256: small keys and signatures.
    #[default]
    Es256,
    /// RSASSA-PKCS1-v1_5 with a 2048-bit key and SHA-256: OpenID Connect Core requires it, and some relying parties accept
    /// nothing else.
    Rs256,
}

/// Not the name of a [`SigningAlgorithm`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be ES256 or RS256")]
pub struct UnknownAlgorithm;

impl FromStr for SigningAlgorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        match text {
            "ES256" => Ok(Self::Es256),
            "RS256" => Ok(Self::Rs256),
            _ => Err(UnknownAlgorithm),
        }
    }
}

impl fmt::Display for SigningAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        })
    }
}

impl From<SigningAlgorithm> for Algorithm {
    fn from(algorithm: SigningAlgorithm) -> Self {
        match algorithm {
            SigningAlgorithm::Es256 => Self::ES256,
            SigningAlgorithm::Rs256 => Self::RS256,
        }
    }
}

/// A signing key.
#[derive(Clone)]
pub struct SigningKey {
    /// Key ID: the thumbprint of the public key (RFC 7638).
    pub id: String,
    /// Algorithm of its signatures.
    pub algorithm: SigningAlgorithm,
    /// Private key, PKCS #8.
    der: Zeroizing<Vec<u8>>,
    created: Timestamp,
    pub private: EncodingKey,
    pub public: DecodingKey,
    /// Public key as published.
    jwk: Value,
}

impl SigningKey {
    fn create(now: Timestamp, algorithm: SigningAlgorithm) -> Result<Self> {
        let pair = match algorithm {
            SigningAlgorithm::Es256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            SigningAlgorithm::Rs256 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        };
        Self::read(Zeroizing::new(pair.serialize_der()), now)
    }

    fn read(der: Zeroizing<Vec<u8>>, created: Timestamp) -> Result<Self> {
        let pair = KeyPair::try_from(der.as_slice()).context("the key is not PKCS #8")?;
        let (algorithm, private) = if pair.is_compatible(&PKCS_RSA_SHA256) {
            (SigningAlgorithm::Rs256, EncodingKey::from_rsa_der(&pkcs1(&der)?))
        } else {
            (SigningAlgorithm::Es256, EncodingKey::from_ec_der(&der))
        };
        let jwk = Jwk::from_encoding_key(&private, algorithm.into());
        let mut jwk = jwk.context("the key is neither a P-256 key nor an RSA key")?;
        let id = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_operations = Some(vec![KeyOperations::Verify]);
        let public = DecodingKey::from_jwk(&jwk)?;
        Ok(Self { id, algorithm, der, created, private, public, jwk: serde_json::to_value(&jwk)? })
    }

    fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.created)).unwrap_or_default()
    }
}

/// Returns the PKCS #1 key in a PKCS #8 container (RFC 5208, section 5).
fn pkcs1(der: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let key = yasna::parse_der(der, |reader| {
        reader.read_sequence(|reader| {
            let _version = reader.next().read_u8()?;
            let _algorithm = reader.next().read_der()?;
            reader.next().read_bytes()
        })
    });
    key.map(Zeroizing::new).context("the key is not PKCS #8")
}

/// All published keys, oldest first. Never empty.
#[derive(Clone)]
pub struct SigningKeys(Vec<SigningKey>);

impl SigningKeys {
    /// Creates a first key.
    ///
    /// # Errors
    /// If key generation fails.
    pub fn create(now: Timestamp, algorithm: SigningAlgorithm) -> Result<Self> {
        Ok(Self(vec![SigningKey::create(now, algorithm)?]))
    }

    /// Reads the data of the Secret: one entry `<seconds>.der` per key, named by its creation time (Unix time).
    ///
    /// # Errors
    /// If there is no key, or one does not parse.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Self> {
        let mut keys = Vec::new();
        for (name, der) in data {
            let second = name.strip_suffix(".der").and_then(|second| second.parse().ok());
            let created = second.with_context(|| format!("the key {name} is not named <seconds>.der"))?;
            keys.push(SigningKey::read(Zeroizing::new(der.0.clone()), Timestamp::from_second(created)?)?);
        }
        keys.sort_by_key(|key| key.created);
        ensure!(!keys.is_empty(), "the Secret contains no key");
        Ok(Self(keys))
    }

    /// Returns the data of the Secret.
    pub fn write(&self) -> BTreeMap<String, ByteString> {
        let entry = |key: &SigningKey| (format!("{}.der", key.created.as_second()), ByteString(key.der.to_vec()));
        self.0.iter().map(entry).collect()
    }

    /// Returns the key that signs now: the newest one that has been published long enough, or else the oldest.
    pub fn signer(&self, now: Timestamp) -> &SigningKey {
        let propagated = self.0.iter().rev().find(|key| key.age(now) >= PROPAGATION);
        propagated.or_else(|| self.0.first()).expect("never empty")
    }

    /// Returns the key with this ID.
    pub fn get(&self, id: &str) -> Option<&SigningKey> {
        self.0.iter().find(|key| key.id == id)
    }

    /// Returns the algorithms of the published keys, without repetition.
    pub fn algorithms(&self) -> Vec<SigningAlgorithm> {
        let has = |algorithm: &SigningAlgorithm| self.0.iter().any(|key| key.algorithm == *algorithm);
        [SigningAlgorithm::Es256, SigningAlgorithm::Rs256].into_iter().filter(has).collect()
    }

    /// Returns the keys after rotation: with a successor if the newest key is older than `lifetime` or has another
    /// algorithm, and without keys whose tokens have all expired. Returns `None` if nothing changes.
    ///
    /// # Errors
    /// If key generation fails.
    pub fn rotated(&self, now: Timestamp, lifetime: Duration, algorithm: SigningAlgorithm) -> Result<Option<Self>> {
        // A key is obsolete when its successor has signed for as long as a token can live.
        let is_established = |successor: &SigningKey| successor.age(now) >= PROPAGATION + MAX_TOKEN_LIFETIME;
        let first = self.0.iter().skip(1).take_while(|successor| is_established(successor)).count();
        let mut next = self.0[first..].to_vec();
        let is_due = next.last().is_none_or(|newest| newest.age(now) >= lifetime || newest.algorithm != algorithm);
        if is_due {
            // Keys are stored under the second of their creation, so each needs a second of its own.
            let free = next.last().map_or(now, |newest| newest.created + Duration::from_secs(1));
            next.push(SigningKey::create(now.max(free), algorithm)?);
        }
        Ok((is_due || first > 0).then_some(Self(next)))
    }

    /// Returns the public keys as a JWK set (RFC 7517).
    pub fn jwks(&self) -> Value {
        json!({"keys": self.0.iter().map(|key| key.jwk.clone()).collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use super::SigningAlgorithm::{Es256, Rs256};
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn start() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn keys_round_trip_through_the_secret() {
        let both =
            SigningKeys::create(start(), Es256).unwrap().rotated(start() + 30 * DAY, 30 * DAY, Es256).unwrap().unwrap();
        let read = SigningKeys::read(&both.write()).unwrap();
        assert_eq!(read.jwks(), both.jwks());
        assert_eq!(read.jwks()["keys"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn only_public_parts_are_published() {
        let keys = SigningKeys::create(start(), Es256).unwrap();
        let key = keys.jwks()["keys"][0].clone();
        assert!(key.get("d").is_none());
        assert_eq!(
            (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
            (&"EC".into(), &"P-256".into(), &"ES256".into(), &"sig".into())
        );
        assert_eq!(key["kid"].as_str().unwrap(), keys.signer(start()).id);
    }

    #[test]
    fn a_successor_is_published_before_it_signs_and_the_old_key_until_its_tokens_have_expired() {
        let first = SigningKeys::create(start(), Es256).unwrap();
        let old = first.signer(start()).id.clone();
        assert!(first.rotated(start() + 29 * DAY, 30 * DAY, Es256).unwrap().is_none());
        let handover = start() + 30 * DAY;
        let both = first.rotated(handover, 30 * DAY, Es256).unwrap().unwrap();
        assert_eq!(both.signer(handover).id, old, "verifiers may not have the successor yet");
        assert!(both.rotated(handover, 30 * DAY, Es256).unwrap().is_none());
        let later = handover + PROPAGATION;
        assert_ne!(both.signer(later).id, old);
        assert!(both.rotated(later, 30 * DAY, Es256).unwrap().is_none(), "tokens of the old key are still valid");
        let after = both.rotated(later + MAX_TOKEN_LIFETIME, 30 * DAY, Es256).unwrap().unwrap();
        assert!(after.get(&old).is_none());
    }

    #[test]
    fn an_invalid_secret_is_an_error() {
        assert!(SigningKeys::read(&BTreeMap::new()).is_err());
        assert!(SigningKeys::read(&[("1800000000.der".to_owned(), ByteString(b"junk".to_vec()))].into()).is_err());
        let data = SigningKeys::create(start(), Es256).unwrap().write();
        let renamed = data.into_values().map(|der| ("key".to_owned(), der)).collect();
        assert!(SigningKeys::read(&renamed).is_err());
    }

    #[test]
    fn case_e1_another_algorithm_takes_over_like_a_successor() {
        let first = SigningKeys::create(start(), Es256).unwrap();
        let both = first.rotated(start(), 30 * DAY, Rs256).unwrap().unwrap();
        assert!(both.rotated(start(), 30 * DAY, Rs256).unwrap().is_none());
        assert_eq!(both.algorithms(), [Es256, Rs256]);
        assert_eq!(both.signer(start()).algorithm, Es256, "relying parties may not have the new key yet");
        assert_eq!(both.signer(start() + PROPAGATION + Duration::from_secs(1)).algorithm, Rs256);
        let read = SigningKeys::read(&both.write()).unwrap();
        assert_eq!(read.jwks(), both.jwks());
        let key = &read.jwks()["keys"][1];
        assert_eq!((&key["kty"], &key["alg"], &key["e"]), (&"RSA".into(), &"RS256".into(), &"AQAB".into()));
        assert!(key.get("d").is_none() && key.get("p").is_none());
    }

    #[test]
    fn algorithms_are_named_as_in_rfc_7518() {
        for algorithm in [Es256, Rs256] {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        }
        assert!("none".parse::<SigningAlgorithm>().is_err() && "HS256".parse::<SigningAlgorithm>().is_err());
    }
}
