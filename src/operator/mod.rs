//! `roster run`: assembles the components of a replica and supervises them.
//!
//! ```text
//!  every replica:  probes, serving certificate, TLS port (admission, directory API), directory, tombstones of deleted Users,
//!                  caches of the User controller
//!  the leader:     User, Group, RoleBinding and quota controllers, sweep of native bindings, rotation of the certificate
//!                  authority and signing keys, caBundles and admission paths
//! ```

mod connect;
mod leader;
mod logins;
mod replica;

use std::sync::Arc;

use anyhow::Result;
use futures::FutureExt;
use kube::runtime::watcher::Event;
use roster_api::User;
use roster_controllers::tombstones;
use roster_runtime::logins::audiences;
use roster_runtime::logins::recount;
use roster_runtime::notifications::Notifier;
use roster_runtime::operations::client::{self, Component};
use roster_runtime::operations::health;
use roster_runtime::operations::supervisor::Supervisor;
use roster_runtime::tls::connections::{LIMITS, PROBE_LIMITS};
use roster_runtime::tls::listener::{self, Port};
use roster_runtime::tls::origin::WebhookOrigin;
use roster_runtime::tls::{api_servers, trust};
use roster_server::admission::guard::Guard;
use roster_server::admission::password_shares::PasswordShares;
use roster_server::admission::quota::enforcement::Enforcement;
use roster_server::admission::quota::hints::Hints;
use roster_server::admission::quota::namespaces::NamespaceCount;
use roster_server::admission::quota::permits::WaitPermits;
use roster_server::admission::quota::seen::Seen;
use roster_server::admission::review::Parser;
use roster_server::admission::server::{self, Admission};
use roster_server::apiserver;
use roster_server::apiserver::front_proxy::FrontProxy;
use roster_server::apiserver::state::DirectoryApiParts;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::RunConfig;
use connect::Keys;
use leader::Leader;
use replica::{MAX_STALL, Replica};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If the configuration is invalid, a port can't be bound, or a task ends by itself.
pub(crate) async fn run(config: RunConfig) -> Result<()> {
    let access = connect::access().await?;
    let replica = Arc::new(Replica::new(config, access)?);
    let Replica { client, access, config, informers, health, metrics, .. } = &*replica;
    let mut supervisor = Supervisor::default();
    let shutdown = supervisor.shutdown();
    let probes = connect::bind(config.probe_listen, "--probe-listen").await?;
    let tls = connect::bind(config.listen, "--listen").await?;
    info!(version = env!("CARGO_PKG_VERSION"), listen = %config.listen, probes = %config.probe_listen, "starting");
    supervisor.spawn("probes", listener::serve(probes, replica.probe_port(), shutdown.clone()));
    replica.watch(&mut supervisor)?;

    let keys = Keys::load(&replica).await?;
    let heartbeat = health.register_loop("certificates", MAX_STALL);
    supervisor.spawn("certificates", keys.certificates.clone().keep(heartbeat, shutdown.clone()));
    supervisor.spawn("signing keys", keys.signing.clone().follow(shutdown.clone()));
    let (certificates, signing_keys) = (keys.certificates.clone(), keys.signing.clone());
    let leaving = shutdown.child_token();
    let notifier = replica.serve(tls, keys, audiences::of_api_server(access).await, &leaving, &mut supervisor).await?;
    let webhooks = config.webhook_configuration.clone();
    let trust = trust::observe(client.clone(), certificates.clone(), webhooks, Arc::clone(health), shutdown.clone());
    supervisor.spawn("trust", trust);
    let tombstones = tombstones::Context::new(client, &config.namespace, informers, metrics);
    supervisor.spawn("tombstones", tombstones::run(tombstones, shutdown.clone()).map(Ok));
    let runtime = health.register_runtime("main runtime", MAX_STALL);
    let leader = Leader { replica: Arc::clone(&replica), certificates, signing_keys, notifier, runtime };
    let led = leader.run(leaving.clone());
    let failed = CancellationToken::new();
    let has_failed = failed.clone();
    supervisor.spawn("leader", async move {
        let outcome = Box::pin(led).await;
        if let Err(error) = &outcome {
            error!(error = format!("{error:#}"), "this replica can no longer lead and shuts down");
            failed.cancel();
        }
        shutdown.cancelled().await;
        outcome
    });
    supervisor.run(async move { replica.drain(&leaving, &has_failed).await }).await
}

impl Replica {
    /// Starts the watches that feed the directory and the caches of the User controller.
    fn watch(&self, supervisor: &mut Supervisor) -> Result<()> {
        let Self { access, config, informers, users, health, .. } = self;
        let client = client::connect(access, Component::Informers)?;
        let shutdown = supervisor.shutdown();
        let own = (client.clone(), config.namespace.clone());
        let cache = Arc::clone(users);
        let on_user = move |event: &Event<User>| cache.user_event(event);
        let informers = Arc::clone(informers).run(own, on_user, Arc::clone(health), shutdown.clone());
        supervisor.spawn("informers", informers);
        supervisor.spawn("user cache", Arc::clone(users).run(client, config.namespace.clone(), shutdown));
        Ok(())
    }

    /// Returns the port of probes and metrics, in plain HTTP.
    fn probe_port(&self) -> Port {
        Port {
            tls: None,
            limits: PROBE_LIMITS,
            app: health::router(Arc::clone(&self.health), Arc::clone(&self.metrics)),
            is_api_server: Arc::new(|_| false),
            api_servers: Vec::new(),
            shed: self.metrics.connections_shed.clone(),
            // A probe concerns only this replica, so its clients need not reconnect to another one.
            leaving: CancellationToken::new(),
        }
    }

    /// Starts the components behind the TLS port: admission, the directory API, logins and notifications.
    async fn serve(
        &self,
        tls: TcpListener,
        keys: Keys,
        of_api_server: Vec<String>,
        leaving: &CancellationToken,
        supervisor: &mut Supervisor,
    ) -> Result<Notifier> {
        let Self { client, config, informers, health, metrics, .. } = self;
        let shutdown = supervisor.shutdown();
        let guard = Guard::new(client.clone(), config.service_account(), Arc::clone(informers), config.rbac.policy());
        let guard = Arc::new(guard);
        let issuer = Arc::new(logins::issuer(self, of_api_server, &keys.signing));
        let options = config.notification.options();
        let signer = Arc::clone(&issuer);
        let (notifier, dispatcher) = Notifier::new(options, signer, metrics.notifications.clone())?;
        supervisor.spawn("notifications", dispatcher.run(shutdown.clone()));
        let (logins, last_use) = logins::logins(self, issuer, notifier.clone(), Arc::new(keys.sealer));
        let (vault, limits) = (Arc::clone(&logins.vault), config.logins.limits());
        supervisor.spawn("uncounted failures", recount::run(vault, Arc::clone(informers), limits, shutdown.clone()));
        supervisor.spawn("last use", last_use.run(config.logins.last_use_interval, shutdown.clone()));
        let front_proxy = Arc::new(FrontProxy::default());
        let follow = Arc::clone(&front_proxy).follow(client.clone(), Arc::clone(health), shutdown.clone());
        supervisor.spawn("front proxy", follow);
        let parts = DirectoryApiParts {
            informers: Arc::clone(informers),
            client: client.clone(),
            front_proxy: Arc::clone(&front_proxy),
            authorities: keys.certificates.authorities(),
            logins: Arc::new(logins),
            guard: Arc::clone(&guard),
            metrics: Arc::clone(metrics),
            shutdown: shutdown.clone(),
        };
        let directory = apiserver::router::router(parts, Arc::clone(health));
        let origin = WebhookOrigin::new(keys.certificates.authorities());
        let port = Port {
            tls: Some(keys.certificates.serving()),
            limits: LIMITS,
            app: server::router(self.admission(guard), origin).merge(directory),
            is_api_server: Arc::new(move |chain| front_proxy.recognizes(chain)),
            api_servers: api_servers::expected(client.clone()).await,
            shed: metrics.connections_shed.clone(),
            leaving: leaving.clone(),
        };
        supervisor.spawn("tls", listener::serve(tls, port, shutdown));
        health.set_serving(true);
        Ok(notifier)
    }

    /// Creates the components that serve the admission webhooks.
    fn admission(&self, guard: Arc<Guard>) -> Admission {
        let Self { client, config, informers, metrics, pool, .. } = self;
        let (seen, permits) = (Arc::new(Seen::new(client.clone())), Arc::new(WaitPermits::default()));
        Admission {
            pool: pool.clone(),
            password_shares: PasswordShares::new(Arc::clone(informers), config.hashing.slots()),
            guard,
            namespaces: NamespaceCount::new(client.clone(), &config.namespace, Arc::clone(informers)),
            enforcement: Enforcement::new(
                Arc::clone(informers),
                Arc::clone(&seen),
                Arc::clone(&permits),
                config.quota.defaults(),
            ),
            hints: Hints::new(client.clone(), Arc::clone(informers), seen, permits),
            parser: Parser::default(),
            metrics: Arc::clone(metrics),
        }
    }

    /// Waits for a signal or until the leader has `failed`, and then until the drain period is over or a second signal
    /// arrives. Another replica can become the leader immediately. This one keeps serving requests until its clients
    /// know that it is not ready, because the guard fails closed.
    async fn drain(&self, leaving: &CancellationToken, failed: &CancellationToken) {
        tokio::select! {
            () = terminated() => {}
            () = failed.cancelled() => {}
        }
        let drain = self.config.drain;
        info!(?drain, "shutting down");
        self.health.set_serving(false);
        leaving.cancel();
        tokio::select! {
            () = tokio::time::sleep(drain) => {}
            () = terminated() => {}
        }
    }
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
