//! The credential of a User: everything that it can be recognised by.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::api_key::ApiKey;
use super::digest::Digest;
use super::hash::PasswordHash;
use super::lockout::FailedLogins;
use super::totp::SecondFactor;

/// One state of a password Secret: its UID and resourceVersion.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SourceVersion(String);

impl SourceVersion {
    /// The version that `metadata` describes. `None` for an object that was never stored.
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

/// Who has set a password.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetBy {
    /// The person.
    Owner,
    /// Somebody for them: by a password Secret, or a reset.
    Other,
}

impl SetBy {
    /// As an annotation says it.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Owner, Self::Other].into_iter().find(|set_by| set_by.as_str() == text)
    }

    /// For an annotation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "Owner",
            Self::Other => "Other",
        }
    }
}

/// A right to set a password, once.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Invitation {
    /// Of its code.
    pub digest: Digest,
    /// When it ends.
    pub expires: Timestamp,
}

/// The credential of a User.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Credential {
    /// The hash that logins are checked against.
    pub hash: Option<PasswordHash>,
    /// The hash that the password Secret last gave. It differs from `hash` once the password was changed by another
    /// way, and tells a changed Secret from one that was merely written again.
    pub source_hash: Option<PasswordHash>,
    /// The state of the password Secret that was last looked at.
    pub source: Option<SourceVersion>,
    /// When the password was set, to the second.
    pub changed: Option<Timestamp>,
    /// Who has set it.
    pub set_by: Option<SetBy>,
    /// Hashes of the passwords before, the latest first.
    pub history: Vec<PasswordHash>,
    /// An open invitation.
    pub invitation: Option<Invitation>,
    /// The second factor, confirmed or not.
    pub second_factor: Option<SecondFactor>,
    /// API keys.
    pub api_keys: Vec<ApiKey>,
    /// Failed logins.
    pub failed: FailedLogins,
}

/// What of a credential may be known outside of its Secret.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// When the password was set; present where there is one.
    pub changed: Option<Timestamp>,
    /// Who has set it.
    pub set_by: Option<SetBy>,
    /// How many logins have failed.
    pub failed_logins: u32,
    /// Until when the user is locked.
    pub locked_until: Option<Timestamp>,
    /// When the second factor was confirmed.
    pub second_factor: Option<Timestamp>,
}

impl Summary {
    /// Whether the password has to be changed by its owner, where the User says that others' passwords have to be.
    pub fn is_set_by_another(&self) -> bool {
        self.changed.is_some() && self.set_by != Some(SetBy::Owner)
    }
}

impl Credential {
    /// What may be known of it.
    pub fn summary(&self) -> Summary {
        Summary {
            changed: self.changed,
            set_by: self.set_by,
            failed_logins: self.failed.count(),
            locked_until: self.failed.locked_until,
            second_factor: self.second_factor.as_ref().and_then(|factor| factor.confirmed),
        }
    }

    /// Sets another password, and keeps up to `history` of those before.
    pub fn set_password(&mut self, hash: PasswordHash, set_by: SetBy, history: usize, now: Timestamp) {
        if let Some(before) = self.hash.replace(hash) {
            self.history.insert(0, before);
        }
        self.history.truncate(history);
        self.set_by = Some(set_by);
        self.invitation = None;
        let second = Timestamp::from_second(now.as_second()).expect("now is within range");
        // Later than the one before in any case: sessions end by this.
        let after = self.changed.and_then(|before| before.checked_add(SignedDuration::from_secs(1)).ok());
        self.changed = Some(after.map_or(second, |after| after.max(second)));
    }

    /// Every password that can't be used again, the present one first.
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
    fn a_new_password_is_later_than_the_one_before_and_ends_the_invitation() {
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
    fn a_password_of_unknown_origin_is_anothers() {
        let mut summary = Summary::default();
        assert!(!summary.is_set_by_another(), "there is none");
        summary.changed = Some(Timestamp::UNIX_EPOCH);
        assert!(summary.is_set_by_another());
        summary.set_by = Some(SetBy::Owner);
        assert!(!summary.is_set_by_another());
    }
}
