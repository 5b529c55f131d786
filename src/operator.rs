//! `roster run`: puts the parts together.
//!
//! ```text
//!  every replica:  probes, serving certificate, TLS port (admission), directory, tombstones of deleted Users
//!  the leader:     User, Group and RoleBinding controllers, certificate authority, caBundles and admission paths
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt;
use kube::{Client, Config};
use roster_controllers::native::NativeWriter;
use roster_controllers::{group, quota, role_binding, tombstones, user};
use roster_credentials::policy::PasswordPolicy;
use roster_credentials::pool::HashPool;
use roster_credentials::seal::Sealer;
use roster_runtime::informers::Informers;
use roster_runtime::logins::Logins;
use roster_runtime::logins::audiences::{self, Audiences};
use roster_runtime::logins::issuer::Issuer;
use roster_runtime::logins::last_use::LastUse;
use roster_runtime::logins::recognizer::Recognizer;
use roster_runtime::logins::recount;
use roster_runtime::logins::sealing_key;
use roster_runtime::logins::signing_keys::SigningKeyStore;
use roster_runtime::logins::vault::Vault;
use roster_runtime::logins::verifier::Verifier;
use roster_runtime::metrics::Metrics;
use roster_runtime::notifications::Notifier;
use roster_runtime::operations::health::{self, Health, Heartbeat};
use roster_runtime::operations::leader::{Campaign, Pulses};
use roster_runtime::operations::supervisor::Supervisor;
use roster_runtime::tls::api_servers;
use roster_runtime::tls::certificates::Certificates;
use roster_runtime::tls::connections::{LIMITS, PROBE_LIMITS};
use roster_runtime::tls::listener::{self, Port};
use roster_runtime::tls::origin::Origin;
use roster_runtime::tls::trust;
use roster_server::admission::guard::Guard;
use roster_server::admission::quota::hints::Hints;
use roster_server::admission::quota::namespaces::NamespaceCount;
use roster_server::admission::review::Parser;
use roster_server::admission::server::{self, Admission};
use roster_server::apiserver;
use roster_server::apiserver::front_proxy::FrontProxy;
use roster_server::apiserver::state::Parts;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::RunConfig;

/// How long a loop may at least stand still before the process counts as stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If the configuration is wrong, a port can't be bound, or a task ends by itself: also when the lead is lost.
pub async fn run(config: RunConfig) -> Result<()> {
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::default());
    let hashing = &config.hashing;
    let cost = hashing.cost().map_err(anyhow::Error::msg)?;
    let pool = HashPool::new(cost, hashing.slots(), usize::from(hashing.queue), metrics.hashing.clone());
    let access = access().await.context("no access to a cluster: set KUBECONFIG, or run inside one")?;
    let of_api_server = audiences::of_api_server(&access).await;
    let client = Client::try_from(access.clone())?;

    let mut supervisor = Supervisor::default();
    let shutdown = supervisor.shutdown();
    let probes = bind(config.probe_listen, "--probe-listen").await?;
    let tls = bind(config.listen, "--listen").await?;
    info!(version = env!("CARGO_PKG_VERSION"), listen = %config.listen, probes = %config.probe_listen, "starting");
    supervisor.spawn("probes", listener::serve(probes, probe_port(&health, &metrics), shutdown.clone()));

    let informers = Arc::new(Informers::new(config.rbac.expand_groups, Arc::clone(&metrics)));
    let own = (client.clone(), config.namespace.clone());
    supervisor.spawn("informers", Arc::clone(&informers).run(own, Arc::clone(&health), shutdown.clone()));
    let certificates = retried("the certificates", || {
        Certificates::load(client.clone(), config.certificates(), metrics.certificate_expiry.clone())
    });
    let signing_keys = retried("the signing keys", || SigningKeyStore::load(client.clone(), &config.namespace));
    let sealer = retried("the sealing key", || sealing_key::load(client.clone(), &config.namespace));
    let (certificates, signing_keys, sealer) = tokio::try_join!(certificates, signing_keys, sealer)?;
    let heartbeat = health.watch_over("certificates", PATIENCE);
    supervisor.spawn("certificates", certificates.clone().keep(heartbeat, shutdown.clone()));
    let guard = Guard::new(client.clone(), config.service_account(), Arc::clone(&informers), config.rbac.policy());
    let guard = Arc::new(guard);
    supervisor.spawn("signing keys", signing_keys.clone().follow(shutdown.clone()));
    let policy = Arc::new(config.logins.password_policy()?);
    let issuer = Arc::new(issuer(&config, of_api_server, &signing_keys));
    let signer = Arc::clone(&issuer);
    let (notifier, courier) = Notifier::new(config.notification.options(), signer, metrics.notifications.clone())?;
    supervisor.spawn("notifications", courier.run(shutdown.clone()));
    let tools = (issuer, notifier.clone(), Arc::new(sealer));
    // Slots of their own: a flood of logins must not keep password Secrets from being hashed. The memory is shared.
    let passwords = (pool.sibling(), &policy);
    let (logins, last_use) = logins(&client, &config, &informers, tools, passwords, &metrics);
    let (vault, limits) = (Arc::clone(&logins.vault), config.logins.limits());
    supervisor.spawn("uncounted failures", recount::run(vault, Arc::clone(&informers), limits, shutdown.clone()));
    supervisor.spawn("last use", last_use.run(config.logins.last_use_interval, shutdown.clone()));
    let front_proxy = Arc::new(FrontProxy::default());
    supervisor
        .spawn("front proxy", Arc::clone(&front_proxy).follow(client.clone(), Arc::clone(&health), shutdown.clone()));
    let recognizer = Arc::clone(&front_proxy);
    let parts = Parts {
        informers: Arc::clone(&informers),
        client: client.clone(),
        front_proxy,
        authorities: certificates.authorities(),
        logins,
        guard: Arc::clone(&guard),
        metrics: Arc::clone(&metrics),
        shutdown: shutdown.clone(),
    };
    let directory = apiserver::router::router(parts, Arc::clone(&health));
    let admission = admission(&client, &config, &informers, (guard, pool.clone()), &metrics);
    let origin = Origin::new(certificates.authorities());
    let app = server::router(admission, origin).merge(directory);
    let leaving = shutdown.child_token();
    let port = Port {
        tls: Some(certificates.serving()),
        limits: LIMITS,
        app,
        is_api_server: Arc::new(move |chain| recognizer.recognises(chain)),
        api_servers: api_servers::expected(client.clone()).await,
        shed: metrics.connections_shed.clone(),
        leaving: leaving.clone(),
    };
    supervisor.spawn("tls", listener::serve(tls, port, shutdown.clone()));
    health.set_serving(true);
    let webhooks = config.webhook_configuration.clone();
    let trust = trust::observe(client.clone(), certificates.clone(), webhooks, Arc::clone(&health), shutdown.clone());
    supervisor.spawn("trust", trust);

    let tombstones = tombstones::Context::new(&client, &config.namespace, &informers, &metrics);
    supervisor.spawn("tombstones", tombstones::run(tombstones, shutdown.clone()).map(Ok));
    let (drain, runtime) = (config.drain, health.watch_over_runtime("main runtime", PATIENCE));
    let campaigning = Arc::clone(&config);
    let candidate = Arc::clone(&health);
    let campaign = move || campaign(access, &campaigning, &candidate, runtime);
    let leading = Leading { client, config, certificates, signing_keys, pool, policy, informers, notifier, metrics };
    let led = leading.run(campaign, leaving.clone());
    supervisor.spawn("leader", async move {
        Box::pin(led).await?;
        shutdown.cancelled().await;
        Ok(())
    });

    supervisor
        .run(async move {
            terminated().await;
            info!(?drain, "asked to end");
            // Another replica leads at once. This one goes on answering for as long as it takes until everybody knows
            // that it is no longer ready: the guard fails closed.
            health.set_serving(false);
            leaving.cancel();
            tokio::select! {
                () = tokio::time::sleep(drain) => {}
                () = terminated() => {}
            }
        })
        .await
}

/// Probes and metrics, in plain HTTP. Each answer stands alone, so no client has to be sent to another replica.
fn probe_port(health: &Arc<Health>, metrics: &Arc<Metrics>) -> Port {
    Port {
        tls: None,
        limits: PROBE_LIMITS,
        app: health::router(Arc::clone(health), Arc::clone(metrics)),
        is_api_server: Arc::new(|_| false),
        api_servers: Vec::new(),
        shed: metrics.connections_shed.clone(),
        leaving: CancellationToken::new(),
    }
}

/// Starts the leader election, with a client of its own: a connection that is shared waits for threads that are shared.
/// `runtime`: of the controllers.
fn campaign(access: Config, config: &RunConfig, health: &Health, runtime: Arc<Heartbeat>) -> Result<Campaign> {
    let pulses = Pulses {
        // An attempt may take as long as the renew deadline.
        election: health.watch_over("leader election", PATIENCE.max(config.lease.renew_deadline * 2)),
        controllers: runtime,
    };
    let connect = move || Ok(Client::try_from(access)?);
    Campaign::start(connect, config.namespace.clone(), config.lease.options(), pulses)
}

/// How the API server is reached.
async fn access() -> Result<Config> {
    let mut config = Config::infer().await?;
    // To compress a long list costs kube-apiserver, and Roster, more than the network within a cluster gains by it.
    config.disable_compression = true;
    Ok(config)
}

async fn bind(address: std::net::SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag} {address}"))
}

/// The API server may come up after Roster does: waits for it, but not for ever.
async fn retried<T, F: Future<Output = Result<T>>>(what: &str, mut load: impl FnMut() -> F) -> Result<T> {
    const ATTEMPTS: u32 = 30;
    for attempt in 1.. {
        match load().await {
            Err(error) if attempt < ATTEMPTS => {
                warn!(error = format!("{error:#}"), attempt, "{what} could not be loaded, and it is tried again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            outcome => return outcome.with_context(|| format!("{what} could not be loaded")),
        }
    }
    unreachable!("the last attempt returns")
}

fn issuer(config: &RunConfig, of_api_server: Vec<String>, signing_keys: &SigningKeyStore) -> Issuer {
    let logins = &config.logins;
    let url = logins.issuer_url.clone();
    let url = url.unwrap_or_else(|| format!("https://{}.{}.svc", config.service, config.namespace));
    let audiences =
        Audiences { accepted: logins.token_audiences.clone(), foreign: logins.oidc_audiences.clone(), of_api_server };
    if audiences.of_api_server.is_empty() {
        warn!("kube-apiserver's audiences are unknown: the token webhook accepts those of --token-audiences alone");
    }
    Issuer::new(&url, audiences, logins.token_lifetime, signing_keys.keys())
}

/// What the webhooks are served with, on every replica.
fn admission(
    client: &Client,
    config: &RunConfig,
    informers: &Arc<Informers>,
    (guard, pool): (Arc<Guard>, HashPool),
    metrics: &Arc<Metrics>,
) -> Admission {
    Admission {
        pool,
        guard,
        namespaces: NamespaceCount::new(client.clone(), &config.namespace, Arc::clone(informers)),
        hints: Hints::new(client.clone(), Arc::clone(informers)),
        parser: Parser::default(),
        metrics: Arc::clone(metrics),
    }
}

/// What logins are served with, on every replica.
fn logins(
    client: &Client,
    config: &RunConfig,
    informers: &Arc<Informers>,
    (issuer, notifier, sealer): (Arc<Issuer>, Notifier, Arc<Sealer>),
    (pool, policy): (HashPool, &Arc<PasswordPolicy>),
    metrics: &Arc<Metrics>,
) -> (Arc<Logins>, Arc<LastUse>) {
    let logins = &config.logins;
    let vault = Arc::new(Vault::new(client.clone(), &config.namespace, Arc::clone(metrics)));
    let last_use = LastUse::new(client.clone(), Arc::clone(informers), Arc::clone(&vault), Arc::clone(metrics));
    let last_use = Arc::new(last_use);
    let (own_vault, own_last_use) = (Arc::clone(&vault), Arc::clone(&last_use));
    let recognizer = Recognizer::new(Arc::clone(informers), Arc::clone(&issuer), own_vault, own_last_use);
    let kept = (Arc::clone(&vault), Arc::clone(&last_use));
    let rules = (logins.limits(), Arc::clone(policy), Arc::clone(&sealer));
    let verifier = Verifier::new(Arc::clone(informers), kept, pool, rules, Arc::clone(metrics));
    let logins = Logins {
        verifier,
        issuer,
        recognizer: Arc::new(recognizer),
        vault,
        sealer,
        notifier,
        longest_key: logins.api_key_max_lifetime,
        trusted_proxies: logins.trusted_proxies.clone(),
    };
    (Arc::new(logins), last_use)
}

async fn terminated() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("signals can't be received; only SIGKILL ends this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// What only one replica does at a time.
struct Leading {
    client: Client,
    config: Arc<RunConfig>,
    certificates: Certificates,
    signing_keys: SigningKeyStore,
    pool: HashPool,
    policy: Arc<PasswordPolicy>,
    informers: Arc<Informers>,
    notifier: Notifier,
    metrics: Arc<Metrics>,
}

impl Leading {
    /// Campaigns once the informers have synced: until then this replica could do nothing with the lease, and would keep
    /// it from one that knows the cluster.
    async fn run(self, campaign: impl FnOnce() -> Result<Campaign>, shutdown: CancellationToken) -> Result<()> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = self.informers.synced() => {}
        }
        let mut campaign = campaign()?;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            acquired = campaign.acquired() => acquired?,
        }
        self.metrics.leader.set(1);
        let outcome = tokio::select! {
            // A lost lead ends the process through the supervisor, without waiting for what the controllers do.
            lost = campaign.ended() => return lost.context("the lead is lost"),
            ended = self.control(shutdown.clone()) => ended,
        };
        self.metrics.leader.set(0);
        if shutdown.is_cancelled()
            && let Err(error) = campaign.resign().await
        {
            warn!(
                error = format!("{error:#}"),
                "the lease could not be released; the next leader waits for it to expire"
            );
        }
        outcome
    }

    async fn control(&self, shutdown: CancellationToken) -> Result<()> {
        self.informers.lead();
        let concurrency = self.config.concurrency;
        let (client, informers, metrics) = (&self.client, &self.informers, &self.metrics);
        let writer = NativeWriter::new(client.clone(), Arc::clone(informers), concurrency, Arc::clone(metrics));
        let writer = Arc::new(writer);
        let policy = Arc::new(self.config.rbac.policy());
        let users = user::Context::new(
            client.clone(),
            (&self.config.namespace, self.config.password_secret_namespaces.iter().cloned().collect()),
            (self.pool.clone(), Arc::clone(&self.policy)),
            Arc::clone(informers),
            Arc::clone(&writer),
            Arc::clone(&policy),
            (self.notifier.clone(), Arc::clone(metrics)),
        );
        let users = user::run(Arc::new(users), concurrency, shutdown.clone());
        let groups = group::Context::new(client.clone(), Arc::clone(informers), Arc::clone(metrics));
        let groups = group::run(Arc::new(groups), concurrency, shutdown.clone());
        let bindings = role_binding::Context::new(
            client.clone(),
            Arc::clone(informers),
            Arc::clone(&writer),
            policy,
            Arc::clone(metrics),
        );
        let bindings = role_binding::run(Arc::new(bindings), concurrency, shutdown.clone());
        let quotas = quota::Context::new(
            client.clone(),
            Arc::clone(informers),
            (self.config.quota.defaults(), self.config.password_secret_namespaces.is_empty()),
            Arc::clone(metrics),
        );
        let quotas = quota::run(Arc::new(quotas), concurrency, shutdown.clone());
        let sweep = writer.sweep(shutdown.clone());
        let configuration = self.config.webhook_configuration.clone();
        let lifetime = self.config.logins.signing_key_lifetime;
        let rotation = self.signing_keys.clone().rotate(lifetime, shutdown.clone());
        let trust = trust::keep(self.client.clone(), self.certificates.clone(), configuration, shutdown);
        let rest = async { tokio::join!(groups, bindings) };
        tokio::try_join!(users, quotas, trust, sweep, rotation, rest.map(Ok)).map(drop)
    }
}
