//! Detects requests that quota refused, from the Events of controllers. These retry with growing intervals.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use k8s_openapi::api::core::v1::Event as CoreEvent;
use kube::Api;
use kube::ResourceExt;
use kube::runtime::watcher::{Config, Event, watcher};
use roster_core::quota::allotment::NAME;
use roster_core::quota::amount::Amount;
use roster_runtime::informers::follow::follow;
use tokio::sync::oneshot;

use super::context::{Context, now};
use super::refused::remember;

/// Follows the Events of refused creations.
///
/// # Errors
/// If the watch ends.
pub(super) async fn follow_refusals(ctx: Arc<Context>) -> Result<()> {
    let events = Api::<CoreEvent>::all(ctx.client.clone());
    let refused = watcher(events, Config::default().fields("reason=FailedCreate"));
    let (synced, _) = oneshot::channel();
    let failures = Arc::clone(&ctx.failures);
    let apply = move |event| {
        // Events in the initial list are old.
        let Event::Apply(event) = event else { return };
        note(&event, &ctx);
    };
    follow("events", refused, apply, synced, failures).await
}

fn note(event: &CoreEvent, ctx: &Context) {
    let Some(namespace) = event.namespace() else { return };
    let Some(level) = event.message.as_deref().and_then(level) else { return };
    let Some(owner) = ctx.informers.directory().owner_of(&namespace).map(str::to_owned) else { return };
    let by = event.involved_object.uid.clone().unwrap_or_default();
    let mut refused = ctx.refused.get(&namespace).unwrap_or_default();
    remember(&mut refused, by, level, now());
    ctx.refused.insert(namespace, refused);
    ctx.informers.queues.owners.mark([owner]);
}

/// Parses kube-apiserver's message. Returns the usage that would have been needed: used plus requested.
fn level(message: &str) -> Option<BTreeMap<String, String>> {
    let refusal = message.split_once(&format!("exceeded quota: {NAME}, "))?.1;
    let part = |start: &str| {
        let amounts = refusal.split_once(start)?.1;
        let amounts = amounts.split(", ").next()?;
        let pairs = amounts.split(',').filter_map(|pair| pair.split_once('='));
        Some(pairs.filter_map(|(name, amount)| Some((name.to_owned(), Amount::parse(amount)?))))
    };
    let used: BTreeMap<String, Amount> = part("used: ")?.collect();
    let level = part("requested: ")?.map(|(name, requested)| {
        let level = requested + used.get(&name).copied().unwrap_or_default();
        let text = level.text_for(&name);
        (name, text)
    });
    Some(level.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_contains_the_needed_usage() {
        let message = "Error creating: pods \"web-7d9-x2x\" is forbidden: exceeded quota: roster, requested: \
                       pods=1,requests.cpu=500m, used: pods=3,requests.cpu=1500m, limited: pods=3,requests.cpu=1900m";
        let level = level(message).unwrap();
        assert_eq!((level["requests.cpu"].as_str(), level["pods"].as_str()), ("2", "4"));
        assert!(super::level("exceeded quota: other, requested: pods=1, used: pods=3, limited: pods=3").is_none());
        assert!(super::level("admission webhook denied the request").is_none());
    }
}
