//! Finds the ids of a page among the matches of a query: either sorts the matches or walks along an order.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use roaring::RoaringBitmap;

use super::query::SortKey;
use super::record::NAME;
use super::select::{Matched, Matches, QUICK_STEPS, Selection};
use super::table::Table;

/// Maximum number of records with equal values that are visited one by one. For fewer records, searching for the end of
/// the run takes about as long.
const MAX_LINEAR_RUN: usize = 512;

/// Cost of sorting an id, in steps. A step is the cost of visiting an id along an order.
const SORT_STEPS: usize = 16;

/// Number of ids that can be skipped in the time of one step, if only their membership in a set is tested.
const SKIPS_PER_STEP: usize = 16;

/// Number of ids that can be added to a bit set in the time of one lookup in a compressed set.
const INSERTS_PER_LOOKUP: usize = 3;

static BY_NAME: &[SortKey] = &[SortKey { field: 0, is_descending: false }];

impl Matches {
    /// Returns the ranks of a page.
    fn within(&self, offset: usize, limit: Option<usize>) -> Range<usize> {
        offset..self.total.min(offset.saturating_add(limit.unwrap_or(self.total)))
    }

    /// Returns whether the matches are a run of a field's order. To walk along another order, they must be collected
    /// first.
    fn is_run(&self) -> bool {
        matches!(self.matched, Matched::Run { .. })
    }

    /// Returns whether sorting the matches is faster than a walk of this many steps along an order.
    fn is_sorting_faster(&self, sort: &[SortKey], steps: usize) -> bool {
        let is_in_order = match self.matched {
            Matched::All => true,
            Matched::Run { field, .. } => field == sort[0].field,
            Matched::Some(_) => false,
        };
        !is_in_order && steps > self.total * SORT_STEPS
    }
}

impl Table {
    /// Returns one page of the matches in sort order: at most `limit` records from `offset` on.
    pub fn page(&self, found: &Matches, sort: &[SortKey], offset: usize, limit: Option<usize>) -> Selection {
        let (total, page) = (found.total, found.within(offset, limit));
        if page.is_empty() {
            return Selection { total, records: Vec::new() };
        }
        let sort = if sort.is_empty() { BY_NAME } else { sort };
        let steps = self.steps_to(page.end, total);
        let ids = match &found.matched {
            Matched::Some(ids) if found.is_sorting_faster(sort, steps) => self.sorted(ids.iter().collect(), sort, page),
            Matched::Run { field, begin, end } if found.is_sorting_faster(sort, steps) => {
                self.sorted(self.order(*field).range(*begin, *end).collect(), sort, page)
            }
            matched => self.walk(matched, sort, page, steps),
        };
        Selection { total, records: ids.into_iter().map(|id| Arc::clone(self.record(id))).collect() }
    }

    /// Returns whether [`Table::page`] is expected to take less time than handing it over to another thread.
    pub fn is_paged_quickly(&self, found: &Matches, sort: &[SortKey], offset: usize, limit: Option<usize>) -> bool {
        let page = found.within(offset, limit);
        if page.is_empty() {
            return true;
        }
        let sort = if sort.is_empty() { BY_NAME } else { sort };
        let steps = self.steps_to(page.end, found.total);
        let order = match sort {
            _ if found.is_sorting_faster(sort, steps) => found.total * SORT_STEPS,
            [_] if found.is_run() => steps / SKIPS_PER_STEP + found.total,
            [_] => (steps + found.total) / SKIPS_PER_STEP,
            // All records may share the value of the first key.
            _ => self.len(),
        };
        order.saturating_add(page.len()) < QUICK_STEPS
    }

    /// Returns the expected number of steps along an order until `end` of `total` matches are found.
    fn steps_to(&self, end: usize, total: usize) -> usize {
        end.saturating_mul(self.len()) / total
    }

    /// Sorts ids only as far as the page requires.
    fn sorted(&self, mut ids: Vec<u32>, sort: &[SortKey], page: Range<usize>) -> Vec<u32> {
        let order = |a: &u32, b: &u32| self.compare(*a, *b, sort);
        if page.end < ids.len() {
            ids.select_nth_unstable_by(page.end, order);
            ids.truncate(page.end);
        }
        ids.sort_unstable_by(order);
        ids.split_off(page.start)
    }

    fn compare(&self, a: u32, b: u32, sort: &[SortKey]) -> Ordering {
        let (a, b) = (self.record(a), self.record(b));
        let by = sort.iter().map(|key| {
            let order = a.field(key.field).cmp(b.field(key.field));
            if key.is_descending { order.reverse() } else { order }
        });
        by.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.field(NAME).cmp(b.field(NAME)))
    }

    /// Walks along the order of the first key until the page is full. `steps` is the expected length of the walk.
    fn walk(&self, matched: &Matched, sort: &[SortKey], page: Range<usize>, steps: usize) -> Vec<u32> {
        let whole = 0..self.len();
        let run;
        let among = match matched {
            Matched::Run { field, begin, end } if *field == sort[0].field => {
                return self.walk_in(*begin..*end, |_| true, sort, page);
            }
            Matched::All => return self.walk_in(whole, |_| true, sort, page),
            Matched::Run { field, begin, end } => {
                run = self.order(*field).range(*begin, *end).collect();
                &run
            }
            Matched::Some(ids) => ids,
        };
        // A lookup in the compressed set costs more than adding an id to a bit set, so it pays only for few lookups.
        if u64::try_from(steps.saturating_mul(INSERTS_PER_LOOKUP)).is_ok_and(|steps| steps < among.len()) {
            return self.walk_in(whole, |id| among.contains(id), sort, page);
        }
        let among = bits(among);
        self.walk_in(whole, |id| among.contains(id as usize), sort, page)
    }

    /// Walks along a part of the order, skipping ids for which `is_in` returns false.
    fn walk_in(
        &self,
        part: Range<usize>,
        is_in: impl Fn(u32) -> bool,
        sort: &[SortKey],
        page: Range<usize>,
    ) -> Vec<u32> {
        let (key, order) = (sort[0], self.order(sort[0].field));
        match (sort.len(), key.is_descending) {
            // Equal values are already sorted by name.
            (1, false) => {
                let Some(begin) = order.nth(part.clone(), page.start, &is_in) else { return Vec::new() };
                order.range(begin, part.end).filter(|id| is_in(*id)).take(page.len()).collect()
            }
            (1, true) => self.walk_down(key.field, part, is_in, page),
            (_, false) => self.walk_groups(order.range(part.start, part.end).filter(|id| is_in(*id)), sort, page),
            (_, true) => self.walk_groups(order.range(part.start, part.end).rev().filter(|id| is_in(*id)), sort, page),
        }
    }

    /// Takes ids in the order of the first key, and sorts ids with equal values of this key by the other keys.
    fn walk_groups(&self, ids: impl Iterator<Item = u32>, sort: &[SortKey], page: Range<usize>) -> Vec<u32> {
        let value = |id: u32| self.record(id).field(sort[0].field);
        let mut ids = ids.peekable();
        let (mut found, mut skip) = (Vec::new(), page.start);
        while found.len() < page.len()
            && let Some(first) = ids.next()
        {
            let mut equal = vec![first];
            while let Some(next) = ids.next_if(|id| value(*id) == value(first)) {
                equal.push(next);
            }
            if skip >= equal.len() {
                skip -= equal.len();
                continue;
            }
            let order = |a: &u32, b: &u32| self.compare(*a, *b, &sort[1..]);
            let needed = skip + page.len() - found.len();
            if needed < equal.len() {
                equal.select_nth_unstable_by(needed, order);
                equal.truncate(needed);
            }
            equal.sort_unstable_by(order);
            found.extend(equal.into_iter().skip(skip).take(page.len() - found.len()));
            skip = 0;
        }
        found
    }

    /// Walks backwards along a part of a field's order. Ids with equal values are still returned sorted by name.
    fn walk_down(&self, field: usize, part: Range<usize>, is_in: impl Fn(u32) -> bool, page: Range<usize>) -> Vec<u32> {
        let order = self.order(field);
        let value = |id: u32| self.record(id).field(field);
        let is_counted = |id: &u32| is_in(*id);
        let mut found = Vec::new();
        // Skips what comes before the page without looking at its values.
        let Some(first) = order.nth_back(part.clone(), page.start, &is_in) else { return found };
        let first_value = order.range(first, first + 1).next().map(value).unwrap_or_default();
        // Ids with the first value of the page are returned sorted by name, so only the number of skipped ones matters.
        let mut end = self.rank(field, |other| other <= first_value).min(part.end);
        let mut skip = order.range(first + 1, end).filter(is_counted).count();
        let mut ids = order.range(part.start, end).rev().peekable();
        let mut equal = Vec::new();
        while found.len() < page.len()
            && let Some(id) = ids.next()
        {
            let top = end;
            end -= 1;
            if !is_in(id) {
                continue;
            }
            equal.push(id);
            while top - end < MAX_LINEAR_RUN
                && let Some(next) = ids.next_if(|next| value(*next) == value(id))
            {
                end -= 1;
                equal.extend(Some(next).filter(is_counted));
            }
            let (skipped, needed) = (std::mem::take(&mut skip), page.len() - found.len());
            if ids.peek().is_none_or(|next| value(*next) != value(id)) {
                found.extend(equal.drain(..).rev().skip(skipped).take(needed));
                continue;
            }
            equal.clear();
            let begin = self.rank(field, |other| other < value(id)).max(part.start);
            found.extend(order.range(begin, top).filter(is_counted).skip(skipped).take(needed));
            end = begin;
            ids = order.range(part.start, end).rev().peekable();
        }
        found
    }
}

/// Converts to one bit per id, which is faster for many membership tests than a compressed set.
fn bits(ids: &RoaringBitmap) -> FixedBitSet {
    let mut bits = FixedBitSet::with_capacity(ids.max().map_or(0, |last| last as usize + 1));
    ids.iter().for_each(|id| bits.insert(id as usize));
    bits
}
