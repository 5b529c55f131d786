//! Feeds watches into indexes: one task per watch, each with its own backoff.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use futures::{Stream, StreamExt, pin_mut};
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use tokio::sync::oneshot;
use tokio::task::consume_budget;
use tokio::time::sleep;
use tracing::{info, warn};

use super::failures::WatchFailures;
use crate::operations::client::{retry_after, retry_after_of};

/// Maximum pause after a single failure during which the known state still counts as current.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Upper bound of `Retry-After`. kube-apiserver asks for a few seconds.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Keys seen by a relist. Objects whose keys it has not seen by its end were deleted.
#[derive(Debug)]
pub struct Relist<K>(Option<HashSet<K>>);

impl<K> Default for Relist<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: Clone + Eq + Hash> Relist<K> {
    /// Starts a relist.
    pub fn begin(&mut self) {
        self.0 = Some(HashSet::new());
    }

    /// Records that the relist contains `key`.
    pub fn name(&mut self, key: &K) {
        if let Some(seen) = &mut self.0 {
            seen.insert(key.clone());
        }
    }

    /// Ends the relist and returns the `known` keys that it did not contain.
    pub fn finish<'a>(&mut self, known: impl Iterator<Item = &'a K>) -> Vec<K>
    where
        K: 'a,
    {
        let Some(seen) = self.0.take() else { return Vec::new() };
        known.filter(|key| !seen.contains(*key)).cloned().collect()
    }
}

/// A step reported by a watch.
#[derive(Clone, Debug)]
pub enum WatchStep<K> {
    /// A change of an object, or the progress of a list.
    Event(Event<K>),
    /// Everything up to this revision has been reported; within a list, once it is complete.
    Revision(u64),
}

/// Progress reported by a watch.
pub trait WatchProgress {
    /// Whether this completes a list.
    fn is_complete(&self) -> bool;

    /// Whether this proves that the watch works: the start of a list does not, because the rest may fail.
    fn is_proof(&self) -> bool;
}

impl<K> WatchProgress for Event<K> {
    fn is_complete(&self) -> bool {
        matches!(self, Self::InitDone)
    }

    fn is_proof(&self) -> bool {
        matches!(self, Self::InitDone | Self::Apply(_) | Self::Delete(_))
    }
}

impl<K> WatchProgress for WatchStep<K> {
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

/// Failure of a watch.
pub trait WatchFailure: Display {
    /// Whether changes may have been missed, so that the known state is out of date.
    fn is_gap(&self) -> bool {
        false
    }

    /// How long kube-apiserver asks to wait before the next attempt.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

impl WatchFailure for watcher::Error {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::InitialListFailed(error) | Self::WatchStartFailed(error) | Self::WatchFailed(error) => {
                retry_after(error)
            }
            Self::WatchError(status) => retry_after_of(status),
            Self::NoResourceVersion => None,
        }
    }
}

/// Feeds a watch into `apply`, signals `synced` after the first complete list, and reports each consecutive failure and
/// the recovery to `failures`.
///
/// After each failure it waits, with a backoff that grows until the watch works again, and at least as long as
/// kube-apiserver asks for. The start of a list does not prove that the watch works, so a list that keeps breaking off
/// is retried with a growing backoff.
///
/// # Errors
/// Only if the stream ends, which a watch never does.
pub async fn follow<T: WatchProgress, E: WatchFailure>(
    resource: &'static str,
    watch: impl Stream<Item = Result<T, E>> + Send,
    apply: impl FnMut(T),
    synced: oneshot::Sender<()>,
    failures: Arc<WatchFailures>,
) -> anyhow::Result<()> {
    follow_pausing(resource, watch, apply, synced, failures, sleep).await
}

/// Like [`follow`], but waits with `pause`.
pub(super) async fn follow_pausing<T: WatchProgress, E: WatchFailure, F: Future<Output = ()>>(
    resource: &'static str,
    watch: impl Stream<Item = Result<T, E>> + Send,
    mut apply: impl FnMut(T),
    synced: oneshot::Sender<()>,
    failures: Arc<WatchFailures>,
    pause: impl Fn(Duration) -> F,
) -> anyhow::Result<()> {
    pin_mut!(watch);
    failures.start(resource);
    let mut backoff = DefaultBackoff::default();
    let mut synced = Some(synced);
    while let Some(event) = watch.next().await {
        // A long list is always ready: without yielding, this task could starve the one that requests the next page.
        consume_budget().await;
        match event {
            Ok(step) => {
                let is_complete = step.is_complete();
                if step.is_proof() {
                    failures.record_recovery(resource);
                    backoff.reset();
                }
                if is_complete && synced.is_some() {
                    info!(resource, "listed");
                }
                apply(step);
                if is_complete && let Some(synced) = synced.take() {
                    let _ = synced.send(());
                }
            }
            Err(error) => {
                let asked = error.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER);
                let wait = backoff.next().unwrap_or(MAX_RETRY_AFTER).max(asked);
                failures.record_failure(resource, error.is_gap() || wait > MAX_PAUSE);
                warn!(resource, %error, retry_in = ?wait, "watch failed, retrying");
                pause(wait).await;
            }
        }
    }
    bail!("the watch of {resource} ended")
}

/// Returns the event, or `None` if its object does not parse. A deletion is always returned, because it needs only the
/// metadata.
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
    fn a_relist_removes_keys_that_it_did_not_contain() {
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
