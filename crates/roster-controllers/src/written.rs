//! What a controller has written and not seen yet.
//!
//! A write comes back through the watch a moment later. Whoever reconciles in between goes by a state that is known to
//! be old, and would write the same again only to be refused.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kube::runtime::controller;
use kube::{Resource, ResourceExt};

use super::backoff::Backoff;

/// The version of the last own write, by object. It holds those that are on their way alone.
#[derive(Debug, Default)]
pub struct Written(Mutex<HashMap<String, (Option<String>, u64)>>);

impl Written {
    /// Notes the API server's answer to a write.
    pub fn note<K: Resource>(&self, answer: &K) {
        let written = (answer.uid(), version(answer));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(answer.name_any(), written);
    }

    /// Whether a newer state than `object` is on its way.
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

    /// Forgets an object, as after a write that was refused: what is known of it is wrong.
    pub fn forget(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// Forgets what is remembered of an object that turned out to be deleted, so that names which come and go leave nothing
/// behind. Every other outcome is logged and counted where it occurs.
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

/// resourceVersions of one object are ordered (KEP-5504).
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
    fn an_own_write_is_awaited_and_then_forgotten() {
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
    fn a_deleted_object_leaves_nothing_behind() {
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
