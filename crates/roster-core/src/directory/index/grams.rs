//! Text in the midst of values, found by the trigrams that it consists of.
//!
//! A value that has a text in it has all of its trigrams. Few others do, so that few are left to be looked at.

use roaring::RoaringBitmap;

use super::posting::{Posting, Postings};
use super::query::{Condition, Test};

/// Bytes of a gram. What is shorter than that can't be found by it.
const LENGTH: usize = 3;

/// Grams of a text that are looked up at most. Each leaves fewer, and the first ones leave few enough.
const MOST: usize = 32;

/// The grams of a value, each as often as it stands there.
pub fn grams(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.windows(LENGTH)
}

/// Whether the condition searches in the midst of values for what grams can find.
pub fn can_find(condition: &Condition) -> bool {
    let is_search = |test: &Test| matches!(test, Test::Contains { open_start: true, .. });
    condition.any.iter().any(is_search) && condition.any.iter().all(|test| test.text().len() >= LENGTH)
}

/// Ids of all that may meet the condition, and of few others.
pub fn candidates(postings: &Postings, condition: &Condition) -> RoaringBitmap {
    let mut ids = RoaringBitmap::new();
    for test in &condition.any {
        ids |= having_all(postings, test.text());
    }
    ids
}

/// How many [`candidates`] there are at most.
pub fn most_candidates(postings: &Postings, condition: &Condition) -> usize {
    let rarest = |test: &Test| {
        let lengths = sought(test.text()).map(|gram| postings.get(gram).map_or(0, Posting::count));
        lengths.min().unwrap_or_default()
    };
    condition.any.iter().map(rarest).sum()
}

fn sought(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    grams(&text[..text.len().min(MOST + LENGTH - 1)])
}

fn having_all(postings: &Postings, text: &[u8]) -> RoaringBitmap {
    let Some(mut having) = sought(text).map(|gram| postings.get(gram)).collect::<Option<Vec<_>>>() else {
        return RoaringBitmap::new();
    };
    having.sort_unstable_by_key(|posting| posting.count());
    let mut ids = RoaringBitmap::new();
    having[0].add_to(&mut ids);
    for posting in &having[1..] {
        posting.narrow(&mut ids);
    }
    ids
}
