//! From a watch to an index: one task a watch, each with a backoff of its own.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;

use anyhow::bail;
use futures::{Stream, StreamExt, pin_mut};
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::oneshot;
use tokio::task::consume_budget;
use tracing::{info, warn};

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

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Step<K> {
    /// Something of an object.
    Event(Event<K>),
    /// Everything up to this revision has been told; within a list: when it is complete.
    Revision(u64),
}

/// What tells how far a watch has come.
pub trait Told {
    /// Whether a list is complete with this.
    fn is_complete(&self) -> bool;

    /// Whether this comes of a watch that works: the beginning of a list does not, the rest of it may fail.
    fn is_proof(&self) -> bool;
}

impl<K> Told for Event<K> {
    fn is_complete(&self) -> bool {
        matches!(self, Self::InitDone)
    }

    fn is_proof(&self) -> bool {
        matches!(self, Self::InitDone | Self::Apply(_) | Self::Delete(_))
    }
}

impl<K> Told for Step<K> {
    fn is_complete(&self) -> bool {
        matches!(self, Self::Event(event) if event.is_complete())
    }

    fn is_proof(&self) -> bool {
        match self {
            Self::Event(event) => event.is_proof(),
            Self::Revision(_) => true,
        }
    }
}

/// Why a watch failed.
pub trait Failed: Display {
    /// Whether something has been missed, or may have been: what is known is out of date.
    fn is_gap(&self) -> bool {
        false
    }
}

impl Failed for watcher::Error {}

/// Feeds a watch into `apply`, says `synced` after the first complete list, and tells `failures` of each failure in a
/// row and of the end of the row.
///
/// # Errors
/// Only if the stream ends, which a watch does not.
pub async fn follow<T: Told, E: Failed>(
    resource: &'static str,
    watch: impl Stream<Item = Result<T, E>> + Send,
    mut apply: impl FnMut(T),
    synced: oneshot::Sender<()>,
    failures: Arc<Failures>,
) -> anyhow::Result<()> {
    let watch = watch.default_backoff();
    pin_mut!(watch);
    let mut synced = Some(synced);
    while let Some(event) = watch.next().await {
        // A long list is always ready to go on, and the task that asks for its next page may wait behind this one.
        consume_budget().await;
        match event {
            Ok(told) => {
                let is_complete = told.is_complete();
                if told.is_proof() {
                    failures.end(resource);
                }
                if is_complete && synced.is_some() {
                    info!(resource, "listed");
                }
                apply(told);
                if is_complete && let Some(synced) = synced.take() {
                    let _ = synced.send(());
                }
            }
            Err(error) => {
                failures.begin_or_go_on(resource, error.is_gap());
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
