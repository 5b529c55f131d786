//! The User controller: claims names, updates the credential and writes the status.
//!
//! ```text
//!  watches ─▶ index ─▶ 1 dereference ─▶ 2 plan ─▶ 3 apply ─▶ 4 status ─▶ 5 report
//!             (pure)     reads           (pure)     writes     (pure)      writes
//! ```
//!
//! Step 4 uses only the results of step 3, so the status reports only what kube-apiserver has confirmed. A reconciliation
//! with nothing to do sends no request: it reads from the index and the reflector's store.

mod administrator;
mod apply;
mod cache;
mod context;
mod dereference;
mod finalize;
mod identity_secret;
mod index;
mod plan;
mod rename;
mod repair;
mod report;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use roster_api::User;
use roster_core::directory::membership::query::Pending;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::written::forget_deleted;
pub use cache::Cache;
pub use context::{Context, ContextParts};
use context::{Error, RECONCILE_TIMEOUT};
use status::StatusInput;

/// Time until a password Secret that can't be used is read again. Roster watches neither Secrets of other types nor
/// namespaces without an owner, which may be the cause.
const RECHECK_INTERVAL: Duration = Duration::from_secs(300);

/// Runs the controller until `shutdown`. The informers and the [`Cache`] must have synced.
pub async fn run(ctx: Arc<Context>, concurrency: u16, shutdown: CancellationToken) {
    apply::sweep(&ctx).await;
    info!("informers synced, reconciling Users");
    let marked = ctx.informers.queues.users.stream(Duration::ZERO).map(|name| ObjectRef::new(&name));
    Controller::for_stream(futures::stream::pending(), ctx.informers.users.clone())
        .with_config(Config::default().concurrency(concurrency))
        .reconcile_on(marked)
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, |user, error, ctx| Action::requeue(retry_after(&user, error, &ctx)), Arc::clone(&ctx))
        .for_each(|outcome| {
            forget_deleted(&outcome, &ctx.backoff, &ctx.written);
            std::future::ready(())
        })
        .await;
}

async fn reconcile(user: Arc<User>, ctx: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result =
        tokio::time::timeout(RECONCILE_TIMEOUT, reconcile_unbounded(&user, &ctx)).await.unwrap_or(Err(Error::Timeout));
    ctx.metrics.reconcile_duration.observe(started.elapsed().as_secs_f64());
    ctx.metrics.reconciliations.inc(result.as_ref().map_or_else(Error::category, |_| "ok"));
    if result.is_ok() {
        ctx.backoff.succeeded(&user.name_any());
    }
    result
}

async fn reconcile_unbounded(user: &User, ctx: &Context) -> Result<Action, Error> {
    if ctx.written.is_ahead_of(user) {
        return Ok(Action::await_change());
    }
    // First, because no failure of a later step may delay the revocation of a banned administrator's role.
    let (administrator, failed) = administrator::administer(user, ctx).await;
    let observed = dereference::dereference(user, ctx).await?;
    if finalize::finalize(user, &observed, ctx).await? == finalize::Next::Stop {
        return Ok(Action::await_change());
    }
    if repair::repair(user, &observed, ctx).await? == finalize::Next::Stop {
        return Ok(Action::await_change());
    }
    let (groups, pending) = groups_of(user, ctx);
    let input = StatusInput {
        groups,
        pending,
        administrator,
        namespaces: observed.namespaces.clone(),
        quota: ctx.informers.directory().quota_of(&user.name_any()),
        max_password_age: ctx.password_policy.max_age,
    };
    let applied = apply::apply(user, plan::plan(observed, user.metadata.deletion_timestamp.is_some()), ctx).await?;
    if applied.is_lost && applied.credential.changed.is_some() {
        repair::report_loss(user, ctx).await;
    }
    let now = Timestamp::now();
    let status = status::status(user, &applied, input, now);
    report::report(user, status, ctx).await?;
    if let Some(failed) = failed {
        return Err(Error::Administrator(failed));
    }
    let edges = status::credential_edges(&applied, ctx.password_policy.max_age);
    let next =
        status::next_change(user, &edges, now).into_iter().chain(applied.problem.map(|_| RECHECK_INTERVAL)).min();
    Ok(next.map_or_else(Action::await_change, Action::requeue))
}

/// Returns the effective and the pending groups of this version of the User. The directory may have an older version, and a
/// status with outdated groups would have to be written again.
fn groups_of(user: &User, ctx: &Context) -> (Vec<String>, BTreeMap<String, Pending>) {
    let directory = ctx.informers.directory();
    let groups = directory.memberships.groups_of_version(&user.name_any(), user.labels(), &user.spec.groups);
    let pending = directory.memberships.pending_of_version(user.labels(), &user.spec.groups, &groups);
    (groups.into_iter().collect(), pending)
}

fn retry_after(user: &User, error: &Error, ctx: &Context) -> Duration {
    let failed = ctx.backoff.failed(&user.name_any());
    // Scheduled changes of the state must happen on time, whatever failed.
    let wait = status::next_change(user, &[], Timestamp::now()).map_or(failed, |change| change.min(failed));
    ctx.written.forget(&user.name_any());
    // Conflicts are expected: the watch will deliver the newer object.
    if error.category() != "conflict" {
        warn!(user = user.name_any(), error = describe(error), retry_in = ?wait, "reconciling a User failed");
    }
    wait
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
