//! How soon a replica is ready, and what it holds then.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use roster_harness::Operator;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::population::Population;
use crate::process::resident;
use crate::report::{Line, Report, number};
use crate::rest::SECTION;

/// What a replica's memory is called.
const MEMORY: &str = "beyond the base";

/// Resident memory, in KiB, of a replica that knows everything but users.
///
/// # Errors
/// If it does not start.
pub async fn base(cluster: &Cluster) -> Result<f64> {
    let (operator, _) = cluster.start_operator(&[]).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let base = resident(operator.id())?;
    operator.stop()?;
    Ok(base)
}

/// Starts a replica, and tells how soon it was ready, and what it holds.
///
/// # Errors
/// If it does not start.
pub async fn start(report: &mut Report, cluster: &Cluster, population: Population, base: f64) -> Result<Operator> {
    let users = population.users;
    let api_server = cluster.api_server()?;
    let begun = Instant::now();
    api_server.get("/apis/roster.dev/v1alpha1/users?resourceVersion=0").await?;
    let listed = begun.elapsed().as_secs_f64();
    let from = cluster.plane.audit_position()?;
    let (operator, ready) = cluster.start_operator(&[]).await?;
    let (ready, at) = (ready.as_secs_f64(), Timestamp::now());
    let lists = Lists::of(&cluster.plane.operator_events(from)?)?;
    let after = at.duration_since(lists.end).as_secs_f64();
    report.add(
        Line::new(SECTION, "from start to ready", users)
            .ratio("a bare list of the users", ready / listed, (listed, "s"))
            .figure("ready after", ready, "s")
            .figure("of which kube-apiserver was at the lists for", lists.took, "s")
            .figure("ready after their end by", after, "s"),
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    let memory = resident(operator.id())?;
    report.add(
        Line::new(SECTION, "memory of a replica", users)
            .ratio("a replica without users", memory / base, (base / 1024.0, "MiB"))
            .figure("resident", memory / 1024.0, "MiB")
            .figure(MEMORY, (memory - base) * 1024.0 / number(users), "B a user"),
    );
    report.goal(
        format!("{users} users: ready within 5 s of the watches being listed"),
        format!("{after:.1} s after the last list's end"),
        after <= 5.0,
    );
    let each = (memory - base) * 1024.0 / number(users);
    report.goal(format!("{users} users: at most 1,024 B resident a user"), format!("{each:.0} B"), each <= 1024.0);
    Ok(operator)
}

/// The lists that an operator asked for, as kube-apiserver's audit log has them.
struct Lists {
    /// Seconds in which at least one of them was being answered.
    took: f64,
    /// When the last of them was answered.
    end: Timestamp,
}

impl Lists {
    fn of(events: &[Value]) -> Result<Self> {
        let is_list = |event: &&Value| event["verb"] == "list" && event["stage"] == "ResponseComplete";
        let mut spans = events.iter().filter(is_list).map(span).collect::<Result<Vec<_>>>()?;
        spans.sort();
        let (_, mut end) = *spans.first().context("the operator listed nothing")?;
        let (mut begin, _) = spans[0];
        let mut took = Duration::ZERO;
        for (next, until) in spans {
            if next > end {
                took += end.duration_since(begin).unsigned_abs();
                begin = next;
            }
            end = end.max(until);
        }
        took += end.duration_since(begin).unsigned_abs();
        Ok(Self { took: took.as_secs_f64(), end })
    }
}

/// When an answer was asked for, and when it was given.
fn span(event: &Value) -> Result<(Timestamp, Timestamp)> {
    let at = |field: &str| event[field].as_str().context("an event without a time")?.parse().context("no time");
    Ok((at("requestReceivedTimestamp")?, at("stageTimestamp")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_lists_are_answered_counts_once() {
        let event = |from: u8, to: u8| {
            let at = |second: u8| format!("2026-11-23T00:00:{second:02}.000000Z");
            serde_json::json!({"verb": "list", "stage": "ResponseComplete", "requestReceivedTimestamp": at(from),
                "stageTimestamp": at(to)})
        };
        let lists = Lists::of(&[event(20, 25), event(0, 10), event(5, 8), event(9, 12)]).unwrap();
        assert!((lists.took - 17.0).abs() < f64::EPSILON, "{}", lists.took);
        assert_eq!(lists.end, "2026-11-23T00:00:25Z".parse().unwrap());
        assert!(Lists::of(&[]).is_err());
    }
}
