//! Writes that conflict with other Users or with the requester's quota. The guard rejects them unless the requester may
//! bind every role.

use std::fmt;

use kube::ResourceExt;
use roster_api::{LOCKED_BY_ANNOTATION, OWNER_LABEL, TOMBSTONE_SECRET_TYPE, User};
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
    /// Another User holds or wants the username of a new User. A User that waits for a username later gets everything
    /// that was bound to that username in the meantime, and the requester that releases it may not know about that.
    Taken {
        /// The username.
        username: String,
        /// Name of the User that holds or is waiting for it.
        other: String,
    },
    /// Another User holds or wants the new username of a renamed User.
    RenameTaken {
        /// The username.
        username: String,
        /// Name of the User that holds or is waiting for it.
        other: String,
    },
    /// The name of a new User is the username of another one. Groups and API paths that identify a User by username
    /// would refer to the wrong User.
    NameIsUsername {
        /// The name.
        name: String,
        /// Name of the User with that username.
        other: String,
    },
    /// The reverse of [`Conflict::NameIsUsername`]: the username of a new or renamed User is the name of another one.
    UsernameIsName {
        /// The username. Folded, it is the name of the other User.
        username: String,
    },
    /// Too many deleted Users had this name, username or email. The guard would have to check each of them.
    Exhausted {
        /// Field of the User.
        field: &'static str,
        /// The identifier.
        text: String,
    },
    /// A User with a quota creates a Namespace without an owner, so the Namespace would not count towards any quota.
    NoOwner {
        /// The User who creates it.
        by: String,
    },
    /// A User with a quota creates a Namespace whose owner does not exist, or has neither a quota nor a role. The guard
    /// does not prevent others from taking control of an owner without roles.
    UncountedOwner {
        /// The User who creates it.
        by: String,
        /// The owner.
        owner: String,
    },
    /// A change of a Namespace makes or ends a field manager or manifest that names the lock, so that a tool would
    /// remove the lock. The requester does not hold the lock.
    LockOwnership,
    /// It is unknown which fields a manifest in this annotation names, so a tool could remove any of them.
    UnreadableManifest(String),
    /// The entry of this field manager is new or has another time, but kube-apiserver did not write it.
    MadeUpManager(String),
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { username, other } => write!(
                f,
                "spec.username: {username} already exists: User {other} holds or is waiting for it; waiting for it \
                 requires the verb bind on every role"
            ),
            Self::RenameTaken { username, other } => {
                write!(f, "spec.username: {username} already exists: User {other} holds or is waiting for it")
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
                 would not count towards any quota; set it to {by}"
            ),
            Self::UncountedOwner { by, owner } => write!(
                f,
                "metadata.labels[{OWNER_LABEL}]: User {owner} does not exist, or has neither a quota nor a role. User \
                 {by} has a quota, and the Namespace would not count towards it; set it to {by}"
            ),
            Self::LockOwnership => write!(
                f,
                "metadata: a tool would remove the annotation {LOCKED_BY_ANNOTATION}, because this changes which field \
                 manager or applied manifest names it; only the holder of the lock or an administrator can do that"
            ),
            Self::UnreadableManifest(annotation) => write!(
                f,
                "metadata.annotations[{annotation}]: is not a JSON object that can be read, so it is unknown what a tool \
                 would remove; only a requester that may bind every role can set, change or remove it"
            ),
            Self::MadeUpManager(manager) => write!(
                f,
                "metadata.managedFields: the entry of manager {manager} is new or has another time, and kube-apiserver would \
                 not write it for this change: leave the entries as they are, or leave out metadata.managedFields"
            ),
        }
    }
}

impl Denial for Conflict {
    fn without_details(&self) -> String {
        match self {
            Self::Taken { username, .. } => format!(
                "spec.username: {username} already exists: another User holds or is waiting for it; waiting for it \
                 requires the verb bind on every role"
            ),
            Self::RenameTaken { username, .. } => {
                format!("spec.username: {username} already exists: another User holds or is waiting for it")
            }
            Self::NameIsUsername { name, .. } => {
                format!("metadata.name: {name} is the username of another User; choose another name")
            }
            // The requester names everything in these.
            Self::UsernameIsName { .. }
            | Self::Exhausted { .. }
            | Self::NoOwner { .. }
            | Self::UncountedOwner { .. }
            | Self::LockOwnership
            | Self::UnreadableManifest(_)
            | Self::MadeUpManager(_) => self.to_string(),
        }
    }
}

/// Returns why this change of a User conflicts, or its creation if `old` is `None`.
pub fn of_user(old: Option<&User>, new: &User, directory: &Directory) -> Option<Conflict> {
    let new_user = old.is_none();
    let taken = new_user.then(|| username_claimant(new, directory)).flatten();
    let taken = taken.map(|other| Conflict::Taken { username: new.username(), other: other.to_owned() });
    taken
        .or_else(|| new_user.then(|| confusable_name(new, directory)).flatten())
        .or_else(|| exhausted(old, new, directory))
}

/// Returns why this change of a User's username conflicts.
pub fn of_rename(old: &User, new: &User, directory: &Directory) -> Option<Conflict> {
    let taken = username_claimant(new, directory);
    let taken = taken.map(|other| Conflict::RenameTaken { username: new.username(), other: other.to_owned() });
    taken
        .or_else(|| confusable_username(&new.name_any(), new.username(), directory))
        .or_else(|| exhausted(Some(old), new, directory))
}

/// Returns why a new Namespace of a requester with a quota would not count towards any quota: it has no owner, its
/// owner does not exist, or its owner has neither a quota nor a role that would keep the requester from taking control
/// of it.
pub fn of_namespace(new: &Labels, by: Option<&str>, directory: &Directory, policy: &Policy) -> Option<Conflict> {
    let by = by.filter(|by| directory.has_quota(by))?;
    let Some(owner) = owner(new) else { return Some(Conflict::NoOwner { by: by.to_owned() }) };
    let is_controlled = || {
        let change = GuardedChange::Credential([owner].into());
        !requirements(&change, &change.ownership(), directory, policy).is_empty()
    };
    let counts = owner == by || directory.user(owner).is_some() && (directory.has_quota(owner) || is_controlled());
    (!counts).then(|| Conflict::UncountedOwner { by: by.to_owned(), owner: owner.to_owned() })
}

/// Returns another User that holds or wants the username.
fn username_claimant<'a>(new: &User, directory: &'a Directory) -> Option<&'a str> {
    let name = new.name_any();
    let username = Identifier { kind: IdentifierKind::Username, text: new.username() };
    directory.claimants(&username.folded()).find(|other| **other != name)
}

fn confusable_name(new: &User, directory: &Directory) -> Option<Conflict> {
    let (name, username) = (new.name_any(), new.username());
    let other = directory.claimants(&name).find(|other| **other != name).map(str::to_owned);
    if let Some(other) = other {
        return Some(Conflict::NameIsUsername { name, other });
    }
    confusable_username(&name, username, directory)
}

fn confusable_username(name: &str, username: String, directory: &Directory) -> Option<Conflict> {
    let other = fold(&username);
    (other != name && directory.user(&other).is_some()).then_some(Conflict::UsernameIsName { username })
}

/// Checks the identifiers that the User gains, and the name of a new User.
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
