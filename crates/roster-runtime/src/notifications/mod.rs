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
pub use sign::Sign;

use crate::metrics::CounterBy;
use delivery::{BACKOFF, Delivery, Failure, Sender};
use lanes::{Entry, Lanes};
use target::Targets;

/// Maximum number of notices waiting for the courier.
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
    /// Creates a notifier, and the courier that delivers its notices.
    ///
    /// # Errors
    /// If the file with certificate authorities can't be used.
    pub fn new(options: NotificationOptions, signer: Arc<dyn Sign>, metrics: CounterBy) -> Result<(Self, Courier)> {
        Self::with_backoff(options, signer, metrics, BACKOFF)
    }

    fn with_backoff(
        options: NotificationOptions,
        signer: Arc<dyn Sign>,
        metrics: CounterBy,
        backoff: ExponentialBuilder,
    ) -> Result<(Self, Courier)> {
        let targets = Targets::new(options.allowed_networks);
        let client = connect::client(targets, options.ca_file.as_deref())?;
        let (queue, queued) = mpsc::channel(QUEUE);
        let courier = Courier {
            queued,
            lanes: Lanes::default(),
            under_way: JoinSet::new(),
            sender: Arc::new(Sender::new(client, signer, backoff)),
            metrics: metrics.clone(),
        };
        Ok((Self { queue, metrics }, courier))
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
pub struct Courier {
    queued: mpsc::Receiver<Delivery>,
    lanes: Lanes<Delivery>,
    /// Running deliveries. Each returns its lane.
    under_way: JoinSet<String>,
    sender: Arc<Sender>,
    metrics: CounterBy,
}

impl Courier {
    /// Delivers until `shutdown`. Undelivered notices are then lost.
    ///
    /// # Errors
    /// If a delivery panics.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<()> {
        loop {
            let has_room = self.lanes.has_room(self.sender.pauses.count());
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = self.under_way.join_next() => {
                    let lane = ended.context("a delivery panicked")?;
                    if let Some(next) = self.lanes.leave(&lane) {
                        self.start(next);
                    }
                }
                Some(delivery) = self.queued.recv(), if has_room => self.enter(delivery),
                () = self.sender.pauses.begun(), if !has_room => {}
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
            Entry::Start(delivery) => self.start(delivery),
            Entry::Waits => {}
            Entry::Full(delivery) => {
                self.metrics.inc("dropped");
                let (user, host, notice) = (&delivery.to.username, delivery.host(), delivery.notice.name());
                warn!(user, host, notice, "notification dropped: too many are waiting");
            }
        }
    }

    fn start(&mut self, delivery: Delivery) {
        let (sender, metrics) = (Arc::clone(&self.sender), self.metrics.clone());
        self.under_way.spawn(async move {
            let result = sender.send(&delivery).await;
            metrics.inc(outcome(&result));
            log(&delivery, &result);
            delivery.lane()
        });
    }
}

fn outcome(result: &Result<(), Failure>) -> &'static str {
    match result {
        Ok(()) => "sent",
        Err(Failure::Refused(_)) => "refused",
        Err(_) => "failed",
    }
}

fn log(delivery: &Delivery, result: &Result<(), Failure>) {
    let (user, host, notice) = (&delivery.to.username, delivery.host(), delivery.notice.name());
    match result {
        Ok(()) => info!(user, host, notice, "notification sent"),
        Err(error) => warn!(user, host, notice, %error, outcome = outcome(result), "sending a notification failed"),
    }
}

#[cfg(test)]
mod tests;
