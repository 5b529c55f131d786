//! The quota controller: keeps a ResourceQuota in each owned namespace, and moves room between those of one owner.
//!
//! ```text
//!  directory ─▶ view ─▶ plan ── nothing to do ─▶ report
//!                         │ something
//!                         ▼
//!              read anew, count ─▶ plan ─▶ write: first what takes, then what gives ─┐
//!                         ▲                                                          │
//!                         └──────────────────────────────────────────────────────────┘
//! ```
//!
//! What it goes by stands in the API server, and is read anew before anything is given: a leader that was killed in the
//! middle, or that another one has taken over from, has promised nothing that can't be seen there.

mod plan;
mod read;
mod refusals;
mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kube::Client;
use moka::sync::Cache;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::backoff::Backoff;
use super::keyed::work_off;
use crate::credentials::digest::{hex, random};
use crate::directory::quotas::{NOBODY, Standing};
use crate::informers::Informers;
use crate::informers::failures::Failures;
use crate::metrics::Metrics;
use crate::quota::allotment::Asked;
use crate::quota::defaults::Defaults;
use plan::{Change, Lately, Plan, Rules, View, plan};
use read::read_anew;
use write::{allot, release_ownerless, state_defaults};

/// Longest time for one owner. The client's own retries can add up to minutes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How often an owner's use is reported, at most.
const REPORT_PACE: Duration = Duration::from_secs(1);

/// How often it is read anew and written in one go. To take and to give are two.
const ROUNDS: usize = 6;

/// Namespaces of one owner that are written at the same time.
const CONCURRENCY: usize = 8;

/// When somebody who still waits is looked at again, where nothing else happens.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// When what was written is counted once more.
const VERIFY_AFTER: Duration = Duration::from_secs(1);

/// How long something is remembered of a namespace in which nothing happens.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Most namespaces of which something is remembered.
const MOST_REMEMBERED: u64 = 100_000;

/// What the controller works with.
pub struct Context {
    client: Client,
    informers: Arc<Informers>,
    metrics: Arc<Metrics>,
    defaults: Defaults,
    /// Whether Secrets may be listed in all namespaces.
    counts_secrets: bool,
    /// Tells this leader from those before.
    term: String,
    /// What refused creations have asked for, by namespace.
    refused: Cache<String, Asked>,
    /// What is remembered of namespaces.
    lately: Cache<String, Lately>,
    reported: Mutex<HashMap<String, (Option<Standing>, Instant)>>,
    /// Owners whose namespaces were written, and not counted since; and whether there are new ones among them.
    unverified: Mutex<HashMap<String, bool>>,
    /// Owners by how often an attempt was cut off: what it wrote may still be on its way, and is fenced like that of an
    /// earlier leader.
    cut_off: Mutex<HashMap<String, u64>>,
    failures: Arc<Failures>,
    backoff: Backoff,
}

impl Context {
    /// A controller for the namespaces of the cluster. `defaults`: what a container gets that states nothing;
    /// `counts_secrets`: whether it may list Secrets in all namespaces.
    pub fn new(
        client: Client,
        informers: Arc<Informers>,
        (defaults, counts_secrets): (Defaults, bool),
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            client,
            informers,
            defaults,
            counts_secrets,
            term: hex(&random::<8>()),
            refused: Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED).build(),
            lately: Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED).build(),
            reported: Mutex::default(),
            unverified: Mutex::default(),
            cut_off: Mutex::default(),
            failures: Arc::new(Failures::new(metrics.watch_errors.clone())),
            backoff: Backoff::default(),
            metrics,
        }
    }

    /// Tells attempts for an owner apart whose writes must not come after each other.
    fn term(&self, owner: &str) -> String {
        let cut_off = self.cut_off.lock().unwrap_or_else(PoisonError::into_inner);
        cut_off.get(owner).map_or_else(|| self.term.clone(), |count| format!("{}-{count}", self.term))
    }

    fn unverified(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        self.unverified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the owner has namespaces whose ResourceQuota was made a moment ago.
    fn is_new(&self, owner: &str) -> bool {
        self.unverified().get(owner).copied().unwrap_or(false)
    }

    /// When to look at an owner again. Each change of `spec.hard` has controller-manager count anew, from caches that lag,
    /// and for some minutes nobody may notice what it has missed: what was written is counted once more.
    fn look_again(&self, owner: &str, has_written: bool, is_reached: bool) -> Option<Duration> {
        if has_written {
            return Some(if is_reached { VERIFY_AFTER } else { LOOK_AGAIN });
        }
        self.unverified().remove(owner);
        (!is_reached).then_some(LOOK_AGAIN)
    }

    /// What is known of an owner. `None`: there is no such User.
    fn view(&self, owner: &str) -> Option<View> {
        View::of(owner, &self.informers.directory(), |namespace| Lately {
            refused: self.refused.get(namespace),
            ..self.lately.get(namespace).unwrap_or_default()
        })
    }

    /// Remembers what is used, to know what grows, and who has got what they had asked for: when that is given back, nobody
    /// waits for it any more.
    fn remember(&self, view: &View) {
        let now = now();
        for owned in view.namespaces.iter().filter(|_| !view.limits.is_empty()) {
            let Some(allotment) = &owned.allotment else { continue };
            if owned.lately.used != allotment.used || owned.served() > owned.lately.served {
                let risen = view.limits.keys().filter_map(|name| Some((name.clone(), owned.risen(name, now)?)));
                let lately = Lately {
                    used: allotment.used.clone(),
                    risen: risen.collect(),
                    served: owned.served().max(owned.lately.served),
                    reached: owned.reached().max(owned.lately.reached),
                    refused: None,
                };
                self.lately.insert(owned.name.clone(), lately);
            }
        }
    }
}

/// Runs the controller until `shutdown`.
///
/// # Errors
/// If the watch of Events ends, which a watch does not.
pub async fn run(ctx: Arc<Context>, concurrency: u16, shutdown: CancellationToken) -> Result<()> {
    let refusals = refusals::follow_refusals(Arc::clone(&ctx));
    let keys = ctx.informers.waiting.owners.stream(Duration::ZERO);
    let work = |owner: Arc<str>| {
        let ctx = Arc::clone(&ctx);
        async move { reconcile(&owner, &ctx).await }
    };
    tokio::select! {
        () = work_off(keys, concurrency.into(), work, shutdown.clone()) => Ok(()),
        ended = refusals => ended,
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("reading ResourceQuotas and what is used")]
    Read(#[source] kube::Error),
    #[error("writing {what} in namespace {namespace}")]
    Write { what: &'static str, namespace: String, source: kube::Error },
    #[error("not done within {TIMEOUT:?}")]
    Timeout,
}

async fn reconcile(owner: &str, ctx: &Context) -> Option<Duration> {
    let settled =
        async { if owner == NOBODY { release_ownerless(ctx).await.map(|()| None) } else { settle(owner, ctx).await } };
    match tokio::time::timeout(TIMEOUT, settled).await.unwrap_or(Err(Error::Timeout)) {
        Ok(again) => {
            ctx.backoff.succeeded(owner);
            if owner == NOBODY { None } else { again.into_iter().chain(report(owner, ctx)).min() }
        }
        Err(error) => {
            let wait = ctx.backoff.failed(owner);
            *ctx.cut_off.lock().unwrap_or_else(PoisonError::into_inner).entry(owner.to_owned()).or_default() += 1;
            let error = anyhow::Error::new(error);
            warn!(owner, error = format!("{error:#}"), retry_in = ?wait, "room could not be shared out");
            Some(wait)
        }
    }
}

/// Brings an owner's namespaces to what they are to have. Returns when to look again, where somebody still waits or may come
/// back.
async fn settle(owner: &str, ctx: &Context) -> Result<Option<Duration>, Error> {
    let Some(view) = ctx.view(owner) else {
        ctx.unverified().remove(owner);
        return Ok(None);
    };
    let lapse = view.until_lapse(now());
    Ok(arrange(owner, view, ctx).await?.into_iter().chain(lapse).min())
}

async fn arrange(owner: &str, mut view: View, ctx: &Context) -> Result<Option<Duration>, Error> {
    let term = ctx.term(owner);
    let counts_secrets = ctx.counts_secrets;
    let rules = || Rules { term: &term, defaults: &ctx.defaults, counts_secrets, now: now() };
    let known = plan(&view, &rules());
    ctx.remember(&view);
    let is_verified = !ctx.unverified().contains_key(owner);
    if known.changes.is_empty() && known.ranges.is_empty() && is_verified {
        return Ok(None);
    }
    // Before anything is limited, so that nothing is refused for stating nothing.
    let ranges: Vec<_> =
        known.ranges.iter().map(|(namespace, wanted)| state_defaults(namespace, wanted.as_ref(), ctx)).collect();
    stream::iter(ranges).buffer_unordered(CONCURRENCY).try_collect::<Vec<()>>().await?;
    let mut has_written = false;
    for round in 0..ROUNDS {
        if round > 0 {
            // Some may have come or gone: what goes to somebody else is not to grow any more.
            let Some(known) = ctx.view(owner) else { return Ok(None) };
            view = known;
        }
        read_anew(&mut view, ctx.is_new(owner), ctx).await?;
        let plan = plan(&view, &rules());
        if plan.changes.is_empty() {
            return Ok(ctx.look_again(owner, has_written, plan.is_reached));
        }
        has_written = true;
        *ctx.unverified().entry(owner.to_owned()).or_default() |=
            plan.changes.iter().any(|change| change.object.is_none());
        if execute(&plan, ctx).await? && plan.is_reached {
            return Ok(ctx.look_again(owner, true, true));
        }
    }
    Ok(ctx.look_again(owner, true, false))
}

/// Writes what is planned: first what takes room and what is to be there, and only then, if nobody was faster, what gives
/// room.
///
/// Returns whether all of it was written.
async fn execute(plan: &Plan, ctx: &Context) -> Result<bool, Error> {
    let (giving, taking): (Vec<_>, Vec<_>) = plan.changes.iter().partition(|change| change.gives);
    // What somebody else has made meanwhile holds nobody knows what.
    Ok(write_all(taking, ctx).await? && write_all(giving, ctx).await?)
}

async fn write_all(changes: Vec<&Change>, ctx: &Context) -> Result<bool, Error> {
    let writes: Vec<_> = changes.into_iter().map(|change| allot(change, ctx)).collect();
    stream::iter(writes).buffer_unordered(CONCURRENCY).try_fold(true, async |all, done| Ok(all && done)).await
}

/// Has the owner's status written, once a pace. Returns when to come back for that.
fn report(owner: &str, ctx: &Context) -> Option<Duration> {
    let standing = ctx.informers.directory().quota_of(owner);
    let mut reported = ctx.reported.lock().unwrap_or_else(PoisonError::into_inner);
    if standing.is_none() && !reported.contains_key(owner) {
        return None;
    }
    if let Some((known, at)) = reported.get(owner) {
        if *known == standing {
            return None;
        }
        let left = REPORT_PACE.saturating_sub(at.elapsed());
        if !left.is_zero() {
            return Some(left);
        }
    }
    if standing.is_none() {
        reported.remove(owner);
    } else {
        reported.insert(owner.to_owned(), (standing, Instant::now()));
    }
    ctx.informers.waiting.users.mark([owner.to_owned()]);
    None
}

fn now() -> Timestamp {
    Timestamp::now()
}
