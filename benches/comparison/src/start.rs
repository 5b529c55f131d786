//! Startup time and memory of a replica.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use jiff::Timestamp;
use roster_harness::Operator;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::load::Server;
use crate::population::Population;
use crate::process::resident;
use crate::report::{Line, Report, number};
use crate::rest::SECTION;

/// Name of the memory per user in the report.
const MEMORY: &str = "beyond the base";

/// The first request of a replica: a streaming list of the users.
const STREAMING_LIST: &str = "/apis/roster.dev/v1alpha1/users?watch=true&allowWatchBookmarks=true&sendInitialEvents=true\
                              &resourceVersionMatch=NotOlderThan&resourceVersion=&timeoutSeconds=290";

/// Annotation of the bookmark that ends the streaming list.
const END: &[u8] = b"k8s.io/initial-events-end";

/// Maximum size of that bookmark, in bytes.
const BOOKMARK: usize = 1024;

/// Returns the resident memory, in KiB, of a replica on a cluster without users.
///
/// # Errors
/// If it does not start.
pub(crate) async fn base(cluster: &Cluster) -> Result<f64> {
    let (operator, _) = cluster.start_operator(&[]).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let base = resident(operator.id())?;
    operator.stop()?;
    Ok(base)
}

/// Starts a replica, and reports its startup time and its memory.
///
/// # Errors
/// If it does not start.
pub(crate) async fn start(
    report: &mut Report,
    cluster: &Cluster,
    population: Population,
    base: f64,
) -> Result<Operator> {
    let users = population.users;
    let bare = streamed(&cluster.api_server()?).await?.as_secs_f64();
    let (operator, ready) = cluster.start_operator(&[]).await?;
    let (ready, at) = (ready.as_secs_f64(), Timestamp::now());
    let after = at.duration_since(last_listed(&std::fs::read_to_string(operator.log())?)?).as_secs_f64();
    report.add(
        Line::new(SECTION, "from start to ready", users)
            .ratio("a bare list of the users", ready / bare, (bare, "s"))
            .figure("ready after", ready, "s")
            .figure("after the end of the last list by", after, "s"),
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

/// Returns how long kube-apiserver takes to send the streaming list of the users to a client that discards it.
async fn streamed(server: &Server) -> Result<Duration> {
    let started = Instant::now();
    let mut connection = server.connect().await?;
    let mut body = connection.begin("GET", STREAMING_LIST, bytes::Bytes::new()).await?;
    let mut end = Vec::new();
    while let Some(frame) = body.frame().await {
        end.extend_from_slice(frame?.data_ref().context("the watch has sent trailers")?);
        // Nothing is written in the meantime, so nothing follows the bookmark: it is at the end of the received bytes.
        end.drain(..end.len().saturating_sub(BOOKMARK));
        if end.windows(END.len()).any(|window| window == END) {
            return Ok(started.elapsed());
        }
    }
    bail!("the list ended before it was complete")
}

/// Returns when the operator completed its last list, according to its log. It is not the leader, so all lists are
/// those of the directory.
fn last_listed(log: &str) -> Result<Timestamp> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let listed = lines.filter(|line| line["message"] == "listed");
    let times = listed.filter_map(|line| line["timestamp"].as_str()?.parse().ok());
    times.max().context("the operator has listed nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_list_is_found_in_the_log() {
        let line = |message: &str, second: u8| {
            format!("{{\"timestamp\": \"2026-11-23T00:00:{second:02}.5Z\", \"message\": \"{message}\"}}\n")
        };
        let log = line("listed", 3) + "no JSON\n" + &line("listed", 9) + &line("listed", 5) + &line("known", 11);
        assert_eq!(last_listed(&log).unwrap(), "2026-11-23T00:00:09.5Z".parse().unwrap());
        assert!(last_listed(&line("known", 11)).is_err());
    }
}
