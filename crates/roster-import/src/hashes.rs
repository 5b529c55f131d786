//! Converts password hashes of other systems to a notation that Roster verifies.

use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine};
use roster_credentials::hash::{Argon2idCost, HashError, PasswordHash, SUPPORTED};

/// A hash that Roster can't verify. The messages never contain the hash.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnusableHash {
    #[error("is {0}, which is not supported; use {SUPPORTED}")]
    Unsupported(&'static str),
    #[error("is a reference to another system ({{SASL}}), not a hash")]
    Reference,
    #[error("has an unknown scheme in braces")]
    UnknownScheme,
    #[error(transparent)]
    Invalid(#[from] HashError),
}

/// Converts a hash to a PHC string or a hash of bcrypt or bcrypt-sha256. It may be in base64.
///
/// # Errors
/// If Roster can't verify the hash.
pub fn usable(text: &str) -> Result<String, UnusableHash> {
    let decoded = from_base64(text);
    let hash = phc(decoded.as_deref().unwrap_or(text).trim())?;
    // The operator's cost is not known here: accept what an operator with the default cost accepts.
    let parsed = PasswordHash::parse_within(&hash, Argon2idCost::default().ceiling());
    parsed
        .map(|hash| hash.expose().to_owned())
        .map_err(|error| unsupported(&hash).map_or(UnusableHash::Invalid(error), UnusableHash::Unsupported))
}

/// Removes the RFC 2307 prefix `{SCHEME}`.
fn phc(text: &str) -> Result<String, UnusableHash> {
    let Some((scheme, rest)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) else {
        // passlib writes `.` instead of base64's `+`.
        return Ok(if text.starts_with("$scrypt$") { text.replace('.', "+") } else { text.to_owned() });
    };
    match scheme.to_ascii_uppercase().as_str() {
        "CRYPT" | "BCRYPT" | "BLF-CRYPT" | "ARGON2" | "ARGON2ID" => Ok(rest.to_owned()),
        "PBKDF2-SHA256" => Ok(format!("$pbkdf2-sha256${rest}")),
        "PBKDF2-SHA512" => Ok(format!("$pbkdf2-sha512${rest}")),
        "PBKDF2" | "PBKDF2-SHA1" | "PBKDF2_SHA1" => Err(UnusableHash::Unsupported("PBKDF2 with SHA-1")),
        "SSHA" | "SHA" => Err(UnusableHash::Unsupported("SHA-1, a fast hash")),
        "SSHA256" | "SHA256" | "SSHA384" | "SHA384" | "SSHA512" | "SHA512" => {
            Err(UnusableHash::Unsupported("SHA-2, a fast hash"))
        }
        "MD5" | "SMD5" => Err(UnusableHash::Unsupported("MD5, a fast hash")),
        "SASL" => Err(UnusableHash::Reference),
        _ => Err(UnusableHash::UnknownScheme),
    }
}

/// Prefixes of the supported schemes.
const KNOWN: [&str; 9] = [
    "$argon2id$",
    "$2a$",
    "$2b$",
    "$2y$",
    "$bcrypt-sha256$",
    "$scrypt$",
    "$pbkdf2-sha256$",
    "$pbkdf2-sha512$",
    "$pbkdf2-sha3-512$",
];

/// Prefixes and names of schemes that are known, but not supported.
const UNSUPPORTED: [(&str, &str); 11] = [
    ("$apr1$", "Apache's MD5 (htpasswd -m)"),
    ("$1$", "MD5-crypt"),
    ("$5$", "SHA-256-crypt"),
    ("$6$", "SHA-512-crypt"),
    ("$y$", "yescrypt"),
    ("$gy$", "gost-yescrypt"),
    ("$7$", "scrypt in the notation of crypt(3)"),
    ("$argon2i$", "argon2i"),
    ("$argon2d$", "argon2d"),
    ("$sha1$", "SHA-1-crypt"),
    ("$pbkdf2$", "PBKDF2 with SHA-1"),
];

/// Returns the name of a known but unsupported scheme.
fn unsupported(hash: &str) -> Option<&'static str> {
    let is_des =
        || hash.len() == 13 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/');
    let known = UNSUPPORTED.iter().find(|(prefix, _)| hash.starts_with(prefix)).map(|(_, name)| *name);
    known.or_else(|| is_des().then_some("DES-crypt"))
}

/// Returns whether the text looks like a hash of any scheme. Other text may be a password.
pub fn is_hash(text: &str) -> bool {
    let has_scheme = text.strip_prefix('{').is_some_and(|text| text.contains('}'));
    let has_dollars = text.strip_prefix('$').is_some_and(|text| text.contains('$'));
    has_scheme || has_dollars || unsupported(text).is_some() || from_base64(text).is_some()
}

/// Returns whether the text is a hash of a known scheme, as it is or in base64. Passwords that merely begin with `$` or `{`
/// are not.
pub(super) fn is_certainly_hash(text: &str) -> bool {
    has_known_scheme(text.trim()) || from_base64(text).is_some()
}

fn has_known_scheme(text: &str) -> bool {
    if text.starts_with('{') {
        return !matches!(phc(text), Err(UnusableHash::UnknownScheme)) && phc(text).as_deref() != Ok(text);
    }
    let mut prefixes = KNOWN.into_iter().chain(UNSUPPORTED.iter().map(|(prefix, _)| *prefix));
    prefixes.any(|prefix| text.starts_with(prefix)) && text.matches('$').count() >= 3
}

/// Decodes the base64 of a hash, which Dex and Deckhouse store. Returns `None` if the text is anything else.
fn from_base64(text: &str) -> Option<String> {
    let encoded: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decode = |alphabet: &Alphabet| GeneralPurpose::new(alphabet, config).decode(&encoded).ok();
    let decoded = String::from_utf8(decode(&STANDARD).or_else(|| decode(&URL_SAFE))?).ok()?;
    has_known_scheme(decoded.trim()).then_some(decoded)
}

/// Formats a hash of Rancher, which uses 210,000 iterations of PBKDF2 with SHA3-512.
pub(super) fn rancher(salt: &[u8], hash: &[u8]) -> String {
    let encode = |bytes| BASE64_STANDARD_NO_PAD.encode(bytes);
    format!("$pbkdf2-sha3-512$i=210000${}${}", encode(salt), encode(hash))
}

/// Masks a hash for display. Only its scheme remains.
pub fn masked(hash: &str) -> String {
    let scheme = hash.strip_prefix('$').and_then(|rest| rest.split_once('$')).map(|(scheme, _)| scheme);
    let scheme = scheme.filter(|scheme| scheme.len() <= 20).unwrap_or_default();
    format!("{}…", if scheme.starts_with('2') { "bcrypt" } else { scheme })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const BCRYPT: &str = "$2y$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW";
    const ARGON2: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$L+E5AvBzOhWMe7M5vptaqg$atlZ/9mK6tL4/9ZXi4FlPz9EeT9N3M1eZaFh5yL/bcc";
    const PBKDF2: &str = "29000$xfj/f08JQQgBoHQupdRaCw$cj0Q5bg3unw2HJicqx5XI2Gd2VrQES7XqsZ2WSdqVWA";

    #[test]
    fn supported_hashes_are_converted() {
        assert_eq!(usable(BCRYPT).as_deref(), Ok(BCRYPT));
        assert_eq!(usable(&format!("{{CRYPT}}{BCRYPT}")).as_deref(), Ok(BCRYPT));
        assert_eq!(usable(&format!("{{argon2}}{ARGON2}")).as_deref(), Ok(ARGON2));
        assert_eq!(usable(&format!("{{PBKDF2-SHA256}}{PBKDF2}")), Ok(format!("$pbkdf2-sha256${PBKDF2}")));
    }

    #[rstest]
    #[case("{SSHA}DkMTwBl+a/3DQTxCYEApdUtNXGgdUac3", "SHA-1, a fast hash")]
    #[case("{CRYPT}$6$salt$hash", "SHA-512-crypt")]
    #[case("$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00", "Apache's MD5")]
    #[case("$1$salt$hash", "MD5-crypt")]
    #[case("$y$j9T$salt$hash", "yescrypt")]
    #[case("rqXexS6ZhobKA", "DES-crypt")]
    #[case("{PBKDF2_SHA256}AAAgAB", "unknown scheme")]
    #[case("$2y$05$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW", "too weak")]
    fn unusable_hashes_are_named_and_not_shown(#[case] hash: &str, #[case] says: &str) {
        assert!(is_hash(hash));
        let reason = usable(hash).unwrap_err().to_string();
        assert!(reason.contains(says) && !reason.contains(hash), "{reason}");
    }

    const BCRYPT_SHA256: &str = "$bcrypt-sha256$v=2,t=2b,r=10$Crp.JRmPaTvHiaNv0vwaMO$JKkWh6lND5bGxGu8QKv19NcVd/ZH3FS";

    #[test]
    fn case_a10_bcrypt_sha256_of_keystone_is_accepted() {
        assert_eq!(usable(BCRYPT_SHA256).as_deref(), Ok(BCRYPT_SHA256));
        assert!(is_hash(BCRYPT_SHA256));
        assert_eq!(masked(BCRYPT_SHA256), "bcrypt-sha256…");
    }

    #[rstest]
    #[case(BCRYPT, BCRYPT)]
    #[case(BCRYPT_SHA256, BCRYPT_SHA256)]
    #[case(ARGON2, ARGON2)]
    #[case(&format!("{{CRYPT}}{BCRYPT}\n"), BCRYPT)]
    fn case_a15_hashes_in_base64_are_hashes(#[case] hash: &str, #[case] accepted: &str) {
        let padded = base64::prelude::BASE64_STANDARD.encode(hash);
        let (line, rest) = padded.split_at(40);
        for text in [hash, &padded, padded.trim_end_matches('='), &format!("{line}\n{rest}\n")] {
            assert_eq!(usable(text).as_deref(), Ok(accepted), "{text}");
            assert!(is_hash(text) && is_certainly_hash(text), "{text}");
        }
    }

    #[test]
    fn case_a15_unusable_hashes_in_base64_are_named_and_passwords_stay_passwords() {
        let hash = BASE64_STANDARD_NO_PAD.encode("{SSHA}DkMTwBl+a/3DQTxCYEApdUtNXGgdUac3");
        assert!(usable(&hash).unwrap_err().to_string().contains("SHA-1"));
        let encoded = BASE64_STANDARD_NO_PAD.encode("correct horse");
        for password in ["hunter2", "$1$aveMoney", "{a}b", "$ecret$", "rqXexS6ZhobKA", "$2b$", &encoded, "{", "{}"] {
            assert!(!is_certainly_hash(password), "{password}");
        }
    }

    #[test]
    fn masked_hashes_show_only_the_scheme() {
        assert_eq!(masked(ARGON2), "argon2id…");
        assert_eq!(masked(BCRYPT), "bcrypt…");
        assert_eq!(masked("hunter2"), "…");
        assert!(!is_hash("hunter2") && !is_hash("$ecret"));
    }
}
