//! Time from applying many users until all of them are Ready.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use roster_harness::Operator;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::hashing::{bare_loop, hash};
use crate::population::Population;
use crate::report::{Line, Report, number};
use crate::rest;

/// Section of the report.
const SECTION: &str = "convergence";

/// Number of users with plaintext passwords, and of users that kubectl applies. Larger numbers give the same rates.
const SMALL_BATCH: u64 = 1000;

const TIMEOUT: Duration = Duration::from_secs(1800);

/// How the users are applied.
#[derive(Clone, Copy)]
enum ApplyMethod {
    /// `kubectl apply` of one file.
    Kubectl,
    /// Concurrent writers, as fast as kube-apiserver accepts the writes.
    Writers,
}

/// Measures convergence, and then the cost of the idle leader. The operator runs all the time.
///
/// # Errors
/// If users don't become Ready.
pub(crate) async fn measure(report: &mut Report, dir: &Path, users: u64) -> Result<()> {
    let cluster = Cluster::create(dir, &[]).await?;
    let (operator, _) = cluster.start_operator(&[]).await?;
    cluster.wait_for_admission().await?;
    let few = users.min(SMALL_BATCH);
    let hashed = ("passwordHash", hash("a giraffe in rubber boots"));
    let plain = ("password", "a giraffe in rubber boots".to_owned());
    let mut made = 0;
    for (method, count, (key, value)) in [
        (ApplyMethod::Kubectl, few, &hashed),
        (ApplyMethod::Kubectl, few, &plain),
        (ApplyMethod::Writers, few, &plain),
        (ApplyMethod::Writers, users, &hashed),
    ] {
        let bare = bare_loop(30);
        let prefix = format!("batch-{made}");
        let raw = raw_creates(&cluster, &format!("{prefix}-raw"), count).await?;
        let names: Vec<String> = (0..count).map(|at| format!("{prefix}-{at}")).collect();
        let objects: Vec<[Value; 2]> = names.iter().map(|name| Population::with_password(name, key, value)).collect();
        let from = cluster.plane.audit_position()?;
        let start = Instant::now();
        apply(&cluster, dir, method, &objects).await?;
        let applied = start.elapsed().as_secs_f64();
        made += count;
        // Polling the list of all users would slow kube-apiserver down, so poll the operator's metrics first.
        while written(&operator)? < made && start.elapsed() < TIMEOUT {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        cluster.wait_until_ready("users", made, TIMEOUT).await?;
        let took = start.elapsed().as_secs_f64();
        let is_write = |event: &&Value| {
            event["stage"] == "ResponseComplete"
                && event["objectRef"]["resource"] != "leases"
                && ["create", "update", "patch", "delete"].iter().any(|verb| event["verb"] == *verb)
        };
        let writes = cluster.plane.operator_events(from)?.iter().filter(is_write).count();
        let name = match method {
            ApplyMethod::Kubectl => format!("kubectl apply, {key}"),
            ApplyMethod::Writers => format!("32 writers, {key}"),
        };
        let rate = number(count) / took;
        let mut line = Line::new(SECTION, name, count).ratio("bare creates of kube-apiserver", rate / raw, (raw, "/s"));
        if *key == "password" {
            line = line.ratio("bare argon2", rate / bare, (bare, "/s"));
        }
        report.add(
            line.figure("all Ready after", took, "s")
                .figure("of which until all were applied", applied, "s")
                .figure("rate", rate, "/s")
                .figure("Roster's writes", number(writes as u64) / number(count), "a user"),
        );
    }
    // Wait until follow-up writes such as last logins and Events are done.
    tokio::time::sleep(Duration::from_secs(10)).await;
    rest::idle(report, &cluster, &operator, "the leader", made).await?;
    operator.stop()
}

async fn apply(cluster: &Cluster, dir: &Path, method: ApplyMethod, objects: &[[Value; 2]]) -> Result<()> {
    match method {
        ApplyMethod::Kubectl => {
            let file = dir.join("users.json");
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects.concat()});
            std::fs::write(&file, list.to_string())?;
            cluster.plane.kubectl.run(&["apply", "-f", &file.to_string_lossy()]).map(drop)
        }
        ApplyMethod::Writers => {
            let secrets = objects.iter().map(|[secret, _]| secret.clone());
            cluster.create_all("/api/v1/namespaces/default/secrets", secrets).await?;
            let users = objects.iter().map(|[_, user]| user.clone());
            cluster.create_all("/apis/roster.dev/v1alpha1/users", users).await
        }
    }
}

/// Returns the number of user statuses that the operator has written.
fn written(operator: &Operator) -> Result<u64> {
    let metrics = operator.probe("/metrics")?;
    let count = metrics.lines().find_map(|line| line.strip_prefix("roster_writes_total{kind=\"UserStatus\"} "));
    Ok(count.map_or(Ok(0), str::parse)?)
}

/// Returns how many objects that no controller watches kube-apiserver creates per second.
async fn raw_creates(cluster: &Cluster, prefix: &str, count: u64) -> Result<f64> {
    let object = |at| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{prefix}-{at}"), "namespace": "default"},
            "stringData": {"text": "a text that is as long as the hash of a password, about a hundred bytes, so that objects are equally large"}})
    };
    let start = Instant::now();
    cluster.create_all("/api/v1/namespaces/default/secrets", (0..count).map(object)).await?;
    Ok(number(count) / start.elapsed().as_secs_f64())
}
