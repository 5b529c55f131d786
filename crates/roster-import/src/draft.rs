//! Content of an imported file, before validation.

use std::fmt;

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::hashes;

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
    /// `spec` fields that the source sets.
    pub spec: Map<String, Value>,
    /// `metadata.labels`.
    pub labels: Map<String, Value>,
    pub credential: Option<Credential>,
}

impl UserDraft {
    /// Returns a user with this username.
    pub fn new(place: Place, username: &str) -> Self {
        let mut user = Self { place, ..Self::default() };
        user.set("username", username);
        user
    }

    /// Sets a field of the spec by its path. Empty text is ignored.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        set(&mut self.spec, path, value.into());
    }

    /// Adds a value to a list of the spec, unless it is there already.
    pub fn add(&mut self, field: &str, value: impl Into<Value>) {
        let list = self.spec.entry(field).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(items) = list {
            let value = value.into();
            if !items.contains(&value) {
                items.push(value);
            }
        }
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

    /// Returns the name for login: the username or, without one, `metadata.name`.
    pub fn login(&self) -> &str {
        self.spec.get("username").and_then(Value::as_str).or(self.name.as_deref()).unwrap_or_default()
    }
}

/// A group to import.
#[derive(Clone, Debug, Default)]
pub struct GroupDraft {
    pub place: Place,
    /// Name in the source.
    pub name: String,
    /// `spec` fields that the source sets.
    pub spec: Map<String, Value>,
    /// `metadata.labels`.
    pub labels: Map<String, Value>,
}

impl GroupDraft {
    /// Returns a group with this name.
    pub fn new(place: Place, name: &str) -> Self {
        Self { place, name: name.to_owned(), ..Self::default() }
    }

    /// Sets a field of the spec by its path. Empty text is ignored.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        set(&mut self.spec, path, value.into());
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
