//! Logins, and reviews of tokens and API keys.

use std::path::Path;
use std::slice::from_ref;
use std::time::Duration;

use anyhow::{Context, Result};
use roster_api::directory::{GROUP, VERSION};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::hashing::bare_loop;
use crate::load::{Call, Server};
use crate::population::Population;
use crate::report::{Line, Report, median, millis, ratio};

/// Section of the report.
const SECTION: &str = "logins";

const PASSWORD: &str = "a giraffe in rubber boots";
const SLICE: Duration = Duration::from_secs(1);
/// Number of concurrent logins: enough to keep every core busy with hashing.
const AT_ONCE: usize = 8;

/// Compares logins with a plain argon2 loop, and token reviews with kube-apiserver's reviews of ServiceAccount tokens.
///
/// # Errors
/// If a user can't log in.
pub(crate) async fn measure(report: &mut Report, dir: &Path, rounds: usize) -> Result<()> {
    let cluster = Cluster::create(dir, &[]).await?;
    let (operator, _) = cluster.start_operator(&[]).await?;
    cluster.wait_for_admission().await?;
    // One user for each connection, because login attempts of one user are processed one after the other.
    let names: Vec<String> = (0..AT_ONCE).map(|at| format!("jane-{at}")).collect();
    for name in &names {
        let [secret, user] = Population::with_password(name, "password", PASSWORD);
        cluster.send("POST", "/api/v1/namespaces/default/secrets", &secret).await?;
        cluster.send("POST", "/apis/roster.dev/v1alpha1/users", &user).await?;
    }
    cluster.wait_until_ready("users", AT_ONCE as u64, Duration::from_secs(60)).await?;
    let (roster, api_server) = (cluster.roster(&operator)?, cluster.api_server()?);
    let base = format!("/apis/{GROUP}/{VERSION}");
    let version = format!("{GROUP}/{VERSION}");
    let login = |name: &String| {
        let spec = json!({"username": name, "password": PASSWORD});
        Call::post(format!("{base}/logins"), &json!({"apiVersion": version, "kind": "Login", "spec": spec}))
    };
    let people: Vec<Call> = names.iter().map(login).collect();
    let (mut logins, mut hashes, mut micros) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        hashes.push(bare_loop(20));
        let measured = roster.load(&people, AT_ONCE, SLICE).await?;
        logins.push(measured.per_second);
        micros.push(measured.micros.value_at_quantile(0.5));
    }
    let alone = roster.load(&people, 1, SLICE).await?;
    report.add(
        Line::new(SECTION, format!("logins with a password, {AT_ONCE} at once"), AT_ONCE as u64)
            .ratio("bare argon2", ratio(&logins, &hashes), (median(hashes), "/s"))
            .figure("rate", median(logins), "/s")
            .figure("p50 of one at a time", millis(alone.micros.value_at_quantile(0.5)), "ms"),
    );

    let token = text(&answer(&roster, &people[0]).await?, "token")?;
    let key = json!({"apiVersion": version, "kind": "APIKey", "spec": {"displayName": "bench"}});
    let key = answer(&roster, &Call::post(format!("{base}/users/{}/apikeys", names[0]), &key)).await?;
    let service_account = cluster.plane.kubectl.run(&["create", "token", "default"])?;
    let own = Call::post("/apis/authentication.k8s.io/v1/tokenreviews", &review(service_account.trim()));
    for (what, token) in [("TokenReviews of tokens", token), ("TokenReviews of API keys", text(&key, "key")?)] {
        let call = Call::post("/tokenreview", &review(&token));
        let known = answer(&roster, &call).await?;
        anyhow::ensure!(known["status"]["authenticated"] == true, "{what}: {known}");
        for at_once in [1, 16] {
            let (mut ours, mut theirs, mut p50) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                let measured = roster.load(from_ref(&call), at_once, SLICE / 3).await?;
                ours.push(measured.per_second);
                p50.push(millis(measured.micros.value_at_quantile(0.5)));
                theirs.push(api_server.load(from_ref(&own), at_once, SLICE / 3).await?.per_second);
            }
            report.add(
                Line::new(SECTION, format!("{what}, {at_once} at once"), AT_ONCE as u64)
                    .ratio("kube-apiserver's, of ServiceAccounts", ratio(&ours, &theirs), (median(theirs), "/s"))
                    .figure("p50", median(p50), "ms")
                    .figure("rate", median(ours), "/s"),
            );
        }
    }
    operator.stop()
}

fn review(token: &str) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}})
}

async fn answer(server: &Server, call: &Call) -> Result<Value> {
    let bytes = server.connect().await?.body(call.method, &call.path, call.body.clone()).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn text(answer: &Value, field: &str) -> Result<String> {
    let text = answer["status"][field].as_str();
    text.map(str::to_owned).with_context(|| format!("the response has no status.{field}"))
}
