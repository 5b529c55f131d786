//! Reads password Secrets (type `roster.dev/password`).

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use roster_api::{PASSWORD_SECRET_TYPE, USER_ANNOTATION};
use secrecy::SecretString;

use super::hash::{Ceiling, HashError, PasswordHash};
use super::password::{self, PasswordError};

/// Key of a plaintext password.
pub const PASSWORD_KEY: &str = "password";
/// Key of a password hash.
pub const HASH_KEY: &str = "passwordHash";

/// All keys that a password Secret may have.
pub const KEYS: [&str; 2] = [PASSWORD_KEY, HASH_KEY];

/// Content of a password Secret.
#[derive(Debug)]
pub enum Source {
    /// A password hash.
    Hash(PasswordHash),
    /// A password. A hash in the same Secret is ignored, because its author chooses how much verifying it costs.
    Password(SecretString),
}

/// Why a Secret has no usable password. Each variant has its own condition reason.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SourceError {
    #[error("is of type {0}, not {PASSWORD_SECRET_TYPE}: a Secret's type is immutable, so delete and recreate it")]
    WrongType(String),
    /// The annotation that opts the Secret in is missing or names another User.
    #[error("does not name this user: add the annotation {USER_ANNOTATION}: {0}")]
    NotOptedIn(String),
    #[error("has neither the key {PASSWORD_KEY} nor {HASH_KEY}: add one")]
    KeyMissing,
    #[error("data.{PASSWORD_KEY} {0}")]
    Password(PasswordError),
    #[error("data.{HASH_KEY} {0}")]
    Hash(HashError),
}

impl SourceError {
    /// Returns the condition reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::WrongType(_) => "SecretTypeInvalid",
            Self::NotOptedIn(_) => "SecretNotOptedIn",
            Self::KeyMissing => "SecretKeyMissing",
            Self::Password(PasswordError::Empty) => "PasswordEmpty",
            Self::Password(PasswordError::TooLong) => "PasswordTooLong",
            Self::Password(PasswordError::NotUtf8) => "PasswordNotUTF8",
            Self::Password(PasswordError::ControlCharacter) => "PasswordInvalid",
            Self::Hash(HashError::NotAHash | HashError::Malformed(..)) => "PasswordHashMalformed",
            Self::Hash(HashError::UnsupportedAlgorithm) => "PasswordHashUnsupported",
            Self::Hash(HashError::Weak(_)) => "PasswordHashTooWeak",
            Self::Hash(HashError::TooCostly(_)) => "PasswordHashTooCostly",
        }
    }
}

/// Reads the password or hash in `secret` for the User named `user`. `ceiling` limits the cost of a hash.
///
/// # Errors
/// If the Secret does not belong to the User, or its content is not acceptable.
pub fn read(secret: &Secret, user: &str, ceiling: Ceiling) -> Result<Source, SourceError> {
    let kind = secret.type_.as_deref().unwrap_or("Opaque");
    if kind != PASSWORD_SECRET_TYPE {
        return Err(SourceError::WrongType(kind.to_owned()));
    }
    let named = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(USER_ANNOTATION));
    if named.map(String::as_str) != Some(user) {
        return Err(SourceError::NotOptedIn(user.to_owned()));
    }
    read_data(secret.data.as_ref().unwrap_or(&BTreeMap::new()), ceiling)
}

/// Reads the data of a password Secret. A password takes precedence over a hash, because the hash may belong to an
/// older password.
///
/// # Errors
/// If both are missing, or the one that is used is not acceptable.
pub fn read_data(data: &BTreeMap<String, ByteString>, ceiling: Ceiling) -> Result<Source, SourceError> {
    if let Some(password) = data.get(PASSWORD_KEY) {
        return Ok(Source::Password(password::accept(&password.0).map_err(SourceError::Password)?));
    }
    let hash = data.get(HASH_KEY).ok_or(SourceError::KeyMissing)?;
    Ok(Source::Hash(parse_hash(&hash.0, ceiling).map_err(SourceError::Hash)?))
}

/// Parses the value of [`HASH_KEY`]. Trims whitespace, because files often end with a line break.
///
/// # Errors
/// If it is not an acceptable hash.
pub fn parse_hash(bytes: &[u8], ceiling: Ceiling) -> Result<PasswordHash, HashError> {
    let text = str::from_utf8(bytes).map_err(|_| HashError::NotAHash)?;
    PasswordHash::parse_within(text.trim(), ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Argon2idCost;
    use kube::api::ObjectMeta;
    use rstest::rstest;

    const BCRYPT: &str = "$2b$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u";

    const COSTLY: &str = "$argon2id$v=19$m=262144,t=4,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG";

    fn read(secret: &Secret, user: &str) -> Result<Source, SourceError> {
        super::read(secret, user, Argon2idCost::default().ceiling())
    }

    fn secret(kind: &str, user: Option<&str>, data: &[(&str, &[u8])]) -> Secret {
        Secret {
            metadata: ObjectMeta {
                annotations: user.map(|user| [(USER_ANNOTATION.to_owned(), user.to_owned())].into()),
                ..ObjectMeta::default()
            },
            type_: Some(kind.to_owned()),
            data: Some(data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.to_vec()))).collect()),
            ..Secret::default()
        }
    }

    #[rstest]
    #[case("Opaque", Some("jane"), &[("password", b"x".as_slice())], "SecretTypeInvalid")]
    #[case(PASSWORD_SECRET_TYPE, Some("jane"), &[("passwordHash", COSTLY.as_bytes())], "PasswordHashTooCostly")]
    #[case(PASSWORD_SECRET_TYPE, None, &[("password", b"x".as_slice())], "SecretNotOptedIn")]
    #[case(PASSWORD_SECRET_TYPE, Some("john"), &[("password", b"x".as_slice())], "SecretNotOptedIn")]
    #[case(PASSWORD_SECRET_TYPE, Some("jane"), &[("passwd", b"x".as_slice())], "SecretKeyMissing")]
    #[case(PASSWORD_SECRET_TYPE, Some("jane"), &[("password", b"".as_slice())], "PasswordEmpty")]
    #[case(PASSWORD_SECRET_TYPE, Some("jane"), &[("password", [b'x'; 1025].as_slice())], "PasswordTooLong")]
    #[case(PASSWORD_SECRET_TYPE, Some("jane"), &[("password", b"\xff".as_slice())], "PasswordNotUTF8")]
    #[case(PASSWORD_SECRET_TYPE, Some("jane"), &[("password", b"x\n".as_slice())], "PasswordInvalid")]
    #[case(PASSWORD_SECRET_TYPE, Some("jane"), &[("passwordHash", b"hunter2".as_slice())], "PasswordHashMalformed")]
    #[case(PASSWORD_SECRET_TYPE, Some("jane"), &[("passwordHash", b"$1$salt$x".as_slice())], "PasswordHashUnsupported")]
    fn each_error_has_its_reason(
        #[case] kind: &str,
        #[case] user: Option<&str>,
        #[case] data: &[(&str, &[u8])],
        #[case] reason: &str,
    ) {
        assert_eq!(read(&secret(kind, user, data), "jane").unwrap_err().reason(), reason);
    }

    #[test]
    fn a_password_takes_precedence_over_a_hash() {
        for hash in [BCRYPT.as_bytes(), b"junk"] {
            let both: &[(&str, &[u8])] = &[("password", b"x"), ("passwordHash", hash)];
            let source = read(&secret(PASSWORD_SECRET_TYPE, Some("jane"), both), "jane");
            assert!(matches!(source, Ok(Source::Password(_))));
        }
    }

    #[test]
    fn a_line_break_after_a_hash_is_ignored() {
        let line = format!("{BCRYPT}\n");
        let source = read(&secret(PASSWORD_SECRET_TYPE, Some("jane"), &[("passwordHash", line.as_bytes())]), "jane");
        assert!(matches!(source, Ok(Source::Hash(_))));
    }

    #[test]
    fn debug_output_does_not_reveal_the_password() {
        let secret = secret(PASSWORD_SECRET_TYPE, Some("jane"), &[("password", b"hunter2")]);
        assert!(!format!("{:?}", read(&secret, "jane")).contains("hunter2"));
    }
}
