//! Content of an imported file, before validation.

use std::fmt;

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::hashes;
use super::rules::Fault;

/// Annotation of a Group with the identity of its group in the source.
pub const SOURCE_ANNOTATION: &str = "roster.dev/source-id";

/// Position in the imported files.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Index of the file: 0 is the main file, 1 `/etc/group`, 2 `/etc/shadow`.
    pub file: usize,
    /// Line number, from 1.
    pub line: usize,
}

impl Place {
    /// Returns the position of a line in the main file.
    pub fn line(line: usize) -> Self {
        Self { file: 0, line }
    }
}

/// Something that is not imported, and the reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rejected {
    pub place: Place,
    /// Name of the user or group. Empty if unknown.
    pub who: String,
    /// Path of the field. Empty for a whole line.
    pub field: String,
    /// What is wrong, and what is allowed. Never contains a secret.
    pub reason: String,
}

impl Rejected {
    /// Rejects a whole line.
    pub fn line(place: Place, reason: impl Into<String>) -> Self {
        Self { place, who: String::new(), field: String::new(), reason: reason.into() }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "{}", self.reason),
            field => write!(f, "{field}: {}", self.reason),
        }
    }
}

/// Identity of a group in its source. It decides who is in which group; names of groups never do, because two groups can
/// have one name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum SourceId {
    /// The source identifies groups by the names of their Groups. In lower case.
    Name(String),
    /// Identifier of the source's own, with the kind of the source: `ldap:cn=ops,dc=example,dc=com`.
    Id(String),
}

impl SourceId {
    /// Returns the identity of a group that the source identifies by its name, in any letter case: CSV, JSON and YAML.
    pub fn name(name: &str) -> Self {
        Self::Name(name.to_lowercase())
    }

    /// Returns the identity of a group that has an identifier in the source: a DN, the ID of a row, a principal.
    pub fn new(source: &str, id: &str) -> Self {
        Self::Id(format!("{source}:{id}"))
    }

    /// Returns the identifier, unless the name is one.
    pub fn identifier(&self) -> Option<&str> {
        match self {
            Self::Name(_) => None,
            Self::Id(id) => Some(id),
        }
    }
}

/// Reference to a group of the source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupRef {
    pub id: SourceId,
    /// Name of the group. Used if the source says no more about it.
    pub name: String,
}

impl GroupRef {
    /// Refers to a group by its name.
    pub fn named(name: &str) -> Self {
        Self { id: SourceId::name(name), name: name.to_owned() }
    }
}

/// Password or hash of a user.
#[derive(Debug)]
pub enum Credential {
    /// Hash in the notation of the source system.
    Hash(SecretString),
    /// Password in plaintext.
    Plain(SecretString),
}

impl Credential {
    /// Reads a field for a password in plaintext. A hash in it, also one in base64, stays a hash: nobody could log in with
    /// the hash of a hash.
    pub(super) fn password(text: &str) -> Self {
        let is_hash = hashes::is_certainly_hash(text);
        if is_hash { Self::Hash(text.into()) } else { Self::Plain(text.into()) }
    }
}

/// A user to import.
#[derive(Debug, Default)]
pub struct UserDraft {
    pub place: Place,
    /// `metadata.name`, if the source has one.
    pub name: Option<String>,
    /// `spec` fields that the source sets. Names in `groups` are names of Groups: only for sources that identify groups so.
    pub spec: Map<String, Value>,
    /// `metadata.labels`.
    pub labels: Map<String, Value>,
    pub credential: Option<Credential>,
    /// Groups that the user is in.
    pub groups: Vec<GroupRef>,
    /// Attributes of the source that can't be read, without which the user must not be imported.
    pub faults: Vec<Fault>,
}

impl UserDraft {
    /// Returns a user with this username.
    pub fn new(place: Place, username: &str) -> Self {
        let mut user = Self { place, ..Self::default() };
        user.set("username", username);
        user
    }

    /// Sets a field of the spec by its path. Empty text is ignored. Groups are not set but [joined](Self::join).
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        debug_assert_ne!(path, "groups", "groups are joined by their identity");
        set(&mut self.spec, path, value.into());
    }

    /// Adds a value to a list of the spec, unless it is there already.
    pub fn add(&mut self, field: &str, value: impl Into<Value>) {
        debug_assert_ne!(field, "groups", "groups are joined by their identity");
        let list = self.spec.entry(field).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(items) = list {
            let value = value.into();
            if !items.contains(&value) {
                items.push(value);
            }
        }
    }

    /// Puts the user into a group.
    pub fn join(&mut self, group: GroupRef) {
        if self.groups.iter().all(|known| known.id != group.id) {
            self.groups.push(group);
        }
    }

    /// Records that an attribute can't be read. The user is rejected.
    pub fn fault(&mut self, field: &str, reason: impl Into<String>) {
        self.faults.push(Fault { field: field.to_owned(), reason: reason.into() });
    }

    /// Adds an email address. The first one becomes the primary address.
    pub fn add_email(&mut self, email: &str) {
        if !email.is_empty() && !self.spec.contains_key("email") {
            self.set("email", email);
        } else if !email.is_empty() && self.spec["email"] != email {
            self.add("additionalEmails", email);
        }
    }

    /// Sets the hash. Empty text means that there is none.
    pub fn set_hash(&mut self, hash: &str) {
        self.credential = (!hash.is_empty()).then(|| Credential::Hash(hash.into()));
    }

    #[cfg(test)]
    pub(super) fn group_names(&self) -> Vec<&str> {
        self.groups.iter().map(|group| group.name.as_str()).collect()
    }

    /// Returns the name for login: the username or, without one, `metadata.name`.
    pub fn login(&self) -> &str {
        self.spec.get("username").and_then(Value::as_str).or(self.name.as_deref()).unwrap_or_default()
    }
}

/// A group to import.
#[derive(Clone, Debug)]
pub struct GroupDraft {
    pub place: Place,
    pub id: SourceId,
    /// Name in the source.
    pub name: String,
    /// `spec` fields that the source sets. Names in `memberGroups` are names of Groups: only for sources that identify groups
    /// so.
    pub spec: Map<String, Value>,
    /// `metadata.labels`.
    pub labels: Map<String, Value>,
    /// Groups that are members of it.
    pub member_groups: Vec<GroupRef>,
    /// Identifier of the group that the manifest of this Group was made from, if the source is such a manifest.
    pub origin: Option<String>,
}

impl GroupDraft {
    /// Returns a group with this identity and name.
    pub fn new(place: Place, id: SourceId, name: &str) -> Self {
        let (spec, labels) = (Map::new(), Map::new());
        Self { place, id, name: name.to_owned(), spec, labels, member_groups: Vec::new(), origin: None }
    }

    /// Returns a group that the source identifies by the name of its Group.
    pub fn named(place: Place, name: &str) -> Self {
        Self::new(place, SourceId::name(name), name)
    }

    /// Sets a field of the spec by its path. Empty text is ignored.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        set(&mut self.spec, path, value.into());
    }

    /// Makes another group a member of it.
    pub fn nest(&mut self, group: GroupRef) {
        if self.member_groups.iter().all(|known| known.id != group.id) {
            self.member_groups.push(group);
        }
    }

    /// Returns a reference to this group.
    pub fn reference(&self) -> GroupRef {
        GroupRef { id: self.id.clone(), name: self.name.clone() }
    }
}

/// Everything that a source contains, in its order.
#[derive(Debug, Default)]
pub struct Input {
    pub users: Vec<UserDraft>,
    pub groups: Vec<GroupDraft>,
    /// Lines that could not be read.
    pub rejected: Vec<Rejected>,
}

impl Input {
    /// Returns whether the source contains no user and no group.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// Rejects a line.
    pub fn reject(&mut self, place: Place, reason: impl Into<String>) {
        self.rejected.push(Rejected::line(place, reason));
    }
}

/// Sets the field at a dot-separated path. Empty text and null are ignored.
pub(super) fn set(fields: &mut Map<String, Value>, path: &str, value: Value) {
    if value.as_str() == Some("") || value.is_null() {
        return;
    }
    match path.split_once('.') {
        None => drop(fields.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let nested = fields.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(nested) = nested {
                set(nested, rest, value);
            }
        }
    }
}
