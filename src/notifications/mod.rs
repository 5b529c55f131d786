//! Security notices to the webhook that a User names: a Security Event Token, pushed as RFC 8935 has it.
//!
//! ```text
//!  notify ──▶ queue ──▶ lanes (pure), one a receiver and user ──▶ delivery: sign, POST, try again
//!                                                                    │
//!             event (pure): what is told                          connect: resolve, check, TLS ── target (pure): where to
//! ```
//!
//! Notices are kept in memory alone: a replica that ends loses those that it has not delivered.

mod connect;
mod delivery;
mod event;
mod lanes;
mod target;

use std::sync::Arc;

use anyhow::{Context, Result};
use backon::ExponentialBuilder;
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use event::Notice;

use crate::api::User;
use crate::api::user::Notification;
use crate::metrics::CounterBy;
use crate::operations::config::NotificationConfig;
use delivery::{BACKOFF, Delivery, Failure, Sender};
use lanes::{Entry, Lanes};
use target::Targets;

/// Notices that the courier has not looked at yet.
const QUEUE: usize = 1024;

/// Makes tokens that receivers can check.
pub trait Sign: Send + Sync {
    /// A JWT of that type (`typ` in its header) with these claims.
    ///
    /// # Errors
    /// If there is no key to sign with.
    fn sign(&self, typ: &str, claims: &Value) -> Result<String>;

    /// The `iss` of tokens: where receivers find the keys.
    fn issuer(&self) -> String;
}

/// Whom a notice concerns, and where it goes. The URL may be a secret between the receiver and its users.
#[derive(Clone)]
pub struct Recipient {
    /// The user's login name.
    pub username: String,
    /// The UID of the User.
    pub uid: String,
    /// The receiver: an https URL.
    pub url: String,
}

impl Recipient {
    /// None if the user wants no notices.
    pub fn new(username: &str, uid: &str, notification: Option<&Notification>) -> Option<Self> {
        let url = notification?.url.clone();
        Some(Self { username: username.to_owned(), uid: uid.to_owned(), url })
    }

    /// None if that User wants no notices.
    pub fn of(user: &User) -> Option<Self> {
        Self::new(&user.username(), &user.uid()?, user.spec.notification.as_ref())
    }
}

/// Takes notices. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    queue: mpsc::Sender<Delivery>,
    metrics: CounterBy,
}

impl Notifier {
    /// A notifier, and the courier that delivers what it takes.
    ///
    /// # Errors
    /// If the file with certificate authorities can't be used.
    pub fn new(config: &NotificationConfig, signer: Arc<dyn Sign>, metrics: CounterBy) -> Result<(Self, Courier)> {
        Self::with_backoff(config, signer, metrics, BACKOFF)
    }

    fn with_backoff(
        config: &NotificationConfig,
        signer: Arc<dyn Sign>,
        metrics: CounterBy,
        backoff: ExponentialBuilder,
    ) -> Result<(Self, Courier)> {
        let targets = Targets::new(config.notification_allowed_cidrs.clone());
        let client = connect::client(targets, config.notification_ca_file.as_deref())?;
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

    /// Sends a notice, sooner or later. Never waits: what does not fit is dropped, and counted.
    pub fn notify(&self, to: &Recipient, notice: Notice) {
        let (user, kind) = (&to.username, notice.name());
        let Some(delivery) = Delivery::new(to, notice, Timestamp::now()) else {
            self.metrics.inc("refused");
            warn!(user, notice = kind, "a notice is not sent: the URL of its receiver is no https URL");
            return;
        };
        if self.queue.try_send(delivery).is_err() {
            self.metrics.inc("dropped");
            warn!(user, notice = kind, "a notice is dropped: too many are waiting");
        }
    }
}

/// Delivers notices.
pub struct Courier {
    queued: mpsc::Receiver<Delivery>,
    lanes: Lanes<Delivery>,
    /// Each returns the lane that it was in.
    under_way: JoinSet<String>,
    sender: Arc<Sender>,
    metrics: CounterBy,
}

impl Courier {
    /// Delivers until `shutdown`. What is not delivered by then is lost.
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
            warn!(lost, "notices are lost: this replica ends before they were delivered");
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
                warn!(user, host, notice, "a notice is dropped: too many wait");
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
        Ok(()) => info!(user, host, notice, "a notice is sent"),
        Err(error) => warn!(user, host, notice, %error, outcome = outcome(result), "a notice is not sent"),
    }
}

#[cfg(test)]
mod tests;
