//! Work queue of keys. Each is queued at most once, so it never holds more keys than there are objects.

use std::collections::BTreeSet;
use std::collections::btree_set;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, stream};
use tokio::sync::Notify;

/// Set of keys to process.
#[derive(Debug)]
pub struct DirtyKeys<K> {
    keys: Mutex<BTreeSet<K>>,
    marked: Notify,
}

impl<K> Default for DirtyKeys<K> {
    fn default() -> Self {
        Self { keys: Mutex::default(), marked: Notify::new() }
    }
}

impl<K: Ord> DirtyKeys<K> {
    /// Queues keys.
    pub fn mark(&self, keys: impl IntoIterator<Item = K>) {
        let mut waiting = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let before = waiting.len();
        waiting.extend(keys);
        if waiting.len() > before {
            self.marked.notify_one();
        }
    }

    /// Removes all queued keys.
    pub fn clear(&self) {
        self.take();
    }

    fn take(&self) -> BTreeSet<K> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Streams all queued keys, now and in the future, to one reader. The queue is drained at most once per `pace`, so
    /// a key that is queued several times within it is returned once.
    pub fn stream(self: &Arc<Self>, pace: Duration) -> impl Stream<Item = K> + Send + use<K>
    where
        K: Send + 'static,
    {
        let state = (Arc::clone(self), BTreeSet::new().into_iter());
        stream::unfold(state, move |(dirty, mut batch): (Arc<Self>, btree_set::IntoIter<K>)| async move {
            loop {
                if let Some(key) = batch.next() {
                    return Some((key, (dirty, batch)));
                }
                tokio::time::sleep(pace).await;
                batch = dirty.take().into_iter();
                if batch.len() == 0 {
                    dirty.marked.notified().await;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    #[tokio::test]
    async fn a_key_is_returned_once_however_often_it_was_marked() {
        let dirty = Arc::new(DirtyKeys::default());
        dirty.mark(["b", "a"]);
        dirty.mark(["a"]);
        let mut stream = Box::pin(dirty.stream(Duration::ZERO));
        assert_eq!((stream.next().await, stream.next().await), (Some("a"), Some("b")));
        dirty.mark(["a"]);
        assert_eq!(stream.next().await, Some("a"));
        assert!(tokio::time::timeout(Duration::from_millis(20), stream.next()).await.is_err());
    }
}
