//! Events: for people who ask what has happened. Written on a turn, never for each failure.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};
use roster_api::condition::{READY, find};
use roster_runtime::metrics::Metrics;
use tracing::{info, warn};

/// Events of cluster-scoped objects are kept here, as `kubectl describe` expects.
const EVENT_NAMESPACE: &str = "default";

/// Something that has turned.
#[derive(Debug, Eq, PartialEq)]
pub struct Turn {
    /// Whether somebody should do something about it.
    pub is_warning: bool,
    /// `CamelCase`, stable.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Turn {
    /// How `Ready` has turned between two states, if it has. That something became ready the first time is no turn:
    /// the status says so, and a hundred thousand Events would say it again.
    pub fn of_ready(before: &[Condition], after: &[Condition]) -> Option<Self> {
        let (was, is) = (find(before, READY), find(after, READY)?);
        let turn = |is_warning| Self { is_warning, reason: is.reason.clone(), message: is.message.clone() };
        match (was.map(|was| was.status == "True"), is.status == "True") {
            (Some(false), true) => Some(Self { reason: "Recovered".to_owned(), ..turn(false) }),
            (_, false) if was.is_none_or(|was| was.reason != is.reason) => Some(turn(true)),
            _ => None,
        }
    }
}

/// Publishes Events of one controller.
pub struct Reporter {
    events: Api<Event>,
    controller: &'static str,
    instance: String,
    metrics: Arc<Metrics>,
}

impl Reporter {
    /// A reporter for the controller of that name, such as `roster.dev/user`.
    pub fn new(client: Client, controller: &'static str, metrics: Arc<Metrics>) -> Self {
        let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| "roster".to_owned());
        Self { events: Api::namespaced(client, EVENT_NAMESPACE), controller, instance, metrics }
    }

    /// An Event is a courtesy: one that can't be written is logged, and the reconciliation goes on.
    pub async fn publish<K: Resource<DynamicType = ()>>(&self, object: &K, turn: Turn) {
        let name = object.name_any();
        info!(kind = %K::kind(&()), name, reason = turn.reason, note = turn.message, "an object has turned");
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(EVENT_NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(now)),
            reason: Some(turn.reason),
            note: Some(turn.message.chars().take(1024).collect()),
            regarding: Some(object.object_ref(&())),
            reporting_controller: Some(self.controller.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if turn.is_warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        };
        match self.events.create(&PostParams::default(), &event).await {
            Ok(_) => self.metrics.writes.inc("Event"),
            Err(error) => warn!(name, %error, "an Event could not be written"),
        }
    }
}
