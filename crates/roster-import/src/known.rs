//! Users of the cluster that were imported before from people of the source.

use std::collections::HashMap;

use roster_credentials::claim::fold;
use serde_json::Value;

/// A User that was imported before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KnownUser {
    /// `metadata.name`.
    pub name: String,
    /// `spec.username` or, without it, `metadata.name`.
    pub username: String,
    /// Case-folded email addresses.
    emails: Vec<String>,
}

impl KnownUser {
    /// Reads the names of a User.
    pub fn new(name: &str, spec: &Value) -> Self {
        let more = spec["additionalEmails"].as_array().into_iter().flatten();
        let emails = std::iter::once(&spec["email"]).chain(more).filter_map(Value::as_str).map(fold).collect();
        let username = spec["username"].as_str().unwrap_or(name).to_owned();
        Self { name: name.to_owned(), username, emails }
    }

    /// Returns whether the case-folded text is the username or an email of the User.
    pub(super) fn has_login(&self, folded: &str) -> bool {
        fold(&self.username) == folded || self.emails.iter().any(|email| email == folded)
    }
}

/// Users that were imported before, by their identities in the source.
#[derive(Clone, Debug, Default)]
pub struct KnownUsers(HashMap<String, KnownUser>);

impl KnownUsers {
    /// Adds a User. If several have one identity, the first name in alphabetical order is kept, and the comparison with
    /// the plan reports the others.
    pub fn add(&mut self, source: &str, user: KnownUser) {
        let known = self.0.entry(source.to_owned()).or_insert_with(|| user.clone());
        if user.name < known.name {
            *known = user;
        }
    }

    /// Returns the User that was imported from this identity.
    pub(super) fn of(&self, source: Option<&str>) -> Option<&KnownUser> {
        self.0.get(source?)
    }
}
