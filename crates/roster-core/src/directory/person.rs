//! What the directory keeps of a User.

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use roster_api::condition::{NAME_CLAIMED, find};
use roster_api::user::{DesiredState, PasswordSecretRef};
use roster_api::{User, Validity};
use roster_credentials::claim::{self, Identifier};

/// Which of its identifiers a User holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Claimed {
    Nothing,
    /// The username, and perhaps some of the emails.
    Username,
    Everything,
}

/// A User, compact.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Person {
    /// Its UID.
    pub uid: String,
    /// Its creation, by kube-apiserver's clock.
    pub created: Option<Timestamp>,
    /// Login name and RBAC subject name.
    pub username: String,
    /// Username and emails, folded: what at most one User holds at a time. The username comes first.
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

impl Person {
    /// Reads a User.
    pub fn of(user: &User) -> Self {
        let (username, status) = (user.username(), user.status.as_ref());
        // After a rename the status still speaks of the former username for a moment.
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
            // A conflict over an email costs the email alone.
            claimed: match claimed {
                Some(claimed) if claimed.status == "True" => Claimed::Everything,
                Some(claimed) if claimed.reason != "UsernameConflict" => Claimed::Username,
                _ => Claimed::Nothing,
            },
        }
    }

    /// Whether what binds this User is in force. A lockout after failed logins changes nothing about that: otherwise
    /// anyone who can reach the login could end a person's sessions and bindings.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.holds_username() && !self.is_deleted && self.state == DesiredState::Active && self.validity.contains(now)
    }

    /// Whether it holds an identifier, folded, that it may share the wish for with others.
    pub fn holds(&self, identifier: &str) -> bool {
        if self.identifiers.first().is_some_and(|username| username == identifier) {
            return self.holds_username();
        }
        self.claimed == Claimed::Everything && self.identifiers.iter().any(|own| own == identifier)
    }

    /// Whether the username is held, as the status says. Until it is, it may be the name of somebody else.
    pub fn holds_username(&self) -> bool {
        self.claimed != Claimed::Nothing
    }

    /// When the clock alone changes [`Person::is_active`] next.
    pub fn next_edge(&self, now: Timestamp) -> Option<Timestamp> {
        self.validity.next_edge(now)
    }
}
