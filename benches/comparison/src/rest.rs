//! What Roster costs while nothing happens, and when one user changes.

use std::time::{Duration, Instant};

use anyhow::Result;
use roster_harness::Operator;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::compare::Servers;
use crate::population::Population;
use crate::process::{cpu_seconds, resident};
use crate::report::{Line, Report, median, number};

/// Part of the table.
pub(crate) const SECTION: &str = "cost";

/// What a change's cost is called.
pub(crate) const CHANGE: &str = "CPU a change";

/// How long nothing happens.
const QUIET: Duration = Duration::from_secs(30);

/// Changes in a batch.
const CHANGES: u32 = 50;

const BATCHES: usize = 9;

/// What a replica does while nothing happens.
///
/// # Errors
/// If it is gone, or the audit log can't be read.
pub(crate) async fn quiet(
    report: &mut Report,
    cluster: &Cluster,
    operator: &Operator,
    who: &str,
    users: u64,
) -> Result<()> {
    let (cpu, from) = (cpu_seconds(operator.id())?, cluster.plane.audit_position()?);
    tokio::time::sleep(QUIET).await;
    let per_hour = 3600.0 / QUIET.as_secs_f64();
    let cpu = (cpu_seconds(operator.id())? - cpu) * per_hour;
    let events = cluster.plane.operator_events(from)?;
    let events: Vec<&Value> = events.iter().filter(|event| event["stage"] == "ResponseComplete").collect();
    let is_lease = |event: &&&Value| event["objectRef"]["resource"] == "leases";
    let leases = events.iter().filter(is_lease).count();
    // A watch that kube-apiserver ends after some minutes is begun again.
    let others = events.iter().filter(|event| !is_lease(event) && event["verb"] != "watch");
    let named: Vec<_> = others.map(|event| format!("{} {}", event["verb"], event["requestURI"])).collect();
    let memory = resident(operator.id())?;
    report.add(
        Line::new(SECTION, format!("{who}, at rest"), users)
            .figure("CPU", cpu, "s an hour")
            .figure("requests about the Lease", number(leases as u64) * per_hour, "an hour")
            .figure("other requests", number(named.len() as u64) * per_hour, "an hour")
            .figure("resident", memory / 1024.0, "MiB"),
    );
    let figure = if named.is_empty() { "nothing else".to_owned() } else { named.join(", ") };
    report.goal(format!("{who}: at rest the Lease and nothing else"), figure, named.is_empty());
    Ok(())
}

/// What one change costs a replica: median of batches, for what it does meanwhile is counted.
///
/// # Errors
/// If it is gone, or the change does not arrive.
pub(crate) async fn change(
    report: &mut Report,
    cluster: &Cluster,
    operator: &Operator,
    servers: &Servers,
    population: Population,
) -> Result<()> {
    let name = Population::name(population.users / 2);
    let path = format!("/apis/roster.dev/v1alpha1/users/{name}");
    let shown = format!("/apis/directory.roster.dev/v1alpha1/users/{name}");
    let (mut costs, mut writes) = (Vec::new(), Vec::new());
    for batch in 0..BATCHES {
        let (base, begun) = (cpu_seconds(operator.id())?, Instant::now());
        let mut last = String::new();
        for at in 0..CHANGES {
            last = format!("change {at} of batch {batch}");
            cluster.send("PATCH", &path, &json!({"spec": {"lastName": last}})).await?;
        }
        writes.push(begun.elapsed().as_secs_f64() / f64::from(CHANGES));
        until_shown(servers, &shown, &last).await?;
        costs.push((cpu_seconds(operator.id())? - base) / f64::from(CHANGES));
    }
    let (cpu, write) = (median(costs), median(writes));
    report.add(
        Line::new(SECTION, "one change of a user", population.users)
            .ratio("kube-apiserver's write", cpu / write, (write * 1000.0, "ms"))
            .figure(CHANGE, cpu * 1000.0, "ms"),
    );
    Ok(())
}

async fn until_shown(servers: &Servers, path: &str, last_name: &str) -> Result<()> {
    let sent = Instant::now();
    loop {
        let user: Value = serde_json::from_slice(&servers.roster.get(path).await?)?;
        if user["spec"]["lastName"] == last_name {
            return Ok(());
        }
        anyhow::ensure!(sent.elapsed() < Duration::from_secs(10), "the change does not arrive");
        // To ask costs the replica something, too.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
