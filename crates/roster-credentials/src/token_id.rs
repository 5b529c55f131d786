//! IDs of tokens (`jti`) that name the issuer and the User.
//!
//! kube-apiserver passes the ID of a token on to its extensions and webhooks, as the extra value
//! `authentication.kubernetes.io/credential-id`, even if it verifies the token by OpenID Connect and maps neither the UID
//! nor the username as Roster does. Roster thereby recognizes its own sessions, whose they are, and whether they have
//! ended, without remembering tokens.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::digest::{hex, random};

/// Allowed clock skew between the replicas that issue and verify tokens, in seconds.
pub(super) const LEEWAY: u64 = 10;

/// Number of bytes of the digest that identifies the issuer.
const ISSUER_BYTES: usize = 8;

/// Mark in an ID of a login with a second factor, and of one without.
const SECOND_FACTOR: (&str, &str) = ("o", "p");

/// A session as far as the ID of its token describes it: everything that decides how long the session lasts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Session {
    /// Expiration of the token, in seconds since the Unix epoch.
    pub expires: i64,
    /// When the password used at the login was set, in the same unit. 0 without a password.
    pub password_changed: i64,
    /// Whether the login included a second factor.
    pub has_second_factor: bool,
}

impl Session {
    /// Returns whether the token has expired, by the same rule as its verification.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.saturating_add_unsigned(LEEWAY) < now.as_second()
    }
}

/// Creates and recognizes the IDs of one issuer's tokens. The default recognizes those of an empty issuer, which signs
/// nothing.
#[derive(Clone, Debug)]
pub struct TokenIds {
    prefix: String,
}

impl Default for TokenIds {
    fn default() -> Self {
        Self::new("")
    }
}

impl TokenIds {
    /// IDs of the issuer with this URL. Another issuer's Users are unknown here, and may use this cluster as well.
    pub fn new(issuer: &str) -> Self {
        let digest = Sha256::digest(issuer);
        Self { prefix: format!("roster.{}.", hex(&digest[..ISSUER_BYTES])) }
    }

    /// Returns a new ID for a token of the User with this UID. Ends with 128 random bits.
    pub fn create(&self, uid: &str, session: Session) -> String {
        let Session { expires, password_changed, has_second_factor } = session;
        let method = if has_second_factor { SECOND_FACTOR.0 } else { SECOND_FACTOR.1 };
        format!("{}{uid}.{expires:x}-{password_changed:x}-{method}-{}", self.prefix, hex(&random::<16>()))
    }

    /// Returns the UID of the User that a token with this ID was issued to, or `None` if this issuer did not issue it.
    pub fn uid_in<'a>(&self, id: &'a str) -> Option<&'a str> {
        self.parts(id).map(|(uid, _)| uid)
    }

    /// Returns the UID and the session of a token with this ID. `None` if this issuer did not issue it, or did before IDs
    /// described the session.
    pub fn session_in<'a>(&self, id: &'a str) -> Option<(&'a str, Session)> {
        let (uid, rest) = self.parts(id)?;
        let mut parts = rest.split('-');
        let mut seconds = || i64::from_str_radix(parts.next()?, 16).ok();
        let (expires, password_changed) = (seconds()?, seconds()?);
        let method = parts.next()?;
        let is_known = method == SECOND_FACTOR.0 || method == SECOND_FACTOR.1;
        let session = Session { expires, password_changed, has_second_factor: method == SECOND_FACTOR.0 };
        is_known.then_some((uid, session))
    }

    fn parts<'a>(&self, id: &'a str) -> Option<(&'a str, &'a str)> {
        id.strip_prefix(&self.prefix)?.rsplit_once('.')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_the_user_to_its_own_issuer_only() {
        let ids = TokenIds::new("https://roster.example.com");
        for uid in ["d470ffbf-06b9-4d4c-9a0a-58ba42ce8c53", "u.1", "u-1"] {
            let session = Session { expires: 1_800_000_600, password_changed: 0, has_second_factor: uid == "u.1" };
            let id = ids.create(uid, session);
            assert_eq!((ids.uid_in(&id), ids.session_in(&id)), (Some(uid), Some((uid, session))));
            assert_ne!(id, ids.create(uid, session), "each token has its own");
            assert_eq!(TokenIds::new("https://roster.example.org").uid_in(&id), None);
        }
        for other in ["", "0123456789abcdef", "roster.", &ids.prefix, "roster.0123456789abcdef.u-1.00"] {
            assert_eq!(ids.uid_in(other), None, "{other}");
        }
    }

    #[test]
    fn ids_without_a_session_name_the_user_only() {
        let ids = TokenIds::new("https://roster.example.com");
        for rest in ["0123456789abcdef0123456789abcdef", "6b49d200-0", "6b49d200-0-x-00", "-0-p-00", "g-0-p-00"] {
            let id = format!("{}u-1.{rest}", ids.prefix);
            assert_eq!((ids.uid_in(&id), ids.session_in(&id)), (Some("u-1"), None), "{rest}");
        }
    }

    #[test]
    fn a_session_expires_when_its_token_is_no_longer_accepted() {
        let session = Session { expires: 1_000, password_changed: 0, has_second_factor: false };
        let is_expired = |second| session.is_expired(Timestamp::from_second(second).unwrap());
        assert_eq!([1_000, 1_010, 1_011].map(is_expired), [false, false, true]);
    }
}
