//! How soon a replica is ready, and what it holds then.

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

/// What a replica's memory is called.
const MEMORY: &str = "beyond the base";

/// What a replica asks for first.
const STREAMING_LIST: &str = "/apis/roster.dev/v1alpha1/users?watch=true&allowWatchBookmarks=true&sendInitialEvents=true\
                              &resourceVersionMatch=NotOlderThan&resourceVersion=&timeoutSeconds=290";

/// Annotation of the bookmark at its end.
const END: &[u8] = b"k8s.io/initial-events-end";

/// Bytes that such a bookmark has at most.
const BOOKMARK: usize = 1024;

/// Resident memory, in KiB, of a replica that knows everything but users.
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

/// Starts a replica, and tells how soon it was ready, and what it holds.
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

/// How long kube-apiserver takes for a list of the users as a replica asks for it, told to somebody who reads it and
/// does nothing with it.
async fn streamed(server: &Server) -> Result<Duration> {
    let begun = Instant::now();
    let mut connection = server.connect().await?;
    let mut body = connection.begin("GET", STREAMING_LIST, bytes::Bytes::new()).await?;
    let mut end = Vec::new();
    while let Some(frame) = body.frame().await {
        end.extend_from_slice(frame?.data_ref().context("watches have no trailers")?);
        // Nobody writes meanwhile, so that nothing comes after the bookmark: it is looked for at the end of what has come.
        end.drain(..end.len().saturating_sub(BOOKMARK));
        if end.windows(END.len()).any(|window| window == END) {
            return Ok(begun.elapsed());
        }
    }
    bail!("the list ended before it was complete")
}

/// When the operator had the last of its lists, by its log. It leads nothing, so that these are the directory's.
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
