//! The caBundles of the webhook configurations and of the APIService: the leader keeps them right, and every replica
//! looks whether it is trusted.

use std::fmt::Debug;
use std::future::ready;
use std::sync::Arc;

use anyhow::Result;
use futures::{Stream, StreamExt, TryStreamExt, pin_mut};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::certificates::{Certificates, TICK};
use crate::operations::health::Health;

/// Name of the APIService of the directory.
const API_SERVICE: &str = "v1alpha1.directory.roster.dev";

/// Something by which kube-apiserver reaches this port.
trait Configuration: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static {
    /// What is trusted on the way.
    fn bundles(&mut self) -> Vec<&mut Option<ByteString>>;
}

impl Configuration for MutatingWebhookConfiguration {
    fn bundles(&mut self) -> Vec<&mut Option<ByteString>> {
        self.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config.ca_bundle).collect()
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    fn bundles(&mut self) -> Vec<&mut Option<ByteString>> {
        self.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config.ca_bundle).collect()
    }
}

impl Configuration for APIService {
    fn bundles(&mut self) -> Vec<&mut Option<ByteString>> {
        self.spec.iter_mut().map(|spec| &mut spec.ca_bundle).collect()
    }
}

/// A configuration as it was last seen.
enum Last<K> {
    Unseen,
    Absent,
    Present(K),
}

impl<K> From<Option<K>> for Last<K> {
    fn from(edited: Option<K>) -> Self {
        edited.map_or(Self::Absent, Self::Present)
    }
}

impl<K> Last<K> {
    const fn is_seen(&self) -> bool {
        !matches!(self, Self::Unseen)
    }

    const fn present(&self) -> Option<&K> {
        if let Self::Present(configuration) = self { Some(configuration) } else { None }
    }
}

/// All of them as they were last seen.
struct Seen {
    mutating: Last<MutatingWebhookConfiguration>,
    validating: Last<ValidatingWebhookConfiguration>,
    service: Last<APIService>,
}

impl Seen {
    const NOTHING: Self = Self { mutating: Last::Unseen, validating: Last::Unseen, service: Last::Unseen };

    const fn is_complete(&self) -> bool {
        self.mutating.is_seen() && self.validating.is_seen() && self.service.is_seen()
    }

    fn all_trust(&self, signer: &str) -> bool {
        trusts(self.mutating.present(), signer)
            && trusts(self.validating.present(), signer)
            && trusts(self.service.present(), signer)
    }
}

/// Publishes the authority until `shutdown`: whenever the authority changes, is due for rotation, or somebody edits
/// a webhook configuration. Errors are logged and tried again: the webhooks go on with the bundle that they have.
///
/// # Errors
/// None of its own; it ends only when asked.
pub async fn keep(client: Client, certificates: Certificates, name: String, shutdown: CancellationToken) -> Result<()> {
    let mutating = edits::<MutatingWebhookConfiguration>(&client, &name);
    let validating = edits::<ValidatingWebhookConfiguration>(&client, &name);
    let service = edits::<APIService>(&client, API_SERVICE);
    let changes = certificates.changes();
    pin_mut!(mutating, validating, service, changes);
    let (mut secret, mut seen) = (None, Seen::NOTHING);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(edited) = mutating.next() => seen.mutating = edited.into(),
            Some(edited) = validating.next() => seen.validating = edited.into(),
            Some(edited) = service.next() => seen.service = edited.into(),
            Some(changed) = changes.next() => secret = Some(changed),
            () = tokio::time::sleep(TICK) => {}
        }
        if let Some(secret) = &secret
            && let Err(error) = publish(&client, &certificates, secret.as_ref(), &mut seen).await
        {
            warn!(error = format!("{error:#}"), name, "the caBundles could not be brought up to date");
        }
    }
}

/// Tells `health` whether kube-apiserver trusts what this replica serves, until `shutdown`. Where there is nothing that
/// reaches it, nobody has to.
///
/// # Errors
/// None of its own; it ends only when asked.
pub async fn observe(
    client: Client,
    name: String,
    mut signer: watch::Receiver<String>,
    health: Arc<Health>,
    shutdown: CancellationToken,
) -> Result<()> {
    let mutating = edits::<MutatingWebhookConfiguration>(&client, &name);
    let validating = edits::<ValidatingWebhookConfiguration>(&client, &name);
    let service = edits::<APIService>(&client, API_SERVICE);
    pin_mut!(mutating, validating, service);
    let mut seen = Seen::NOTHING;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(edited) = mutating.next() => seen.mutating = edited.into(),
            Some(edited) = validating.next() => seen.validating = edited.into(),
            Some(edited) = service.next() => seen.service = edited.into(),
            Ok(()) = signer.changed() => {}
        }
        if seen.is_complete() {
            health.set_trusted(seen.all_trust(&signer.borrow()));
        }
    }
}

/// The configuration as it changes; `None` where it does not exist.
fn edits<K: Configuration>(client: &Client, name: &str) -> impl Stream<Item = Option<K>> + Send + use<K> {
    watch_object(Api::<K>::all(client.clone()), name)
        .default_backoff()
        .inspect_err(|error| warn!(%error, "what kube-apiserver reaches this port by can't be watched"))
        .filter_map(|event| ready(event.ok()))
}

fn trusts<K: Configuration>(configuration: Option<&K>, signer: &str) -> bool {
    let mut configuration = configuration.cloned();
    let mut bundles = configuration.iter_mut().flat_map(Configuration::bundles);
    bundles.all(|bundle| bundle.as_ref().is_some_and(|bundle| String::from_utf8_lossy(&bundle.0).contains(signer)))
}

/// Reads nothing: it goes by what the watches have seen, and a write on top of an older state is refused.
async fn publish(client: &Client, certificates: &Certificates, secret: Option<&Secret>, seen: &mut Seen) -> Result<()> {
    if !seen.is_complete() {
        return Ok(());
    }
    let authorities = certificates.rotate_if_due(secret).await?;
    // Two who write the same field would never come to an end.
    if certificates.are_given() {
        return Ok(());
    }
    let bundle = ByteString(authorities.bundle().into_bytes());
    publish_in(client, &mut seen.mutating, &bundle).await?;
    publish_in(client, &mut seen.validating, &bundle).await?;
    publish_in(client, &mut seen.service, &bundle).await
}

async fn publish_in<K: Configuration>(client: &Client, last: &mut Last<K>, bundle: &ByteString) -> Result<()> {
    let Last::Present(configuration) = last else { return Ok(()) };
    let mut desired = configuration.clone();
    let mut changed = false;
    for current in desired.bundles() {
        if current.as_ref() != Some(bundle) {
            *current = Some(bundle.clone());
            changed = true;
        }
    }
    if changed {
        let name = desired.name_any();
        *configuration = Api::<K>::all(client.clone()).replace(&name, &PostParams::default(), &desired).await?;
        info!(kind = %K::kind(&()), name, "the caBundle was brought up to date");
    }
    Ok(())
}
