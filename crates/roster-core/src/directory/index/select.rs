//! Finds the records of a page that match a query, and the total number of matches.
//!
//! Postings answer conditions with set operations. Grams narrow down the candidates, which are then compared. For other
//! conditions, the shortest run of an order that contains all matches is scanned. All records are scanned only in
//! searches for one or two letters, in searches inside values of fields without grams, and for conditions that all
//! records may meet.

use std::ops::{Bound, Range};
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::grams::{can_find, candidates, max_candidates};
use super::posting::{Posting, Postings};
use super::query::{Comparison, Condition, Query, ValueTest};
use super::record::Record;
use super::selector::{Operator, Requirement};
use super::table::Table;

/// Records of a page.
#[derive(Debug)]
pub struct Selection {
    /// Number of matches on all pages.
    pub total: usize,
    /// Records of this page.
    pub records: Vec<Arc<Record>>,
}

/// Matches of a query, not sorted yet.
#[derive(Debug)]
pub struct Matches {
    /// Number of matches.
    pub total: usize,
    pub(super) matched: Matched,
}

#[derive(Debug)]
pub(super) enum Matched {
    All,
    /// A part of a field's order.
    Run {
        field: usize,
        begin: usize,
        end: usize,
    },
    Some(RoaringBitmap),
}

/// Number of steps below which the work takes less time than a round trip to another thread.
pub(super) const QUICK_STEPS: usize = 8192;

impl Table {
    /// Returns at most `limit` of the records that match the query, from `offset` on.
    pub fn select(&self, query: &Query, offset: usize, limit: Option<usize>) -> Selection {
        self.page(&self.find(query), &query.sort, offset, limit)
    }

    /// Returns the matches of the query.
    pub fn find(&self, query: &Query) -> Matches {
        let matched = self.matched(query);
        let total = match &matched {
            Matched::All => self.len(),
            Matched::Run { begin, end, .. } => end - begin,
            Matched::Some(ids) => count(ids),
        };
        Matches { total, matched }
    }

    /// Returns whether [`Table::find`] takes less time than handing it over to another thread.
    pub fn is_found_quickly(&self, query: &Query) -> bool {
        let is_alone = query.conditions.len() == 1 && query.labels.is_empty();
        let found = query.conditions.iter().map(|condition| self.steps_of(condition, is_alone));
        let labelled = query.labels.iter().map(|requirement| match &requirement.operator {
            Operator::In(values) | Operator::NotIn(values) => values.len(),
            _ => self.labels().len(),
        });
        found.chain(labelled).fold(0, usize::saturating_add) < QUICK_STEPS
    }

    /// Returns the maximum number of values or records that are visited for a condition. If it is the only condition
    /// (`is_alone`), the result may be a run of an order, which takes one step.
    fn steps_of(&self, condition: &Condition, is_alone: bool) -> usize {
        let is_one_posting = |test: &ValueTest| matches!(test, ValueTest::Equal(value) if !value.is_empty());
        if let Some(grams) = self.searched(condition) {
            return max_candidates(grams, condition).saturating_mul(condition.any.len() + condition.none.len());
        }
        match self.postings(condition.field) {
            Some(postings) if condition.compare.is_empty() => {
                let tests = condition.any.iter().chain(&condition.none);
                tests.map(|test| if is_one_posting(test) { 1 } else { postings.len() }).sum()
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
            let posted = self.posted(condition);
            if posted.is_none() {
                rest.push(condition);
            }
            if let Some(ids) = posted.or_else(|| self.searched(condition).map(|grams| candidates(grams, condition))) {
                narrow(ids);
            }
        }
        for requirement in &query.labels {
            narrow(self.labelled(requirement));
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

    /// Returns the matches of the condition, if postings alone can answer it.
    fn posted(&self, condition: &Condition) -> Option<RoaringBitmap> {
        let postings = self.postings(condition.field)?;
        if !condition.compare.is_empty() || self.searched(condition).is_some() {
            return None;
        }
        let mut ids = if condition.any.is_empty() { self.all().clone() } else { RoaringBitmap::new() };
        for test in &condition.any {
            ids |= self.matching(postings, test);
        }
        for test in &condition.none {
            ids -= self.matching(postings, test);
        }
        Some(ids)
    }

    /// Returns the grams that narrow down the candidates, if the condition searches for text.
    fn searched(&self, condition: &Condition) -> Option<&Postings> {
        self.grams(condition.field).filter(|_| can_find(condition))
    }

    fn matching(&self, postings: &Postings, test: &ValueTest) -> RoaringBitmap {
        let mut ids = RoaringBitmap::new();
        match test {
            ValueTest::Equal(value) if value.is_empty() => {
                postings.values().for_each(|posting| posting.add_to(&mut ids));
                return self.all() - ids;
            }
            ValueTest::Equal(value) => {
                postings.get(value.as_slice()).into_iter().for_each(|posting| posting.add_to(&mut ids));
            }
            ValueTest::Contains { text, open_start: false, .. } => {
                starting_with(postings, text).for_each(|posting| posting.add_to(&mut ids));
            }
            ValueTest::Contains { .. } => {
                let matching = postings.iter().filter(|(value, _)| test.holds_for(value));
                matching.for_each(|(_, posting)| posting.add_to(&mut ids));
            }
        }
        ids
    }

    fn labelled(&self, Requirement { key, operator }: &Requirement) -> RoaringBitmap {
        let mut ids = RoaringBitmap::new();
        match operator {
            Operator::In(values) | Operator::NotIn(values) => {
                let found = values.iter().filter_map(|value| self.labels().get(format!("{key}={value}").as_bytes()));
                found.for_each(|posting| posting.add_to(&mut ids));
            }
            Operator::Exists | Operator::DoesNotExist => {
                self.with_label(key).for_each(|(_, posting)| posting.add_to(&mut ids));
            }
            Operator::Greater(_) | Operator::Less(_) => {
                let holds = self.with_label(key).filter(|(value, _)| operator.holds(str::from_utf8(value).ok()));
                holds.for_each(|(_, posting)| posting.add_to(&mut ids));
            }
        }
        match operator {
            Operator::NotIn(_) | Operator::DoesNotExist => self.all() - ids,
            _ => ids,
        }
    }

    /// Returns the values of a label, each with the ids that have it.
    fn with_label(&self, key: &str) -> impl Iterator<Item = (&[u8], &Posting)> {
        let start = format!("{key}=").into_bytes();
        let from = self.labels().range::<_, [u8]>((Bound::Included(start.as_slice()), Bound::Unbounded));
        from.map_while(move |(label, posting)| Some((label.strip_prefix(start.as_slice())?, posting)))
    }

    /// Returns the parts of the field's order that contain all matches of the condition.
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

    /// Returns the range of ranks in the field's order outside which the test cannot hold.
    fn run(&self, field: usize, test: &ValueTest) -> Range<usize> {
        match test {
            ValueTest::Equal(value) => {
                let value = value.as_slice();
                self.rank(field, |other| other < value)..self.rank(field, |other| other <= value)
            }
            ValueTest::Contains { text, open_start: false, .. } => {
                let text = text.as_slice();
                let begin = self.rank(field, |other| other < text);
                begin..self.rank(field, |other| other < text || other.starts_with(text))
            }
            ValueTest::Contains { .. } => self.rank(field, <[u8]>::is_empty)..self.len(),
        }
    }

    pub(super) fn rank(&self, field: usize, is_before: impl Fn(&[u8]) -> bool) -> usize {
        self.order(field).rank(|id| is_before(self.record(id).field(field)))
    }

    /// Returns the part of the field's order that contains exactly the matches of the condition, if there is one.
    fn exact_run(&self, condition: &Condition) -> Option<(usize, usize)> {
        let field = &self.fields[condition.field];
        let is_exact = match condition.any.as_slice() {
            [] => !condition.compare.is_empty(),
            [ValueTest::Equal(_) | ValueTest::Contains { open_start: false, .. }] => condition.compare.is_empty(),
            _ => false,
        };
        if !is_exact || !condition.none.is_empty() || field.is_many || !field.is_sortable {
            return None;
        }
        Some(self.runs(condition).first().copied().unwrap_or((0, 0)))
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
