//! Leader election by Lease (coordination.k8s.io).
//!
//! ```text
//!            lease free, expired or mine                 renewed in time
//!  waiting ───────────────────────────────▶ leading ◀──────────────┐
//!     ▲                                        │ └──────────────────┘
//!     ├── controllers stop ◀──── renewal failed for renew_deadline
//!     └── process restarts ◀──── the lease has another holder
//! ```
//!
//! Every write is a replace with the resourceVersion that was read, so two replicas can't both succeed. Expiry is
//! judged by the local monotonic clock, counted from when *this* process last saw the lease change; the times written
//! in the lease are informational.
//!
//! A leader that can't renew in time stops its controllers before the lease expires, keeps serving, and takes part in
//! the election again, so that an outage of kube-apiserver restarts nothing. If another replica holds the lease, both
//! may have led at the same time, so the process exits.
//!
//! The election runs on its own thread and runtime ([`LeaderElection`]), so the lease is not lost while requests keep
//! all other threads busy. It does not keep the lease for a process that hangs: it stops renewing if the main runtime
//! has not run a task for a while, and ends the process if the main runtime does not react to a lost lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

use super::health::Heartbeat;

/// Identity of this replica and timing of the leader election.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// Name of the Lease.
    pub name: String,
    /// Identity of this replica.
    pub identity: String,
    /// How long other replicas wait after the last renewal. Whole seconds.
    pub duration: Duration,
    /// How long the leader tries to renew the Lease before giving up.
    pub renew_deadline: Duration,
    /// Time between two attempts.
    pub retry_period: Duration,
}

/// Why leadership was lost.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Lost {
    /// kube-apiserver did not answer or rejected the writes. No other replica has led yet.
    #[error("the lease was not renewed for {0:?}")]
    NotRenewed(Duration),
    /// Another replica leads although the lease had not expired.
    #[error("another replica holds the lease")]
    Usurped,
    /// The main runtime runs no tasks.
    #[error("the controllers are stuck: giving up the lease")]
    Stuck,
}

/// Returns an identity for this process: host name and a random suffix. The host name alone does not identify it,
/// because a restarted container keeps it.
pub fn default_identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "roster".to_owned());
    // The suffix only has to differ from the predecessor's.
    format!("{host}_{:08x}", fastrand::u32(..))
}

/// Takes part in the election for one replica.
pub struct Elector {
    leases: Api<Lease>,
    options: LeaseOptions,
    observed: Option<Observation>,
}

/// The lease as this replica last saw it change.
#[derive(Clone, Debug)]
struct Observation {
    resource_version: String,
    at: Instant,
}

/// Next action on a lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Renew,
    TakeOver,
    Wait,
}

/// Decides from the lease's spec and the time since it was last seen to change.
fn decide(spec: &LeaseSpec, identity: &str, unchanged_for: Duration) -> Step {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let duration = Duration::from_secs(spec.lease_duration_seconds.unwrap_or_default().try_into().unwrap_or_default());
    if holder == identity {
        Step::Renew
    } else if holder.is_empty() || unchanged_for > duration {
        Step::TakeOver
    } else {
        Step::Wait
    }
}

impl Elector {
    /// Creates an elector that has not tried yet.
    pub fn new(client: Client, namespace: &str, options: LeaseOptions) -> Self {
        Self { leases: Api::namespaced(client, namespace), options, observed: None }
    }

    /// Waits until this replica leads. Returns the time at which the successful attempt began. Calls `beat` at each
    /// attempt.
    pub async fn acquire(&mut self, beat: impl Fn()) -> Instant {
        info!(identity = self.options.identity, lease = self.options.name, "waiting for the lease");
        loop {
            beat();
            let started = Instant::now();
            match self.attempt().await {
                Ok(true) => {
                    info!(identity = self.options.identity, "leading");
                    return started;
                }
                Ok(false) => {}
                Err(error) => warn!(error = format!("{error:#}"), "acquiring the lease failed, retrying"),
            }
            sleep(self.options.retry_period).await;
        }
    }

    /// Renews until that fails for `renew_deadline`, another replica holds the lease, or `is_working` is false.
    ///
    /// # Errors
    /// Always, when it returns: leadership is lost. The error is a [`Lost`].
    pub async fn keep(&mut self, acquired: Instant, beat: impl Fn(), is_working: impl Fn() -> bool) -> Result<()> {
        // The time before the write was sent: other replicas count from when they see the write, which is later.
        let mut renewed = acquired;
        loop {
            sleep(self.options.retry_period).await;
            beat();
            if !is_working() {
                bail!(Lost::Stuck);
            }
            let started = Instant::now();
            let left = self.options.renew_deadline.saturating_sub(renewed.elapsed());
            match timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = started,
                Ok(Ok(false)) => bail!(Lost::Usurped),
                Ok(Err(error)) => warn!(error = format!("{error:#}"), "renewing the lease failed, retrying"),
                Err(_) => bail!(Lost::NotRenewed(self.options.renew_deadline)),
            }
        }
    }

    /// Releases the lease, so that the next leader need not wait for it to expire.
    ///
    /// # Errors
    /// If kube-apiserver refuses or does not answer.
    pub async fn release(&mut self) -> Result<()> {
        timeout(self.options.renew_deadline, self.release_unbounded()).await?
    }

    async fn release_unbounded(&mut self) -> Result<()> {
        let mut lease = self.leases.get(&self.options.name).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.options.identity) {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.leases.replace(&self.options.name, &PostParams::default(), &lease).await?;
            info!("released the lease");
        }
        Ok(())
    }

    /// Tries once to acquire or renew. `false`: another replica holds the lease.
    async fn attempt(&mut self) -> Result<bool> {
        // Two attempts must fit into the renew deadline.
        let limit = self.options.renew_deadline / 2;
        timeout(limit, self.attempt_unbounded()).await?
    }

    async fn attempt_unbounded(&mut self) -> Result<bool> {
        let name = self.options.name.clone();
        let Some(mut lease) = self.leases.get_opt(&name).await? else {
            let mut lease = Lease { metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() }, spec: None };
            self.claim(&mut lease, Step::TakeOver);
            let created = self.leases.create(&PostParams::default(), &lease).await;
            return self.outcome(created);
        };
        let unchanged_for = self.observe(&lease);
        let step = decide(lease.spec.get_or_insert_default(), &self.options.identity, unchanged_for);
        if step == Step::Wait {
            return Ok(false);
        }
        self.claim(&mut lease, step);
        let replaced = self.leases.replace(&name, &PostParams::default(), &lease).await;
        self.outcome(replaced)
    }

    /// Returns how long this process has seen the lease unchanged.
    fn observe(&mut self, lease: &Lease) -> Duration {
        let version = lease.resource_version().unwrap_or_default();
        match &self.observed {
            Some(observed) if observed.resource_version == version => observed.at.elapsed(),
            _ => {
                self.observed = Some(Observation { resource_version: version, at: Instant::now() });
                Duration::ZERO
            }
        }
    }

    /// Writes this replica into the lease as its holder.
    fn claim(&self, lease: &mut Lease, step: Step) {
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.options.identity.clone());
        spec.lease_duration_seconds = Some(self.options.duration.as_secs().try_into().unwrap_or(i32::MAX));
        spec.renew_time = Some(now.clone());
        if step == Step::TakeOver {
            spec.acquire_time = Some(now);
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
        }
    }

    fn outcome(&mut self, written: kube::Result<Lease>) -> Result<bool> {
        match written {
            Ok(lease) => {
                self.observe(&lease);
                Ok(true)
            }
            // Another replica was faster, or this replica's earlier write did succeed: the next attempt reads again.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                bail!("another replica wrote the lease in the meantime")
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Heartbeats that the election beats and checks.
pub struct ElectionHeartbeats {
    /// Beaten at each attempt.
    pub election: Arc<Heartbeat>,
    /// Beaten by the controllers' runtime, for which the lease is held.
    pub controllers: Arc<Heartbeat>,
}

/// An election on its own thread. Dropping it ends the election without releasing the lease.
pub struct LeaderElection {
    acquired: oneshot::Receiver<()>,
    ended: oneshot::Receiver<Result<()>>,
    resign: CancellationToken,
    /// Dropped to signal the thread that nothing running needs the lease.
    _settled: DropGuard,
}

/// State of a [`LeaderElection`] on its thread.
struct ElectionThread {
    acquired: oneshot::Sender<()>,
    ended: oneshot::Sender<Result<()>>,
    resign: CancellationToken,
    settled: CancellationToken,
    heartbeats: ElectionHeartbeats,
    /// How long a lost lease may go unnoticed.
    grace: Duration,
}

impl LeaderElection {
    /// Starts the thread. `connect` creates the client on its runtime, because requests need the runtime that their
    /// client was created on.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn start(
        connect: impl FnOnce() -> Result<Client> + Send + 'static,
        namespace: String,
        options: LeaseOptions,
        heartbeats: ElectionHeartbeats,
    ) -> Result<Self> {
        let ((acquired, acquires), (ended, ends)) = (oneshot::channel(), oneshot::channel());
        let (resign, settled) = (CancellationToken::new(), CancellationToken::new());
        let election =
            Self { acquired: acquires, ended: ends, resign: resign.clone(), _settled: settled.clone().drop_guard() };
        // The lease expires this much later than the leader gives up. Half of that time is kept as a safety margin.
        let grace = options.duration.saturating_sub(options.renew_deadline) / 2;
        let thread = ElectionThread { acquired, ended, resign, settled, heartbeats, grace };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    match connect() {
                        Ok(client) => thread.run(Elector::new(client, &namespace, options)).await,
                        Err(error) => drop(thread.ended.send(Err(error))),
                    }
                });
            })
            .context("starting the election thread failed")?;
        Ok(election)
    }

    /// Waits until this replica leads.
    ///
    /// # Errors
    /// If the election ends first.
    pub async fn acquired(&mut self) -> Result<()> {
        match (&mut self.acquired).await {
            Ok(()) => Ok(()),
            Err(_) => self.ended().await,
        }
    }

    /// Waits until the election ends.
    ///
    /// # Errors
    /// If the lease is [`Lost`], or it could not be released.
    pub async fn ended(&mut self) -> Result<()> {
        (&mut self.ended).await.context("the election thread ended")?
    }

    /// Releases the lease, so that the next leader need not wait for it to expire.
    ///
    /// # Errors
    /// If kube-apiserver refuses or does not answer.
    pub async fn resign(mut self) -> Result<()> {
        self.resign.cancel();
        self.ended().await
    }
}

impl ElectionThread {
    async fn run(self, mut elector: Elector) {
        let Self { acquired, ended, resign, settled, heartbeats, grace } = self;
        let beat = || heartbeats.election.beat();
        let since = tokio::select! {
            () = settled.cancelled() => return,
            since = elector.acquire(beat) => since,
        };
        let _ = acquired.send(());
        let outcome = tokio::select! {
            lost = elector.keep(since, beat, || heartbeats.controllers.is_alive()) => lost,
            () = resign.cancelled() => elector.release().await,
            () = settled.cancelled() => return,
        };
        let lost = outcome.as_ref().err().map(|error| format!("{error:#}")).filter(|_| !resign.is_cancelled());
        let _ = ended.send(outcome);
        let Some(lost) = lost else { return };
        if timeout(grace, settled.cancelled()).await.is_err() {
            error!(error = lost, "leadership lost, but the controllers did not stop in time: exiting");
            std::process::exit(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Mutex, mpsc};

    use axum::http::{Request, Response};
    use kube::client::Body;

    use super::*;
    use crate::operations::health::Health;

    fn lease(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            // The writer's clock is an hour ahead; it must not matter.
            renew_time: Some(MicroTime(Timestamp::now() + Duration::from_secs(3600))),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn expiry_is_counted_from_the_last_observed_change() {
        assert_eq!(decide(&lease("other"), "me", Duration::from_secs(15)), Step::Wait);
        assert_eq!(decide(&lease("other"), "me", Duration::from_secs(16)), Step::TakeOver);
    }

    #[test]
    fn a_released_lease_is_free_at_once() {
        assert_eq!(decide(&lease(""), "me", Duration::ZERO), Step::TakeOver);
        assert_eq!(decide(&LeaseSpec::default(), "me", Duration::ZERO), Step::TakeOver);
    }

    #[test]
    fn the_holder_renews() {
        assert_eq!(decide(&lease("me"), "me", Duration::from_secs(100)), Step::Renew);
    }

    /// Mock kube-apiserver that holds one lease and reports each write of it.
    fn api_server(writes: mpsc::Sender<Option<String>>) -> Client {
        let stored = Arc::new(Mutex::new(None::<Lease>));
        let answer = move |request: Request<Body>| {
            let (stored, writes) = (Arc::clone(&stored), writes.clone());
            async move {
                let is_read = request.method() == "GET";
                let body = request.into_body().collect_bytes().await.unwrap();
                let mut stored = stored.lock().unwrap();
                if !is_read {
                    let mut lease: Lease = serde_json::from_slice(&body).unwrap();
                    let version = stored.as_ref().map_or(1, |last| last.resource_version().unwrap().len() + 1);
                    lease.metadata.resource_version = Some("x".repeat(version));
                    let _ = writes.send(lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()));
                    *stored = Some(lease);
                }
                let (status, text) = match &*stored {
                    Some(lease) => (200, serde_json::to_string(lease).unwrap()),
                    None => (404, r#"{"kind": "Status", "code": 404, "reason": "NotFound"}"#.to_owned()),
                };
                Ok::<_, Infallible>(Response::builder().status(status).body(Body::from(text.into_bytes())).unwrap())
            }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    fn start_election(
        health: &Health,
        controllers: Arc<Heartbeat>,
    ) -> (LeaderElection, mpsc::Receiver<Option<String>>) {
        let (writes, written) = mpsc::channel();
        let election = health.register_loop("leader election", Duration::from_secs(60));
        let options = LeaseOptions {
            name: "roster".to_owned(),
            identity: "me".to_owned(),
            duration: Duration::from_secs(600),
            renew_deadline: Duration::from_secs(60),
            retry_period: Duration::from_millis(1),
        };
        let heartbeats = ElectionHeartbeats { election, controllers };
        let connect = move || Ok(api_server(writes));
        (LeaderElection::start(connect, "default".to_owned(), options, heartbeats).unwrap(), written)
    }

    /// The test's runtime is this thread: while it blocks on the channel, none of its tasks runs.
    #[tokio::test]
    async fn the_lease_is_renewed_while_every_thread_of_the_main_runtime_is_busy() {
        let health = Health::default();
        let controllers = health.register_runtime("controllers", Duration::from_secs(600));
        let (mut election, written) = start_election(&health, controllers);
        election.acquired().await.unwrap();
        for _ in 0..5 {
            let holder = written.recv_timeout(Duration::from_secs(60)).expect("it is renewed");
            assert_eq!(holder.as_deref(), Some("me"));
        }
        election.resign().await.unwrap();
        assert_eq!(written.try_iter().last(), Some(None), "it is released");
    }

    #[tokio::test]
    async fn a_process_whose_controllers_are_stuck_loses_the_lease() {
        let health = Health::default();
        let controllers = health.register_loop("controllers", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(1));
        let (mut election, _written) = start_election(&health, controllers);
        election.acquired().await.unwrap();
        let lost = election.ended().await.unwrap_err();
        assert!(lost.to_string().contains("stuck"), "{lost}");
    }
}
