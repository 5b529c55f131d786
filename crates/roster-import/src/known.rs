//! Users and Groups of the cluster that were imported before from people and groups of the source.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
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

/// Objects of the cluster that were imported before, by their identities in the source. If several have one identity, the
/// oldest one is kept, and the comparison with the plan reports the others: a later one may be planted.
#[derive(Clone, Debug)]
pub struct Known<T>(HashMap<String, (Age, T)>);

/// Users that were imported before.
pub type KnownUsers = Known<KnownUser>;

/// Names of the Groups that were imported before.
pub type KnownGroups = Known<String>;

/// Sorts objects from the oldest to the newest. Those with the same age by name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Age {
    is_unknown: bool,
    created: Option<Timestamp>,
    name: String,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Known<T> {
    /// Adds an object with its name and creationTimestamp.
    pub fn add(&mut self, source: &str, name: &str, created: Option<Timestamp>, object: T) {
        let age = Age { is_unknown: created.is_none(), created, name: name.to_owned() };
        match self.0.get_mut(source) {
            Some(known) if age < known.0 => *known = (age, object),
            Some(_) => {}
            None => drop(self.0.insert(source.to_owned(), (age, object))),
        }
    }

    /// Returns the object that was imported from this identity.
    pub(super) fn of(&self, source: Option<&str>) -> Option<&T> {
        self.0.get(source?).map(|(_, object)| object)
    }

    /// Returns all objects by their identities.
    pub fn into_objects(self) -> BTreeMap<String, T> {
        self.0.into_iter().map(|(source, (_, object))| (source, object)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_object_with_an_identity_counts() {
        let time = |text: &str| Some(text.parse().unwrap());
        let (old, new) = (time("2026-01-01T00:00:00Z"), time("2026-02-01T00:00:00Z"));
        let objects = [("c", old), ("b", new), ("d", old), ("a", None)];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
            let mut known = KnownGroups::default();
            for (name, created) in order.map(|index| objects[index]) {
                known.add("x:1", name, created, name.to_owned());
            }
            assert_eq!(known.of(Some("x:1")).map(String::as_str), Some("c"));
            assert_eq!((known.of(Some("x:2")), known.of(None)), (None, None));
            assert_eq!(known.into_objects().len(), 1);
        }
    }
}
