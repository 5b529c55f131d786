//! Publishes caBundles of the webhook configurations and the APIService, and the admission paths. The leader keeps them
//! up to date; every replica checks that it is trusted and called at a path that it accepts.

use std::fmt::Debug;
use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::http::Uri;
use futures::{Stream, StreamExt, TryStreamExt, pin_mut};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::authority::Authorities;
use super::certificates::{Certificates, TICK};
use super::origin::{Webhook, WebhookOrigin};
use crate::operations::health::Health;

/// Name of the APIService of the directory.
const API_SERVICE: &str = "v1alpha1.directory.roster.dev";

/// Maximum interval between a replica's checks that kube-apiserver calls it at a path that it accepts.
const RECHECK: Duration = Duration::from_secs(1);

/// How long a replica waits for the leader to publish a path before it does so itself. The leader may be an older
/// version that publishes no paths, and it keeps running until a new replica is ready.
const LEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// A configuration that defines how kube-apiserver reaches this port.
trait Configuration:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + PartialEq + Serialize + Send + 'static
{
    /// Returns its caBundles.
    fn bundles(&mut self) -> Vec<&mut Option<ByteString>>;

    /// Returns the client configuration of each webhook that Roster serves.
    fn targets(&mut self) -> Vec<(Webhook, &mut WebhookClientConfig)> {
        Vec::new()
    }
}

impl Configuration for MutatingWebhookConfiguration {
    fn bundles(&mut self) -> Vec<&mut Option<ByteString>> {
        self.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config.ca_bundle).collect()
    }

    fn targets(&mut self) -> Vec<(Webhook, &mut WebhookClientConfig)> {
        let webhooks = self.webhooks.iter_mut().flatten();
        webhooks.filter_map(|webhook| Some((Webhook::named(&webhook.name)?, &mut webhook.client_config))).collect()
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    fn bundles(&mut self) -> Vec<&mut Option<ByteString>> {
        self.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config.ca_bundle).collect()
    }

    fn targets(&mut self) -> Vec<(Webhook, &mut WebhookClientConfig)> {
        let webhooks = self.webhooks.iter_mut().flatten();
        webhooks.filter_map(|webhook| Some((Webhook::named(&webhook.name)?, &mut webhook.client_config))).collect()
    }
}

impl Configuration for APIService {
    fn bundles(&mut self) -> Vec<&mut Option<ByteString>> {
        self.spec.iter_mut().map(|spec| &mut spec.ca_bundle).collect()
    }
}

/// Last seen state of a configuration.
enum Observed<K> {
    Unseen,
    Absent,
    Present(K),
}

impl<K> From<Option<K>> for Observed<K> {
    fn from(edited: Option<K>) -> Self {
        edited.map_or(Self::Absent, Self::Present)
    }
}

impl<K> Observed<K> {
    const fn is_seen(&self) -> bool {
        !matches!(self, Self::Unseen)
    }

    const fn present(&self) -> Option<&K> {
        if let Self::Present(configuration) = self { Some(configuration) } else { None }
    }
}

/// Last seen state of all configurations.
struct Configurations {
    mutating: Observed<MutatingWebhookConfiguration>,
    validating: Observed<ValidatingWebhookConfiguration>,
    service: Observed<APIService>,
}

impl Configurations {
    const UNSEEN: Self = Self { mutating: Observed::Unseen, validating: Observed::Unseen, service: Observed::Unseen };

    const fn is_complete(&self) -> bool {
        self.mutating.is_seen() && self.validating.is_seen() && self.service.is_seen()
    }

    fn all_trust(&self, signer: &str) -> bool {
        trusts(self.mutating.present(), signer)
            && trusts(self.validating.present(), signer)
            && trusts(self.service.present(), signer)
    }

    fn all_call(&self, origin: &WebhookOrigin, now: Timestamp) -> bool {
        calls(self.mutating.present(), origin, now) && calls(self.validating.present(), origin, now)
    }
}

/// Publishes the authority and the admission paths until `shutdown`: when the authority changes or is due for rotation,
/// or a webhook configuration is edited. Errors are logged and retried; in the meantime the configurations keep their
/// content.
///
/// # Errors
/// Never; it ends only at `shutdown`.
pub async fn keep(client: Client, certificates: Certificates, name: String, shutdown: CancellationToken) -> Result<()> {
    let mutating = edits::<MutatingWebhookConfiguration>(&client, &name);
    let validating = edits::<ValidatingWebhookConfiguration>(&client, &name);
    let service = edits::<APIService>(&client, API_SERVICE);
    let changes = certificates.changes();
    pin_mut!(mutating, validating, service, changes);
    let (mut secret, mut seen) = (None, Configurations::UNSEEN);
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
            warn!(error = format!("{error:#}"), name, "updating caBundles and admission paths failed");
        }
    }
}

/// Reports to `health` whether kube-apiserver trusts this replica's certificate and calls it at paths that it accepts,
/// until `shutdown`. A configuration that does not exist is ignored.
///
/// # Errors
/// Never; it ends only at `shutdown`.
pub async fn observe(
    client: Client,
    certificates: Certificates,
    name: String,
    health: Arc<Health>,
    shutdown: CancellationToken,
) -> Result<()> {
    let mutating = edits::<MutatingWebhookConfiguration>(&client, &name);
    let validating = edits::<ValidatingWebhookConfiguration>(&client, &name);
    let service = edits::<APIService>(&client, API_SERVICE);
    pin_mut!(mutating, validating, service);
    let (mut signer, origin) = (certificates.signer(), WebhookOrigin::new(certificates.authorities()));
    let (mut seen, mut uncalled_since) = (Configurations::UNSEEN, None);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(edited) = mutating.next() => seen.mutating = edited.into(),
            Some(edited) = validating.next() => seen.validating = edited.into(),
            Some(edited) = service.next() => seen.service = edited.into(),
            Ok(()) = signer.changed() => {}
            () = tokio::time::sleep(RECHECK) => {}
        }
        if !seen.is_complete() {
            continue;
        }
        let is_called = seen.all_call(&origin, Timestamp::now());
        health.set_trusted(seen.all_trust(&signer.borrow()));
        health.set_paths_valid(is_called);
        let since = *uncalled_since.get_or_insert_with(Instant::now);
        if is_called {
            uncalled_since = None;
        } else if since.elapsed() >= LEADER_TIMEOUT {
            uncalled_since = None;
            if let Err(error) = publish_as_fallback(&client, &certificates, &mut seen).await {
                warn!(error = format!("{error:#}"), name, "updating admission paths failed");
            }
        }
    }
}

/// Publishes the admission paths in place of the leader. They are derived from the Secret as currently stored, so that
/// a replica that lags behind publishes the same paths as the leader.
async fn publish_as_fallback(client: &Client, certificates: &Certificates, seen: &mut Configurations) -> Result<()> {
    let authorities = certificates.stored().await?;
    publish_paths(client, &Published { authorities: &authorities, bundle: None }, seen).await
}

/// Streams the configuration; `None` if it does not exist.
fn edits<K: Configuration>(client: &Client, name: &str) -> impl Stream<Item = Option<K>> + Send + use<K> {
    watch_object(Api::<K>::all(client.clone()), name)
        .default_backoff()
        .inspect_err(|error| warn!(%error, "watching a webhook configuration or APIService failed, retrying"))
        .filter_map(|event| ready(event.ok()))
}

fn trusts<K: Configuration>(configuration: Option<&K>, signer: &str) -> bool {
    let mut configuration = configuration.cloned();
    let mut bundles = configuration.iter_mut().flat_map(Configuration::bundles);
    bundles.all(|bundle| bundle.as_ref().is_some_and(|bundle| String::from_utf8_lossy(&bundle.0).contains(signer)))
}

/// Whether kube-apiserver calls each webhook at an accepted path.
fn calls<K: Configuration>(configuration: Option<&K>, origin: &WebhookOrigin, now: Timestamp) -> bool {
    let mut configuration = configuration.cloned();
    let mut targets = configuration.iter_mut().flat_map(Configuration::targets);
    targets.all(|(webhook, target)| path(target).is_some_and(|path| origin.prove(&path, now) == Some(webhook)))
}

/// Returns the path that kube-apiserver calls.
fn path(target: &WebhookClientConfig) -> Option<String> {
    match (&target.service, &target.url) {
        (Some(service), _) => service.path.clone(),
        (None, Some(url)) => Some(url.parse::<Uri>().ok()?.path().to_owned()),
        (None, None) => None,
    }
}

/// Sets the path that kube-apiserver calls, at the Service or in the URL.
fn set_path(target: &mut WebhookClientConfig, path: String) {
    if let Some(service) = &mut target.service {
        service.path = Some(path);
    } else if let Some(url) = &mut target.url
        && let Ok(uri) = url.parse::<Uri>()
        && let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority())
    {
        *url = format!("{scheme}://{authority}{path}");
    }
}

/// Desired content of the configurations.
struct Published<'a> {
    authorities: &'a Authorities,
    /// `None` if the caBundles are managed externally.
    bundle: Option<ByteString>,
}

impl Published<'_> {
    /// Applies the content to a configuration.
    fn write<K: Configuration>(&self, configuration: &mut K, now: Timestamp) {
        for (webhook, target) in configuration.targets() {
            set_path(target, webhook.path(self.authorities, now));
        }
        if let Some(bundle) = &self.bundle {
            configuration.bundles().into_iter().for_each(|current| *current = Some(bundle.clone()));
        }
    }
}

/// Publishes based on the watched state, without reading again. kube-apiserver rejects a write that is based on an
/// older state.
async fn publish(
    client: &Client,
    certificates: &Certificates,
    secret: Option<&Secret>,
    seen: &mut Configurations,
) -> Result<()> {
    if !seen.is_complete() {
        return Ok(());
    }
    let authorities = certificates.rotate_if_due(secret).await?;
    // External caBundles are left alone: two writers of the same field would overwrite each other forever.
    let bundle = (!certificates.are_external()).then(|| ByteString(authorities.bundle().into_bytes()));
    let published = Published { authorities: &authorities, bundle };
    publish_paths(client, &published, seen).await?;
    publish_in(client, &published, &mut seen.service).await
}

async fn publish_paths(client: &Client, published: &Published<'_>, seen: &mut Configurations) -> Result<()> {
    publish_in(client, published, &mut seen.mutating).await?;
    publish_in(client, published, &mut seen.validating).await
}

async fn publish_in<K: Configuration>(
    client: &Client,
    published: &Published<'_>,
    last: &mut Observed<K>,
) -> Result<()> {
    let Observed::Present(configuration) = last else { return Ok(()) };
    let mut desired = configuration.clone();
    published.write(&mut desired, Timestamp::now());
    if desired != *configuration {
        let name = desired.name_any();
        *configuration = Api::<K>::all(client.clone()).replace(&name, &PostParams::default(), &desired).await?;
        info!(kind = %K::kind(&()), name, "updated caBundles and admission paths");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use arc_swap::ArcSwap;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn configuration(client_config: &Value) -> ValidatingWebhookConfiguration {
        let webhook = |name| json!({"name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": client_config});
        let webhooks = [webhook("users.guard.roster.dev"), webhook("hints.quota.roster.dev")];
        serde_json::from_value(json!({"metadata": {"name": "roster"}, "webhooks": webhooks})).unwrap()
    }

    #[rstest]
    #[case::as_installed(json!({"service": {"name": "roster", "namespace": "roster-system"}}))]
    #[case::former_path(json!({"service": {"name": "roster", "namespace": "roster-system", "path": "/admission/guard/users"}}))]
    #[case::external(json!({"url": "https://localhost:8443/admission/"}))]
    #[case::external_and_reset(json!({"url": "https://localhost:8443/admission/0/cycles"}))]
    fn a_path_that_no_replica_accepts_is_replaced(#[case] client_config: Value) {
        let now = Timestamp::now();
        let authorities = Authorities::create(now, TICK * 1000).unwrap();
        let origin = WebhookOrigin::new(Arc::new(ArcSwap::from_pointee(authorities.clone())));
        let mut configuration = configuration(&client_config);
        assert!(!calls(Some(&configuration), &origin, now));
        let published = Published { authorities: &authorities, bundle: None };
        published.write(&mut configuration, now);
        assert!(calls(Some(&configuration), &origin, now));
        let written = configuration.clone();
        published.write(&mut configuration, now);
        assert_eq!(configuration, written, "correct paths are kept");
        for (webhook, target) in configuration.targets() {
            let path = webhook.path(&authorities, now);
            assert!(target.ca_bundle.is_none(), "caBundles are managed externally");
            assert!(
                target.url.as_ref().is_none_or(|url| *url == format!("https://localhost:8443{path}")),
                "{target:?}"
            );
        }
    }
}
