//! The password policy: minimum length, no common passwords, not the user's own name, no reuse, maximum age.
//!
//! There are no composition rules, because they lead to passwords that are hard to remember and easy to guess (NIST SP
//! 800-63B, 3.1.1.2).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::password::PasswordError;
use jiff::Timestamp;
use passwords::analyzer::is_common_password;

/// Minimum length of a name that a password must not contain. Shorter ones occur in too many words.
const MIN_NAME_LENGTH: usize = 4;

/// The policy of an installation.
#[derive(Clone, Debug)]
pub struct PasswordPolicy {
    /// Minimum length in characters.
    pub min_length: usize,
    /// Number of previous passwords that can't be reused. The current one can never be reused.
    pub history: usize,
    /// How long a password may be used. `None` means that it never expires.
    pub max_age: Option<Duration>,
    /// Passwords that are rejected in addition to the common ones, in lower case.
    pub denied: Arc<HashSet<String>>,
}

/// Why a password is rejected. The messages never contain the password.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PolicyError {
    #[error("{0}")]
    NoPassword(PasswordError),
    #[error("must have at least {0} characters")]
    TooShort(usize),
    /// Common, or in [`PasswordPolicy::denied`].
    #[error("is a common password: choose another one")]
    Common,
    #[error("must not contain the username or the name in an email address")]
    ContainsName,
    /// The current password or a previous one.
    #[error("must not be one of the last {0} passwords")]
    UsedBefore(usize),
    /// It may be the current password or a previous one, whose bcrypt hash covers only the first 72 bytes.
    #[error(
        "begins with the same 72 bytes as one of the last {0} passwords, whose bcrypt hash covers no more than that, so the \
         two may be the same: choose a password that begins differently"
    )]
    MayBeUsedBefore(usize),
}

impl PasswordPolicy {
    /// Checks everything except reuse. `names` are the user's username and emails.
    ///
    /// # Errors
    /// If the policy does not allow it.
    pub fn check<'a>(&self, password: &str, names: impl IntoIterator<Item = &'a str>) -> Result<(), PolicyError> {
        if password.chars().count() < self.min_length {
            return Err(PolicyError::TooShort(self.min_length));
        }
        let folded = password.to_lowercase();
        if is_common_password(&folded) || is_common_password(password) || self.denied.contains(&folded) {
            return Err(PolicyError::Common);
        }
        let own = |name: &str| name.split('@').next().unwrap_or_default().to_lowercase();
        let is_own = |name: String| name.chars().count() >= MIN_NAME_LENGTH && folded.contains(&name);
        if names.into_iter().map(own).any(is_own) {
            return Err(PolicyError::ContainsName);
        }
        Ok(())
    }

    /// Returns when a password that was set at `changed` expires.
    pub fn expiry(&self, changed: Timestamp) -> Option<Timestamp> {
        changed.checked_add(self.max_age?).ok()
    }

    /// Returns whether a password that was set at `changed` has expired.
    pub fn is_expired(&self, changed: Option<Timestamp>, now: Timestamp) -> bool {
        changed.and_then(|changed| self.expiry(changed)).is_some_and(|expiry| expiry <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn policy() -> PasswordPolicy {
        let denied = Arc::new(HashSet::from(["acme-corp-2026".to_owned()]));
        PasswordPolicy { min_length: 10, history: 5, max_age: Some(Duration::from_secs(86_400)), denied }
    }

    #[rstest]
    #[case("short", PolicyError::TooShort(10))]
    #[case("päßwörter", PolicyError::TooShort(10))]
    #[case("1234567890", PolicyError::Common)]
    #[case("Acme-Corp-2026", PolicyError::Common)]
    #[case("I am Jane.Doe indeed", PolicyError::ContainsName)]
    fn rejects(#[case] password: &str, #[case] why: PolicyError) {
        assert_eq!(policy().check(password, ["jdoe", "jane.doe@example.com"]), Err(why));
    }

    #[rstest]
    #[case("correct horse battery staple")]
    #[case("пароль с пробелами")]
    #[case("to be or not")]
    fn accepts_long_and_uncommon_passwords(#[case] password: &str) {
        assert_eq!(policy().check(password, ["or", "jane.doe@example.com"]), Ok(()));
    }

    #[test]
    fn passwords_expire_if_the_policy_has_a_maximum_age() {
        let changed = Timestamp::from_second(1_800_000_000).unwrap();
        let day = Duration::from_secs(86_400);
        assert!(!policy().is_expired(Some(changed), changed + day - Duration::from_secs(1)));
        assert!(policy().is_expired(Some(changed), changed + day));
        assert!(!policy().is_expired(None, changed + day));
        assert!(!PasswordPolicy { max_age: None, ..policy() }.is_expired(Some(changed), changed + day * 9999));
    }
}
