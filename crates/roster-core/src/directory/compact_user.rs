//! Compact in-memory form of a User.

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use roster_api::condition::{NAME_CLAIMED, find};
use roster_api::user::{DesiredState, PasswordSecretRef};
use roster_api::{User, Validity};
use roster_credentials::claim::{self, Identifier};

/// The identifiers that a User holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Claimed {
    Nothing,
    /// The username, and possibly some of the emails.
    Username,
    Everything,
}

/// Compact form of a User.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CompactUser {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.creationTimestamp`, by kube-apiserver's clock.
    pub created: Option<Timestamp>,
    /// Login name, which is also the RBAC subject name.
    pub username: String,
    /// Folded username and emails, each held by at most one User at a time. The username comes first.
    pub identifiers: Vec<String>,
    claimed: Claimed,
    /// `spec.admin`.
    pub is_admin: bool,
    /// `spec.passwordSecretRef`.
    pub password_secret_ref: Option<PasswordSecretRef>,
    state: DesiredState,
    validity: Validity,
    is_deleted: bool,
}

impl CompactUser {
    /// Builds the compact form of a User.
    pub fn of(user: &User) -> Self {
        let (username, status) = (user.username(), user.status.as_ref());
        // After a rename, the status refers to the former username for a moment.
        let reported = status.filter(|status| status.username.as_ref() == Some(&username));
        let claimed = reported.and_then(|status| find(&status.conditions, NAME_CLAIMED));
        Self {
            uid: user.uid().unwrap_or_default(),
            created: user.meta().creation_timestamp.as_ref().map(|created| created.0),
            username,
            identifiers: claim::wanted(user).iter().map(Identifier::folded).collect(),
            is_admin: user.spec.admin,
            password_secret_ref: user.spec.password_secret_ref.clone(),
            state: user.spec.state,
            validity: user.spec.validity.clone().unwrap_or_default(),
            is_deleted: user.meta().deletion_timestamp.is_some(),
            // A conflict over an email affects only that email.
            claimed: match claimed {
                Some(claimed) if claimed.status == "True" => Claimed::Everything,
                Some(claimed) if claimed.reason != "UsernameConflict" => Claimed::Username,
                _ => Claimed::Nothing,
            },
        }
    }

    /// Returns whether bindings of this User are in force. A lockout after failed logins does not matter here.
    /// Otherwise, anyone who can reach the login could end the User's sessions and suspend its bindings.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.holds_username() && !self.is_deleted && self.state == DesiredState::Active && self.validity.contains(now)
    }

    /// Returns whether the User holds a folded identifier. Other Users may want it as well.
    pub fn holds(&self, identifier: &str) -> bool {
        if self.identifiers.first().is_some_and(|username| username == identifier) {
            return self.holds_username();
        }
        self.claimed == Claimed::Everything && self.identifiers.iter().any(|own| own == identifier)
    }

    /// Returns whether the User holds its username according to its status. Until then, the username may belong to
    /// another User.
    pub fn holds_username(&self) -> bool {
        self.claimed != Claimed::Nothing
    }

    /// Returns the next instant at which the passing of time alone changes [`CompactUser::is_active`].
    pub fn next_transition(&self, now: Timestamp) -> Option<Timestamp> {
        self.validity.next_transition(now)
    }
}
