//! The index without a server: memory per user, and the duration of queries without HTTP, TLS and authorization. It is
//! measured in a separate process, so that its memory contains nothing else.

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use roster_api::User;
use roster_core::directory::entries::user::{FIELDS, record};
use roster_core::directory::index::query::Query as IndexQuery;
use roster_core::directory::index::record::Record;
use roster_core::directory::index::view::View;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::population::Population;
use crate::process::resident;
use crate::queries::{Answer, Query, queries};
use crate::report::{Line, Report, median, number};

const SECTION: &str = "index";

/// Number of runs that are timed together, because a single one is too short for the clock.
const BATCH: u32 = 10;

const BATCHES: usize = 200;

/// Results that the separate process prints.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Measured {
    /// Resident bytes per user in total.
    resident: f64,
    /// Bytes per user of the JSON from which responses are built.
    json: f64,
    /// Name of each query and its duration in microseconds.
    times: Vec<(String, f64)>,
}

/// Runs the separate process and adds its results to the report.
///
/// # Errors
/// If it fails.
pub(crate) fn measure(report: &mut Report, users: u64) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args(["index", "--users", &users.to_string()]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: Measured = serde_json::from_slice(&output.stdout)?;
    let beside = measured.resident - measured.json;
    report.add(
        Line::new(SECTION, "memory, without a server", users).figure("beside the JSON", beside, "B a user").figure(
            "JSON",
            measured.json,
            "B a user",
        ),
    );
    for (what, micros) in measured.times {
        report.add(Line::new(SECTION, what, users).figure("p50", micros, "µs"));
    }
    let goal = format!("{users} users: at most 1,024 B a user of the index, beside the JSON");
    report.goal(goal, format!("{beside:.0} B"), beside <= 1024.0);
    Ok(())
}

/// Builds an index and measures it. Runs in the separate process.
///
/// # Errors
/// If memory can't be read.
pub(crate) fn run(users: u64) -> Result<Measured> {
    let population = Population { users };
    let before = resident(std::process::id())?;
    let mut view = View::empty(FIELDS);
    let records = (0..users).map(|at| user(population, at, at + 1)).collect::<Result<Vec<_>>>()?;
    let json: usize = records.iter().map(|record| record.json().len()).sum();
    view.relist(records, users);
    let bytes = (resident(std::process::id())? - before) * 1024.0;
    let mut measured =
        Measured { resident: bytes / number(users), json: number(json as u64) / number(users), times: Vec::new() };
    for query in queries(population) {
        if let Some((index_query, offset, limit)) = index_query(&query)? {
            let time = time(|| drop(black_box(view.table.select(&index_query, offset, Some(limit)))));
            measured.times.push((query.name, time));
        }
    }
    let mut revision = users;
    let changes: Vec<_> = (1..=u64::from(BATCH) * BATCHES as u64 + 1)
        .map(|at| user(population, at * 31 % users, users + at))
        .collect::<Result<_>>()?;
    let mut changes = changes.into_iter();
    let change = time(|| {
        revision += 1;
        let mut next = view.clone();
        next.set(changes.next().expect("there is one for each run"));
        view = next;
    });
    measured.times.push(("a change, indexed and published".into(), change));
    Ok(measured)
}

/// Returns a user as the index stores it.
fn user(population: Population, at: u64, revision: u64) -> Result<Arc<Record>> {
    let (mut user, status) = population.user(at);
    user["status"] = status["status"].clone();
    // Fields that kube-apiserver adds.
    let added = json!({"uid": format!("00000000-0000-4000-8000-{at:012}"), "generation": 1,
        "resourceVersion": revision.to_string(), "creationTimestamp": "2026-11-22T00:00:00Z"});
    if let (Value::Object(metadata), Value::Object(added)) = (&mut user["metadata"], added) {
        metadata.extend(added);
    }
    // Changes have a later login than the initial users.
    if revision > population.users {
        let second = 1_790_000_000 + i64::try_from(revision)?;
        user["status"]["lastLoginTime"] = jiff::Timestamp::from_second(second)?.to_string().into();
    }
    let user: User = serde_json::from_value(user)?;
    Ok(Arc::new(record(&user)))
}

/// Returns a query of the index with offset and limit, or `None` if the index alone cannot answer it.
fn index_query(query: &Query) -> Result<Option<(IndexQuery, usize, usize)>> {
    let (offset, limit, by_login) = match query.answer {
        Answer::Single | Answer::Count => (0, 1, false),
        Answer::Page { offset, limit, by_login } => (usize::try_from(offset)?, usize::try_from(limit)?, by_login),
        Answer::All | Answer::Permissions => return Ok(None),
    };
    let condition = &query.condition;
    let equal = condition.equal.iter().map(|(field, value)| format!("{field},{value}"));
    let within = condition.within.iter().map(|text| format!("displayName,*{text}*"));
    let group = condition.group.iter().map(|group| format!("groups,{group}"));
    let mut index_query = IndexQuery::default();
    for filter in equal.chain(within).chain(group) {
        index_query.filter_by(FIELDS, &filter).ok().context("the filter is invalid")?;
    }
    if by_login {
        index_query.sort_by(FIELDS, "-lastLoginTime").ok().context("the sort key is invalid")?;
    }
    Ok(Some((index_query, offset, limit)))
}

/// Returns the median duration of a run, in microseconds.
fn time(mut run: impl FnMut()) -> f64 {
    let batch = |_| {
        let started = Instant::now();
        (0..BATCH).for_each(|_| run());
        started.elapsed().as_secs_f64() * 1e6 / f64::from(BATCH)
    };
    median((0..BATCHES).map(batch).collect())
}
