//! The serving certificate of this replica, and the Secret that the replicas' common authority lives in.

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
use super::given::Given;
use super::peer::AnyClientCertificate;
use crate::operations::health::Heartbeat;

/// Name of the Secret that holds the authority.
pub const CA_SECRET: &str = "roster-ca";

/// How often, at least, the loop looks at the clock.
pub const TICK: Duration = Duration::from_secs(10);

/// What the serving certificate is issued for, and by whom.
#[derive(Clone, Debug)]
pub struct CertificateOptions {
    /// Namespace that Roster runs in.
    pub namespace: String,
    /// Name of the Service in front of the TLS port.
    pub service: String,
    /// DNS names and IP addresses of the certificate, besides those of the Service.
    pub subject_alt_names: Vec<String>,
    /// Lifetime of the certificate authority.
    pub authority_lifetime: Duration,
    /// Lifetime of a serving certificate.
    pub certificate_lifetime: Duration,
    /// Secret of type kubernetes.io/tls that holds the serving certificate. `None`: Roster issues its own.
    pub given_secret: Option<String>,
}

/// The authority's Secret, and what is made from it.
#[derive(Clone)]
pub struct Certificates {
    secrets: Api<Secret>,
    options: Arc<CertificateOptions>,
    serving: Arc<ArcSwap<ServerConfig>>,
    /// When the serving certificate expires, for whoever looks at metrics.
    expiry: Gauge<i64, AtomicI64>,
    /// Certificate of the authority that the serving certificate is from, PEM.
    signer: watch::Sender<String>,
    authorities: Arc<ArcSwap<Authorities>>,
}

impl Certificates {
    /// Reads the authority, or makes the first one, and issues a serving certificate, or reads the one that is given.
    ///
    /// # Errors
    /// If the Secret can be neither read nor created, or does not parse.
    pub async fn load(client: Client, options: CertificateOptions, expiry: Gauge<i64, AtomicI64>) -> Result<Self> {
        let secrets = Api::namespaced(client, &options.namespace);
        let authorities = load_or_create(&secrets, options.authority_lifetime).await?;
        let now = Timestamp::now();
        let (server, not_after, signer) = if let Some(name) = &options.given_secret {
            let read = async { Given::read(&secrets.get(name).await?) };
            let given = read.await.with_context(|| format!("Secret {name} of --serving-certificate-secret"))?;
            let Given { chain, key, authority, not_after } = given;
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

    /// Whether somebody else makes the serving certificate, and sees to it that it is trusted.
    pub fn are_given(&self) -> bool {
        self.options.given_secret.is_some()
    }

    /// The TLS configuration of the moment. New connections use what is there when they arrive.
    pub fn serving(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.serving)
    }

    /// The authorities of the moment.
    pub fn authorities(&self) -> Arc<ArcSwap<Authorities>> {
        Arc::clone(&self.authorities)
    }

    /// The authority that clients have to trust to reach this replica, as it changes.
    pub fn signer(&self) -> watch::Receiver<String> {
        self.signer.subscribe()
    }

    /// Keeps the serving certificate right until `shutdown`: it follows the Secret and the clock.
    ///
    /// # Errors
    /// If a certificate can't be issued from a Secret that parses.
    pub async fn keep(self, heartbeat: Arc<Heartbeat>, shutdown: CancellationToken) -> Result<()> {
        let changes = self.changes();
        let given = self.given();
        pin_mut!(changes, given);
        let mut authorities: Option<Authorities> = None;
        let mut current: Option<(String, Timestamp)> = None;
        loop {
            heartbeat.beat();
            if let Some(authorities) = authorities.as_ref().filter(|_| !self.are_given()) {
                let now = Timestamp::now();
                let signer = authorities.signer(now);
                if current.as_ref().is_none_or(|(cert, renew_at)| cert != signer.cert_pem() || now >= *renew_at) {
                    let leaf = issue(authorities, &self.options, now)?;
                    self.serving.store(Arc::new(server_config_of(&leaf)?));
                    self.expiry.set(leaf.not_after.as_second());
                    info!(renew_at = %leaf.renew_at, "a serving certificate was issued");
                    self.signer.send_replace(signer.cert_pem().to_owned());
                    current = Some((signer.cert_pem().to_owned(), leaf.renew_at));
                }
            }
            let until_renewal = current.as_ref().map_or(TICK, |(_, renew_at)| {
                Duration::try_from(renew_at.duration_since(Timestamp::now())).unwrap_or_default()
            });
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                // Where the Secret was deleted, what was made from it serves until the leader has made a new one.
                Some(Some(secret)) = changes.next() => match read(&secret) {
                    Ok(read) => {
                        self.authorities.store(Arc::new(read.clone()));
                        authorities = Some(read);
                    }
                    Err(error) => warn!(error = format!("{error:#}"), "the certificate authority is not used"),
                },
                Some(Some(secret)) = given.next() => if let Err(error) = self.take(&secret) {
                    warn!(error = format!("{error:#}"), "the serving certificate that is given is not used");
                },
                () = tokio::time::sleep(until_renewal.clamp(Duration::from_millis(100), TICK)) => {}
            }
        }
    }

    /// Brings the authority's Secret up to date: a first authority where there is none, a successor where one is due,
    /// none that has expired. Leader only. Returns the authorities as they stand afterwards.
    ///
    /// # Errors
    /// If the Secret can't be written, or somebody else wrote it meanwhile.
    pub async fn rotate_if_due(&self, secret: Option<&Secret>) -> Result<Authorities> {
        let lifetime = self.options.authority_lifetime;
        let Some(secret) = secret else { return load_or_create(&self.secrets, lifetime).await };
        let authorities = read(secret)?;
        let Some(next) = authorities.rotated(Timestamp::now(), lifetime)? else { return Ok(authorities) };
        let secret = Secret { data: Some(next.write()), ..secret.clone() };
        self.secrets.replace(CA_SECRET, &PostParams::default(), &secret).await?;
        info!("the certificate authority was rotated");
        Ok(next)
    }

    /// Reads the authorities from the Secret.
    ///
    /// # Errors
    /// If the Secret does not exist, can't be read or does not parse.
    pub async fn stored(&self) -> Result<Authorities> {
        read(&self.secrets.get(CA_SECRET).await?)
    }

    /// Serves with the certificate that is given.
    fn take(&self, secret: &Secret) -> Result<()> {
        let Given { chain, key, authority, not_after } = Given::read(secret)?;
        self.serving.store(Arc::new(server_config(chain, key)?));
        self.expiry.set(not_after.as_second());
        self.signer.send_replace(authority);
        info!(%not_after, "the serving certificate that is given was taken");
        Ok(())
    }

    /// The authority's Secret as it changes; `None` where it does not exist.
    pub fn changes(&self) -> impl Stream<Item = Option<Secret>> + Send + use<> {
        self.follow(CA_SECRET)
    }

    /// The same of the Secret with the serving certificate, where it is given.
    fn given(&self) -> impl Stream<Item = Option<Secret>> + Send + use<> {
        match &self.options.given_secret {
            Some(name) => self.follow(name).left_stream(),
            None => futures::stream::pending().right_stream(),
        }
    }

    fn follow(&self, name: &str) -> impl Stream<Item = Option<Secret>> + Send + use<> {
        let what = name.to_owned();
        watch_object(self.secrets.clone(), name)
            .default_backoff()
            .inspect_err(move |error| warn!(%error, what, "a Secret with certificates can't be watched"))
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
        // Another replica was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => read(&secrets.get(CA_SECRET).await?),
        Err(error) => Err(error.into()),
    }
}

fn read(secret: &Secret) -> Result<Authorities> {
    Authorities::read(secret.data.as_ref().unwrap_or(&BTreeMap::new()))
        .with_context(|| format!("Secret {CA_SECRET} does not parse: delete it to have a new authority made"))
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
    // Not HTTP/2: when a replica dies, kube-apiserver asks another one for what was being read only where each request had a
    // connection to itself. Its client in Go repeats those, and none of those that shared one.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
