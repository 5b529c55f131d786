//! Serving certificate of this replica, and the Secret with the replicas' shared certificate authority.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use futures::{Stream, StreamExt, TryStreamExt, pin_mut};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use prometheus_client::metrics::gauge::Gauge;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::authority::{Authorities, Leaf};
use super::external::ExternalCertificate;
use super::peer::AnyClientCertificate;
use crate::operations::health::Heartbeat;

/// Name of the Secret that holds the authority.
pub const CA_SECRET: &str = "roster-ca";

/// Maximum interval between checks of the clock.
pub const TICK: Duration = Duration::from_secs(10);

/// Options of the serving certificate and its authority.
#[derive(Clone, Debug)]
pub struct CertificateOptions {
    /// Namespace that Roster runs in.
    pub namespace: String,
    /// Name of the Service in front of the TLS port.
    pub service: String,
    /// DNS names and IP addresses in the certificate, besides those of the Service.
    pub subject_alt_names: Vec<String>,
    /// Lifetime of the certificate authority.
    pub authority_lifetime: Duration,
    /// Lifetime of a serving certificate.
    pub certificate_lifetime: Duration,
    /// Secret of type kubernetes.io/tls with an external serving certificate. `None`: Roster issues its own.
    pub external_secret: Option<String>,
}

/// The authority's Secret, and the serving certificate issued from it.
#[derive(Clone)]
pub struct Certificates {
    secrets: Api<Secret>,
    options: Arc<CertificateOptions>,
    serving: Arc<ArcSwap<ServerConfig>>,
    /// Metric: when the serving certificate expires.
    expiry: Gauge<i64, AtomicI64>,
    /// Certificate of the authority that issued the serving certificate, PEM.
    signer: watch::Sender<String>,
    authorities: Arc<ArcSwap<Authorities>>,
}

impl Certificates {
    /// Reads or creates the authority and issues a serving certificate, or reads the external one.
    ///
    /// # Errors
    /// If the Secret can be neither read nor created, or does not parse.
    pub async fn load(client: Client, options: CertificateOptions, expiry: Gauge<i64, AtomicI64>) -> Result<Self> {
        let secrets = Api::namespaced(client, &options.namespace);
        let authorities = load_or_create(&secrets, options.authority_lifetime).await?;
        let now = Timestamp::now();
        let (server, not_after, signer) = if let Some(name) = &options.external_secret {
            let read = async { ExternalCertificate::read(&secrets.get(name).await?) };
            let external = read.await.with_context(|| format!("Secret {name} of --serving-certificate-secret"))?;
            let ExternalCertificate { chain, key, authority, not_after } = external;
            (server_config(chain, key)?, not_after, authority)
        } else {
            let leaf = issue(&authorities, &options, now)?;
            (server_config_of(&leaf)?, leaf.not_after, authorities.signer(now).cert_pem().to_owned())
        };
        expiry.set(not_after.as_second());
        let serving = Arc::new(ArcSwap::from_pointee(server));
        let authorities = Arc::new(ArcSwap::from_pointee(authorities));
        let options = Arc::new(options);
        Ok(Self { secrets, options, serving, expiry, signer: watch::Sender::new(signer), authorities })
    }

    /// Whether the serving certificate and the caBundles are managed externally.
    pub fn are_external(&self) -> bool {
        self.options.external_secret.is_some()
    }

    /// Returns the current TLS configuration, for new connections.
    pub fn serving(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.serving)
    }

    /// Returns the current authorities.
    pub fn authorities(&self) -> Arc<ArcSwap<Authorities>> {
        Arc::clone(&self.authorities)
    }

    /// Returns a receiver of the authority, PEM, that clients must trust to reach this replica.
    pub fn signer(&self) -> watch::Receiver<String> {
        self.signer.subscribe()
    }

    /// Keeps the serving certificate up to date until `shutdown`: follows the Secret and the clock.
    ///
    /// # Errors
    /// If a certificate can't be issued from a Secret that parses.
    pub async fn keep(self, heartbeat: Arc<Heartbeat>, shutdown: CancellationToken) -> Result<()> {
        let changes = self.changes();
        let external = self.external();
        pin_mut!(changes, external);
        let mut authorities: Option<Authorities> = None;
        let mut current: Option<(String, Timestamp)> = None;
        loop {
            heartbeat.beat();
            if let Some(authorities) = authorities.as_ref().filter(|_| !self.are_external()) {
                let now = Timestamp::now();
                let signer = authorities.signer(now);
                if current.as_ref().is_none_or(|(cert, renew_at)| cert != signer.cert_pem() || now >= *renew_at) {
                    let leaf = issue(authorities, &self.options, now)?;
                    self.serving.store(Arc::new(server_config_of(&leaf)?));
                    self.expiry.set(leaf.not_after.as_second());
                    info!(renew_at = %leaf.renew_at, "issued a serving certificate");
                    self.signer.send_replace(signer.cert_pem().to_owned());
                    current = Some((signer.cert_pem().to_owned(), leaf.renew_at));
                }
            }
            let until_renewal = current.as_ref().map_or(TICK, |(_, renew_at)| {
                Duration::try_from(renew_at.duration_since(Timestamp::now())).unwrap_or_default()
            });
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                // If the Secret was deleted, the certificate issued from it stays in use until the leader has
                // recreated the Secret.
                Some(Some(secret)) = changes.next() => match read(&secret) {
                    Ok(read) => {
                        self.authorities.store(Arc::new(read.clone()));
                        authorities = Some(read);
                    }
                    Err(error) => {
                        warn!(error = format!("{error:#}"), "certificate authority is invalid, keeping the previous one");
                    }
                },
                Some(Some(secret)) = external.next() => if let Err(error) = self.use_external(&secret) {
                    warn!(error = format!("{error:#}"), "external serving certificate is invalid, keeping the previous one");
                },
                () = tokio::time::sleep(until_renewal.clamp(Duration::from_millis(100), TICK)) => {}
            }
        }
    }

    /// Brings the authority's Secret up to date: creates the first authority, adds a successor if due, removes expired
    /// ones. Leader only. Returns the resulting authorities.
    ///
    /// # Errors
    /// If the Secret can't be written, or another writer changed it in the meantime.
    pub async fn rotate_if_due(&self, secret: Option<&Secret>) -> Result<Authorities> {
        let lifetime = self.options.authority_lifetime;
        let Some(secret) = secret else { return load_or_create(&self.secrets, lifetime).await };
        let authorities = read(secret)?;
        let Some(next) = authorities.rotated(Timestamp::now(), lifetime)? else { return Ok(authorities) };
        let secret = Secret { data: Some(next.write()), ..secret.clone() };
        self.secrets.replace(CA_SECRET, &PostParams::default(), &secret).await?;
        info!("rotated the certificate authority");
        Ok(next)
    }

    /// Reads the authorities from the Secret.
    ///
    /// # Errors
    /// If the Secret does not exist, can't be read or does not parse.
    pub async fn stored(&self) -> Result<Authorities> {
        read(&self.secrets.get(CA_SECRET).await?)
    }

    /// Serves with the external certificate.
    fn use_external(&self, secret: &Secret) -> Result<()> {
        let ExternalCertificate { chain, key, authority, not_after } = ExternalCertificate::read(secret)?;
        self.serving.store(Arc::new(server_config(chain, key)?));
        self.expiry.set(not_after.as_second());
        self.signer.send_replace(authority);
        info!(%not_after, "loaded the external serving certificate");
        Ok(())
    }

    /// Streams the authority's Secret; `None` if it does not exist.
    pub fn changes(&self) -> impl Stream<Item = Option<Secret>> + Send + use<> {
        self.follow(CA_SECRET)
    }

    /// Streams the Secret with the external serving certificate, if there is one.
    fn external(&self) -> impl Stream<Item = Option<Secret>> + Send + use<> {
        match &self.options.external_secret {
            Some(name) => self.follow(name).left_stream(),
            None => futures::stream::pending().right_stream(),
        }
    }

    fn follow(&self, name: &str) -> impl Stream<Item = Option<Secret>> + Send + use<> {
        let what = name.to_owned();
        watch_object(self.secrets.clone(), name)
            .default_backoff()
            .inspect_err(move |error| warn!(%error, what, "watching a certificate Secret failed, retrying"))
            .filter_map(|event| std::future::ready(event.ok()))
    }
}

async fn load_or_create(secrets: &Api<Secret>, lifetime: Duration) -> Result<Authorities> {
    if let Some(secret) = secrets.get_opt(CA_SECRET).await? {
        return read(&secret);
    }
    let first = Authorities::create(Timestamp::now(), lifetime)?;
    let secret = Secret {
        metadata: ObjectMeta { name: Some(CA_SECRET.to_owned()), ..ObjectMeta::default() },
        data: Some(first.write()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(first),
        // Another replica created it first.
        Err(kube::Error::Api(status)) if status.code == 409 => read(&secrets.get(CA_SECRET).await?),
        Err(error) => Err(error.into()),
    }
}

fn read(secret: &Secret) -> Result<Authorities> {
    Authorities::read(secret.data.as_ref().unwrap_or(&BTreeMap::new())).with_context(|| {
        format!("Secret {CA_SECRET} does not parse: delete it, and the leader creates a new authority")
    })
}

fn issue(authorities: &Authorities, options: &CertificateOptions, now: Timestamp) -> Result<Leaf> {
    let service = format!("{}.{}.svc", options.service, options.namespace);
    let mut names = vec![service.clone(), format!("{service}.cluster.local"), "localhost".to_owned()];
    names.extend(options.subject_alt_names.iter().cloned());
    authorities.signer(now).issue(&names, now, options.certificate_lifetime)
}

fn server_config_of(leaf: &Leaf) -> Result<ServerConfig> {
    let chain = vec![CertificateDer::from(leaf.cert_der.clone())];
    server_config(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key_der.to_vec())))
}

fn server_config(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerConfig> {
    let builder = ServerConfig::builder().with_client_cert_verifier(Arc::new(AnyClientCertificate::new()?));
    let mut config = builder.with_single_cert(chain, key)?;
    // No HTTP/2: when a replica dies, kube-apiserver's Go client retries reads on another replica only if each request
    // had its own connection. It does not retry those that shared one.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
