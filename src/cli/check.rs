//! `roster check`: checks the installation through kube-apiserver. `helm test` runs it.

use roster_api::printable;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::{Api, Client, ResourceExt};
use roster_api::crd;
use serde_json::{Value, to_value};

use super::cluster;

/// Time between two rounds of checks.
const PAUSE: Duration = Duration::from_secs(1);

/// Timeout of a single request. kube-apiserver itself waits five seconds for the directory.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `roster check`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How long to wait until all checks pass, such as 30s or 2m.
    #[arg(long, default_value = "60s")]
    timeout: jiff::SignedDuration,

    /// Name of Roster's webhook configurations.
    #[arg(long, default_value = "roster")]
    webhook_configuration: String,

    /// Skip the webhook that hashes passwords: the installation does not have it.
    #[arg(long)]
    without_password_admission: bool,
}

/// Prints one line for each check. Returns whether all of them passed.
///
/// # Errors
/// If no cluster is configured.
pub(super) fn execute(args: &Args) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut config = cluster::access("check").await?;
        // This loop retries, and the last errors are printed.
        config.default_retry = false;
        config.connect_timeout = Some(REQUEST_TIMEOUT);
        config.read_timeout = Some(REQUEST_TIMEOUT);
        let client = Client::try_from(config)?;
        let deadline = Instant::now() + Duration::try_from(args.timeout).context("--timeout must not be negative")?;
        loop {
            let findings = findings(&client, args).await;
            let all_passed = findings.iter().all(|(_, outcome)| outcome.is_ok());
            if all_passed || Instant::now() > deadline {
                for (what, outcome) in findings {
                    match outcome {
                        Ok(()) => println!("ok      {what}"),
                        Err(error) => println!("FAILED  {what}: {}", printable::lines(&format!("{error:#}"))),
                    }
                }
                return Ok(all_passed);
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

/// Runs all checks once. Returns their names and results.
async fn findings(client: &Client, args: &Args) -> Vec<(String, Result<()>)> {
    let mut findings = Vec::new();
    for definition in crd::all() {
        let name = definition.name_any();
        let outcome = established(client, &definition).await;
        findings.push((format!("CustomResourceDefinition {name}"), outcome));
    }
    let name = &args.webhook_configuration;
    if !args.without_password_admission {
        findings.push((format!("MutatingWebhookConfiguration {name}"), mutating(client, name).await));
    }
    findings.push((format!("ValidatingWebhookConfiguration {name}"), validating(client, name).await));
    findings.push(("APIService v1alpha1.directory.roster.dev".to_owned(), available(client).await));
    findings.push(("the directory, through kube-apiserver".to_owned(), answers(client).await));
    findings
}

async fn established(client: &Client, expected: &CustomResourceDefinition) -> Result<()> {
    let definition: CustomResourceDefinition = Api::all(client.clone()).get(&expected.name_any()).await?;
    let conditions = definition.status.and_then(|status| status.conditions).unwrap_or_default();
    ensure!(conditions.iter().any(|c| c.type_ == "Established" && c.status == "True"), "not established");
    let (found, wanted) = (to_value(&definition.spec.versions)?, to_value(&expected.spec.versions)?);
    // Helm does not upgrade CRDs, and kube-apiserver silently drops fields that they do not define.
    ensure!(
        includes(&found, &wanted),
        "its schema is from another version: apply the CRDs of this version (docs/how-to/install.md)"
    );
    Ok(())
}

/// Returns whether `found` contains everything in `expected`. kube-apiserver adds defaults.
fn includes(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => expected
            .iter()
            .all(|(key, expected)| expected.is_null() || found.get(key).is_some_and(|found| includes(found, expected))),
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| includes(found, expected))
        }
        _ => found == expected,
    }
}

async fn mutating(client: &Client, name: &str) -> Result<()> {
    let configuration: MutatingWebhookConfiguration = Api::all(client.clone()).get(name).await?;
    let webhooks = configuration.webhooks.unwrap_or_default();
    complete(webhooks.iter().map(|webhook| (webhook.name.as_str(), &webhook.client_config)))
}

async fn validating(client: &Client, name: &str) -> Result<()> {
    let configuration: ValidatingWebhookConfiguration = Api::all(client.clone()).get(name).await?;
    let webhooks = configuration.webhooks.unwrap_or_default();
    complete(webhooks.iter().map(|webhook| (webhook.name.as_str(), &webhook.client_config)))
}

/// Checks the fields that Roster writes into each webhook.
fn complete<'a>(webhooks: impl Iterator<Item = (&'a str, &'a WebhookClientConfig)>) -> Result<()> {
    for (name, target) in webhooks {
        ensure!(
            target.ca_bundle.is_some(),
            "{name} has no caBundle: the leader writes it, so check that an operator is running"
        );
        let has_path = target.service.as_ref().is_none_or(|service| service.path.is_some());
        ensure!(has_path, "{name} has no path: the leader writes it, so check that an operator is running");
    }
    Ok(())
}

async fn available(client: &Client) -> Result<()> {
    let service: APIService = Api::all(client.clone()).get("v1alpha1.directory.roster.dev").await?;
    let conditions = service.status.and_then(|status| status.conditions).unwrap_or_default();
    let condition = conditions.iter().find(|condition| condition.type_ == "Available");
    let condition = condition.context("kube-apiserver has not checked it yet")?;
    ensure!(condition.status == "True", "{}", condition.message.as_deref().unwrap_or("not available"));
    Ok(())
}

async fn answers(client: &Client) -> Result<()> {
    let resources = client.list_api_group_resources("directory.roster.dev/v1alpha1").await?;
    ensure!(resources.resources.iter().any(|resource| resource.name == "users"), "it does not list users");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn defaults_added_by_kube_apiserver_are_ignored() {
        let found = json!([{"name": "v1alpha1", "served": true, "schema": {"a": {"type": "string"}}}]);
        assert!(includes(&found, &json!([{"name": "v1alpha1", "schema": {"a": {"type": "string"}}, "x": null}])));
        assert!(!includes(&found, &json!([{"name": "v1alpha1", "schema": {"b": {"type": "string"}}}])));
        assert!(!includes(&found, &json!([])));
    }
}
