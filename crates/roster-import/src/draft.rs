//! What a file says, before it is known whether that is allowed.

use std::fmt;

use secrecy::SecretString;
use serde_json::{Map, Value};

/// Where something stands. `file` counts the files of one import: 0 is the main one.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Which of the files.
    pub file: usize,
    /// Line, counted from 1.
    pub line: usize,
}

impl Place {
    /// A line of the main file.
    pub fn line(line: usize) -> Self {
        Self { file: 0, line }
    }
}

/// Something that is not imported, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rejected {
    /// Where it stands.
    pub place: Place,
    /// Whom it concerns; empty where that can't be told.
    pub who: String,
    /// The field; empty where the whole line is meant.
    pub field: String,
    /// What is wrong, and what is allowed. Never the value of a secret.
    pub reason: String,
}

impl Rejected {
    /// A rejection of a whole line.
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

/// What somebody logs in with.
#[derive(Debug)]
pub enum Credential {
    /// A hash, in the words of the system that it comes from.
    Hash(SecretString),
    /// A password.
    Plain(SecretString),
}

/// A person.
#[derive(Debug, Default)]
pub struct Person {
    /// Where they stand.
    pub place: Place,
    /// Name of the object, where the source gives one.
    pub name: Option<String>,
    /// The `spec`, as far as the source speaks of it.
    pub spec: Map<String, Value>,
    /// Labels of the object.
    pub labels: Map<String, Value>,
    /// Password or hash.
    pub credential: Option<Credential>,
}

impl Person {
    /// Somebody with that login name.
    pub fn new(place: Place, username: &str) -> Self {
        let mut person = Self { place, ..Self::default() };
        person.set("username", username);
        person
    }

    /// Sets a field of the spec by its path. Empty text says nothing.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        set(&mut self.spec, path, value.into());
    }

    /// Adds to a list of the spec.
    pub fn add(&mut self, field: &str, value: impl Into<Value>) {
        let list = self.spec.entry(field).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(items) = list {
            let value = value.into();
            if !items.contains(&value) {
                items.push(value);
            }
        }
    }

    /// Adds an email address: the first is the primary one.
    pub fn add_email(&mut self, email: &str) {
        if !email.is_empty() && !self.spec.contains_key("email") {
            self.set("email", email);
        } else if !email.is_empty() && self.spec["email"] != email {
            self.add("additionalEmails", email);
        }
    }

    /// Takes a hash along.
    pub fn set_hash(&mut self, hash: &str) {
        self.credential = (!hash.is_empty()).then(|| Credential::Hash(hash.into()));
    }

    /// Login name: the username, or else the object's name.
    pub fn login(&self) -> &str {
        self.spec.get("username").and_then(Value::as_str).or(self.name.as_deref()).unwrap_or_default()
    }
}

/// A group.
#[derive(Clone, Debug, Default)]
pub struct Team {
    /// Where it stands.
    pub place: Place,
    /// Its name there.
    pub name: String,
    /// The `spec`, as far as the source speaks of it.
    pub spec: Map<String, Value>,
    /// Labels of the object.
    pub labels: Map<String, Value>,
}

impl Team {
    /// A group of that name.
    pub fn new(place: Place, name: &str) -> Self {
        Self { place, name: name.to_owned(), ..Self::default() }
    }

    /// Sets a field of the spec by its path. Empty text says nothing.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        set(&mut self.spec, path, value.into());
    }
}

/// All that a source says.
#[derive(Debug, Default)]
pub struct Input {
    /// People, in the order of the source.
    pub people: Vec<Person>,
    /// Groups, in the order of the source.
    pub teams: Vec<Team>,
    /// What could not be read.
    pub rejected: Vec<Rejected>,
}

impl Input {
    /// Notes a line that could not be read.
    pub fn reject(&mut self, place: Place, reason: impl Into<String>) {
        self.rejected.push(Rejected::line(place, reason));
    }
}

/// Sets the field at `path`, whose parts are separated by dots.
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
