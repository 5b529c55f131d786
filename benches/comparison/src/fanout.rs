//! Delivery of one change to a thousand watches.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::compare::Servers;
use crate::load::Server;
use crate::population::Population;
use crate::report::{Line, Report, median, ratio};

const WATCHERS: usize = 1000;

const DECLARED: &str = "/apis/roster.dev/v1alpha1/users";
const DIRECTORY: &str = "/apis/directory.roster.dev/v1alpha1/users";

/// Measures how long it takes until the last watcher has received a change.
///
/// # Errors
/// If a watcher never receives the change.
pub(crate) async fn measure(
    report: &mut Report,
    cluster: &Cluster,
    servers: &Servers,
    population: Population,
    rounds: usize,
) -> Result<()> {
    let (mut roster, mut api_server) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        roster.push(one(cluster, &servers.roster, DIRECTORY, &format!("roster-{round}.")).await?);
        api_server.push(one(cluster, &servers.api_server, DECLARED, &format!("declared-{round}.")).await?);
    }
    let ratio = ratio(&roster, &api_server);
    let name = format!("a change until the last of {WATCHERS} watchers has it");
    report.add(
        Line::new("watches", name, population.users).ratio("kube-apiserver", ratio, (median(api_server), "ms")).figure(
            "takes",
            median(roster),
            "ms",
        ),
    );
    Ok(())
}

/// Returns the milliseconds from the write until the last watcher has received it.
async fn one(cluster: &Cluster, server: &Server, path: &str, marker: &str) -> Result<f64> {
    let newest: Value = serde_json::from_slice(&server.get(&format!("{path}?limit=1")).await?)?;
    let revision = newest["metadata"]["resourceVersion"].as_str().context("the list has no resourceVersion")?;
    let watch = format!("{path}?watch=true&resourceVersion={revision}");
    let bodies: Vec<_> = stream::iter(0..WATCHERS)
        .map(async |_| {
            let mut connection = server.connect().await?;
            let body = connection.begin("GET", &watch, bytes::Bytes::new()).await?;
            anyhow::Ok((connection, body))
        })
        .buffer_unordered(32)
        .try_collect()
        .await
        .with_context(|| watch.clone())?;
    let mut watchers = JoinSet::new();
    for (connection, mut body) in bodies {
        let marker = marker.to_owned();
        watchers.spawn(async move {
            let mut seen = Vec::new();
            while let Some(frame) = body.frame().await {
                seen.extend_from_slice(frame?.data_ref().context("the watch has sent trailers")?);
                if seen.windows(marker.len()).any(|window| window == marker.as_bytes()) {
                    drop(connection);
                    return Ok(Instant::now());
                }
            }
            anyhow::bail!("the watch ended")
        });
    }
    let start = Instant::now();
    let change = json!({"spec": {"lastName": marker}});
    cluster.send("PATCH", &format!("{DECLARED}/{}", Population::name(1)), &change).await?;
    let all = tokio::time::timeout(Duration::from_secs(60), watchers.join_all()).await?;
    let last = all.into_iter().collect::<Result<Vec<_>>>()?.into_iter().max().context("there are no watchers")?;
    Ok(last.duration_since(start).as_secs_f64() * 1000.0)
}
