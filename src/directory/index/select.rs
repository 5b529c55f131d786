//! From a query to the records of a page, and how many there are in all.
//!
//! What postings answer is answered by sets; of the rest, the narrowest run of an order is looked at, and each record in
//! it compared. Nothing looks at all records but a search in the midst of text, and a question that they all answer to.

use std::cmp::Ordering;
use std::ops::{Bound, Range};
use std::sync::Arc;

use kube::core::Expression;
use roaring::RoaringBitmap;

use super::query::{Comparison, Condition, Query, SortKey, Test};
use super::record::Record;
use super::table::{Posting, Postings, Table};

/// The records of a page.
#[derive(Debug)]
pub struct Selection {
    /// How many answer to the query, on all pages together.
    pub total: usize,
    /// Those of this page.
    pub records: Vec<Arc<Record>>,
}

/// What answers to a query, before it is sorted.
enum Matched {
    All,
    /// Part of the order of a field.
    Run {
        field: usize,
        begin: usize,
        end: usize,
    },
    Some(RoaringBitmap),
}

/// Costs of sorting one id, in steps of walking an order.
const SORT_STEPS: usize = 16;

/// Records of one value that are passed one by one: to find where more of them begin takes about as long.
const FEW: usize = 512;

/// What takes fewer steps than this takes less time than to hand it over to another thread and back.
const QUICK_STEPS: usize = 8192;

impl Table {
    /// The records that answer to the query, from `offset` on, `limit` of them.
    pub fn select(&self, query: &Query, offset: usize, limit: Option<usize>) -> Selection {
        let matched = self.matched(query);
        let total = match &matched {
            Matched::All => self.len(),
            Matched::Run { begin, end, .. } => end - begin,
            Matched::Some(ids) => count(ids),
        };
        let limit = limit.unwrap_or(total).min(total.saturating_sub(offset));
        if limit == 0 {
            return Selection { total, records: Vec::new() };
        }
        let by_name = [SortKey { field: 0, is_descending: false }];
        let sort = if query.sort.is_empty() { by_name.as_slice() } else { &query.sort };
        let steps = (offset + limit).saturating_mul(self.len()) / total;
        let ids = match &matched {
            Matched::Some(ids) if steps > total * SORT_STEPS => self.sorted(ids.iter().collect(), sort, offset, limit),
            Matched::Run { field, begin, end } if *field != sort[0].field && steps > total * SORT_STEPS => {
                self.sorted(self.order(*field).range(*begin, *end).collect(), sort, offset, limit)
            }
            _ => self.walk(matched, sort, offset, limit),
        };
        Selection { total, records: ids.into_iter().map(|id| Arc::clone(self.record(id))).collect() }
    }

    /// Whether [`Table::select`] can be expected to be done sooner than another thread would begin.
    pub fn is_quick(&self, query: &Query, offset: usize, limit: Option<usize>) -> bool {
        let end = offset.saturating_add(limit.unwrap_or(self.len())).min(self.len());
        // The order is walked, or what was found is sorted, whichever takes less: at the worst, as many are found as make
        // both take as long.
        let order = match query.sort.as_slice() {
            [] | [_] => end.saturating_mul(self.len()).saturating_mul(SORT_STEPS).isqrt(),
            _ => self.len(),
        };
        let is_alone = query.conditions.len() == 1 && query.labels.is_empty();
        let found = query.conditions.iter().map(|condition| self.steps_of(condition, is_alone));
        let labelled = query.labels.iter().map(|expression| match expression {
            Expression::Exists(_) | Expression::DoesNotExist(_) => self.labels().len(),
            _ => 1,
        });
        found.chain(labelled).fold(order, usize::saturating_add) < QUICK_STEPS
    }

    /// How many values or records are looked at for a condition at most. Alone, it may be part of an order.
    fn steps_of(&self, condition: &Condition, is_alone: bool) -> usize {
        let is_by_itself = |test: &Test| matches!(test, Test::Equal(value) if !value.is_empty());
        match self.postings(condition.field) {
            Some(postings) if condition.compare.is_empty() => {
                let tests = condition.any.iter().chain(&condition.none);
                tests.map(|test| if is_by_itself(test) { 1 } else { postings.len() }).sum()
            }
            _ if is_alone && self.exact_run(condition).is_some() => 1,
            _ => size(&self.runs(condition)),
        }
    }

    fn matched(&self, query: &Query) -> Matched {
        let mut set: Option<RoaringBitmap> = None;
        let mut narrow = |ids: RoaringBitmap| match &mut set {
            Some(set) => *set &= ids,
            None => set = Some(ids),
        };
        let mut rest = Vec::new();
        for condition in &query.conditions {
            match self.posted(condition) {
                Some(ids) => narrow(ids),
                None => rest.push(condition),
            }
        }
        for expression in &query.labels {
            narrow(self.labelled(expression));
        }
        if let (None, [condition]) = (&set, rest.as_slice())
            && let Some((begin, end)) = self.exact_run(condition)
        {
            return Matched::Run { field: condition.field, begin, end };
        }
        if rest.is_empty() {
            return set.map_or(Matched::All, Matched::Some);
        }
        let matches = |id: &u32| {
            let record = self.record(*id);
            rest.iter().all(|condition| condition.matches(record, self.fields))
        };
        let runs = rest.iter().map(|condition| (condition.field, self.runs(condition)));
        let narrowest = runs.min_by_key(|(_, runs)| size(runs));
        let among = set.as_ref().map_or(self.len(), count);
        match (narrowest, &set) {
            (Some((field, runs)), set) if size(&runs) < among => {
                let ids = runs.iter().flat_map(|(begin, end)| self.order(field).range(*begin, *end));
                let ids = ids.filter(|id| set.as_ref().is_none_or(|set| set.contains(*id)));
                Matched::Some(ids.filter(matches).collect())
            }
            (_, Some(set)) => Matched::Some(set.iter().filter(matches).collect()),
            (_, None) => Matched::Some(self.all().iter().filter(matches).collect()),
        }
    }

    /// What meets the condition, where postings alone can tell.
    fn posted(&self, condition: &Condition) -> Option<RoaringBitmap> {
        let postings = self.postings(condition.field)?;
        if !condition.compare.is_empty() {
            return None;
        }
        let mut ids = if condition.any.is_empty() { self.all().clone() } else { RoaringBitmap::new() };
        for test in &condition.any {
            ids |= self.having(postings, test);
        }
        for test in &condition.none {
            ids -= self.having(postings, test);
        }
        Some(ids)
    }

    fn having(&self, postings: &Postings, test: &Test) -> RoaringBitmap {
        let mut ids = RoaringBitmap::new();
        match test {
            Test::Equal(value) if value.is_empty() => {
                postings.values().for_each(|posting| posting.add_to(&mut ids));
                return self.all() - ids;
            }
            Test::Equal(value) => {
                postings.get(value.as_slice()).into_iter().for_each(|posting| posting.add_to(&mut ids));
            }
            Test::Contains { text, open_start: false, .. } => {
                starting_with(postings, text).for_each(|posting| posting.add_to(&mut ids));
            }
            Test::Contains { .. } => {
                let having = postings.iter().filter(|(value, _)| test.holds_for(value));
                having.for_each(|(_, posting)| posting.add_to(&mut ids));
            }
        }
        ids
    }

    fn labelled(&self, expression: &Expression) -> RoaringBitmap {
        let mut ids = RoaringBitmap::new();
        let mut add = |key: &str, value: &str| {
            if let Some(posting) = self.labels().get(format!("{key}={value}").as_bytes()) {
                posting.add_to(&mut ids);
            }
        };
        match expression {
            Expression::Equal(key, value) | Expression::NotEqual(key, value) => add(key, value),
            Expression::In(key, values) | Expression::NotIn(key, values) => {
                for value in values {
                    add(key, value);
                }
            }
            Expression::Exists(key) | Expression::DoesNotExist(key) => {
                let with_key = format!("{key}=");
                starting_with(self.labels(), with_key.as_bytes()).for_each(|posting| posting.add_to(&mut ids));
            }
        }
        match expression {
            Expression::NotEqual(..) | Expression::NotIn(..) | Expression::DoesNotExist(_) => self.all() - ids,
            _ => ids,
        }
    }

    /// Parts of the field's order outside of which no record meets the condition.
    fn runs(&self, condition: &Condition) -> Vec<(usize, usize)> {
        let field = condition.field;
        if !self.fields[field].is_sortable || self.fields[field].is_many {
            return vec![(0, self.len())];
        }
        let (mut begin, mut end) = (0, self.len());
        for (comparison, bound) in &condition.compare {
            let bound = bound.as_slice();
            // Records without a value come first.
            begin = begin.max(self.rank(field, <[u8]>::is_empty));
            match comparison {
                Comparison::Less => end = end.min(self.rank(field, |value| value < bound)),
                Comparison::AtMost => end = end.min(self.rank(field, |value| value <= bound)),
                Comparison::Greater => begin = begin.max(self.rank(field, |value| value <= bound)),
                Comparison::AtLeast => begin = begin.max(self.rank(field, |value| value < bound)),
            }
        }
        if condition.any.is_empty() {
            return vec![(begin, end.max(begin))];
        }
        let runs = condition.any.iter().map(|test| self.run(field, test));
        runs.map(|run| (run.start.max(begin), run.end.min(end))).filter(|(begin, end)| begin < end).collect()
    }

    /// The part of the field's order that a test can hold in: from the first rank to the one after the last.
    fn run(&self, field: usize, test: &Test) -> Range<usize> {
        match test {
            Test::Equal(value) => {
                let value = value.as_slice();
                self.rank(field, |other| other < value)..self.rank(field, |other| other <= value)
            }
            Test::Contains { text, open_start: false, .. } => {
                let text = text.as_slice();
                let begin = self.rank(field, |other| other < text);
                begin..self.rank(field, |other| other < text || other.starts_with(text))
            }
            Test::Contains { .. } => self.rank(field, <[u8]>::is_empty)..self.len(),
        }
    }

    fn rank(&self, field: usize, is_before: impl Fn(&[u8]) -> bool) -> usize {
        self.order(field).rank(|id| is_before(self.record(id).field(field)))
    }

    /// The part of the field's order that meets the condition, all of it and nothing else.
    fn exact_run(&self, condition: &Condition) -> Option<(usize, usize)> {
        let field = &self.fields[condition.field];
        let is_exact = match condition.any.as_slice() {
            [] => !condition.compare.is_empty(),
            [Test::Equal(_) | Test::Contains { open_start: false, .. }] => condition.compare.is_empty(),
            _ => false,
        };
        if !is_exact || !condition.none.is_empty() || field.is_many || !field.is_sortable {
            return None;
        }
        Some(self.runs(condition).first().copied().unwrap_or((0, 0)))
    }

    /// Sorts ids as far as the page needs it.
    fn sorted(&self, mut ids: Vec<u32>, sort: &[SortKey], offset: usize, limit: usize) -> Vec<u32> {
        let order = |a: &u32, b: &u32| self.compare(*a, *b, sort);
        let end = offset + limit;
        if end < ids.len() {
            ids.select_nth_unstable_by(end, order);
            ids.truncate(end);
        }
        ids.sort_unstable_by(order);
        ids.split_off(offset)
    }

    fn compare(&self, a: u32, b: u32, sort: &[SortKey]) -> Ordering {
        let (a, b) = (self.record(a), self.record(b));
        let by = sort.iter().map(|key| {
            let order = a.field(key.field).cmp(b.field(key.field));
            if key.is_descending { order.reverse() } else { order }
        });
        by.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.name.cmp(&b.name))
    }

    /// Goes along the order of the first key, until the page is full.
    fn walk(&self, matched: Matched, sort: &[SortKey], offset: usize, limit: usize) -> Vec<u32> {
        let (key, order) = (sort[0], self.order(sort[0].field));
        let (begin, end, among) = match matched {
            Matched::Run { field, begin, end } if field == key.field => (begin, end, None),
            Matched::All => (0, self.len(), None),
            Matched::Run { field, begin, end } => (0, self.len(), Some(self.order(field).range(begin, end).collect())),
            Matched::Some(ids) => (0, self.len(), Some(ids)),
        };
        let is_in = |id: &u32| among.as_ref().is_none_or(|ids: &RoaringBitmap| ids.contains(*id));
        if sort.len() == 1 && !key.is_descending {
            // Equal values stand in the order of names already.
            if among.is_none() {
                return order.range(begin + offset, (begin + offset + limit).min(end)).collect();
            }
            return order.range(begin, end).filter(is_in).skip(offset).take(limit).collect();
        }
        if sort.len() == 1 {
            return self.walk_down(key.field, begin..end, is_in, offset..offset + limit);
        }
        let ids = order.range(begin, end);
        let ids: Box<dyn Iterator<Item = u32>> = if key.is_descending { Box::new(ids.rev()) } else { Box::new(ids) };
        let mut ids = ids.filter(is_in).peekable();
        let (mut page, mut skip) = (Vec::new(), offset);
        while page.len() < limit
            && let Some(first) = ids.next()
        {
            let value = self.record(first).field(key.field);
            let mut equal = vec![first];
            while let Some(next) = ids.next_if(|id| self.record(*id).field(key.field) == value) {
                equal.push(next);
            }
            if skip >= equal.len() {
                skip -= equal.len();
                continue;
            }
            let order = |a: &u32, b: &u32| self.compare(*a, *b, &sort[1..]);
            let needed = skip + limit - page.len();
            if needed < equal.len() {
                equal.select_nth_unstable_by(needed, order);
                equal.truncate(needed);
            }
            equal.sort_unstable_by(order);
            page.extend(equal.into_iter().skip(skip).take(limit - page.len()));
            skip = 0;
        }
        page
    }

    /// Goes along part of the order of a field from its end on, in which those of one value stand by name all the same.
    fn walk_down(
        &self,
        field: usize,
        part: Range<usize>,
        is_in: impl Fn(&u32) -> bool,
        page: Range<usize>,
    ) -> Vec<u32> {
        let order = self.order(field);
        let value = |id: u32| self.record(id).field(field);
        // What comes before the page is passed over without a look at its values.
        let mut left = page.start;
        let is_passed = |id: &u32| {
            let is_counted = is_in(id);
            let is_before = !is_counted || left > 0;
            left = left.saturating_sub(usize::from(is_counted));
            is_before
        };
        let mut end = part.end - order.range(part.start, part.end).rev().take_while(is_passed).count();
        let mut found = Vec::new();
        let Some(first) = order.range(part.start, end).next_back() else { return found };
        // Those of the value that the page begins with stand by name: how many of them were passed is what counts.
        let top = self.rank(field, |other| other <= value(first)).min(part.end);
        let mut skip = order.range(end, top).filter(&is_in).count();
        end = top;
        let mut ids = order.range(part.start, end).rev().peekable();
        let mut few = Vec::new();
        while found.len() < page.len()
            && let Some(id) = ids.next()
        {
            let top = end;
            end -= 1;
            if !is_in(&id) {
                continue;
            }
            few.push(id);
            while top - end < FEW
                && let Some(next) = ids.next_if(|next| value(*next) == value(id))
            {
                end -= 1;
                few.extend(Some(next).filter(&is_in));
            }
            let (skipped, needed) = (std::mem::take(&mut skip), page.len() - found.len());
            if ids.peek().is_none_or(|next| value(*next) != value(id)) {
                found.extend(few.drain(..).rev().skip(skipped).take(needed));
                continue;
            }
            few.clear();
            let begin = self.rank(field, |other| other < value(id)).max(part.start);
            found.extend(order.range(begin, top).filter(&is_in).skip(skipped).take(needed));
            end = begin;
            ids = order.range(part.start, end).rev().peekable();
        }
        found
    }
}

fn starting_with<'a>(postings: &'a Postings, text: &'a [u8]) -> impl Iterator<Item = &'a Posting> {
    let from = postings.range::<_, [u8]>((Bound::Included(text), Bound::Unbounded));
    from.take_while(move |(value, _)| value.starts_with(text)).map(|(_, posting)| posting)
}

fn size(runs: &[(usize, usize)]) -> usize {
    runs.iter().map(|(begin, end)| end - begin).sum()
}

fn count(ids: &RoaringBitmap) -> usize {
    usize::try_from(ids.len()).expect("ids are 32 bits")
}
