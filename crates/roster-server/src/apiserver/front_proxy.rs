//! Recognizes kube-apiserver's aggregator by the front-proxy certificate, with the current authorities and names of the
//! ConfigMap `extension-apiserver-authentication`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwapOption;
use axum::http::{HeaderMap, HeaderName};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use moka::sync::Cache;
use roster_runtime::operations::health::Health;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::delegation::ANSWER_TTL;
use super::identity::{Caller, HeaderNames};

const CONFIG_MAP: &str = "extension-apiserver-authentication";

/// Maximum number of intermediate certificates: clients choose the chain that they present.
const MAX_INTERMEDIATES: usize = 4;

/// Maximum number of cached chains. Each kube-apiserver presents one, and a new one after each renewal.
const MAX_CHAINS: u64 = 64;

/// Certificate chain of a client, its own certificate first.
type Chain = Vec<CertificateDer<'static>>;

/// Trust settings from the ConfigMap.
struct Trusted {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Allowed common names. If empty, every name is allowed.
    names: Vec<String>,
    headers: HeaderNames,
    /// Chains that were verified. Verifying signatures takes longer than most requests.
    recognized: Cache<Chain, ()>,
}

impl Trusted {
    fn recognizes(&self, chain: &[CertificateDer<'static>]) -> bool {
        if self.recognized.contains_key(chain) {
            return true;
        }
        let is_recognized = self.verifies(chain);
        if is_recognized {
            self.recognized.insert(chain.to_vec(), ());
        }
        is_recognized
    }

    fn verifies(&self, chain: &[CertificateDer<'static>]) -> bool {
        let Some((own, intermediates)) = chain.split_first().filter(|(_, rest)| rest.len() <= MAX_INTERMEDIATES) else {
            return false;
        };
        if let Err(error) = self.verifier.verify_client_cert(own, intermediates, UnixTime::now()) {
            debug!(%error, "client certificate is not from the front proxy's authorities");
            return false;
        }
        let is_named = self.names.is_empty() || common_name(own).is_some_and(|name| self.names.contains(&name));
        if !is_named {
            debug!("common name of a client certificate is not allowed for the front proxy");
        }
        is_named
    }
}

/// Recognizes the aggregator.
#[derive(Default)]
pub struct FrontProxy {
    trusted: ArcSwapOption<Trusted>,
    known: AtomicBool,
}

impl FrontProxy {
    /// Returns whether the chain is the aggregator's, by the current settings.
    pub fn recognizes(&self, chain: &[CertificateDer<'static>]) -> bool {
        self.trusted.load().as_ref().is_some_and(|trusted| trusted.recognizes(chain))
    }

    /// Returns the caller that the headers name, if the certificates are the aggregator's.
    pub fn authenticate(&self, chain: &[CertificateDer<'static>], headers: &HeaderMap) -> Option<Caller> {
        let trusted = self.trusted.load_full().filter(|trusted| trusted.recognizes(chain))?;
        match trusted.headers.read(headers) {
            Ok(caller) => caller,
            Err(error) => {
                warn!(%error, "identity headers of the front proxy are invalid");
                None
            }
        }
    }

    /// Returns whether the ConfigMap has been read. Until then, no certificate can be rejected.
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// Follows the ConfigMap until `shutdown`, and reports to `health` when it has been read.
    ///
    /// # Errors
    /// If the watch ends. A ConfigMap that does not parse is not trusted, and is not an error.
    pub async fn follow(
        self: Arc<Self>,
        client: Client,
        health: Arc<Health>,
        shutdown: CancellationToken,
    ) -> Result<()> {
        let changes = watch_object(Api::<ConfigMap>::namespaced(client, "kube-system"), CONFIG_MAP).default_backoff();
        pin_mut!(changes);
        loop {
            let change = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                change = changes.next() => change.context("the watch of the front proxy's authorities ended")?,
            };
            match change {
                Ok(config) => {
                    self.set(&config.and_then(|config| config.data).unwrap_or_default());
                    health.set_front_proxy_known();
                }
                Err(error) => warn!(%error, "watching the front proxy's authorities failed, retrying"),
            }
        }
    }

    pub(super) fn set(&self, config: &BTreeMap<String, String>) {
        match read(config) {
            Ok(trusted) => {
                info!(names = ?trusted.names, "loaded the front proxy's authorities");
                self.trusted.store(Some(Arc::new(trusted)));
            }
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    "front proxy authorities are invalid, rejecting requests through the aggregation layer"
                );
                self.trusted.store(None);
            }
        }
        self.known.store(true, Ordering::Release);
    }
}

fn read(config: &BTreeMap<String, String>) -> Result<Trusted> {
    let bundle = config.get("requestheader-client-ca-file").context("requestheader-client-ca-file is missing")?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.context("requestheader-client-ca-file is not PEM")?)?;
    }
    ensure!(!roots.is_empty(), "requestheader-client-ca-file contains no certificate");
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
    let headers = HeaderNames {
        username: header_names(config, "requestheader-username-headers")?,
        uid: header_names(config, "requestheader-uid-headers")?,
        groups: header_names(config, "requestheader-group-headers")?,
        extra_prefixes: list(config, "requestheader-extra-headers-prefix")?
            .into_iter()
            .map(|prefix| prefix.to_ascii_lowercase())
            .collect(),
    };
    let recognized = Cache::builder().max_capacity(MAX_CHAINS).time_to_live(ANSWER_TTL).build();
    Ok(Trusted { verifier, names: list(config, "requestheader-allowed-names")?, headers, recognized })
}

fn list(config: &BTreeMap<String, String>, key: &str) -> Result<Vec<String>> {
    let Some(text) = config.get(key).filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    serde_json::from_str::<Option<Vec<String>>>(text).map(Option::unwrap_or_default).with_context(|| key.to_owned())
}

fn header_names(config: &BTreeMap<String, String>, key: &str) -> Result<Vec<HeaderName>> {
    list(config, key)?.iter().map(|name| name.parse().with_context(|| format!("{key}: {name:?}"))).collect()
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    // kube-apiserver also uses the last of several common names.
    parsed.subject().iter_common_name().last()?.as_str().ok().map(str::to_owned)
}
