//! From a watch to an index: one task a watch, each with a backoff of its own.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use anyhow::{Result, bail};
use futures::{Stream, StreamExt, pin_mut};
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::oneshot;
use tracing::warn;

use super::failures::Failures;

/// Which keys a relist has named so far. What it has not named when it is done, is gone.
#[derive(Debug)]
pub struct Relist<K>(Option<HashSet<K>>);

impl<K> Default for Relist<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: Clone + Eq + Hash> Relist<K> {
    /// A relist begins.
    pub fn begin(&mut self) {
        self.0 = Some(HashSet::new());
    }

    /// The relist names `key`.
    pub fn name(&mut self, key: &K) {
        if let Some(named) = &mut self.0 {
            named.insert(key.clone());
        }
    }

    /// The relist is done: which of `known` it did not name.
    pub fn finish<'a>(&mut self, known: impl Iterator<Item = &'a K>) -> Vec<K>
    where
        K: 'a,
    {
        let Some(named) = self.0.take() else { return Vec::new() };
        known.filter(|key| !named.contains(*key)).cloned().collect()
    }
}

/// Feeds a watch into `apply`, says `synced` after the first complete list, and tells `failures` of each failure in a
/// row and of the end of the row.
///
/// # Errors
/// Only if the stream ends, which a watch does not.
pub async fn follow<T: Debug>(
    resource: &'static str,
    watch: impl Stream<Item = watcher::Result<Event<T>>> + Send,
    mut apply: impl FnMut(Event<T>),
    synced: oneshot::Sender<()>,
    failures: Arc<Failures>,
) -> Result<()> {
    let watch = watch.default_backoff();
    pin_mut!(watch);
    let mut synced = Some(synced);
    while let Some(event) = watch.next().await {
        match event {
            Ok(event) => {
                let is_complete = matches!(event, Event::InitDone);
                // The beginning of a list says nothing yet: the rest of it may fail, time and again.
                if is_complete || matches!(event, Event::Apply(_) | Event::Delete(_)) {
                    failures.end(resource);
                }
                apply(event);
                if is_complete && let Some(synced) = synced.take() {
                    let _ = synced.send(());
                }
            }
            Err(error) => {
                failures.begin_or_go_on(resource);
                warn!(resource, %error, "a watch failed and is tried again");
            }
        }
    }
    bail!("the watch of {resource} ended")
}

/// The event, unless its object does not parse. Of a deleted one nothing but the metadata is
/// needed.
pub fn readable<K: Resource<DynamicType = ()> + Default>(event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(guard) => Event::InitApply(guard.0.ok()?),
        Event::Apply(guard) => Event::Apply(guard.0.ok()?),
        Event::Delete(DeserializeGuard(Ok(object))) => Event::Delete(object),
        Event::Delete(DeserializeGuard(Err(invalid))) => {
            let mut object = K::default();
            *object.meta_mut() = invalid.metadata;
            Event::Delete(object)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relist_sweeps_what_it_did_not_name() {
        let mut relist = Relist::default();
        let known = ["a", "b", "c"];
        assert!(relist.finish(known.iter()).is_empty(), "nothing was listed");
        relist.begin();
        relist.name(&"a");
        relist.name(&"c");
        assert_eq!(relist.finish(known.iter()), ["b"]);
        assert!(relist.finish(known.iter()).is_empty());
    }
}
