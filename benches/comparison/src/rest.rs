//! Cost of an idle replica, and of a change to one user.

use std::time::{Duration, Instant};

use anyhow::Result;
use roster_harness::Operator;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::compare::Servers;
use crate::population::Population;
use crate::process::{cpu_seconds, resident};
use crate::report::{Line, Report, median, number};

/// Section of the report.
pub(crate) const SECTION: &str = "cost";

/// Name of the cost of a change in the report.
pub(crate) const CHANGE: &str = "CPU a change";

/// Duration of the measurement of an idle replica.
const IDLE: Duration = Duration::from_secs(30);

/// Number of changes in a batch.
const CHANGES: u32 = 50;

const BATCHES: usize = 9;

/// Measures the CPU time, requests and memory of an idle replica.
///
/// # Errors
/// If the replica has ended, or the audit log can't be read.
pub(crate) async fn idle(
    report: &mut Report,
    cluster: &Cluster,
    operator: &Operator,
    who: &str,
    users: u64,
) -> Result<()> {
    let (cpu, from) = (cpu_seconds(operator.id())?, cluster.plane.audit_position()?);
    tokio::time::sleep(IDLE).await;
    let per_hour = 3600.0 / IDLE.as_secs_f64();
    let cpu = (cpu_seconds(operator.id())? - cpu) * per_hour;
    let events = cluster.plane.operator_events(from)?;
    let events: Vec<&Value> = events.iter().filter(|event| event["stage"] == "ResponseComplete").collect();
    let is_lease = |event: &&&Value| event["objectRef"]["resource"] == "leases";
    let leases = events.iter().filter(is_lease).count();
    // kube-apiserver ends watches after some minutes, and the replica starts them again.
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

/// Measures the CPU time of a replica per change. The median of several batches is used, because other work in the
/// meantime is counted too.
///
/// # Errors
/// If the replica has ended, or does not serve the change.
pub(crate) async fn change(
    report: &mut Report,
    cluster: &Cluster,
    operator: &Operator,
    servers: &Servers,
    population: Population,
) -> Result<()> {
    let name = Population::name(population.users / 2);
    let path = format!("/apis/roster.dev/v1alpha1/users/{name}");
    let served = format!("/apis/directory.roster.dev/v1alpha1/users/{name}");
    let (mut costs, mut writes) = (Vec::new(), Vec::new());
    for batch in 0..BATCHES {
        let (base, started) = (cpu_seconds(operator.id())?, Instant::now());
        let mut last = String::new();
        for at in 0..CHANGES {
            last = format!("change {at} of batch {batch}");
            cluster.send("PATCH", &path, &json!({"spec": {"lastName": last}})).await?;
        }
        writes.push(started.elapsed().as_secs_f64() / f64::from(CHANGES));
        wait_until_served(servers, &served, &last).await?;
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

async fn wait_until_served(servers: &Servers, path: &str, last_name: &str) -> Result<()> {
    let sent = Instant::now();
    loop {
        let user: Value = serde_json::from_slice(&servers.roster.get(path).await?)?;
        if user["spec"]["lastName"] == last_name {
            return Ok(());
        }
        anyhow::ensure!(sent.elapsed() < Duration::from_secs(10), "the replica does not serve the change");
        // Each request costs CPU time of the replica, so poll slowly.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
