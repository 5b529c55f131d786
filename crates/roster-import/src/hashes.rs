//! Password hashes of other systems, in the form that Roster verifies.

use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine};
use roster_credentials::hash::{Argon2idCost, PasswordHash};

/// The hash as a PHC string or a bcrypt hash.
///
/// # Errors
/// Why it can't be used, without repeating it.
pub fn usable(text: &str) -> Result<String, String> {
    let hash = phc(text.trim())?;
    // What an operator with the default cost takes: nobody knows here with what cost it was started.
    let parsed = PasswordHash::parse_within(&hash, Argon2idCost::default().ceiling());
    parsed.map(|hash| hash.expose().to_owned()).map_err(|error| match unsupported(&hash) {
        Some(scheme) => not_supported(scheme),
        None => error.to_string(),
    })
}

fn not_supported(scheme: &str) -> String {
    format!(
        "is {scheme}, which is not supported: argon2id, bcrypt, scrypt, pbkdf2-sha256, pbkdf2-sha512 and pbkdf2-sha3-512 are"
    )
}

/// Takes the form of RFC 2307, `{SCHEME}…`, apart.
fn phc(text: &str) -> Result<String, String> {
    let Some((scheme, rest)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) else {
        // passlib writes `.` for the `+` of base64.
        return Ok(if text.starts_with("$scrypt$") { text.replace('.', "+") } else { text.to_owned() });
    };
    match scheme.to_ascii_uppercase().as_str() {
        "CRYPT" | "BCRYPT" | "BLF-CRYPT" | "ARGON2" | "ARGON2ID" => Ok(rest.to_owned()),
        "PBKDF2-SHA256" => Ok(format!("$pbkdf2-sha256${rest}")),
        "PBKDF2-SHA512" => Ok(format!("$pbkdf2-sha512${rest}")),
        "PBKDF2" | "PBKDF2-SHA1" | "PBKDF2_SHA1" => Err(not_supported("PBKDF2 with SHA-1")),
        "SSHA" | "SHA" => Err(not_supported("SHA-1, a fast hash")),
        "SSHA256" | "SHA256" | "SSHA384" | "SHA384" | "SSHA512" | "SHA512" => Err(not_supported("SHA-2, a fast hash")),
        "MD5" | "SMD5" => Err(not_supported("MD5, a fast hash")),
        "SASL" => Err("is a reference to another system ({SASL}), not a hash".to_owned()),
        _ => Err("has a scheme in braces that is not known".to_owned()),
    }
}

/// The name of a scheme of crypt(3) that is known, but not supported.
fn unsupported(hash: &str) -> Option<&'static str> {
    let schemes = [
        ("$apr1$", "Apache's MD5 (htpasswd -m)"),
        ("$1$", "MD5-crypt"),
        ("$5$", "SHA-256-crypt"),
        ("$6$", "SHA-512-crypt"),
        ("$y$", "yescrypt"),
        ("$gy$", "gost-yescrypt"),
        ("$7$", "scrypt in the form of crypt(3)"),
        ("$argon2i$", "argon2i"),
        ("$argon2d$", "argon2d"),
        ("$sha1$", "SHA-1-crypt"),
        ("$pbkdf2$", "PBKDF2 with SHA-1"),
    ];
    let is_des =
        || hash.len() == 13 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/');
    schemes
        .iter()
        .find(|(prefix, _)| hash.starts_with(prefix))
        .map(|(_, name)| *name)
        .or(is_des().then_some("DES-crypt"))
}

/// Whether the text is in the form of a hash, of whatever kind. What is not, may be a password.
pub fn is_hash(text: &str) -> bool {
    let has_scheme = text.strip_prefix('{').is_some_and(|text| text.contains('}'));
    has_scheme || unsupported(text).is_some() || text.strip_prefix('$').is_some_and(|text| text.contains('$'))
}

/// The hash that Rancher keeps: 210,000 iterations of PBKDF2 with SHA3-512.
pub(super) fn rancher(salt: &[u8], hash: &[u8]) -> String {
    let encode = |bytes| BASE64_STANDARD_NO_PAD.encode(bytes);
    format!("$pbkdf2-sha3-512$i=210000${}${}", encode(salt), encode(hash))
}

/// What may be shown of a hash: its scheme.
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
    fn forms_of_other_systems_come_to_one() {
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
    #[case("{PBKDF2_SHA256}AAAgAB", "not known")]
    #[case("$2y$05$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW", "too weak")]
    fn what_cannot_be_used_is_named_and_not_shown(#[case] hash: &str, #[case] says: &str) {
        assert!(is_hash(hash));
        let reason = usable(hash).unwrap_err();
        assert!(reason.contains(says) && !reason.contains(hash), "{reason}");
    }

    #[test]
    fn a_mask_shows_the_scheme_alone() {
        assert_eq!(masked(ARGON2), "argon2id…");
        assert_eq!(masked(BCRYPT), "bcrypt…");
        assert_eq!(masked("hunter2"), "…");
        assert!(!is_hash("hunter2") && !is_hash("$ecret"));
    }
}
