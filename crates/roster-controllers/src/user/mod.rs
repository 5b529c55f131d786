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

use anyhow::{Context as _, Result};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::PartialObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::Config as WatchConfig;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use roster_api::{OWNER_LABEL, PASSWORD_SECRET_TYPE, User};
use roster_core::directory::membership::query::Pending;
use roster_credentials::record::IDENTIFIER_LABEL;
use roster_runtime::informers::follow::{follow, readable};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::written::forget_deleted;
pub use context::{Context, ContextParts};
use context::{Error, RECONCILE_TIMEOUT};
use status::StatusInput;

/// Time until a password Secret that can't be used is read again. Roster watches neither Secrets of other types nor
/// namespaces without an owner, which may be the cause.
const RECHECK_INTERVAL: Duration = Duration::from_secs(300);

/// Runs the controller until `shutdown`.
///
/// # Errors
/// If a watch ends or a task panics.
pub async fn run(ctx: Arc<Context>, concurrency: u16, shutdown: CancellationToken) -> Result<()> {
    let mut watches = JoinSet::new();
    let synced = start_watches(&ctx, &mut watches);
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        Some(ended) = watches.join_next() => return ended?.context("a watch ended before its first complete list"),
        all = futures::future::try_join_all(synced) => drop(all?),
    }
    apply::sweep(&ctx).await;
    info!("informers synced, reconciling Users");
    let controller = run_users(Arc::clone(&ctx), concurrency, shutdown);
    tokio::select! {
        () = controller => Ok(()),
        Some(ended) = watches.join_next() => ended?,
    }
}

fn start_watches(ctx: &Arc<Context>, watches: &mut JoinSet<Result<()>>) -> Vec<oneshot::Receiver<()>> {
    let mut synced = Vec::new();
    let mut begin = || {
        let (sender, receiver) = oneshot::channel();
        synced.push(receiver);
        (Arc::clone(ctx), sender, Arc::clone(&ctx.failures))
    };

    let identities: Api<PartialObjectMeta<Secret>> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let claims = watcher(identities, WatchConfig::default().labels(IDENTIFIER_LABEL));
    let (c, ready, failures) = begin();
    watches.spawn(follow("claims", claims, move |event| c.note(|index| index.claim_event(event)), ready, failures));

    if ctx.source_namespaces.is_empty() {
        let secrets = watcher(Api::<PartialObjectMeta<Secret>>::all(ctx.client.clone()), password_secrets());
        let (c, ready, failures) = begin();
        let apply = move |event| c.note(|index| index.source_event(None, event));
        watches.spawn(follow("secrets", secrets, apply, ready, failures));
    }
    for namespace in &ctx.source_namespaces {
        let secrets: Api<PartialObjectMeta<Secret>> = Api::namespaced(ctx.client.clone(), namespace);
        let (c, ready, failures) = begin();
        let (secrets, ready) = or_failed(watcher(secrets, password_secrets()), ready);
        let scope = namespace.clone();
        let apply = move |event| c.note(|index| index.source_event(Some(&scope), event));
        watches.spawn(follow("secrets", secrets, apply, ready, failures));
    }

    let owned = WatchConfig::default().labels(OWNER_LABEL);
    let owned = watcher(Api::<PartialObjectMeta<Namespace>>::all(ctx.client.clone()), owned);
    let (c, ready, failures) = begin();
    let apply = move |event| c.note(|index| index.namespace_event(event));
    watches.spawn(follow("owned namespaces", owned, apply, ready, failures));
    synced
}

fn password_secrets() -> WatchConfig {
    WatchConfig::default().fields(&format!("type={PASSWORD_SECRET_TYPE}"))
}

/// Makes `ready` fire when the first list is complete or the watch has failed. A configured namespace that was deleted,
/// together with the Role in it, must not prevent the controller from starting. Users that refer to a Secret there are
/// checked one by one.
fn or_failed<T, E>(
    watch: impl Stream<Item = Result<T, E>>,
    ready: oneshot::Sender<()>,
) -> (impl Stream<Item = Result<T, E>>, oneshot::Sender<()>) {
    let (complete, is_complete) = oneshot::channel();
    let (failed, has_failed) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            Ok(()) = is_complete => {}
            Ok(()) = has_failed => {}
            else => return,
        }
        let _ = ready.send(());
    });
    let mut failed = Some(failed);
    let watch = watch.inspect(move |event| {
        if event.is_err()
            && let Some(failed) = failed.take()
        {
            let _ = failed.send(());
        }
    });
    (watch, complete)
}

async fn run_users(ctx: Arc<Context>, concurrency: u16, shutdown: CancellationToken) {
    let (reader, writer) = reflector::store();
    let tap = Arc::clone(&ctx);
    // DeserializeGuard: a User that can't be parsed, for example after a downgrade, must not stop the watch of all others.
    // The informers report it.
    let users = watcher(Api::<DeserializeGuard<User>>::all(ctx.client.clone()), WatchConfig::default())
        .default_backoff()
        .filter_map(|event| std::future::ready(event.map(readable).transpose()))
        .modify(prune)
        .reflect(writer)
        .inspect(move |event| match event {
            Ok(event) => tap.note(|index| index.user_event(event)),
            Err(error) => {
                tap.metrics.watch_errors.inc("users");
                warn!(resource = "users", %error, "watch failed, retrying");
            }
        })
        // The Controller pauses all triggers if one of them fails. This watch has its own backoff.
        .filter(|event| std::future::ready(event.is_ok()))
        .applied_objects();
    let marked = ctx.informers.queues.users.stream(Duration::ZERO).map(|name| ObjectRef::new(&name));
    Controller::for_stream(users, reader)
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

/// Removes metadata that the controller does not read and that makes up most of an object's size.
fn prune(user: &mut User) {
    user.metadata.managed_fields = None;
    user.metadata.owner_references = None;
    if let Some(annotations) = &mut user.metadata.annotations {
        annotations.clear();
    }
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
    let groups = directory.memberships.would_belong(&user.name_any(), user.labels(), &user.spec.groups);
    let pending = directory.memberships.would_wait(user.labels(), &user.spec.groups, &groups);
    (groups.into_iter().collect(), pending)
}

fn retry_after(user: &User, error: &Error, ctx: &Context) -> Duration {
    let failed = ctx.backoff.failed(&user.name_any());
    // Scheduled changes of the state happen in time, whatever failed.
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
