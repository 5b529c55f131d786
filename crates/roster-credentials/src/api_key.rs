//! API keys: long random strings that name their User by UID and carry a checksum.
//!
//! ```text
//!  rstr_<UID of the User, 32 digits><random, 40 digits><CRC-32 of everything before it, 8 digits>
//! ```
//!
//! All digits are hexadecimal. Secret scanners find keys with `rstr_[0-9a-f]{80}` and verify the checksum offline. The UID
//! identifies the only Secret that can contain the digest. It never refers to a later User of the same name.

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::digest::{Digest, hex, random};

/// Prefix of every key.
pub const PREFIX: &str = "rstr_";

const UID_DIGITS: usize = 32;
const RANDOM_BYTES: usize = 20;
const CHECKSUM_DIGITS: usize = 8;
const DIGITS: usize = UID_DIGITS + 2 * RANDOM_BYTES + CHECKSUM_DIGITS;

/// Maximum number of keys per User.
pub const MAX_KEYS: usize = 32;

/// Maximum length of the display name of a key, in characters.
pub const MAX_NAME_CHARACTERS: usize = 100;

/// An API key as stored, without the key itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// Generated name, unique among the keys of the User.
    pub name: String,
    /// Purpose, in the owner's words.
    pub display_name: String,
    /// Digest of the whole key.
    pub digest: Digest,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// Last use, accurate to a few minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

impl ApiKey {
    /// Creates a key for the User with this UID. Returns the record to store and the key itself, which is not stored.
    /// Returns `None` if the UID is malformed.
    pub fn create(
        uid: &str,
        display_name: &str,
        created: Timestamp,
        expires: Timestamp,
    ) -> Option<(Self, SecretString)> {
        let digits = uid.replace('-', "");
        if digits.len() != UID_DIGITS || !is_hex(&digits) {
            return None;
        }
        let body = format!("{digits}{}", hex(&random::<RANDOM_BYTES>()));
        let text = format!("{PREFIX}{body}{}", checksum(&body));
        let key = Self {
            name: format!("key-{}", hex(&random::<5>())),
            display_name: display_name.to_owned(),
            digest: Digest::of(&text),
            created,
            expires,
            last_used: None,
        };
        Some((key, text.into()))
    }

    /// Returns whether the key has expired.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires <= now
    }
}

/// Returns the UID of the User that the key names. Returns `None` for text that is not a key or has a wrong checksum.
pub fn uid_of(text: &str) -> Option<String> {
    let body = text.strip_prefix(PREFIX).filter(|body| body.len() == DIGITS && is_hex(body))?;
    let (body, found) = body.split_at(DIGITS - CHECKSUM_DIGITS);
    if checksum(body) != found {
        return None;
    }
    let groups = [&body[..8], &body[8..12], &body[12..16], &body[16..20], &body[20..UID_DIGITS]];
    Some(groups.join("-"))
}

fn checksum(body: &str) -> String {
    format!("{:08x}", crc32fast::hash(format!("{PREFIX}{body}").as_bytes()))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    const UID: &str = "2f1c9d1e-7c0b-4a55-9d3e-0123456789ab";

    fn create() -> (ApiKey, SecretString) {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        ApiKey::create(UID, "laptop", now, now + jiff::SignedDuration::from_hours(1)).unwrap()
    }

    #[test]
    fn a_key_names_its_user_and_is_stored_as_a_digest() {
        let (key, text) = create();
        let text = text.expose_secret();
        assert_eq!(text.len(), PREFIX.len() + 80);
        assert_eq!(uid_of(text).as_deref(), Some(UID));
        assert!(key.digest.is_of(text));
        let stored = serde_json::to_string(&key).unwrap();
        assert!(!stored.contains(text) && !stored.contains(&text[PREFIX.len()..]));
        assert!(!format!("{key:?}").contains(text));
    }

    #[test]
    fn keys_are_unique() {
        assert_ne!(create().1.expose_secret(), create().1.expose_secret());
    }

    #[test]
    fn mistyped_and_truncated_keys_are_rejected() {
        let (_, text) = create();
        let text = text.expose_secret().to_owned();
        let mut other = text.clone();
        let last = if other.ends_with('0') { "1" } else { "0" };
        other.replace_range(60..61, if &other[60..61] == "a" { "b" } else { "a" });
        assert_eq!(uid_of(&other), None, "a digit in the middle");
        assert_eq!(uid_of(&format!("{}{last}", &text[..text.len() - 1])), None, "a digit of the checksum");
        assert_eq!(uid_of(&text[..text.len() - 1]), None);
        assert_eq!(uid_of(&text.to_uppercase()), None);
        assert_eq!(uid_of(&"é".repeat(45)), None);
        assert_eq!(uid_of("rstr_"), None);
    }

    #[test]
    fn a_malformed_uid_is_rejected() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert!(ApiKey::create("not-a-uid", "x", now, now).is_none());
    }
}
