//! Writes that conflict with other Users or with the requester's quota. The guard refuses them to everybody who may not
//! bind every role.

use std::fmt;

use kube::ResourceExt;
use roster_api::{OWNER_LABEL, TOMBSTONE_SECRET_TYPE, User};
use roster_credentials::claim::{Identifier, IdentifierKind, fold};

use super::Policy;
use super::guard::{GuardedChange, owner, requirements};
use super::requirement::Denial;
use crate::directory::Directory;
use crate::directory::compact_user::CompactUser;
use crate::directory::labels::Labels;
use crate::directory::tombstones::MAX_TOMBSTONES_PER_USERNAME;

/// Why a write conflicts. `Display` is the full text and may name another User.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Conflict {
    /// Another User has the username of a new User as a login name. A User that waits for a name would later get what
    /// has been bound to it since, and those who release the name may not know of that.
    Taken {
        /// The username.
        username: String,
        /// Name of the User that holds or wants it.
        other: String,
    },
    /// Another User has the username that a User is to be renamed to.
    RenameTaken {
        /// The username.
        username: String,
        /// Name of the User that holds or wants it.
        other: String,
    },
    /// The name of a new User is the username of another one. Groups and API paths that identify a person by username
    /// would refer to the wrong one.
    NameIsUsername {
        /// The name.
        name: String,
        /// Name of the User with that username.
        other: String,
    },
    /// The reverse: the username of a new or renamed User is the name of another one.
    UsernameIsName {
        /// The username. Folded, it is the name of the other User.
        username: String,
    },
    /// Too many deleted Users had this name, username or email: the guard would have to check each of them.
    Exhausted {
        /// Field of the User.
        field: &'static str,
        /// The identifier.
        text: String,
    },
    /// A new Namespace of a User with a quota has no owner, so it would count against nobody.
    NoOwner {
        /// The User who creates it.
        by: String,
    },
    /// Its owner does not exist, or has neither a quota nor a role to control it by.
    UncountedOwner {
        /// The User who creates it.
        by: String,
        /// The owner.
        owner: String,
    },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { username, other } => write!(
                f,
                "spec.username: {username} already exists: User {other} holds or wants it; waiting for a name \
                 requires the verb bind on every role"
            ),
            Self::RenameTaken { username, other } => {
                write!(f, "spec.username: {username} already exists: User {other} holds or wants it")
            }
            Self::NameIsUsername { name, other } => {
                write!(f, "metadata.name: {name} is the username of User {other}; choose another name")
            }
            Self::UsernameIsName { username } => write!(
                f,
                "spec.username: {username} is the name (metadata.name) of User {}; choose another username",
                fold(username)
            ),
            Self::Exhausted { field, text } => {
                let kind = if field.contains("mail") { "email" } else { "username" };
                write!(
                    f,
                    "{field}: more than {MAX_TOMBSTONES_PER_USERNAME} deleted Users had the {kind} {text}; choose another one, or \
                     delete Secrets of type {TOMBSTONE_SECRET_TYPE} that protect it"
                )
            }
            Self::NoOwner { by } => write!(
                f,
                "metadata.labels[{OWNER_LABEL}]: is required: User {by} has a quota, and a Namespace without an owner \
                 would not count towards any; set it to {by}"
            ),
            Self::UncountedOwner { by, owner } => write!(
                f,
                "metadata.labels[{OWNER_LABEL}]: User {owner} does not exist, or has neither a quota nor a role. User \
                 {by} has a quota, and the Namespace would not count towards it; set it to {by}"
            ),
        }
    }
}

impl Denial for Conflict {
    fn without_details(&self) -> String {
        match self {
            Self::Taken { username, .. } => format!(
                "spec.username: {username} already exists: another User holds or wants it; waiting for a name requires \
                 the verb bind on every role"
            ),
            Self::RenameTaken { username, .. } => {
                format!("spec.username: {username} already exists: another User holds or wants it")
            }
            Self::NameIsUsername { name, .. } => {
                format!("metadata.name: {name} is the username of another User; choose another name")
            }
            // The requester names everything in these.
            Self::UsernameIsName { .. }
            | Self::Exhausted { .. }
            | Self::NoOwner { .. }
            | Self::UncountedOwner { .. } => self.to_string(),
        }
    }
}

/// Returns why a User cannot be created (`old` is `None`) or changed like this.
pub fn of_user(old: Option<&User>, new: &User, directory: &Directory) -> Option<Conflict> {
    let new_user = old.is_none();
    let taken = new_user.then(|| username_claimant(new, directory)).flatten();
    let taken = taken.map(|other| Conflict::Taken { username: new.username(), other: other.to_owned() });
    taken
        .or_else(|| new_user.then(|| confusable_name(new, directory)).flatten())
        .or_else(|| exhausted(old, new, directory))
}

/// Returns why a User cannot be renamed like this.
pub fn of_rename(old: &User, new: &User, directory: &Directory) -> Option<Conflict> {
    let taken = username_claimant(new, directory);
    let taken = taken.map(|other| Conflict::RenameTaken { username: new.username(), other: other.to_owned() });
    taken
        .or_else(|| confusable_username(&new.name_any(), new.username(), directory))
        .or_else(|| exhausted(Some(old), new, directory))
}

/// Returns why a new Namespace of a requester with a quota would count against nobody. It would escape the quota
/// without an owner, with an owner that does not exist, or with one that has neither a quota nor a role to control them
/// by.
pub fn of_namespace(new: &Labels, by: Option<&str>, directory: &Directory, policy: &Policy) -> Option<Conflict> {
    let by = by.filter(|by| directory.has_quota(by))?;
    let Some(owner) = owner(new) else { return Some(Conflict::NoOwner { by: by.to_owned() }) };
    let is_controlled = || {
        let change = GuardedChange::Credential([owner].into());
        !requirements(&change, directory, policy).is_empty()
    };
    let counts = owner == by || directory.user(owner).is_some() && (directory.has_quota(owner) || is_controlled());
    (!counts).then(|| Conflict::UncountedOwner { by: by.to_owned(), owner: owner.to_owned() })
}

/// Returns another User that claims the username as a login name.
fn username_claimant<'a>(new: &User, directory: &'a Directory) -> Option<&'a str> {
    let name = new.name_any();
    let username = Identifier { kind: IdentifierKind::Username, text: new.username() };
    directory.claimants(&username.folded()).find(|other| **other != name)
}

fn confusable_name(new: &User, directory: &Directory) -> Option<Conflict> {
    let (name, username) = (new.name_any(), new.username());
    let namesake = directory.claimants(&name).find(|other| **other != name).map(str::to_owned);
    if let Some(other) = namesake {
        return Some(Conflict::NameIsUsername { name, other });
    }
    confusable_username(&name, username, directory)
}

fn confusable_username(name: &str, username: String, directory: &Directory) -> Option<Conflict> {
    let other = fold(&username);
    (other != name && directory.user(&other).is_some()).then_some(Conflict::UsernameIsName { username })
}

/// Looks at the identifiers that the User gains.
fn exhausted(old: Option<&User>, new: &User, directory: &Directory) -> Option<Conflict> {
    let name = new.name_any();
    let had = old.map(|old| CompactUser::of(old).identifiers).unwrap_or_default();
    let identifiers = CompactUser::of(new).identifiers;
    let gained = identifiers.iter().enumerate().filter(|(_, identifier)| !had.contains(identifier));
    let email = new.spec.email.as_deref().map(fold);
    let field = |position: usize, identifier: &String| match position {
        0 => "spec.username",
        _ if email.as_ref() == Some(identifier) => "spec.email",
        _ => "spec.additionalEmails",
    };
    let gained = gained.map(|(position, identifier)| (field(position, identifier), identifier));
    let own = old.is_none().then_some(("metadata.name", &name));
    let mut texts = own.into_iter().chain(gained);
    let (field, text) = texts.find(|(_, text)| directory.tombstones.is_username_exhausted(text, &name))?;
    Some(Conflict::Exhausted { field, text: text.clone() })
}
