//! Writes that the controller's watch has not delivered yet.
//!
//! A reconciliation between a write and its watch event would work on an outdated object, repeat the write and get a
//! conflict.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kube::runtime::controller;
use kube::{Resource, ResourceExt};

use super::backoff::Backoff;

/// UID and resourceVersion of the last write, by name of the object. Contains only writes that the watch has not delivered.
#[derive(Debug, Default)]
pub struct Written(Mutex<HashMap<String, (Option<String>, u64)>>);

impl Written {
    /// Records the object that a write returned.
    pub fn note<K: Resource>(&self, answer: &K) {
        let written = (answer.uid(), version(answer));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(answer.name_any(), written);
    }

    /// Returns whether the watch will deliver a newer version than `object`.
    pub fn is_ahead_of<K: Resource>(&self, object: &K) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = object.name_any();
        let Some((uid, written)) = all.get(&name) else { return false };
        let is_ahead = *uid == object.uid() && *written > version(object);
        if !is_ahead {
            all.remove(&name);
        }
        is_ahead
    }

    /// Forgets an object, for example after a rejected write.
    pub fn forget(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// Forgets an object that was deleted, so that short-lived objects do not leak memory. All other outcomes are logged and
/// counted where they occur.
pub fn forget_deleted<T, E, Q>(outcome: &Result<T, controller::Error<E, Q>>, backoff: &Backoff, written: &Written)
where
    E: std::error::Error + 'static,
    Q: std::error::Error + 'static,
{
    if let Err(controller::Error::ObjectNotFound(deleted)) = outcome {
        backoff.succeeded(&deleted.name);
        written.forget(&deleted.name);
    }
}

/// resourceVersions are ordered (KEP-5504).
fn version<K: Resource>(object: &K) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector::ObjectRef;

    use super::*;
    use roster_api::User;

    type Outcome = Result<(), controller::Error<std::io::Error, std::io::Error>>;

    fn user(uid: &str, version: &str) -> User {
        let mut user = User::new("jane", roster_api::UserSpec::default());
        user.metadata.uid = Some(uid.to_owned());
        user.metadata.resource_version = Some(version.to_owned());
        user
    }

    #[test]
    fn a_write_is_forgotten_when_the_watch_delivers_it() {
        let written = Written::default();
        assert!(!written.is_ahead_of(&user("a", "5")));
        written.note(&user("a", "7"));
        assert!(written.is_ahead_of(&user("a", "5")));
        assert!(!written.is_ahead_of(&user("a", "7")));
        assert!(written.0.lock().unwrap().is_empty());
        written.note(&user("a", "9"));
        assert!(!written.is_ahead_of(&user("b", "8")), "another object of that name");
    }

    #[test]
    fn deleted_objects_are_forgotten() {
        let (backoff, written) = (Backoff::default(), Written::default());
        let first = backoff.failed("jane");
        written.note(&user("a", "7"));
        let gone = ObjectRef::<User>::new("jane").erase();
        let outcome: Outcome = Err(controller::Error::ObjectNotFound(Box::new(gone)));
        forget_deleted(&outcome, &backoff, &written);
        assert!(written.0.lock().unwrap().is_empty());
        assert_eq!(backoff.failed("jane"), first);
    }
}
