//! The credential of a User: everything that it can authenticate with.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::api_key::ApiKey;
use super::digest::Digest;
use super::hash::PasswordHash;
use super::lockout::FailedLogins;
use super::totp::SecondFactor;

/// Version of a password Secret: its UID and resourceVersion.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SourceVersion(String);

impl SourceVersion {
    /// Returns the version in `metadata`, or `None` if the object was never stored.
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        Some(Self(format!("{}/{}", metadata.uid.as_ref()?, metadata.resource_version.as_ref()?)))
    }
}

impl From<String> for SourceVersion {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for SourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who set a password.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetBy {
    /// The user.
    Owner,
    /// Someone else, with a password Secret or a reset.
    Other,
}

impl SetBy {
    /// Parses the value of the annotation.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Owner, Self::Other].into_iter().find(|set_by| set_by.as_str() == text)
    }

    /// Returns the value for the annotation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "Owner",
            Self::Other => "Other",
        }
    }
}

/// Permission to set a password once.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Invitation {
    /// Digest of the code.
    pub digest: Digest,
    pub expires: Timestamp,
}

/// The credential of a User.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Credential {
    /// Hash that logins are verified against.
    pub hash: Option<PasswordHash>,
    /// Hash that the password Secret last provided. It differs from `hash` if the password was later changed in another
    /// way. Comparing it with the Secret shows whether the Secret has a new password or was only rewritten.
    pub source_hash: Option<PasswordHash>,
    /// Version of the password Secret that was last processed.
    pub source: Option<SourceVersion>,
    /// When the password was set, in whole seconds.
    pub changed: Option<Timestamp>,
    /// Who set the password. `None` if that is not known.
    pub set_by: Option<SetBy>,
    /// Hashes of previous passwords, newest first.
    pub history: Vec<PasswordHash>,
    /// Invitation that has not been used yet.
    pub invitation: Option<Invitation>,
    /// Second factor, confirmed or not.
    pub second_factor: Option<SecondFactor>,
    pub api_keys: Vec<ApiKey>,
    /// Failed logins and lockouts.
    pub failed: FailedLogins,
}

/// The parts of a credential that are not secret.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// When the password was set. `None` without a password.
    pub changed: Option<Timestamp>,
    pub set_by: Option<SetBy>,
    /// Number of failed logins that still count.
    pub failed_logins: u32,
    /// End of the user's lockout.
    pub locked_until: Option<Timestamp>,
    /// When the second factor was confirmed.
    pub second_factor: Option<Timestamp>,
}

impl Summary {
    /// Returns whether someone other than the user set the password, or it is unknown who did.
    pub fn is_set_by_another(&self) -> bool {
        self.changed.is_some() && self.set_by != Some(SetBy::Owner)
    }
}

impl Credential {
    /// Returns the parts that are not secret.
    pub fn summary(&self) -> Summary {
        Summary {
            changed: self.changed,
            set_by: self.set_by,
            failed_logins: self.failed.count(),
            locked_until: self.failed.locked_until,
            second_factor: self.second_factor.as_ref().and_then(|factor| factor.confirmed),
        }
    }

    /// Sets a new password, keeps up to `history` previous ones, and revokes the invitation and a seed of a second factor
    /// that is not confirmed yet: its owner could otherwise be someone who knew the previous password.
    pub fn set_password(&mut self, hash: PasswordHash, set_by: SetBy, history: usize, now: Timestamp) {
        if let Some(before) = self.hash.replace(hash) {
            self.history.insert(0, before);
        }
        self.history.truncate(history);
        self.set_by = Some(set_by);
        self.invitation = None;
        self.second_factor = self.second_factor.take().filter(|factor| factor.confirmed.is_some());
        // They were guesses of the previous password, and its sessions end.
        self.failed.clear_sessions();
        let second = Timestamp::from_second(now.as_second()).expect("now is within range");
        // Always later than the previous time, because sessions of an earlier password are rejected by this time.
        let after = self.changed.and_then(|before| before.checked_add(SignedDuration::from_secs(1)).ok());
        self.changed = Some(after.map_or(second, |after| after.max(second)));
    }

    /// Returns the hashes of passwords that can't be reused, the current one first.
    pub fn used(&self, history: usize) -> impl Iterator<Item = &PasswordHash> {
        self.hash.iter().chain(self.history.iter().take(history))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(last: char) -> PasswordHash {
        PasswordHash::parse(&format!("$2b$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyV{last}3u")).unwrap()
    }

    #[test]
    fn a_new_password_has_a_later_time_and_revokes_the_invitation() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let invitation = Invitation { digest: Digest::of("x"), expires: now };
        let mut credential = Credential { invitation: Some(invitation), ..Credential::default() };
        for (second, last) in [(0, 'a'), (1, 'b'), (2, 'c'), (3, 'd')] {
            credential.set_password(hash(last), SetBy::Owner, 2, now);
            assert_eq!(credential.changed, Some(now + SignedDuration::from_secs(second)));
        }
        assert_eq!(credential.invitation, None);
        assert_eq!(credential.history, [hash('c'), hash('b')]);
        assert_eq!(credential.used(1).cloned().collect::<Vec<_>>(), [hash('d'), hash('c')]);
    }

    #[test]
    fn a_new_password_drops_a_second_factor_that_is_not_confirmed() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let sealer = crate::seal::Sealer::new(&[0; 32]).unwrap();
        for confirmed in [None, Some(now)] {
            let mut factor = SecondFactor::create(&sealer);
            factor.confirmed = confirmed;
            let mut credential = Credential { second_factor: Some(factor.clone()), ..Credential::default() };
            credential.set_password(hash('a'), SetBy::Other, 2, now);
            assert_eq!(credential.second_factor, Some(factor).filter(|_| confirmed.is_some()));
        }
    }

    #[test]
    fn a_password_of_unknown_origin_counts_as_set_by_another() {
        let mut summary = Summary::default();
        assert!(!summary.is_set_by_another(), "no password");
        summary.changed = Some(Timestamp::UNIX_EPOCH);
        assert!(summary.is_set_by_another());
        summary.set_by = Some(SetBy::Owner);
        assert!(!summary.is_set_by_another());
    }
}
