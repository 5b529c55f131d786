//! Plaintext passwords: what is accepted as one.

use secrecy::SecretString;
use unicode_normalization::{UnicodeNormalization, is_nfc};
use zeroize::Zeroizing;

/// Longest accepted password, in bytes. NIST SP 800-63B asks for 64 characters at least; a bound keeps hashing cheap.
pub const MAX_BYTES: usize = 1024;

/// Why bytes are not taken as a password. The messages never repeat them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PasswordError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// More than [`MAX_BYTES`].
    #[error("is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Not text.
    #[error("is not valid UTF-8: write text, and let kubectl do the base64")]
    NotUtf8,
    /// A line break at the end of a file is the usual cause.
    #[error(
        "contains a control character, such as the line break that echo appends: write it with printf, or --from-literal"
    )]
    ControlCharacter,
}

/// Takes bytes as a password.
///
/// # Errors
/// If they are empty, too long, not UTF-8, or contain control characters (RFC 8265 disallows them; nobody can type
/// them into a login form).
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

/// Returns the form of a password that is hashed, so that it does not matter which keyboard or system it is typed on:
/// spaces other than U+0020 become U+0020, and letters are composed (NFC). RFC 8265, OpaqueString.
pub fn normalize(password: &str) -> Zeroizing<String> {
    let is_other_space = |letter: char| letter != ' ' && !letter.is_control() && letter.is_whitespace();
    if is_nfc(password) && !password.contains(is_other_space) {
        return Zeroizing::new(password.to_owned());
    }
    Zeroizing::new(password.chars().map(|letter| if is_other_space(letter) { ' ' } else { letter }).nfc().collect())
}

/// Takes a line that a person typed or piped in: without the line break at its end.
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
    fn refuses(#[case] bytes: &[u8], #[case] error: PasswordError) {
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
    fn a_typed_line_loses_its_line_break_alone() {
        use secrecy::ExposeSecret;
        for line in ["pass word \n", "pass word \r\n", "pass word "] {
            assert_eq!(accept_line(&Zeroizing::new(line.to_owned())).unwrap().expose_secret(), "pass word ");
        }
    }
}
