//! Writes Kubernetes Events when a condition changes, not for every failed attempt.
//!
//! `kube::runtime::events::Recorder` is not used because it aggregates repeated Events with a patch, which needs another
//! permission. Repeated Events do not occur here.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};
use roster_api::condition::{READY, find};
use roster_runtime::metrics::Metrics;
use tracing::{info, warn};

/// Namespace of Events about cluster-scoped objects, where `kubectl describe` looks for them.
const EVENT_NAMESPACE: &str = "default";

/// A change that is reported as an Event.
#[derive(Debug, Eq, PartialEq)]
pub struct Transition {
    /// Whether the type of the Event is Warning.
    pub is_warning: bool,
    /// Reason, in CamelCase. Reasons are an interface: they do not change.
    pub reason: String,
    /// Human-readable message.
    pub message: String,
}

impl Transition {
    /// Returns the transition of `Ready` between two states, if it changed. There is none if an object becomes ready for the
    /// first time: the status is enough, and an import of 100,000 Users must not write as many Events.
    pub fn of_ready(before: &[Condition], after: &[Condition]) -> Option<Self> {
        let (was, is) = (find(before, READY), find(after, READY)?);
        let transition = |is_warning| Self { is_warning, reason: is.reason.clone(), message: is.message.clone() };
        match (was.map(|was| was.status == "True"), is.status == "True") {
            (Some(false), true) => Some(Self { reason: "Recovered".to_owned(), ..transition(false) }),
            (_, false) if was.is_none_or(|was| was.reason != is.reason) => Some(transition(true)),
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
    /// Creates a reporter for a controller such as `roster.dev/user`.
    pub fn new(client: Client, controller: &'static str, metrics: Arc<Metrics>) -> Self {
        let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| "roster".to_owned());
        Self { events: Api::namespaced(client, EVENT_NAMESPACE), controller, instance, metrics }
    }

    /// Logs the transition and writes an Event. If that fails, the failure is logged and the reconciliation continues.
    ///
    /// Anyone with `view` in the namespace can read the Event, but not necessarily Users. So the Event contains only
    /// the reason; the details are in the log and in the status.
    pub async fn publish<K: Resource<DynamicType = ()>>(&self, object: &K, transition: Transition) {
        let note = format!("see the status of {} {}", K::kind(&()), object.name_any());
        self.publish_with_note(object, transition, note).await;
    }

    /// Like [`Reporter::publish`], with a note that anyone with `view` in the namespace of the Event may read.
    pub async fn publish_with_note<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        transition: Transition,
        note: String,
    ) {
        let name = object.name_any();
        info!(kind = %K::kind(&()), name, reason = transition.reason, note = transition.message, "condition changed");
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(EVENT_NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(now)),
            reason: Some(transition.reason),
            note: Some(note),
            regarding: Some(object.object_ref(&())),
            reporting_controller: Some(self.controller.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if transition.is_warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        };
        match self.events.create(&PostParams::default(), &event).await {
            Ok(_) => self.metrics.writes.inc("Event"),
            Err(error) => warn!(name, %error, "writing an Event failed"),
        }
    }
}
