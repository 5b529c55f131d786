//! passlib's bcrypt-sha256: bcrypt of a digest of the password, so that the whole password counts. Keystone supports
//! it.
//!
//! bcrypt hashes the base64 of the digest. The digest is SHA-256 in version 1, `$bcrypt-sha256$2b,12$SALT$CHECKSUM`. In
//! version 2, `$bcrypt-sha256$v=2,t=2b,r=12$SALT$CHECKSUM`, it is HMAC-SHA-256 with the text of the salt as its key.
//! Source: `bcrypt_sha256` in `passlib.handlers.bcrypt` of passlib 1.7.4.

use base64::prelude::{BASE64_STANDARD, Engine};
use pbkdf2::hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// First part of each hash, between two `$`.
pub(crate) const IDENTIFIER: &str = "bcrypt-sha256";

/// A hash, split into its parts.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct BcryptSha256<'a> {
    /// Text of the salt, if the digest is keyed with it (version 2).
    key: Option<&'a str>,
    /// The bcrypt hash of the digest: `$2b$12$` and 53 more characters.
    pub(crate) bcrypt: String,
}

impl<'a> BcryptSha256<'a> {
    /// Splits a hash. Returns `None` if it has neither form. Does not check whether [`Self::bcrypt`] is a bcrypt hash.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix('$')?.strip_prefix(IDENTIFIER)?.strip_prefix('$')?;
        let [parameters, salt, checksum] = rest.split('$').collect::<Vec<_>>()[..] else { return None };
        let (variant, rounds, is_keyed) = match parameters.split(',').collect::<Vec<_>>()[..] {
            [variant, rounds] => (variant, rounds, false),
            ["v=2", variant, rounds] => (variant.strip_prefix("t=")?, rounds.strip_prefix("r=")?, true),
            _ => return None,
        };
        let rounds: u8 = rounds.parse().ok().filter(|_| !rounds.starts_with(['0', '+']))?;
        let is_known = matches!(variant, "2a" | "2b") && salt.len() == 22;
        is_known
            .then(|| Self { key: is_keyed.then_some(salt), bcrypt: format!("${variant}${rounds:02}${salt}{checksum}") })
    }

    /// Returns what bcrypt hashes in place of the password: 44 characters of base64.
    pub(crate) fn digest(&self, password: &[u8]) -> Zeroizing<String> {
        let digest: Zeroizing<[u8; 32]> = Zeroizing::new(match self.key {
            Some(salt) => {
                let mut hmac = Hmac::<Sha256>::new_from_slice(salt.as_bytes()).expect("HMAC takes keys of any length");
                hmac.update(password);
                hmac.finalize().into_bytes().into()
            }
            None => Sha256::digest(password).into(),
        });
        Zeroizing::new(BASE64_STANDARD.encode(*digest))
    }
}
