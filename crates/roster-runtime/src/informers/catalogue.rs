//! Live index of a resource: one writer, and any number of readers that never block.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use roster_core::directory::index::field::Field;
use roster_core::directory::index::record::Record;
use roster_core::directory::index::view::View;
use tokio::sync::watch;

use super::follow::WatchStep;

/// Current index of a resource.
#[derive(Debug)]
pub struct Catalogue {
    view: ArcSwap<View>,
    changed: watch::Sender<()>,
}

impl Catalogue {
    /// Creates an empty catalogue.
    pub fn new(fields: &'static [Field]) -> Self {
        Self { view: ArcSwap::from_pointee(View::empty(fields)), changed: watch::Sender::new(()) }
    }

    /// Returns the current state.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Borrows the current state. Only for look-ups: drop the guard soon.
    pub fn peek(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Returns a receiver that is notified of changes made after this call.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut View)) {
        let mut view = View::clone(&self.view.load());
        change(&mut view);
        self.view.store(Arc::new(view));
        self.changed.send_replace(());
    }
}

/// Feeds a catalogue from a watch.
pub struct Feeder<K> {
    catalogue: Arc<Catalogue>,
    read: fn(&K) -> Record,
    listed: Vec<Arc<Record>>,
    /// Revision of the list in progress.
    revision: u64,
    is_listing: bool,
}

impl<K: Resource<DynamicType = ()>> Feeder<K> {
    /// Creates a feeder that puts the record that `read` builds from each object into `catalogue`.
    pub fn new(catalogue: Arc<Catalogue>, read: fn(&K) -> Record) -> Self {
        Self { catalogue, read, listed: Vec::new(), revision: 0, is_listing: false }
    }

    /// Handles a step of the watch. An object that does not parse keeps its last known state.
    pub fn handle(&mut self, step: &WatchStep<DeserializeGuard<K>>) {
        match step {
            // The revision of a list is reached only when the list is complete.
            WatchStep::Revision(revision) if self.is_listing => self.revision = *revision,
            WatchStep::Revision(revision) => self.catalogue.update(|view| view.advance_to(*revision)),
            WatchStep::Event(Event::Init) => {
                self.listed.clear();
                self.is_listing = true;
            }
            WatchStep::Event(Event::InitApply(DeserializeGuard(Ok(object)))) => {
                self.listed.push(Arc::new((self.read)(object)));
            }
            WatchStep::Event(Event::InitApply(DeserializeGuard(Err(invalid)))) => {
                let name = invalid.metadata.name.as_deref().unwrap_or_default();
                self.listed.extend(self.catalogue.peek().table.get(name).cloned());
            }
            WatchStep::Event(Event::InitDone) => {
                let listed = std::mem::take(&mut self.listed);
                self.is_listing = false;
                self.catalogue.update(|view| view.relist(listed, self.revision));
            }
            WatchStep::Event(Event::Apply(DeserializeGuard(Ok(object)))) => {
                let record = Arc::new((self.read)(object));
                self.catalogue.update(|view| view.set(record));
            }
            WatchStep::Event(Event::Apply(DeserializeGuard(Err(_)))) => {}
            WatchStep::Event(Event::Delete(guard)) => {
                let revision = guard.meta().resource_version.as_ref().and_then(|revision| revision.parse().ok());
                self.catalogue.update(|view| view.remove(&guard.name_any(), revision.unwrap_or(view.progress)));
            }
        }
    }
}
