//! Ids in an order defined by the caller, in chunks that snapshots share.
//!
//! An entry takes four bytes. A tree of keys would repeat each value, which the record already contains. A change
//! copies one chunk and the list of chunks.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

/// Maximum length of a chunk. Longer chunks are split.
const MAX_CHUNK_LENGTH: usize = 512;

/// Sorted ids.
#[derive(Clone, Debug, Default)]
pub struct SortedIds {
    chunks: Arc<Vec<Arc<Vec<u32>>>>,
    len: usize,
}

impl SortedIds {
    /// Builds the list from ids that are already sorted.
    pub fn from_sorted(ids: &[u32]) -> Self {
        // Half full, to leave space for later insertions.
        let chunks = ids.chunks(MAX_CHUNK_LENGTH / 2).map(|chunk| Arc::new(chunk.to_vec())).collect();
        Self { chunks: Arc::new(chunks), len: ids.len() }
    }

    /// Returns the number of ids.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no ids.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the chunk, and the position in it, of the first id for which `is_before` is false.
    fn locate(&self, is_before: impl Fn(u32) -> bool) -> (usize, usize) {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|last| is_before(*last)));
        let position = self.chunks.get(chunk).map_or(0, |chunk| chunk.partition_point(|id| is_before(*id)));
        (chunk, position)
    }

    /// Returns the number of ids before the first one for which `is_before` is false.
    pub fn rank(&self, is_before: impl Fn(u32) -> bool) -> usize {
        let (chunk, position) = self.locate(is_before);
        self.chunks[..chunk].iter().map(|chunk| chunk.len()).sum::<usize>() + position
    }

    /// Inserts an id. `compare` compares an existing id with it.
    pub fn insert(&mut self, id: u32, compare: impl Fn(u32) -> Ordering) {
        let (chunk, position) = self.locate(|other| compare(other) == Ordering::Less);
        let chunks = Arc::make_mut(&mut self.chunks);
        self.len += 1;
        // An id after all others goes to the last chunk.
        let Some(last) = chunks.len().checked_sub(1) else {
            chunks.push(Arc::new(vec![id]));
            return;
        };
        let at = chunk.min(last);
        let ids = Arc::make_mut(&mut chunks[at]);
        ids.insert(if chunk == at { position } else { ids.len() }, id);
        if ids.len() > MAX_CHUNK_LENGTH {
            let rest = ids.split_off(MAX_CHUNK_LENGTH / 2);
            chunks.insert(at + 1, Arc::new(rest));
        }
    }

    /// Removes the id for which `compare` returns `Equal`.
    pub fn remove(&mut self, compare: impl Fn(u32) -> Ordering) {
        let (chunk, position) = self.locate(|other| compare(other) == Ordering::Less);
        let found = self.chunks.get(chunk).and_then(|ids| ids.get(position));
        if found.is_none_or(|id| compare(*id) != Ordering::Equal) {
            return;
        }
        let chunks = Arc::make_mut(&mut self.chunks);
        let ids = Arc::make_mut(&mut chunks[chunk]);
        ids.remove(position);
        if ids.is_empty() {
            chunks.remove(chunk);
        }
        self.len -= 1;
    }

    /// Returns the id for which `compare` returns `Equal`.
    pub fn find(&self, compare: impl Fn(u32) -> Ordering) -> Option<u32> {
        let (chunk, position) = self.locate(|other| compare(other) == Ordering::Less);
        let id = *self.chunks.get(chunk)?.get(position)?;
        (compare(id) == Ordering::Equal).then_some(id)
    }

    /// Returns the ids with ranks in `begin..end`.
    pub fn range(&self, begin: usize, end: usize) -> impl DoubleEndedIterator<Item = u32> {
        self.parts(begin..end).into_iter().flatten().copied()
    }

    /// Skips `count` of the ids for which `is_in` is true, from the start of a range of ranks. Returns the rank of the
    /// next one.
    pub fn nth(&self, range: Range<usize>, mut count: usize, is_in: impl Fn(u32) -> bool) -> Option<usize> {
        let mut rank = range.start;
        for part in self.parts(range) {
            let found = counted(part, &is_in);
            if found > count {
                let (at, _) = part.iter().enumerate().filter(|(_, id)| is_in(**id)).nth(count)?;
                return Some(rank + at);
            }
            count -= found;
            rank += part.len();
        }
        None
    }

    /// Like [`SortedIds::nth`], but backwards from the end of the range.
    pub fn nth_back(&self, range: Range<usize>, mut count: usize, is_in: impl Fn(u32) -> bool) -> Option<usize> {
        let mut rank = range.end.min(self.len);
        for part in self.parts(range).into_iter().rev() {
            let found = counted(part, &is_in);
            rank -= part.len();
            if found > count {
                let (at, _) = part.iter().enumerate().rev().filter(|(_, id)| is_in(**id)).nth(count)?;
                return Some(rank + at);
            }
            count -= found;
        }
        None
    }

    fn parts(&self, range: Range<usize>) -> Vec<&[u32]> {
        let mut before = 0;
        let parts = self.chunks.iter().filter_map(|chunk| {
            let (first, last) = (range.start.saturating_sub(before), range.end.saturating_sub(before).min(chunk.len()));
            before += chunk.len();
            (first < last).then(|| &chunk[first..last])
        });
        parts.collect()
    }
}

/// Counts the ids for which `is_in` is true. Has no branch, unlike `filter` and `count`, because a misprediction costs
/// more than an addition.
fn counted(ids: &[u32], is_in: impl Fn(u32) -> bool) -> usize {
    ids.iter().map(|id| usize::from(is_in(*id))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Compares with a standard library set through random insertions and removals.
        #[test]
        fn keeps_ids_in_order(edits in prop::collection::vec((0_u32..2000, prop::bool::weighted(0.7)), 0..3000), cut in 0_usize..2000) {
            let (mut ids, mut expected) = (SortedIds::default(), BTreeSet::new());
            let mut snapshot = None;
            for (at, (id, is_in)) in edits.iter().enumerate() {
                if *is_in && expected.insert(*id) {
                    ids.insert(*id, |other| other.cmp(id));
                } else if !is_in {
                    expected.remove(id);
                    ids.remove(|other| other.cmp(id));
                }
                if at == cut {
                    snapshot = Some((ids.clone(), expected.clone()));
                }
            }
            for (ids, expected) in snapshot.into_iter().chain([(ids, expected)]) {
                prop_assert_eq!(ids.len(), expected.len());
                prop_assert!(ids.range(0, usize::MAX).eq(expected.iter().copied()));
                prop_assert!(ids.range(3, 700).rev().eq(expected.iter().copied().skip(3).take(697).collect::<Vec<_>>().into_iter().rev()));
                let (third, is_third) = (|id: &&u32| id.is_multiple_of(3), |id: u32| id.is_multiple_of(3));
                let found = |rank: Option<usize>| rank.and_then(|rank| ids.range(rank, rank + 1).next());
                prop_assert_eq!(found(ids.nth(0..ids.len(), 90, is_third)), expected.iter().filter(third).nth(90).copied());
                prop_assert_eq!(found(ids.nth_back(0..ids.len(), 90, is_third)), expected.iter().rev().filter(third).nth(90).copied());
                prop_assert_eq!(ids.nth(5..ids.len(), usize::MAX, is_third), None);
                prop_assert_eq!(ids.rank(|id| id < 1000), expected.range(..1000).count());
                prop_assert_eq!(ids.find(|id| id.cmp(&77)), expected.get(&77).copied());
                let again = SortedIds::from_sorted(&expected.iter().copied().collect::<Vec<_>>());
                prop_assert!(again.range(0, usize::MAX).eq(expected.iter().copied()));
            }
        }
    }
}
