//! The quota controller: maintains a ResourceQuota in each owned namespace, and moves allotments between the namespaces of
//! one owner.
//!
//! ```text
//!  directory ─▶ view ─▶ plan ── nothing to do ─▶ report
//!                         │ something
//!                         ▼
//!              read, count      ─▶ plan ─▶ write: reductions first, then increases  ─┐
//!                         ▲                                                          │
//!                         └──────────────────────────────────────────────────────────┘
//! ```
//!
//! All state is in the API server, and is read again before an allotment grows. So everything that a killed or replaced
//! leader has allotted is visible there.

mod context;
mod plan;
mod read;
mod refusals;
mod refused;
mod unenforced;
mod write;

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use roster_core::directory::quotas::UNOWNED;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::keyed::process_keys;
pub use context::Context;
use context::{Error, RETRY_INTERVAL, TIMEOUT, now};
use plan::{Change, Plan, Rules, View, plan};
use read::read_current;
use unenforced::report_unenforced;
use write::{allot, release_ownerless, write_limit_range};

/// Minimum time between two reports of an owner's usage.
const MIN_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of rounds of reading and writing in a reconciliation. Shrinking and growing allotments takes two.
const MAX_ROUNDS: usize = 6;

/// Maximum number of concurrent writes for one owner.
const CONCURRENCY: usize = 8;

/// Runs the controller until `shutdown`.
///
/// # Errors
/// If the watch of Events ends.
pub async fn run(ctx: Arc<Context>, concurrency: u16, shutdown: CancellationToken) -> Result<()> {
    let refusals = refusals::follow_refusals(Arc::clone(&ctx));
    let keys = ctx.informers.queues.owners.stream(Duration::ZERO);
    let work = |owner: Arc<str>| {
        let ctx = Arc::clone(&ctx);
        async move { reconcile(&owner, &ctx).await }
    };
    tokio::select! {
        () = process_keys(keys, concurrency.into(), work, shutdown.clone()) => Ok(()),
        ended = refusals => ended,
    }
}

async fn reconcile(owner: &str, ctx: &Context) -> Option<Duration> {
    let attempt = async {
        if owner == UNOWNED { release_ownerless(ctx).await.map(|()| None) } else { reconcile_owner(owner, ctx).await }
    };
    match tokio::time::timeout(TIMEOUT, attempt).await.unwrap_or(Err(Error::Timeout)) {
        Ok(again) => {
            ctx.backoff.succeeded(owner);
            if owner == UNOWNED {
                return None;
            }
            let unenforced = report_unenforced(owner, ctx).await;
            again.into_iter().chain(unenforced).chain(report(owner, ctx)).min()
        }
        Err(error) => {
            let wait = ctx.backoff.failed(owner);
            *ctx.interrupted.lock().unwrap_or_else(PoisonError::into_inner).entry(owner.to_owned()).or_default() += 1;
            let error = anyhow::Error::new(error);
            warn!(owner, error = format!("{error:#}"), retry_in = ?wait, "quota redistribution failed");
            Some(wait)
        }
    }
}

/// Updates the allotments of an owner's namespaces. Returns the time after which to check again, if requests are still
/// waiting or may be retried.
async fn reconcile_owner(owner: &str, ctx: &Context) -> Result<Option<Duration>, Error> {
    let Some(view) = ctx.view(owner) else {
        ctx.unverified().remove(owner);
        return Ok(None);
    };
    let lapse = view.until_expected_lapses(now());
    Ok(redistribute(owner, view, ctx).await?.into_iter().chain(lapse).min())
}

async fn redistribute(owner: &str, mut view: View, ctx: &Context) -> Result<Option<Duration>, Error> {
    let term = ctx.term(owner);
    let counts_secrets = ctx.counts_secrets;
    let rules = || Rules { term: &term, defaults: &ctx.defaults, counts_secrets, now: now() };
    let known = plan(&view, &rules());
    ctx.remember(&view);
    let is_verified = !ctx.unverified().contains_key(owner);
    if known.changes.is_empty() && known.ranges.is_empty() && is_verified {
        return Ok(None);
    }
    // LimitRanges are written before limits, so that containers without requests are not refused.
    let ranges: Vec<_> =
        known.ranges.iter().map(|(namespace, wanted)| write_limit_range(namespace, wanted.as_ref(), ctx)).collect();
    stream::iter(ranges).buffer_unordered(CONCURRENCY).try_collect::<Vec<()>>().await?;
    let mut has_written = false;
    for round in 0..MAX_ROUNDS {
        if round > 0 {
            // Namespaces may have been added or removed. The allotment of one that now has another owner must not grow.
            let Some(known) = ctx.view(owner) else { return Ok(None) };
            view = known;
        }
        // Checked after the namespaces were read from the directory, and before each write.
        if !view.is_known && ctx.exists(owner).await? {
            return Ok(Some(RETRY_INTERVAL));
        }
        read_current(&mut view, ctx.is_new(owner), ctx).await?;
        let plan = plan(&view, &rules());
        if plan.changes.is_empty() {
            return Ok(ctx.next_check(owner, has_written, plan.is_reached));
        }
        has_written = true;
        *ctx.unverified().entry(owner.to_owned()).or_default() |=
            plan.changes.iter().any(|change| change.object.is_none());
        if execute(&plan, ctx).await? && plan.is_reached {
            return Ok(ctx.next_check(owner, true, true));
        }
    }
    Ok(ctx.next_check(owner, true, false))
}

/// Writes the plan: first the allotments that shrink or are created, and then, if there was no conflict, those that grow.
/// Returns whether everything was written.
async fn execute(plan: &Plan, ctx: &Context) -> Result<bool, Error> {
    let (growing, shrinking): (Vec<_>, Vec<_>) = plan.changes.iter().partition(|change| change.grows);
    // After a conflict, the allotment of the namespace is unknown, so none may grow.
    Ok(write_all(shrinking, ctx).await? && write_all(growing, ctx).await?)
}

async fn write_all(changes: Vec<&Change>, ctx: &Context) -> Result<bool, Error> {
    let writes: Vec<_> = changes.into_iter().map(|change| allot(change, ctx)).collect();
    stream::iter(writes).buffer_unordered(CONCURRENCY).try_fold(true, async |all, done| Ok(all && done)).await
}

/// Queues the owner's status, at most once per interval. Returns the time after which to try again if it is too early.
fn report(owner: &str, ctx: &Context) -> Option<Duration> {
    let quota = ctx.informers.directory().quota_of(owner);
    let mut reported = ctx.reported.lock().unwrap_or_else(PoisonError::into_inner);
    if quota.is_none() && !reported.contains_key(owner) {
        return None;
    }
    if let Some((known, at)) = reported.get(owner) {
        if *known == quota {
            return None;
        }
        let left = MIN_REPORT_INTERVAL.saturating_sub(at.elapsed());
        if !left.is_zero() {
            return Some(left);
        }
    }
    if quota.is_none() {
        reported.remove(owner);
    } else {
        reported.insert(owner.to_owned(), (quota, Instant::now()));
    }
    ctx.informers.queues.users.mark([owner.to_owned()]);
    None
}
