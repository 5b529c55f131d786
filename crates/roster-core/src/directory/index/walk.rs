//! From what answers to a query to the ids of a page: sorted, or found on the way along an order.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use roaring::RoaringBitmap;

use super::query::SortKey;
use super::record::NAME;
use super::select::{Found, Matched, QUICK_STEPS, Selection};
use super::table::Table;

/// Records of one value that are passed one by one: to find where more of them begin takes about as long.
const FEW: usize = 512;

/// Costs of sorting one id, in steps of looking at one.
const SORT_STEPS: usize = 16;

/// Ids that are passed in the time of one step, where all that counts is whether they are among others.
const PASSED_IN_A_STEP: usize = 16;

/// Ids that are noted down in the time that it takes to look for one among them.
const NOTED_IN_A_LOOK: usize = 3;

static BY_NAME: &[SortKey] = &[SortKey { field: 0, is_descending: false }];

impl Found {
    /// Those of a page.
    fn within(&self, offset: usize, limit: Option<usize>) -> Range<usize> {
        offset..self.total.min(offset.saturating_add(limit.unwrap_or(self.total)))
    }

    /// Whether they stand in the order of some field, in which they have to be gathered first.
    fn is_run(&self) -> bool {
        matches!(self.matched, Matched::Run { .. })
    }

    /// Whether it takes longer to find them along an order, in so many steps, than to sort them.
    fn is_sorted_sooner(&self, sort: &[SortKey], steps: usize) -> bool {
        let is_in_order = match self.matched {
            Matched::All => true,
            Matched::Run { field, .. } => field == sort[0].field,
            Matched::Some(_) => false,
        };
        !is_in_order && steps > self.total * SORT_STEPS
    }
}

impl Table {
    /// The records of what was found, sorted, from `offset` on, `limit` of them.
    pub fn page(&self, found: &Found, sort: &[SortKey], offset: usize, limit: Option<usize>) -> Selection {
        let (total, page) = (found.total, found.within(offset, limit));
        if page.is_empty() {
            return Selection { total, records: Vec::new() };
        }
        let sort = if sort.is_empty() { BY_NAME } else { sort };
        let steps = self.steps_to(page.end, total);
        let ids = match &found.matched {
            Matched::Some(ids) if found.is_sorted_sooner(sort, steps) => self.sorted(ids.iter().collect(), sort, page),
            Matched::Run { field, begin, end } if found.is_sorted_sooner(sort, steps) => {
                self.sorted(self.order(*field).range(*begin, *end).collect(), sort, page)
            }
            matched => self.walk(matched, sort, page, steps),
        };
        Selection { total, records: ids.into_iter().map(|id| Arc::clone(self.record(id))).collect() }
    }

    /// Whether [`Table::page`] can be expected to be done sooner than another thread would begin.
    pub fn is_paged_quickly(&self, found: &Found, sort: &[SortKey], offset: usize, limit: Option<usize>) -> bool {
        let page = found.within(offset, limit);
        if page.is_empty() {
            return true;
        }
        let sort = if sort.is_empty() { BY_NAME } else { sort };
        let steps = self.steps_to(page.end, found.total);
        let order = match sort {
            _ if found.is_sorted_sooner(sort, steps) => found.total * SORT_STEPS,
            [_] if found.is_run() => steps / PASSED_IN_A_STEP + found.total,
            [_] => (steps + found.total) / PASSED_IN_A_STEP,
            // All may have the value of the first key in common.
            _ => self.len(),
        };
        order.saturating_add(page.len()) < QUICK_STEPS
    }

    /// How far along an order so many of those that were found can be expected to be met.
    fn steps_to(&self, end: usize, total: usize) -> usize {
        end.saturating_mul(self.len()) / total
    }

    /// Sorts ids as far as the page needs it.
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

    /// Goes along the order of the first key, until the page is full. `steps`: how many that can be expected to take.
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
        // To look for a few takes longer for each of them than to note them all down first.
        if u64::try_from(steps.saturating_mul(NOTED_IN_A_LOOK)).is_ok_and(|steps| steps < among.len()) {
            return self.walk_in(whole, |id| among.contains(id), sort, page);
        }
        let among = bits(among);
        self.walk_in(whole, |id| among.contains(id as usize), sort, page)
    }

    /// The same, along a part of the order, past all that `is_in` does not hold for.
    fn walk_in(
        &self,
        part: Range<usize>,
        is_in: impl Fn(u32) -> bool,
        sort: &[SortKey],
        page: Range<usize>,
    ) -> Vec<u32> {
        let (key, order) = (sort[0], self.order(sort[0].field));
        match (sort.len(), key.is_descending) {
            // Equal values stand in the order of names already.
            (1, false) => {
                let Some(begin) = order.nth(part.clone(), page.start, &is_in) else { return Vec::new() };
                order.range(begin, part.end).filter(|id| is_in(*id)).take(page.len()).collect()
            }
            (1, true) => self.walk_down(key.field, part, is_in, page),
            (_, false) => self.walk_groups(order.range(part.start, part.end).filter(|id| is_in(*id)), sort, page),
            (_, true) => self.walk_groups(order.range(part.start, part.end).rev().filter(|id| is_in(*id)), sort, page),
        }
    }

    /// Takes ids in the order of the first key, and sorts those of one value by the others.
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

    /// Goes along part of the order of a field from its end on, in which those of one value stand by name all the same.
    fn walk_down(&self, field: usize, part: Range<usize>, is_in: impl Fn(u32) -> bool, page: Range<usize>) -> Vec<u32> {
        let order = self.order(field);
        let value = |id: u32| self.record(id).field(field);
        let is_counted = |id: &u32| is_in(*id);
        let mut found = Vec::new();
        // What comes before the page is passed over without a look at its values.
        let Some(first) = order.nth_back(part.clone(), page.start, &is_in) else { return found };
        let first_value = order.range(first, first + 1).next().map(value).unwrap_or_default();
        // Those of the value that the page begins with stand by name: how many of them were passed is what counts.
        let mut end = self.rank(field, |other| other <= first_value).min(part.end);
        let mut skip = order.range(first + 1, end).filter(is_counted).count();
        let mut ids = order.range(part.start, end).rev().peekable();
        let mut few = Vec::new();
        while found.len() < page.len()
            && let Some(id) = ids.next()
        {
            let top = end;
            end -= 1;
            if !is_in(id) {
                continue;
            }
            few.push(id);
            while top - end < FEW
                && let Some(next) = ids.next_if(|next| value(*next) == value(id))
            {
                end -= 1;
                few.extend(Some(next).filter(is_counted));
            }
            let (skipped, needed) = (std::mem::take(&mut skip), page.len() - found.len());
            if ids.peek().is_none_or(|next| value(*next) != value(id)) {
                found.extend(few.drain(..).rev().skip(skipped).take(needed));
                continue;
            }
            few.clear();
            let begin = self.rank(field, |other| other < value(id)).max(part.start);
            found.extend(order.range(begin, top).filter(is_counted).skip(skipped).take(needed));
            end = begin;
            ids = order.range(part.start, end).rev().peekable();
        }
        found
    }
}

/// One bit an id: quicker to ask than a compressed set, where many are asked for.
fn bits(ids: &RoaringBitmap) -> FixedBitSet {
    let mut bits = FixedBitSet::with_capacity(ids.max().map_or(0, |last| last as usize + 1));
    ids.iter().for_each(|id| bits.insert(id as usize));
    bits
}
