//! What a password has to be: long enough, not common, not the person's own name, not one of the last ones.
//!
//! No rules of composition: they make passwords that are hard to remember and easy to guess (NIST SP 800-63B, 3.1.1.2).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::password::PasswordError;
use jiff::Timestamp;
use passwords::analyzer::is_common_password;

/// Shortest part of a name that a password must not be built around.
const SHORTEST_NAME: usize = 4;

/// The policy of an installation.
#[derive(Clone, Debug)]
pub struct PasswordPolicy {
    /// Fewest characters.
    pub min_length: usize,
    /// How many of the last passwords can't be used again. The present one never can.
    pub history: usize,
    /// How long a password may be used.
    pub max_age: Option<Duration>,
    /// Passwords that are refused beside the common ones, in lower case.
    pub denied: Arc<HashSet<String>>,
}

/// Why a password is not taken. The messages never repeat it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unacceptable {
    /// None that anybody could type.
    #[error("{0}")]
    NoPassword(PasswordError),
    /// Too short.
    #[error("must have at least {0} characters")]
    TooShort(usize),
    /// On a list.
    #[error("is one of those that everybody tries first: choose another one")]
    Common,
    /// Built from the username or an email address.
    #[error("must not contain the username or the name in an email address")]
    ContainsName,
    /// The present one, or one of those before.
    #[error("must not be one of the last {0}")]
    UsedBefore(usize),
}

impl PasswordPolicy {
    /// Judges a password by itself. `names` are those of its owner: username and emails.
    ///
    /// # Errors
    /// If the policy does not allow it.
    pub fn check<'a>(&self, password: &str, names: impl IntoIterator<Item = &'a str>) -> Result<(), Unacceptable> {
        if password.chars().count() < self.min_length {
            return Err(Unacceptable::TooShort(self.min_length));
        }
        let folded = password.to_lowercase();
        if is_common_password(&folded) || is_common_password(password) || self.denied.contains(&folded) {
            return Err(Unacceptable::Common);
        }
        let own = |name: &str| name.split('@').next().unwrap_or_default().to_lowercase();
        let is_own = |name: String| name.chars().count() >= SHORTEST_NAME && folded.contains(&name);
        if names.into_iter().map(own).any(is_own) {
            return Err(Unacceptable::ContainsName);
        }
        Ok(())
    }

    /// When a password that was set then has to be changed.
    pub fn expiry(&self, changed: Timestamp) -> Option<Timestamp> {
        changed.checked_add(self.max_age?).ok()
    }

    /// Whether a password that was set then has to be changed now.
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
    #[case("short", Unacceptable::TooShort(10))]
    #[case("päßwörter", Unacceptable::TooShort(10))]
    #[case("1234567890", Unacceptable::Common)]
    #[case("Acme-Corp-2026", Unacceptable::Common)]
    #[case("I am Jane.Doe indeed", Unacceptable::ContainsName)]
    fn refuses(#[case] password: &str, #[case] why: Unacceptable) {
        assert_eq!(policy().check(password, ["jdoe", "jane.doe@example.com"]), Err(why));
    }

    #[rstest]
    #[case("correct horse battery staple")]
    #[case("пароль с пробелами")]
    #[case("to be or not")]
    fn takes_whatever_is_long_and_uncommon(#[case] password: &str) {
        assert_eq!(policy().check(password, ["or", "jane.doe@example.com"]), Ok(()));
    }

    #[test]
    fn passwords_age_where_the_policy_says_so() {
        let changed = Timestamp::from_second(1_800_000_000).unwrap();
        let day = Duration::from_secs(86_400);
        assert!(!policy().is_expired(Some(changed), changed + day - Duration::from_secs(1)));
        assert!(policy().is_expired(Some(changed), changed + day));
        assert!(!policy().is_expired(None, changed + day));
        assert!(!PasswordPolicy { max_age: None, ..policy() }.is_expired(Some(changed), changed + day * 9999));
    }
}
