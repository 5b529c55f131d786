//! Named nodes under small numbers: what refers to a node holds four bytes instead of a name.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

/// A node's number. It may be given to another node once this one is removed.
pub type Id = u32;

/// A few numbers, in order: a tree is large for that, and many of them are kept.
#[derive(Clone, Debug, Default)]
pub struct Ids(SmallVec<[Id; 4]>);

impl Ids {
    /// Adds a number.
    pub fn insert(&mut self, id: Id) {
        if let Err(place) = self.0.binary_search(&id) {
            self.0.insert(place, id);
        }
    }

    /// Takes a number away.
    pub fn remove(&mut self, id: Id) {
        if let Ok(place) = self.0.binary_search(&id) {
            self.0.remove(place);
            // A few again: within the number's own place.
            if self.0.spilled() && self.0.len() <= self.0.inline_size() {
                self.0.shrink_to_fit();
            }
        }
    }

    /// Whether the number is among them.
    pub fn has(&self, id: Id) -> bool {
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

/// Nodes by name and by number.
#[derive(Debug)]
pub struct Nodes<T> {
    slots: Slab<(Arc<str>, T)>,
    ids: HashMap<Arc<str>, Id>,
}

impl<T> Default for Nodes<T> {
    fn default() -> Self {
        Self { slots: Slab::new(), ids: HashMap::new() }
    }
}

impl<T: Default> Nodes<T> {
    /// The number of the node of that name, which is made where there is none.
    pub fn ensure(&mut self, name: &str) -> Id {
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
    /// The number of the node of that name.
    pub fn id(&self, name: &str) -> Option<Id> {
        self.ids.get(name).copied()
    }

    /// The name of a node.
    pub fn name(&self, id: Id) -> &str {
        &self.slots[id as usize].0
    }

    /// The name of a node, shared with it.
    pub fn shared_name(&self, id: Id) -> Arc<str> {
        Arc::clone(&self.slots[id as usize].0)
    }

    /// A node.
    pub fn get(&self, id: Id) -> &T {
        &self.slots[id as usize].1
    }

    /// A node, to be changed.
    pub fn get_mut(&mut self, id: Id) -> &mut T {
        &mut self.slots[id as usize].1
    }

    /// Forgets a node. Nothing may refer to it any longer.
    pub fn remove(&mut self, id: Id) {
        let (name, _) = self.slots.remove(id as usize);
        self.ids.remove(&name);
    }

    /// Whether there are none.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}
