//! Leader election by Lease (coordination.k8s.io).
//!
//! ```text
//!            lease free, expired or mine                 renewed in time
//!  waiting ───────────────────────────────▶ leading ◀──────────────┐
//!     ▲                                        │ └──────────────────┘
//!     └── process restarts ◀── renewal failed for renew_deadline,
//!                              or the lease has another holder
//! ```
//!
//! Every write is a replace with the resourceVersion that was read, so two replicas can't both succeed. Expiry is
//! judged by the local monotonic clock, counted from when *this* process last saw the lease change; the times written
//! in the lease are for people. A leader that is lost ends the process: nothing can be left running by mistake.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::config::LeaseConfig;

/// One replica's part in the election.
pub struct Elector {
    leases: Api<Lease>,
    config: LeaseConfig,
    identity: String,
    observed: Option<Observation>,
}

/// The lease as this replica last saw it change.
#[derive(Clone, Debug)]
struct Observation {
    resource_version: String,
    at: Instant,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Renew,
    TakeOver,
    Wait,
}

/// Decides from the lease's spec and from how long ago it was last seen to change.
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
    /// A replica that has not tried yet. The host name alone is no identity: a restarted container keeps it.
    pub fn new(client: Client, namespace: &str, config: LeaseConfig) -> Self {
        let identity = config.identity.clone().unwrap_or_else(|| {
            let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "roster".to_owned());
            format!("{host}_{:08x}", random())
        });
        Self { leases: Api::namespaced(client, namespace), config, identity, observed: None }
    }

    /// Waits until this replica leads, and returns the time at which the attempt that succeeded began. `beat` is called
    /// at each attempt.
    pub async fn acquire(&mut self, beat: impl Fn()) -> Instant {
        info!(identity = self.identity, lease = self.config.lease, "waiting for the lease");
        loop {
            beat();
            let started = Instant::now();
            match self.attempt().await {
                Ok(true) => {
                    info!(identity = self.identity, "leading");
                    return started;
                }
                Ok(false) => {}
                Err(error) => warn!(error = format!("{error:#}"), "the lease could not be acquired"),
            }
            sleep(self.config.retry_period).await;
        }
    }

    /// Renews until that fails for `renew_deadline` or another replica holds the lease.
    ///
    /// # Errors
    /// Always, when it returns: the lead is lost.
    pub async fn keep(&mut self, acquired: Instant, beat: impl Fn()) -> Result<()> {
        // Counted from before a write was sent: the others count from when they see it, which is later.
        let mut renewed = acquired;
        loop {
            sleep(self.config.retry_period).await;
            beat();
            let started = Instant::now();
            let left = self.config.renew_deadline.saturating_sub(renewed.elapsed());
            match timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = started,
                Ok(Ok(false)) => bail!("another replica holds the lease"),
                Ok(Err(error)) => warn!(error = format!("{error:#}"), "the lease could not be renewed"),
                Err(_) => bail!("the lease could not be renewed for {:?}", self.config.renew_deadline),
            }
        }
    }

    /// Gives the lease up, so that the next replica need not wait for it to expire.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn release(&mut self) -> Result<()> {
        timeout(self.config.renew_deadline, self.release_unbounded()).await?
    }

    async fn release_unbounded(&mut self) -> Result<()> {
        let mut lease = self.leases.get(&self.config.lease).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.leases.replace(&self.config.lease, &PostParams::default(), &lease).await?;
            info!("the lease is released");
        }
        Ok(())
    }

    /// One attempt to acquire or renew. `false`: another replica holds the lease.
    async fn attempt(&mut self) -> Result<bool> {
        // Two attempts must fit into the renew deadline.
        let patience = self.config.renew_deadline / 2;
        timeout(patience, self.attempt_unbounded()).await?
    }

    async fn attempt_unbounded(&mut self) -> Result<bool> {
        let name = self.config.lease.clone();
        let Some(mut lease) = self.leases.get_opt(&name).await? else {
            let mut lease = Lease { metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() }, spec: None };
            self.sign(&mut lease, Step::TakeOver);
            let created = self.leases.create(&PostParams::default(), &lease).await;
            return self.outcome(created);
        };
        let unchanged_for = self.observe(&lease);
        let step = decide(lease.spec.get_or_insert_default(), &self.identity, unchanged_for);
        if step == Step::Wait {
            return Ok(false);
        }
        self.sign(&mut lease, step);
        let replaced = self.leases.replace(&name, &PostParams::default(), &lease).await;
        self.outcome(replaced)
    }

    /// How long the lease has not changed, as far as this process has seen.
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

    fn sign(&self, lease: &mut Lease, step: Step) {
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(self.config.lease_duration.as_secs().try_into().unwrap_or(i32::MAX));
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
            // Somebody else was faster, or this replica's own earlier write did arrive: the next attempt reads afresh.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                bail!("the lease was written by another replica meanwhile")
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Four random bytes. An identity needs no more than to differ from its predecessor's.
fn random() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    let hash = RandomState::new().hash_one(std::process::id());
    u32::try_from(hash >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
