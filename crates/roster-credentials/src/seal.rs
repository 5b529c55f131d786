//! Encrypts secrets that Roster must be able to read again: the seeds of second factors.
//!
//! AES-256-GCM with a random nonce per seed (NIST SP 800-38D). The key is in a separate Secret, so that a dump of the
//! identity Secrets alone does not reveal seeds.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use super::digest::random;

/// Length of the key in bytes.
pub const KEY_BYTES: usize = 32;

/// Encrypts and decrypts secrets with one key.
pub struct Sealer(LessSafeKey);

impl Sealer {
    /// Returns a sealer for the key, or `None` if the key does not have [`KEY_BYTES`].
    pub fn new(key: &[u8]) -> Option<Self> {
        UnboundKey::new(&AES_256_GCM, key).ok().map(|key| Self(LessSafeKey::new(key)))
    }

    /// Encrypts a text. Returns nonce, ciphertext and tag in base64.
    pub fn seal(&self, text: &str) -> String {
        let nonce = random::<NONCE_LEN>();
        let mut sealed = text.as_bytes().to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
            .expect("a seed is far shorter than the limit of AES-GCM");
        BASE64_STANDARD.encode([&nonce[..], &sealed].concat())
    }

    /// Decrypts a sealed text. Returns `None` if it is damaged or was sealed with another key.
    pub fn open(&self, sealed: &str) -> Option<Zeroizing<String>> {
        let mut bytes = BASE64_STANDARD.decode(sealed).ok()?;
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.0.open_in_place(nonce, Aad::empty(), text).ok()?;
        String::from_utf8(text.to_vec()).ok().map(Zeroizing::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_text_can_only_be_opened_with_the_same_key() {
        let (one, other) = (Sealer::new(&[1; KEY_BYTES]).unwrap(), Sealer::new(&[2; KEY_BYTES]).unwrap());
        let sealed = one.seal("GEZDGNBVGY3TQOJQ");
        assert!(!sealed.contains("GEZDG"));
        assert_eq!(one.open(&sealed).unwrap().as_str(), "GEZDGNBVGY3TQOJQ");
        assert_ne!(one.seal("GEZDGNBVGY3TQOJQ"), sealed, "the nonce is random");
        assert!(other.open(&sealed).is_none());
        for damaged in ["", "x", "AAAA", &sealed[..sealed.len() - 4], &sealed.replacen(&sealed[20..21], "_", 1)] {
            assert!(one.open(damaged).is_none(), "{damaged}");
        }
        assert!(Sealer::new(b"short").is_none());
    }
}
