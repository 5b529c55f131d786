//! Security notices to the webhook configured in a User: Security Event Tokens, pushed as specified by RFC 8935.
//!
//! ```text
//!  notify ──▶ queue ──▶ lanes (pure), one per receiver and user ──▶ delivery: sign, POST, retry
//!                                                                      │
//!             event (pure): the token                               connect: resolve, TLS ── target (pure): addresses
//! ```
//!
//! Notices are kept only in memory: a replica that stops loses undelivered ones.

mod connect;
mod delivery;
mod event;
mod lanes;
mod recipient;
mod sign;
mod target;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use backon::ExponentialBuilder;
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use event::Notice;
pub use recipient::Recipient;
pub use sign::TokenSigner;

use crate::metrics::CounterBy;
use delivery::{BACKOFF, Delivery, DeliveryError, Sender};
use lanes::{LaneEntry, Lanes};
use target::Targets;

/// Maximum number of notices waiting for the dispatcher.
const QUEUE: usize = 1024;

/// Accepts notices. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    queue: mpsc::Sender<Delivery>,
    metrics: CounterBy,
}

/// Where notices may be sent.
#[derive(Clone, Debug, Default)]
pub struct NotificationOptions {
    /// Non-public networks that are allowed, such as 10.96.0.0/12.
    pub allowed_networks: Vec<IpNet>,
    /// PEM file with certificate authorities to trust in addition to the public ones.
    pub ca_file: Option<PathBuf>,
}

impl Notifier {
    /// Creates a notifier, and the dispatcher that delivers its notices.
    ///
    /// # Errors
    /// If the file with certificate authorities can't be used.
    pub fn new(
        options: NotificationOptions,
        signer: Arc<dyn TokenSigner>,
        metrics: CounterBy,
    ) -> Result<(Self, Dispatcher)> {
        Self::with_backoff(options, signer, metrics, BACKOFF)
    }

    fn with_backoff(
        options: NotificationOptions,
        signer: Arc<dyn TokenSigner>,
        metrics: CounterBy,
        backoff: ExponentialBuilder,
    ) -> Result<(Self, Dispatcher)> {
        let targets = Targets::new(options.allowed_networks);
        let client = connect::client(targets, options.ca_file.as_deref())?;
        let (queue, queued) = mpsc::channel(QUEUE);
        let dispatcher = Dispatcher {
            queued,
            lanes: Lanes::default(),
            in_flight: JoinSet::new(),
            sender: Arc::new(Sender::new(client, signer, backoff)),
            metrics: metrics.clone(),
        };
        Ok((Self { queue, metrics }, dispatcher))
    }

    /// Queues a notice. Never blocks: if the queue is full, the notice is dropped and counted.
    pub fn notify(&self, to: &Recipient, notice: Notice) {
        let (user, kind) = (&to.username, notice.name());
        let Some(delivery) = Delivery::new(to, notice, Timestamp::now()) else {
            self.metrics.inc("refused");
            warn!(user, notice = kind, "notification not sent: the receiver's URL is not an https URL");
            return;
        };
        if self.queue.try_send(delivery).is_err() {
            self.metrics.inc("dropped");
            warn!(user, notice = kind, "notification dropped: the queue is full");
        }
    }
}

/// Delivers notices.
pub struct Dispatcher {
    queued: mpsc::Receiver<Delivery>,
    lanes: Lanes<Delivery>,
    /// Running deliveries. Each returns its lane.
    in_flight: JoinSet<String>,
    sender: Arc<Sender>,
    metrics: CounterBy,
}

impl Dispatcher {
    /// Delivers until `shutdown`. Undelivered notices are then lost.
    ///
    /// # Errors
    /// If a delivery panics.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<()> {
        loop {
            let has_capacity = self.lanes.has_capacity(self.sender.pauses.count());
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = self.in_flight.join_next() => {
                    let lane = ended.context("a delivery panicked")?;
                    if let Some(next) = self.lanes.leave(&lane) {
                        self.start(next);
                    }
                }
                Some(delivery) = self.queued.recv(), if has_capacity => self.enter(delivery),
                () = self.sender.pauses.begun(), if !has_capacity => {}
            }
        }
        let lost = self.lanes.len() + self.queued.len();
        if lost > 0 {
            warn!(lost, "notifications lost: the replica stopped before they were delivered");
        }
        Ok(())
    }

    fn enter(&mut self, delivery: Delivery) {
        match self.lanes.enter(&delivery.lane(), delivery) {
            LaneEntry::Start(delivery) => self.start(delivery),
            LaneEntry::Waits => {}
            LaneEntry::Full(delivery) => {
                self.metrics.inc("dropped");
                let (user, host, notice) = (&delivery.to.username, delivery.host(), delivery.notice.name());
                warn!(user, host, notice, "notification dropped: too many are waiting");
            }
        }
    }

    fn start(&mut self, delivery: Delivery) {
        let (sender, metrics) = (Arc::clone(&self.sender), self.metrics.clone());
        self.in_flight.spawn(async move {
            let result = sender.send(&delivery).await;
            metrics.inc(outcome(&result));
            log(&delivery, &result);
            delivery.lane()
        });
    }
}

fn outcome(result: &Result<(), DeliveryError>) -> &'static str {
    match result {
        Ok(()) => "sent",
        Err(DeliveryError::Refused(_)) => "refused",
        Err(_) => "failed",
    }
}

fn log(delivery: &Delivery, result: &Result<(), DeliveryError>) {
    let (user, host, notice) = (&delivery.to.username, delivery.host(), delivery.notice.name());
    match result {
        Ok(()) => info!(user, host, notice, "notification sent"),
        Err(error) => warn!(user, host, notice, %error, outcome = outcome(result), "sending a notification failed"),
    }
}

#[cfg(test)]
mod tests;
