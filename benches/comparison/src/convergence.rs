//! From the declaration of many users to all of them Ready.

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

/// Part of the table.
const SECTION: &str = "convergence";

/// Users whose passwords arrive as plaintext, and users that kubectl applies: more of them tell nothing new.
const FEW: u64 = 1000;

const PATIENCE: Duration = Duration::from_secs(1800);

/// How the users come.
#[derive(Clone, Copy)]
enum Way {
    /// `kubectl apply` of one file.
    Kubectl,
    /// Many writers at a time, as fast as kube-apiserver takes them.
    Writers,
}

/// Measures it, and what the leader costs at rest afterwards. The operator runs all the time.
///
/// # Errors
/// If users don't become Ready.
pub(crate) async fn measure(report: &mut Report, dir: &Path, users: u64) -> Result<()> {
    let cluster = Cluster::create(dir, &[]).await?;
    let (operator, _) = cluster.start_operator(&[]).await?;
    cluster.wait_for_admission().await?;
    let few = users.min(FEW);
    let hashed = ("passwordHash", hash("a giraffe in rubber boots"));
    let plain = ("password", "a giraffe in rubber boots".to_owned());
    let mut made = 0;
    for (way, count, (key, value)) in [
        (Way::Kubectl, few, &hashed),
        (Way::Kubectl, few, &plain),
        (Way::Writers, few, &plain),
        (Way::Writers, users, &hashed),
    ] {
        let bare = bare_loop(30);
        let prefix = format!("batch-{made}");
        let raw = raw_creates(&cluster, &format!("{prefix}-raw"), count).await?;
        let names: Vec<String> = (0..count).map(|at| format!("{prefix}-{at}")).collect();
        let objects: Vec<[Value; 2]> = names.iter().map(|name| Population::with_password(name, key, value)).collect();
        let from = cluster.plane.audit_position()?;
        let start = Instant::now();
        apply(&cluster, dir, way, &objects).await?;
        let applied = start.elapsed().as_secs_f64();
        made += count;
        // To look at all users again and again would slow kube-apiserver down.
        while written(&operator)? < made && start.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        cluster.wait_until_ready("users", made, PATIENCE).await?;
        let took = start.elapsed().as_secs_f64();
        let is_write = |event: &&Value| {
            event["stage"] == "ResponseComplete"
                && event["objectRef"]["resource"] != "leases"
                && ["create", "update", "patch", "delete"].iter().any(|verb| event["verb"] == *verb)
        };
        let writes = cluster.plane.operator_events(from)?.iter().filter(is_write).count();
        let name = match way {
            Way::Kubectl => format!("kubectl apply, {key}"),
            Way::Writers => format!("32 writers, {key}"),
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
    // What has changed settles: last logins, Events.
    tokio::time::sleep(Duration::from_secs(10)).await;
    rest::quiet(report, &cluster, &operator, "the leader", made).await?;
    operator.stop()
}

async fn apply(cluster: &Cluster, dir: &Path, way: Way, objects: &[[Value; 2]]) -> Result<()> {
    match way {
        Way::Kubectl => {
            let file = dir.join("users.json");
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects.concat()});
            std::fs::write(&file, list.to_string())?;
            cluster.plane.kubectl.run(&["apply", "-f", &file.to_string_lossy()]).map(drop)
        }
        Way::Writers => {
            let secrets = objects.iter().map(|[secret, _]| secret.clone());
            cluster.create_all("/api/v1/namespaces/default/secrets", secrets).await?;
            let users = objects.iter().map(|[_, user]| user.clone());
            cluster.create_all("/apis/roster.dev/v1alpha1/users", users).await
        }
    }
}

/// Statuses of users that an operator has written.
fn written(operator: &Operator) -> Result<u64> {
    let metrics = operator.probe("/metrics")?;
    let count = metrics.lines().find_map(|line| line.strip_prefix("roster_writes_total{kind=\"UserStatus\"} "));
    Ok(count.map_or(Ok(0), str::parse)?)
}

/// Objects of nobody's concern that kube-apiserver creates to the second.
async fn raw_creates(cluster: &Cluster, prefix: &str, count: u64) -> Result<f64> {
    let object = |at| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{prefix}-{at}"), "namespace": "default"},
            "stringData": {"text": "as long as the hash of a password is, or about a hundred bytes of it, so that it weighs the same"}})
    };
    let start = Instant::now();
    cluster.create_all("/api/v1/namespaces/default/secrets", (0..count).map(object)).await?;
    Ok(number(count) / start.elapsed().as_secs_f64())
}
