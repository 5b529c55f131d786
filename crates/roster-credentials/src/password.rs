//! Validates plaintext passwords.

use secrecy::SecretString;
use unicode_normalization::{UnicodeNormalization, is_nfc};
use zeroize::Zeroizing;

/// Maximum length of a password in bytes. NIST SP 800-63B requires that at least 64 characters are allowed. The limit
/// keeps hashing cheap.
pub const MAX_BYTES: usize = 1024;

/// Why a password is invalid. The messages never contain it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PasswordError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("is not valid UTF-8: write it as text, and let kubectl encode it in base64")]
    NotUtf8,
    /// Usually the line break at the end of a file.
    #[error(
        "contains a control character, such as the line break that echo appends: write it with printf, or --from-literal"
    )]
    ControlCharacter,
}

/// Validates a password.
///
/// # Errors
/// If it is empty, too long, not UTF-8, or contains control characters, which RFC 8265 disallows and which cannot be
/// typed into a login form.
pub fn accept(bytes: &[u8]) -> Result<SecretString, PasswordError> {
    if bytes.is_empty() {
        return Err(PasswordError::Empty);
    }
    if bytes.len() > MAX_BYTES {
        return Err(PasswordError::TooLong);
    }
    let text = str::from_utf8(bytes).map_err(|_| PasswordError::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(PasswordError::ControlCharacter);
    }
    Ok(SecretString::from(text))
}

/// Returns the form of a password that is hashed, so that it does not matter on which keyboard or system it is typed:
/// spaces other than U+0020 become U+0020, and letters are composed (NFC). See OpaqueString in RFC 8265.
pub fn normalize(password: &str) -> Zeroizing<String> {
    let is_other_space = |letter: char| letter != ' ' && !letter.is_control() && letter.is_whitespace();
    if is_nfc(password) && !password.contains(is_other_space) {
        return Zeroizing::new(password.to_owned());
    }
    Zeroizing::new(password.chars().map(|letter| if is_other_space(letter) { ' ' } else { letter }).nfc().collect())
}

/// Validates a password that was typed or piped in. Removes the line break at its end.
///
/// # Errors
/// As [`accept`].
pub fn accept_line(line: &Zeroizing<String>) -> Result<SecretString, PasswordError> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    accept(line.strip_suffix('\r').unwrap_or(line).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(b"", PasswordError::Empty)]
    #[case(&[b'a'; MAX_BYTES + 1], PasswordError::TooLong)]
    #[case(b"\xff\xfe", PasswordError::NotUtf8)]
    #[case(b"secret\n", PasswordError::ControlCharacter)]
    #[case(b"se\0cret", PasswordError::ControlCharacter)]
    fn rejects(#[case] bytes: &[u8], #[case] error: PasswordError) {
        assert_eq!(accept(bytes).unwrap_err(), error);
    }

    #[rstest]
    #[case("x".as_bytes())]
    #[case("пароль с пробелами 🔑".as_bytes())]
    #[case(&[b'a'; MAX_BYTES])]
    fn accepts(#[case] bytes: &[u8]) {
        assert!(accept(bytes).is_ok());
    }

    #[rstest]
    #[case("correct horse", "correct horse")]
    #[case("cafe\u{301}", "caf\u{e9}")]
    #[case("a\u{a0}b\u{2003}c", "a b c")]
    #[case("\u{212b}", "\u{c5}")]
    #[case("\u{fb01}", "\u{fb01}")]
    fn normalizes(#[case] typed: &str, #[case] normalized: &str) {
        assert_eq!(*normalize(typed), normalized);
        assert_eq!(*normalize(normalized), normalized);
    }

    #[test]
    fn only_the_line_break_is_removed() {
        use secrecy::ExposeSecret;
        for line in ["pass word \n", "pass word \r\n", "pass word "] {
            assert_eq!(accept_line(&Zeroizing::new(line.to_owned())).unwrap().expose_secret(), "pass word ");
        }
    }
}
