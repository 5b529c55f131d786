//! Compares the index with a linear scan for random records, edits and queries.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::dialect::InvalidParameter;
use super::field::{Field, FieldKind, fold, number, time};
use super::query::Query;
use super::record::{Record, RecordBuilder, UID};
use super::selector::Requirement;
use super::view::{Unavailable, View};

static FIELDS: &[Field] = &[
    Field::one("name", "metadata.name", FieldKind::Text),
    Field::one("uid", "metadata.uid", FieldKind::Text),
    Field::one("displayName", "spec.displayName", FieldKind::Text).searched().with_spaces(),
    Field::shared("state", "status.state", FieldKind::Choice(&["Active", "Banned"])),
    Field::shared("zone", "spec.zone", FieldKind::Text),
    Field::one("failedLogins", "status.failedLogins", FieldKind::Number),
    Field::one("lastLoginTime", "status.lastLoginTime", FieldKind::Time),
    Field::many("email", "spec.email", true).searched(),
    Field::many("groups", "status.groups", false),
];

/// An object in the form that the scan uses.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    name: String,
    display_name: Option<String>,
    state: &'static str,
    zone: Option<String>,
    failed: Option<i64>,
    login: Option<i64>,
    emails: Vec<String>,
    groups: Vec<String>,
    labels: BTreeMap<String, String>,
}

impl Plain {
    fn record(&self, revision: u64) -> Record {
        let mut values = RecordBuilder::default();
        values.push([fold(&self.name)]);
        values.push(None::<&str>);
        values.push(self.display_name.as_deref().map(fold));
        values.push([FIELDS[3].kind.read(self.state).unwrap()]);
        values.push(self.zone.as_deref().map(fold));
        values.push(self.failed.map(number));
        values.push(self.login.map(|second| time(jiff::Timestamp::from_second(second).unwrap())));
        values.push(self.emails.iter().map(|email| fold(email)));
        values.push(self.groups.iter().map(|group| fold(group)));
        let labels = self.labels.iter().map(|(key, value)| format!("{key}={value}"));
        values.finish(revision, labels, &[], 0..0)
    }

    /// Returns the values of a field as text.
    fn texts(&self, field: &str) -> Vec<String> {
        let lower = |values: Vec<&String>| values.into_iter().map(|value| value.to_lowercase()).collect();
        match field {
            "name" => vec![self.name.clone()],
            "displayName" => lower(self.display_name.iter().collect()),
            "state" => vec![self.state.to_owned()],
            "zone" => lower(self.zone.iter().collect()),
            "email" => lower(self.emails.iter().collect()),
            "groups" => lower(self.groups.iter().collect()),
            _ => unreachable!(),
        }
    }

    fn number(&self, field: &str) -> Option<i64> {
        if field == "failedLogins" { self.failed } else { self.login }
    }
}

/// One condition, both as query text and as evaluated by the scan.
#[derive(Clone, Debug)]
enum Filter {
    Is(&'static str, String),
    Not(&'static str, String),
    Begins(&'static str, String),
    Ends(&'static str, String),
    Contains(&'static str, String),
    Absent(&'static str),
    Compare(&'static str, &'static str, i64),
    Label(String),
}

impl Filter {
    fn text(&self) -> String {
        match self {
            Self::Is(field, value) => format!("{field},{value}"),
            Self::Not(field, value) => format!("{field},neq:{value}"),
            Self::Begins(field, value) => format!("{field},{value}*"),
            Self::Ends(field, value) => format!("{field},*{value}"),
            Self::Contains(field, value) => format!("{field},*{value}*"),
            Self::Absent(field) => format!("{field},"),
            Self::Compare("lastLoginTime", operator, value) => {
                format!("lastLoginTime,{operator}:{}", jiff::Timestamp::from_second(*value).unwrap())
            }
            Self::Compare(field, operator, value) => format!("{field},{operator}:{value}"),
            Self::Label(_) => unreachable!(),
        }
    }

    fn field(&self) -> &'static str {
        match self {
            Self::Is(field, _)
            | Self::Not(field, _)
            | Self::Begins(field, _)
            | Self::Ends(field, _)
            | Self::Contains(field, _)
            | Self::Absent(field)
            | Self::Compare(field, ..) => field,
            Self::Label(_) => "",
        }
    }

    fn holds(&self, plain: &Plain) -> bool {
        match self {
            Self::Is(field, value) => plain.texts(field).contains(value),
            Self::Not(field, value) => !plain.texts(field).contains(value),
            Self::Begins(field, value) => plain.texts(field).iter().any(|text| text.starts_with(value)),
            Self::Ends(field, value) => plain.texts(field).iter().any(|text| text.ends_with(value)),
            Self::Contains(field, value) => plain.texts(field).iter().any(|text| text.contains(value)),
            Self::Absent(field) => plain.texts(field).is_empty(),
            Self::Compare(field, operator, bound) => plain.number(field).is_some_and(|value| match *operator {
                "lt" => value < *bound,
                "lte" => value <= *bound,
                "gt" => value > *bound,
                _ => value >= *bound,
            }),
            Self::Label(_) => true,
        }
    }

    fn is_alternative(&self) -> bool {
        !matches!(self, Self::Not(..) | Self::Compare(..) | Self::Label(_))
    }
}

/// OR across the values of a field, AND across fields.
fn scan_matches(filters: &[Filter], labels: &[Requirement], plain: &Plain) -> bool {
    let alternatives = filters.iter().filter(|filter| filter.is_alternative());
    let fields: std::collections::BTreeSet<_> = alternatives.clone().map(Filter::field).collect();
    fields.iter().all(|field| alternatives.clone().any(|filter| filter.field() == *field && filter.holds(plain)))
        && filters.iter().filter(|filter| !filter.is_alternative()).all(|filter| filter.holds(plain))
        && labels.iter().all(|label| label.operator.holds(plain.labels.get(&label.key).map(String::as_str)))
}

type Key = (&'static str, bool);

fn scan(all: &BTreeMap<String, Plain>, filters: &[Filter], labels: &[Requirement], sort: &[Key]) -> Vec<String> {
    let mut found: Vec<&Plain> = all.values().filter(|plain| scan_matches(filters, labels, plain)).collect();
    found.sort_by(|a, b| {
        let by = sort.iter().map(|(field, is_descending)| {
            let order = match *field {
                "failedLogins" | "lastLoginTime" => a.number(field).cmp(&b.number(field)),
                _ => a.texts(field).join("\0").cmp(&b.texts(field).join("\0")),
            };
            if *is_descending { order.reverse() } else { order }
        });
        by.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.name.cmp(&b.name))
    });
    found.into_iter().map(|plain| plain.name.clone()).collect()
}

fn query(filters: &[Filter], sort: &[Key]) -> Result<Query, InvalidParameter> {
    let mut query = Query::default();
    for filter in filters {
        match filter {
            Filter::Label(selector) => query.label_selector(selector)?,
            filter => query.filter_by(FIELDS, &filter.text())?,
        }
    }
    let keys: Vec<String> =
        sort.iter().map(|(field, down)| format!("{}{field}", if *down { "-" } else { "" })).collect();
    if !keys.is_empty() {
        query.sort_by(FIELDS, &keys.join(","))?;
    }
    Ok(query)
}

fn names(view: &super::table::Table, query: &Query, offset: usize, limit: Option<usize>) -> (usize, Vec<String>) {
    let selection = view.select(query, offset, limit);
    (selection.total, selection.records.iter().map(|record| record.name().to_owned()).collect())
}

const TEXT: &[&str] = &["displayName", "zone", "email", "groups", "name"];

fn plains() -> impl Strategy<Value = Plain> {
    let word = || prop::sample::select(vec!["a", "ab", "b", "Ba", "abc", "cab"]).prop_map(str::to_owned);
    let label =
        (prop::sample::select(vec!["team", "tier", "team.x"]), prop::sample::select(vec!["a", "b", "3", "12", ""]));
    let labels = prop::collection::vec(label, 0..3);
    let first = (0_u32..60, prop::option::of(word()), prop::bool::weighted(0.9), prop::option::of(word()));
    let second = (
        prop::option::of(-3_i64..4),
        prop::option::of(0_i64..20),
        prop::collection::vec(word(), 0..3),
        prop::collection::vec(word(), 0..4),
    );
    (first, second, labels).prop_map(|((name, display_name, active, zone), (failed, login, emails, groups), labels)| {
        Plain {
            name: format!("u{name}"),
            display_name,
            state: if active { "Active" } else { "Banned" },
            zone,
            failed,
            login,
            emails,
            groups,
            labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }
    })
}

fn filters() -> impl Strategy<Value = Filter> {
    let word = || prop::sample::select(vec!["a", "ab", "b", "ba", "u1", "zz"]).prop_map(str::to_owned);
    let text = || prop::sample::select(TEXT);
    prop_oneof![
        (text(), word()).prop_map(|(field, value)| Filter::Is(field, value)),
        (text(), word()).prop_map(|(field, value)| Filter::Not(field, value)),
        (text(), word()).prop_map(|(field, value)| Filter::Begins(field, value)),
        (text(), word()).prop_map(|(field, value)| Filter::Ends(field, value)),
        (text(), word()).prop_map(|(field, value)| Filter::Contains(field, value)),
        text().prop_map(Filter::Absent),
        prop::sample::select(vec!["Active", "Banned"]).prop_map(|state| Filter::Is("state", state.to_owned())),
        (
            prop::sample::select(vec!["failedLogins", "lastLoginTime"]),
            prop::sample::select(vec!["lt", "lte", "gt", "gte"]),
            0_i64..15,
        )
            .prop_map(|(field, operator, bound)| Filter::Compare(field, operator, bound)),
        prop::sample::select(vec![
            "team=a",
            "team!=a",
            "team",
            "!team",
            "team in (a,b),tier=b",
            "tier notin (a)",
            "team>3",
            "team<12,tier>2",
            "team in (,3)",
            "tier!=",
        ])
        .prop_map(|selector| Filter::Label(selector.to_owned())),
    ]
}

fn sorts() -> impl Strategy<Value = Vec<Key>> {
    let fields = vec!["displayName", "state", "zone", "failedLogins", "lastLoginTime", "email", "name"];
    prop::sample::subsequence(fields, 0..3).prop_shuffle().prop_flat_map(|fields| {
        let length = fields.len();
        (Just(fields), prop::collection::vec(any::<bool>(), length))
            .prop_map(|(fields, down)| fields.into_iter().zip(down).collect())
    })
}

fn labels_of(filters: &[Filter]) -> Vec<Requirement> {
    let mut query = Query::default();
    for filter in filters {
        if let Filter::Label(selector) = filter {
            query.label_selector(selector).unwrap();
        }
    }
    query.labels
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn index_and_scan_agree(
        listed in prop::collection::vec(plains(), 0..50),
        edits in prop::collection::vec((plains(), prop::bool::weighted(0.75)), 0..60),
        queries in prop::collection::vec((prop::collection::vec(filters(), 0..4), sorts(), 0_usize..40, 1_usize..20), 1..8),
        pause in 0_u64..60,
    ) {
        let mut all: BTreeMap<String, Plain> = listed.into_iter().map(|plain| (plain.name.clone(), plain)).collect();
        let mut view = View::empty(FIELDS);
        view.relist(all.values().map(|plain| Arc::new(plain.record(1))).collect(), 1);
        let mut then = (1, all.clone());
        for ((plain, stays), revision) in edits.into_iter().zip(2..) {
            if stays {
                view.set(Arc::new(plain.record(revision)));
                all.insert(plain.name.clone(), plain);
            } else {
                view.remove(&plain.name, revision);
                all.remove(&plain.name);
            }
            view.advance_to(revision);
            if revision == pause {
                then = (revision, all.clone());
            }
        }
        let earlier = view.at(then.0).unwrap().table;
        for (filters, sort, offset, limit) in &queries {
            let (query, labels) = (query(filters, sort).unwrap(), labels_of(filters));
            for (table, all) in [(&view.table, &all), (&earlier, &then.1)] {
                let expected = scan(all, filters, &labels, sort);
                prop_assert_eq!(names(table, &query, 0, None), (expected.len(), expected.clone()));
                let page: Vec<String> = expected.iter().skip(*offset).take(*limit).cloned().collect();
                prop_assert_eq!(names(table, &query, *offset, Some(*limit)), (expected.len(), page), "{:?} {:?}", filters, sort);
                // One record at a time, as for a watch.
                for plain in all.values() {
                    prop_assert_eq!(query.matches(&plain.record(1), FIELDS), expected.contains(&plain.name));
                }
                let mut pages = Vec::new();
                for page in 0..=expected.len() / limit {
                    pages.extend(names(table, &query, page * limit, Some(*limit)).1);
                }
                prop_assert_eq!(pages, expected, "all pages together are the whole list");
            }
        }
    }
}

#[test]
fn revisions_outside_the_log_are_gone_or_ahead() {
    let mut view = View::empty(FIELDS);
    view.relist(Vec::new(), 100);
    assert_eq!(view.at(99).unwrap_err(), Unavailable::Gone);
    assert_eq!(view.at(101).unwrap_err(), Unavailable::Ahead);
    view.advance_to(150);
    assert!(view.at(120).unwrap().table.is_empty() && view.revision == 100, "there was no change in between");
    assert_eq!(view.changes_since(120).unwrap().len(), 0);
    assert!(view.changes_since(200).is_ok() && view.changes_since(99).is_err());
}

#[test]
fn invalid_queries_name_the_parameter() {
    let error_of = |filter: &str| Query::default().filter_by(FIELDS, filter).unwrap_err().message;
    assert!(error_of("nmae,x").contains("unknown field \"nmae\"; allowed: name, uid, displayName, state"));
    assert!(error_of("name").contains("pairs"));
    assert!(error_of("state,Asleep").contains("Active, Banned"));
    assert!(error_of("state,A*").contains("no wildcard"));
    assert!(error_of("name,like:x").contains("unknown operator like:"));
    assert!(error_of("name,a*b").contains("the start and the end"));
    assert!(error_of("failedLogins,gt:many").contains("whole number"));
    assert!(error_of("lastLoginTime,lt:").contains("needs a value"));
    assert!(error_of("groups,lt:a").contains("use neq: or in:"));
    assert!(error_of("name,\\").contains("backslash"));
    assert!(error_of(&format!("name,in:{}", "a|".repeat(300))).contains("at most"));
    let sort = |keys: &str| Query::default().sort_by(FIELDS, keys).unwrap_err().message;
    assert!(sort("groups").contains("allowed"));
    assert!(sort("name,-name").contains("twice"));
    assert!(sort("").contains("can't sort by \"\""));
    let select = |text: &str| Query::default().field_selector(FIELDS, text).unwrap_err().message;
    assert!(select("zone=a").contains("metadata.name, metadata.uid, spec.displayName"));
    assert!(select("spec.zone").contains("path=value"));
    assert!(select("spec.zone!=neq:a").contains("can't be combined"));
    let label = |text: &str| Query::default().label_selector(text).unwrap_err().message;
    assert!(label("a in (b").contains("parenthesis") && label("a?b").contains("not a label key"));
    assert!(label("a=b c").contains("not a label value") && label("a near (b)").contains("notin"));
}

#[test]
fn a_backslash_escapes_special_characters() {
    let mut query = Query::default();
    query.filter_by(FIELDS, r"displayName,lt\:a\,b\*").unwrap();
    assert_eq!(query.conditions[0].any, [super::query::ValueTest::Equal(b"lt:a,b*".to_vec())]);
    let mut query = Query::default();
    query.field_selector(FIELDS, r"spec.displayName==a\=b,status.state!=Banned,spec.zone=in:a|b").unwrap();
    assert_eq!(query.conditions[0].any, [super::query::ValueTest::Equal(b"a=b".to_vec())]);
    assert_eq!(query.conditions[1].none.len(), 1);
    assert_eq!(query.conditions[2].any.len(), 2);
}

#[test]
fn a_relist_without_deletions_continues_the_log() {
    let plain = |name: &str, revision: u64| {
        let mut values = RecordBuilder::default();
        FIELDS.iter().enumerate().for_each(|(at, _)| values.push((at <= UID).then_some(name)));
        Arc::new(values.finish(revision, [], &[], 0..0))
    };
    let mut view = View::empty(FIELDS);
    view.relist(vec![plain("a", 5), plain("b", 7)], 10);
    view.relist(vec![plain("a", 5), plain("b", 12), plain("c", 11)], 20);
    assert_eq!((view.epoch, view.revision, view.progress), (1, 12, 20));
    let changes: Vec<u64> = view.changes_since(10).unwrap().iter().map(|change| change.revision).collect();
    assert_eq!(changes, [11, 12]);
    let past = view.at(11).unwrap();
    assert_eq!((past.revision, past.table.len(), past.table.get("b").unwrap().revision), (11, 3, 7));
    view.relist(vec![plain("a", 5), plain("b", 12)], 30);
    assert_eq!((view.epoch, view.revision), (2, 30), "a record was removed, at an unknown revision");
    assert_eq!(view.changes_since(20).unwrap_err(), Unavailable::Gone);
}

#[test]
fn a_filter_does_not_widen_a_selector() {
    let mut query = Query::default();
    query.field_selector(FIELDS, "spec.zone=a").unwrap();
    query.filter_by(FIELDS, "zone,b").unwrap();
    query.filter_by(FIELDS, "zone,c").unwrap();
    assert_eq!(query.conditions.len(), 2);
    assert_eq!(query.conditions[1].any.len(), 2);
}

/// One of many Users. Each last login is shared by two of them.
fn person(at: u32) -> Plain {
    Plain {
        name: format!("u{at}"),
        display_name: Some(format!("Person {at}")),
        state: "Active",
        zone: Some(format!("zone-{}", at % 7)),
        failed: None,
        login: Some(i64::from(at / 2)),
        emails: vec![],
        groups: vec![format!("group-{}", at % 90)],
        labels: BTreeMap::from([("team".to_owned(), format!("t{at}"))]),
    }
}

#[test]
fn only_queries_that_visit_few_records_are_quick() {
    let mut view = View::empty(FIELDS);
    view.relist((0..20_000).map(|at| Arc::new(person(at).record(1))).collect(), 1);
    let is_quick = |filter: &str, selector: &str, sort: &str, (offset, limit): (usize, Option<usize>)| {
        let mut query = Query::default();
        query.label_selector(selector).unwrap();
        if !filter.is_empty() {
            query.filter_by(FIELDS, filter).unwrap();
        }
        if !sort.is_empty() {
            query.sort_by(FIELDS, sort).unwrap();
        }
        let table = &view.table;
        table.is_found_quickly(&query) && table.is_paged_quickly(&table.find(&query), &query.sort, offset, limit)
    };
    let first = (0, Some(20));
    assert!(is_quick("", "", "", first));
    assert!(is_quick("groups,group-3,state,Active", "", "-lastLoginTime", first));
    assert!(is_quick("displayName,person 7*", "", "", first), "a run of an order");
    assert!(is_quick("", "team=t3", "", first));
    assert!(!is_quick("displayName,*7*", "", "", first), "all names are compared");
    assert!(!is_quick("", "team", "", first), "all values of the label are visited");
    assert!(!is_quick("", "", "state,name", first), "all records of a state may have to be sorted");
    assert!(!is_quick("", "", "", (0, None)), "the page contains all records");
    assert!(is_quick("state,Active", "", "-lastLoginTime", (19_000, Some(20))), "skipped in chunks");
}

/// With runs of equal values that are visited one by one, and with longer ones.
#[test]
fn descending_order_sorts_ties_by_name() {
    let all: Vec<Plain> = (0..3000).map(|at| Plain { zone: Some(format!("zone-{}", at % 3)), ..person(at) }).collect();
    let mut view = View::empty(FIELDS);
    view.relist(all.iter().map(|plain| Arc::new(plain.record(1))).collect(), 1);
    let mut expected: Vec<&Plain> = all.iter().collect();
    for sort in ["zone", "lastLoginTime"] {
        let value = |plain: &Plain| if sort == "zone" { (plain.zone.clone(), None) } else { (None, plain.login) };
        expected.sort_by(|a, b| value(b).cmp(&value(a)).then_with(|| a.name.cmp(&b.name)));
        for filter in [None, Some("group-3")] {
            let expected: Vec<&str> = expected
                .iter()
                .filter(|plain| filter.is_none_or(|group| plain.groups[0] == group))
                .map(|plain| plain.name.as_str())
                .collect();
            let mut query = Query::default();
            if let Some(group) = filter {
                query.filter_by(FIELDS, &format!("groups,{group}")).unwrap();
            }
            query.sort_by(FIELDS, &format!("-{sort}")).unwrap();
            for (offset, limit) in [(0, 20), (7, 20), (333, 700), (990, 30), (1500, 1500), (0, 3000), (2999, 5)] {
                let page: Vec<&str> = expected.iter().skip(offset).take(limit).copied().collect();
                assert_eq!(
                    names(&view.table, &query, offset, Some(limit)).1,
                    page,
                    "{sort} {filter:?} {offset} {limit}"
                );
            }
        }
    }
}

/// A plus in a URL is decoded to a space before the query is read.
#[test]
fn case_c6_a_space_where_no_value_has_one_is_rejected() {
    for filter in [
        "email,plus ops@example.com",
        "email,neq:plus ops@example.com",
        "email,*plus ops*",
        "name,in:a|b c",
        "zone,gt:a b",
        "failedLogins, 5",
        "lastLoginTime,2027-01-31T08:00:00 02:00",
        "displayName, 49",
        "displayName,in:Ada| 49*",
    ] {
        let error = Query::default().filter_by(FIELDS, filter).unwrap_err().to_string();
        assert!(error.contains("write %2B"), "{filter}: {error}");
    }
    let error = Query::default().field_selector(FIELDS, "spec.email!=plus ops@example.com").unwrap_err().to_string();
    assert!(error.contains("spec.email: ") && error.contains("write %2B"), "{error}");
    for filter in ["email,plus+ops@example.com", "displayName,Ada Lovelace", "displayName,\\ Ada*", "displayName,*a b*"]
    {
        assert_eq!(Query::default().filter_by(FIELDS, filter), Ok(()), "{filter}");
    }
}
