//! What has to be kept in a form that can be read back, and is to lie nowhere in plain: seeds of second factors.
//!
//! AES-256-GCM with a random nonce for each (NIST SP 800-38D). The key lies in a Secret of its own: a dump of identity
//! Secrets alone tells no seed, and neither does a search through etcd.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use super::digest::random;

/// Length of the key, in bytes.
pub const KEY_BYTES: usize = 32;

/// Seals and opens.
pub struct Sealer(LessSafeKey);

impl Sealer {
    /// With that key. `None` if it has another length.
    pub fn new(key: &[u8]) -> Option<Self> {
        UnboundKey::new(&AES_256_GCM, key).ok().map(|key| Self(LessSafeKey::new(key)))
    }

    /// Seals a text: nonce, ciphertext and tag, in base64.
    pub fn seal(&self, text: &str) -> String {
        let nonce = random::<NONCE_LEN>();
        let mut sealed = text.as_bytes().to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
            .expect("a seed is far from as long as AES-GCM takes");
        BASE64_STANDARD.encode([&nonce[..], &sealed].concat())
    }

    /// Opens what was sealed. `None` if it was with another key, or is damaged.
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
    fn what_is_sealed_is_opened_with_the_same_key_alone() {
        let (one, other) = (Sealer::new(&[1; KEY_BYTES]).unwrap(), Sealer::new(&[2; KEY_BYTES]).unwrap());
        let sealed = one.seal("GEZDGNBVGY3TQOJQ");
        assert!(!sealed.contains("GEZDG"));
        assert_eq!(one.open(&sealed).unwrap().as_str(), "GEZDGNBVGY3TQOJQ");
        assert_ne!(one.seal("GEZDGNBVGY3TQOJQ"), sealed, "each with a nonce of its own");
        assert!(other.open(&sealed).is_none());
        for damaged in ["", "x", "AAAA", &sealed[..sealed.len() - 4], &sealed.replacen(&sealed[20..21], "_", 1)] {
            assert!(one.open(damaged).is_none(), "{damaged}");
        }
        assert!(Sealer::new(b"short").is_none());
    }
}
