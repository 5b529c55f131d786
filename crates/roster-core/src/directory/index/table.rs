//! Table of records by id, with the ids in every sort order and under every value that queries use.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use imbl::Vector;
use roaring::RoaringBitmap;
use smallvec::SmallVec;

use super::field::{Field, SearchStyle};
use super::grams::grams;
use super::posting::{Posting, Postings};
use super::record::{NAME, Record};
use super::sorted::SortedIds;

/// Ids sorted by a field.
#[derive(Clone, Debug)]
enum Order {
    /// All records have the same value (usually none), so the order is the one by name.
    ByName,
    /// An order specific to the field.
    Own(SortedIds),
}

/// All records of a resource. Cloning is cheap, regardless of size.
#[derive(Clone, Debug)]
pub struct Table {
    /// Fields that can be queried. The first is the name, the second the UID.
    pub fields: &'static [Field],
    records: Vector<Option<Arc<Record>>>,
    free: Vector<u32>,
    all: Arc<RoaringBitmap>,
    orders: Vec<Option<Order>>,
    postings: Vec<Option<Postings>>,
    grams: Vec<Option<Postings>>,
    labels: Postings,
}

impl Table {
    /// Builds a table of these records, whose names must be unique.
    pub fn new(fields: &'static [Field], mut records: Vec<Arc<Record>>) -> Self {
        records.sort_unstable_by(|a, b| a.order(b, NAME));
        let count = u32::try_from(records.len()).expect("etcd holds fewer than 2^32 objects");
        let by_name = SortedIds::from_sorted(&(0..count).collect::<Vec<_>>());
        let is_same = |at: usize| records.windows(2).all(|two| two[0].field(at) == two[1].field(at));
        let order = |at: usize| match at {
            NAME => Order::Own(by_name.clone()),
            _ if is_same(at) => Order::ByName,
            _ => Order::Own(sorted(&records, at)),
        };
        let orders = fields.iter().enumerate().map(|(at, field)| field.is_sortable.then(|| order(at))).collect();
        let postings = fields.iter().enumerate();
        let postings = postings.map(|(at, field)| field.has_postings.then(|| posted(&records, |of| of.values(at))));
        let postings = postings.collect();
        let grams = fields.iter().enumerate();
        let grams = grams.map(|(at, field)| {
            (field.search_style == SearchStyle::Anywhere)
                .then(|| posted(&records, |of| of.values(at).flat_map(super::grams::grams)))
        });
        let grams = grams.collect();
        let labels = posted(&records, |of| of.labels().map(str::as_bytes));
        Self {
            fields,
            orders,
            postings,
            grams,
            labels,
            records: records.into_iter().map(Some).collect(),
            free: Vector::new(),
            all: Arc::new((0..count).collect()),
        }
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.order(NAME).len()
    }

    /// Returns whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the ids of all records.
    pub fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    /// Returns the record of an id, which must be in use.
    pub fn record(&self, id: u32) -> &Arc<Record> {
        self.records[id as usize].as_ref().expect("ids in the index are in use")
    }

    /// Returns the ids sorted by a sortable field.
    pub fn order(&self, field: usize) -> &SortedIds {
        match self.orders[field].as_ref().expect("only sortable fields are sorted by") {
            Order::ByName => self.order(NAME),
            Order::Own(order) => order,
        }
    }

    /// Returns the ids by value, if the field has postings.
    pub fn postings(&self, field: usize) -> Option<&Postings> {
        self.postings[field].as_ref()
    }

    /// Returns the ids by gram, if the field is searched for text anywhere in its values.
    pub fn grams(&self, field: usize) -> Option<&Postings> {
        self.grams[field].as_ref()
    }

    /// Returns the ids by `key=value`.
    pub fn labels(&self) -> &Postings {
        &self.labels
    }

    /// Returns the record with that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Record>> {
        self.id_of(name).map(|id| self.record(id))
    }

    fn id_of(&self, name: &str) -> Option<u32> {
        self.order(NAME).find(|id| self.record(id).field(NAME).cmp(name.as_bytes()))
    }

    /// Adds or replaces a record. Returns the previous one of the same name.
    pub fn set(&mut self, record: &Arc<Record>) -> Option<Arc<Record>> {
        let id = self.id_of(record.name());
        let before = id.map(|id| Arc::clone(self.record(id)));
        let id = id.or_else(|| self.free.pop_back()).unwrap_or_else(|| {
            self.records.push_back(None);
            u32::try_from(self.records.len() - 1).expect("etcd holds fewer than 2^32 objects")
        });
        let changed = self.changed(before.as_deref(), Some(record));
        for at in &changed {
            self.give_own_order(*at, record);
        }
        if let Some(before) = &before {
            self.remove_from_orders(before, &changed);
        } else {
            Arc::make_mut(&mut self.all).insert(id);
        }
        self.records.set(id as usize, Some(Arc::clone(record)));
        for at in &changed {
            let records = &self.records;
            if let Some(Order::Own(order)) = &mut self.orders[*at] {
                order.insert(id, |other| in_use(records, other).order(record, *at));
            }
        }
        self.repost(id, &changed, before.as_deref(), Some(record));
        before
    }

    /// Removes and returns the record with that name.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Record>> {
        let id = self.id_of(name)?;
        let before = Arc::clone(self.record(id));
        let changed = self.changed(Some(&before), None);
        self.remove_from_orders(&before, &changed);
        self.repost(id, &changed, Some(&before), None);
        self.records.set(id as usize, None);
        self.free.push_back(id);
        Arc::make_mut(&mut self.all).remove(id);
        Some(before)
    }

    /// Returns the fields in which two states of a record differ; all fields if one state is missing.
    fn changed(&self, before: Option<&Record>, now: Option<&Record>) -> Vec<usize> {
        let fields = 0..self.fields.len();
        match before.zip(now) {
            None => fields.collect(),
            Some((before, now)) => fields.filter(|at| before.field(*at) != now.field(*at)).collect(),
        }
    }

    /// Gives the field an order of its own if the record's value differs from the value that all records have had so
    /// far.
    fn give_own_order(&mut self, field: usize, record: &Record) {
        let differs = || self.all.min().is_some_and(|any| self.record(any).field(field) != record.field(field));
        if matches!(self.orders[field], Some(Order::ByName)) && differs() {
            self.orders[field] = Some(Order::Own(self.order(NAME).clone()));
        }
    }

    fn remove_from_orders(&mut self, before: &Record, changed: &[usize]) {
        for at in changed {
            let records = &self.records;
            if let Some(Order::Own(order)) = &mut self.orders[*at] {
                order.remove(|other| in_use(records, other).order(before, *at));
            }
        }
    }

    /// Moves an id from the previous values of its record to the current ones.
    fn repost(&mut self, id: u32, changed: &[usize], before: Option<&Record>, now: Option<&Record>) {
        for at in changed {
            if let Some(postings) = &mut self.postings[*at] {
                repost(postings, id, before, now, |record| values(record, *at));
            }
            if let Some(grams) = &mut self.grams[*at] {
                repost(grams, id, before, now, |record| grams_of(record, *at));
            }
        }
        repost(&mut self.labels, id, before, now, labels);
    }
}

fn values(record: &Record, field: usize) -> BTreeSet<&[u8]> {
    record.values(field).collect()
}

fn grams_of(record: &Record, field: usize) -> BTreeSet<&[u8]> {
    record.values(field).flat_map(grams).collect()
}

fn labels(record: &Record) -> BTreeSet<&[u8]> {
    record.labels().map(str::as_bytes).collect()
}

fn in_use(records: &Vector<Option<Arc<Record>>>, id: u32) -> &Record {
    records[id as usize].as_ref().expect("ids in an order are in use")
}

fn post(postings: &mut Postings, value: &[u8], id: u32) {
    let posting = postings.get(value).map_or(Posting::One(id), |posting| posting.with(id));
    postings.insert(value.into(), posting);
}

fn unpost(postings: &mut Postings, value: &[u8], id: u32) {
    let Some(posting) = postings.get(value) else { return };
    match posting.without(id) {
        Some(posting) => postings.insert(value.into(), posting),
        None => postings.remove(value),
    };
}

/// Moves an id from the previous values of its record to the current ones. `values` returns the values of a record.
fn repost<'a>(
    postings: &mut Postings,
    id: u32,
    before: Option<&'a Record>,
    now: Option<&'a Record>,
    values: impl Fn(&'a Record) -> BTreeSet<&'a [u8]>,
) {
    let (before, now) = (before.map(&values).unwrap_or_default(), now.map(&values).unwrap_or_default());
    before.difference(&now).for_each(|value| unpost(postings, value, id));
    now.difference(&before).for_each(|value| post(postings, value, id));
}

/// Returns the ids in the order of a field. `records` are sorted by name, and the position of a record is its id.
fn sorted(records: &[Arc<Record>], field: usize) -> SortedIds {
    let shared = shared_prefix(records, field);
    // The first bytes after the common prefix nearly always decide. Copies of them are adjacent in memory.
    let first = |record: &Arc<Record>| {
        let mut bytes = [0; 8];
        let value = record.field(field).get(shared..).unwrap_or_default();
        let length = value.len().min(8);
        bytes[..length].copy_from_slice(&value[..length]);
        u64::from_be_bytes(bytes)
    };
    let mut keys: Vec<(u64, u32)> = records.iter().map(first).zip(0..).collect();
    let full = |id: u32| records[id as usize].field(field);
    // The sort is stable: records with equal values stay sorted by name.
    keys.sort_by(|a, b| match a.0.cmp(&b.0) {
        Ordering::Equal => full(a.1).cmp(full(b.1)),
        different => different,
    });
    SortedIds::from_sorted(&keys.into_iter().map(|(_, id)| id).collect::<Vec<_>>())
}

/// Returns the length of the common prefix of all values. Times and UIDs often have one. Records without a value are
/// ignored.
fn shared_prefix(records: &[Arc<Record>], field: usize) -> usize {
    let mut values = records.iter().map(|record| record.field(field)).filter(|value| !value.is_empty());
    let Some(first) = values.next() else { return 0 };
    values.fold(first.len(), |length, value| {
        first[..length].iter().zip(value).take_while(|(one, other)| one == other).count()
    })
}

/// Returns the ids of records by value. The position of a record is its id.
fn posted<'a, I: Iterator<Item = &'a [u8]>>(records: &'a [Arc<Record>], values: impl Fn(&'a Record) -> I) -> Postings {
    // Nearly every email belongs to one User.
    let mut by_value = HashMap::<&[u8], SmallVec<[u32; 2]>>::new();
    for (record, id) in records.iter().zip(0..) {
        for value in values(record) {
            let ids = by_value.entry(value).or_default();
            if ids.last() != Some(&id) {
                ids.push(id);
            }
        }
    }
    let mut posted: Vec<_> = by_value.into_iter().collect();
    posted.sort_unstable_by_key(|(value, _)| *value);
    let posted = posted.into_iter().filter_map(|(value, ids)| {
        let ids = RoaringBitmap::from_sorted_iter(ids).expect("ids are ascending");
        Some((Box::<[u8]>::from(value), Posting::of(ids)?))
    });
    posted.collect()
}
