//! The caBundle of the webhook configuration: the leader keeps it right, and every replica looks whether it is trusted.

use std::future::ready;
use std::sync::Arc;

use anyhow::Result;
use futures::{Stream, StreamExt, TryStreamExt, pin_mut};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, WebhookClientConfig};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::certificates::{Certificates, TICK};
use crate::operations::health::Health;

/// Publishes the authority until `shutdown`: whenever the authority changes, is due for rotation, or somebody edits
/// the webhook configuration. Errors are logged and tried again: the webhook goes on with the bundle that it has.
///
/// # Errors
/// None of its own; it ends only when asked.
pub async fn keep(
    client: Client,
    certificates: Certificates,
    configuration: String,
    shutdown: CancellationToken,
) -> Result<()> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let edits = edits(api.clone(), &configuration);
    let changes = certificates.changes();
    pin_mut!(edits, changes);
    let (mut secret, mut webhooks) = (None, None);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(edited) = edits.next() => webhooks = Some(edited),
            Some(changed) = changes.next() => secret = Some(changed),
            () = tokio::time::sleep(TICK) => {}
        }
        let (Some(secret), Some(webhooks)) = (&secret, &webhooks) else { continue };
        if let Err(error) = publish(&api, &certificates, secret.as_ref(), webhooks.clone()).await {
            warn!(error = format!("{error:#}"), configuration, "the caBundle could not be brought up to date");
        }
    }
}

/// Tells `health` whether kube-apiserver trusts what this replica serves, until `shutdown`. Where there is no webhook
/// configuration, nobody has to.
///
/// # Errors
/// None of its own; it ends only when asked.
pub async fn observe(
    client: Client,
    configuration: String,
    mut signer: watch::Receiver<String>,
    health: Arc<Health>,
    shutdown: CancellationToken,
) -> Result<()> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let edits = edits(api, &configuration);
    pin_mut!(edits);
    let mut seen = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(edited) = edits.next() => seen = Some(edited),
            Ok(()) = signer.changed() => {}
        }
        if let Some(configuration) = &seen {
            let trusted = configuration.as_ref().is_none_or(|configuration| trusts(configuration, &signer.borrow()));
            health.set_trusted(trusted);
        }
    }
}

/// The webhook configuration as it changes; `None` where it does not exist.
fn edits(
    api: Api<MutatingWebhookConfiguration>,
    name: &str,
) -> impl Stream<Item = Option<MutatingWebhookConfiguration>> + Send + use<> {
    watch_object(api, name)
        .default_backoff()
        .inspect_err(|error| warn!(%error, "the webhook configuration can't be watched"))
        .filter_map(|event| ready(event.ok()))
}

fn trusts(configuration: &MutatingWebhookConfiguration, signer: &str) -> bool {
    let bundle = |client: &WebhookClientConfig| {
        client.ca_bundle.as_ref().map(|bundle| String::from_utf8_lossy(&bundle.0).contains(signer))
    };
    configuration.webhooks.iter().flatten().all(|webhook| bundle(&webhook.client_config) == Some(true))
}

/// Reads nothing: it goes by what the watches have seen, and a write on top of an older state is refused.
async fn publish(
    api: &Api<MutatingWebhookConfiguration>,
    certificates: &Certificates,
    secret: Option<&Secret>,
    configuration: Option<MutatingWebhookConfiguration>,
) -> Result<()> {
    let bundle = ByteString(certificates.rotate_if_due(secret).await?.bundle().into_bytes());
    let Some(mut configuration) = configuration else { return Ok(()) };
    let mut changed = false;
    for webhook in configuration.webhooks.iter_mut().flatten() {
        if webhook.client_config.ca_bundle.as_ref() != Some(&bundle) {
            webhook.client_config.ca_bundle = Some(bundle.clone());
            changed = true;
        }
    }
    if changed {
        let name = configuration.name_any();
        api.replace(&name, &PostParams::default(), &configuration).await?;
        info!(configuration = name, "the caBundle was brought up to date");
    }
    Ok(())
}
