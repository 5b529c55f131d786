//! Named nodes with numeric ids: a reference to a node takes four bytes instead of a name.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

/// Id of a node. It may be reused once the node is removed.
pub(super) type Id = u32;

/// A small sorted set of ids. There are many such sets, and a tree would take too much memory for so few entries.
#[derive(Clone, Debug, Default)]
pub(super) struct Ids(SmallVec<[Id; 4]>);

impl Ids {
    /// Adds an id.
    pub(super) fn insert(&mut self, id: Id) {
        if let Err(position) = self.0.binary_search(&id) {
            self.0.insert(position, id);
        }
    }

    /// Removes an id.
    pub(super) fn remove(&mut self, id: Id) {
        if let Ok(position) = self.0.binary_search(&id) {
            self.0.remove(position);
            // Moves the ids back inline once they fit.
            if self.0.spilled() && self.0.len() <= self.0.inline_size() {
                self.0.shrink_to_fit();
            }
        }
    }

    /// Returns whether the set contains the id.
    pub(super) fn has(&self, id: Id) -> bool {
        self.0.binary_search(&id).is_ok()
    }
}

impl Deref for Ids {
    type Target = [Id];

    fn deref(&self) -> &[Id] {
        &self.0
    }
}

impl IntoIterator for Ids {
    type Item = Id;
    type IntoIter = smallvec::IntoIter<[Id; 4]>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Nodes by name and by id.
#[derive(Debug)]
pub(super) struct Nodes<T> {
    slots: Slab<(Arc<str>, T)>,
    ids: HashMap<Arc<str>, Id>,
}

impl<T> Default for Nodes<T> {
    fn default() -> Self {
        Self { slots: Slab::new(), ids: HashMap::new() }
    }
}

impl<T: Default> Nodes<T> {
    /// Returns the id of the node with that name, and creates the node if it does not exist.
    pub(super) fn ensure(&mut self, name: &str) -> Id {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let name: Arc<str> = name.into();
        let id = Id::try_from(self.slots.insert((Arc::clone(&name), T::default()))).expect("fewer than 2^32 nodes");
        self.ids.insert(name, id);
        id
    }
}

impl<T> Nodes<T> {
    /// Returns the id of the node with that name.
    pub(super) fn id(&self, name: &str) -> Option<Id> {
        self.ids.get(name).copied()
    }

    /// Returns the name of a node.
    pub(super) fn name(&self, id: Id) -> &str {
        &self.slots[id as usize].0
    }

    /// Returns the name of a node as a shared string.
    pub(super) fn shared_name(&self, id: Id) -> Arc<str> {
        Arc::clone(&self.slots[id as usize].0)
    }

    /// Returns a node.
    pub(super) fn get(&self, id: Id) -> &T {
        &self.slots[id as usize].1
    }

    /// Returns a node for modification.
    pub(super) fn get_mut(&mut self, id: Id) -> &mut T {
        &mut self.slots[id as usize].1
    }

    /// Removes a node. Nothing may refer to it any longer.
    pub(super) fn remove(&mut self, id: Id) {
        let (name, _) = self.slots.remove(id as usize);
        self.ids.remove(&name);
    }

    /// Returns whether there are no nodes.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}
