//! Trigram index for finding text anywhere in values.
//!
//! A value that contains a text contains all trigrams of the text. Few other values do, so few candidates must be
//! compared.

use roaring::RoaringBitmap;

use super::posting::{Posting, Postings};
use super::query::{Condition, ValueTest};

/// Length of a gram in bytes. Shorter texts cannot be found by grams.
const LENGTH: usize = 3;

/// Maximum number of grams of a text that are looked up. Each narrows down the candidates, and this many are enough.
const MAX_GRAMS: usize = 32;

/// Returns the grams of a value, with repetitions.
pub(super) fn grams(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.windows(LENGTH)
}

/// Returns whether the condition searches inside values for texts that grams can find.
pub(super) fn can_find(condition: &Condition) -> bool {
    let is_search = |test: &ValueTest| matches!(test, ValueTest::Contains { open_start: true, .. });
    condition.any.iter().any(is_search) && condition.any.iter().all(|test| test.text().len() >= LENGTH)
}

/// Returns the ids of all records that meet the condition, and of few others.
pub(super) fn candidates(postings: &Postings, condition: &Condition) -> RoaringBitmap {
    let mut ids = RoaringBitmap::new();
    for test in &condition.any {
        ids |= containing_all(postings, test.text());
    }
    ids
}

/// Returns an upper bound for the number of [`candidates`].
pub(super) fn max_candidates(postings: &Postings, condition: &Condition) -> usize {
    let rarest = |test: &ValueTest| {
        let lengths = grams_of(test.text()).map(|gram| postings.get(gram).map_or(0, Posting::count));
        lengths.min().unwrap_or_default()
    };
    condition.any.iter().map(rarest).sum()
}

fn grams_of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    grams(&text[..text.len().min(MAX_GRAMS + LENGTH - 1)])
}

fn containing_all(postings: &Postings, text: &[u8]) -> RoaringBitmap {
    let Some(mut found) = grams_of(text).map(|gram| postings.get(gram)).collect::<Option<Vec<_>>>() else {
        return RoaringBitmap::new();
    };
    found.sort_unstable_by_key(|posting| posting.count());
    let mut ids = RoaringBitmap::new();
    found[0].add_to(&mut ids);
    for posting in &found[1..] {
        posting.narrow(&mut ids);
    }
    ids
}
