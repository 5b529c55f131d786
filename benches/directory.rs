//! The index by itself, without a cluster: memory a user, time of a list, cost of a change, time of the main queries.
//! `cargo bench --bench directory`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roster::api::User;
use roster::directory::entries::user::{FIELDS, record};
use roster::directory::index::query::Query;
use roster::directory::index::view::View;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A User as a large installation has them: a few domains and zones, some groups, a login.
fn user(at: u64, revision: u64) -> User {
    let first = ["Ada", "Grace", "Edsger", "Barbara", "Donald", "Frances"][(at % 6) as usize];
    let zone = ["eu-west", "eu-east", "us"][(at % 3) as usize];
    let state = if at.is_multiple_of(50) { "Disabled" } else { "Active" };
    let login = jiff::Timestamp::from_second(1_790_000_000 + (at.cast_signed() * 7919) % 30_000_000).unwrap();
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": "True", "reason": reason, "message": message, "observedGeneration": 1,
            "lastTransitionTime": "2026-11-22T00:00:00Z"})
    };
    serde_json::from_value(json!({
        "apiVersion": "roster.dev/v1alpha1", "kind": "User",
        "metadata": {"name": format!("user-{at:06}"), "uid": format!("00000000-0000-4000-8000-{at:012}"), "generation": 1,
            "resourceVersion": revision.to_string(), "creationTimestamp": "2026-11-22T00:00:00Z", "labels": {"team": format!("t{}", at % 500)}},
        "spec": {"email": format!("user-{at:06}@example.com"), "displayName": format!("{first} Number {at}"), "firstName": first,
            "lastName": format!("Number {at}"), "language": "en", "timezone": "Europe/Paris", "domain": format!("d{}", at % 20),
            "zone": zone, "state": state},
        "status": {"observedGeneration": 1, "username": format!("user-{at:06}"), "state": state,
            "groups": [format!("g{}", at % 1000), format!("g{}", at % 97), "everybody"], "lastLoginTime": login.to_string(),
            "conditions": [condition("Ready", "Succeeded", "the names are held and the credential is as declared"),
                condition("NameClaimed", "Claimed", "the username and all emails are held"),
                condition("CredentialReady", "PasswordSet", "a password is set")]},
    }))
    .expect("it is a User")
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("this is Linux");
    pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("it says so") * 4096
}

/// Median and 99th percentile of the time of one run.
fn measure(runs: usize, mut run: impl FnMut()) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    (times[runs / 2], times[runs * 99 / 100])
}

fn query(filters: &[&str], sort: &str) -> Query {
    let mut query = Query::default();
    for filter in filters {
        query.filter_by(FIELDS, filter).expect("the filter is right");
    }
    if !sort.is_empty() {
        query.sort_by(FIELDS, sort).expect("the keys are right");
    }
    query
}

fn main() {
    let queries: &[(&str, Query, usize, Option<usize>)] = &[
        ("get one by email", query(&["email,user-000777@example.com"], ""), 0, Some(1)),
        ("first 20 by name", query(&[], ""), 0, Some(20)),
        (
            "domain, state, zone: 20 by last login",
            query(&["domain,d3,state,Active,zone,us"], "-lastLoginTime"),
            0,
            Some(20),
        ),
        ("a group's members, 20", query(&["groups,g77"], "displayName"), 0, Some(20)),
        ("logged in before, 20 by name", query(&["lastLoginTime,lt:2027-01-01T00:00:00Z"], "name"), 0, Some(20)),
        ("in the midst of names, 20", query(&["displayName,*ber 77*"], ""), 0, Some(20)),
        ("page 2,500 of 20", query(&[], "-lastLoginTime"), 49_980, Some(20)),
        ("everybody, as records", query(&[], ""), 0, None),
    ];
    for count in [1_000_u64, 100_000] {
        let before = resident_bytes();
        let mut view = View::empty(FIELDS);
        let records: Vec<_> = (0..count).map(|at| Arc::new(record(&user(at, at + 1)))).collect();
        let bytes: usize = records.iter().map(|record| record.json.len()).sum();
        let start = Instant::now();
        view.relist(records, count);
        println!("{count} users: indexed in {:?}", start.elapsed());
        let per_user = (resident_bytes() - before) / count;
        println!("  {per_user} bytes resident a user, {} of them its JSON", bytes as u64 / count);
        let mut revision = count;
        let (median, p99) = measure(2000, || {
            revision += 1;
            let mut next = view.clone();
            next.set(Arc::new(record(&user((revision * 31) % count, revision))));
            view = next;
        });
        println!("  a change, parsed, indexed and published: p50 {median:?}, p99 {p99:?}");
        for (name, query, offset, limit) in queries {
            let (median, p99) = measure(200, || drop(black_box(view.table.select(query, *offset, *limit))));
            let total = view.table.select(query, *offset, *limit).total;
            println!("  {name} ({total} match): p50 {median:?}, p99 {p99:?}");
        }
    }
}
