//! Step 5: writes the status where it differs, and an Event where something has turned.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tracing::{info, warn};

use super::{Context, Error};
use crate::api::condition::{CREDENTIAL_READY, DELETION_BLOCKED, NAME_CLAIMED, READY, find};
use crate::api::{User, UserStatus};
use crate::metrics::Metrics;

/// Events of cluster-scoped objects are kept here, as `kubectl describe` expects.
const EVENT_NAMESPACE: &str = "default";

pub(super) async fn report(user: &User, status: UserStatus, ctx: &Context) -> Result<(), Error> {
    let before = user.status.clone().unwrap_or_default();
    if before == status {
        return Ok(());
    }
    // Only what this controller owns. The resourceVersion keeps a status that was computed from an older state, or by
    // a former leader, from being written over a newer one.
    let patch = json!({
        "metadata": {"resourceVersion": user.resource_version()},
        "status": {
            "observedGeneration": status.observed_generation,
            "conditions": status.conditions,
            "username": status.username,
            "state": status.state,
            "passwordChangedTime": status.password_changed_time,
        },
    });
    match ctx.users.patch_status(&user.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => {}
        // Deleted meanwhile: there is nobody left to report on.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(Error::Status(error)),
    }
    ctx.metrics.writes.inc("UserStatus");
    for turn in turns(&before, &status) {
        info!(user = user.name_any(), reason = turn.reason, note = turn.message, "a User has turned");
        ctx.reporter.publish(user, turn).await;
    }
    Ok(())
}

/// Something that has turned.
#[derive(Debug, Eq, PartialEq)]
struct Turn {
    is_warning: bool,
    reason: String,
    message: String,
}

/// What is worth an Event between two states. That a new User became ready the first time is not: the status says so,
/// and a hundred thousand Events would say it again.
fn turns(before: &UserStatus, after: &UserStatus) -> Vec<Turn> {
    let mut turns = Vec::new();
    for kind in [NAME_CLAIMED, CREDENTIAL_READY, DELETION_BLOCKED] {
        let (was, is) = (find(&before.conditions, kind), find(&after.conditions, kind));
        let Some(is) = is else { continue };
        let is_bad = (is.status == "True") == (kind == DELETION_BLOCKED) && is.reason != "NoPassword";
        if is_bad && was.is_none_or(|was| (&was.status, &was.reason) != (&is.status, &is.reason)) {
            turns.push(Turn { is_warning: true, reason: is.reason.clone(), message: is.message.clone() });
        }
    }
    let ready = |status: &UserStatus| find(&status.conditions, READY).map(|ready| ready.status == "True");
    if ready(before) == Some(false) && ready(after) == Some(true) {
        turns.push(Turn {
            is_warning: false,
            reason: "Recovered".into(),
            message: "the names are held and the credential is as declared".into(),
        });
    }
    if let (Some(was), Some(is)) = (before.state, after.state)
        && was != is
    {
        turns.push(Turn { is_warning: false, reason: "StateChanged".into(), message: format!("from {was} to {is}") });
    }
    if before.password_changed_time.is_some() && before.password_changed_time != after.password_changed_time {
        turns.push(Turn {
            is_warning: false,
            reason: "PasswordChanged".into(),
            message: "the password was changed".into(),
        });
    }
    turns
}

/// Publishes Events.
pub(super) struct Reporter {
    events: Api<Event>,
    instance: String,
    metrics: Arc<Metrics>,
}

impl Reporter {
    pub(super) fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| "roster".to_owned());
        Self { events: Api::namespaced(client, EVENT_NAMESPACE), instance, metrics }
    }

    /// An Event is a courtesy: one that can't be written is logged, and the reconciliation goes on.
    async fn publish(&self, user: &User, turn: Turn) {
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", user.name_any(), now.as_nanosecond())),
                namespace: Some(EVENT_NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(now)),
            reason: Some(turn.reason),
            note: Some(turn.message.chars().take(1024).collect()),
            regarding: Some(user.object_ref(&())),
            reporting_controller: Some("roster.dev/user".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if turn.is_warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        };
        match self.events.create(&PostParams::default(), &event).await {
            Ok(_) => self.metrics.writes.inc("Event"),
            Err(error) => warn!(user = user.name_any(), %error, "an Event could not be written"),
        }
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
