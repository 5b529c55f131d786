//! The RoleBinding controller: compiles bindings to native RBAC and writes the status.
//!
//! A binding is compiled with the directory ([`roster_core::rbac::compile`]), compared with the existing native bindings
//! ([`roster_core::rbac::plan`]), and written in stages, revocations first. A change of anything that it depends on (a new
//! Namespace, a deleted role, a disabled user, time) queues the binding; nothing is polled.

mod status;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};
use roster_api::role_binding::PendingTarget;
use roster_api::{RoleBinding, RoleBindingStatus};
use roster_core::directory::bindings::Binding;
use roster_core::rbac::Policy;
use roster_core::rbac::compile::{self, Compiled, DesiredBinding};
use roster_core::rbac::plan::{Stages, plan};
use roster_runtime::informers::Informers;
use roster_runtime::metrics::Metrics;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::backoff::Backoff;
use super::events::{Reporter, Transition};
use super::native::{Failed, NativeWriter};
use super::written::{Written, forget_deleted};
use status::Applied;

/// Timeout of a reconciliation. A selector may match thousands of namespaces.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(300);

/// Dependencies and state of the controller.
pub struct Context {
    bindings: Api<RoleBinding>,
    informers: Arc<Informers>,
    writer: Arc<NativeWriter>,
    policy: Arc<Policy>,
    written: Written,
    backoff: Backoff,
    reporter: Reporter,
    metrics: Arc<Metrics>,
}

impl Context {
    /// Creates the context.
    pub fn new(
        client: Client,
        informers: Arc<Informers>,
        writer: Arc<NativeWriter>,
        policy: Arc<Policy>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            bindings: Api::all(client.clone()),
            informers,
            writer,
            policy,
            written: Written::default(),
            backoff: Backoff::default(),
            reporter: Reporter::new(client, "roster.dev/rolebinding", Arc::clone(&metrics)),
            metrics,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("writing {} native bindings, the first one {}", .0.len(), .0[0].key)]
    Write(Vec<Failed>),
    #[error("writing the RoleBinding's status")]
    Status(#[source] kube::Error),
    #[error("timed out after {RECONCILE_TIMEOUT:?}")]
    Timeout,
}

impl Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Write(_) => "write",
            Self::Status(_) => "status",
            Self::Timeout => "timeout",
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Write(failed) => format!("{self}: {}", failed[0].error),
            Self::Status(error) => format!("{self}: {error}"),
            Self::Timeout => self.to_string(),
        }
    }
}

/// Runs the controller until `shutdown`.
pub async fn run(ctx: Arc<Context>, concurrency: u16, shutdown: CancellationToken) {
    let marked = ctx.informers.queues.bindings.stream(Duration::ZERO).map(|name| ObjectRef::new(&name));
    Controller::for_stream(futures::stream::pending(), ctx.informers.role_bindings.clone())
        .with_config(Config::default().concurrency(concurrency))
        .reconcile_on(marked)
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, |binding, error, ctx| Action::requeue(retry_after(&binding, error, &ctx)), Arc::clone(&ctx))
        .for_each(|outcome| {
            forget_deleted(&outcome, &ctx.backoff, &ctx.written);
            std::future::ready(())
        })
        .await;
}

async fn reconcile(binding: Arc<RoleBinding>, ctx: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let outcome = tokio::time::timeout(RECONCILE_TIMEOUT, reconcile_unbounded(&binding, &ctx)).await;
    let outcome = outcome.unwrap_or(Err(Error::Timeout));
    ctx.metrics.binding_reconcile_duration.observe(started.elapsed().as_secs_f64());
    ctx.metrics.binding_reconciliations.inc(outcome.as_ref().map_or_else(Error::category, |()| "ok"));
    outcome?;
    ctx.backoff.succeeded(&binding.name_any());
    Ok(Action::await_change())
}

async fn reconcile_unbounded(binding: &RoleBinding, ctx: &Context) -> Result<(), Error> {
    let Some(Prepared { declared, compiled, stages }) = prepare(binding, ctx) else { return Ok(()) };
    let Compiled { desired, mut pending, phase } = compiled;
    // Writing many native bindings takes time. A role that has ended in the meantime must not be granted. In that case,
    // the binding is queued again.
    let still_holds = |desired: &DesiredBinding| {
        compile::still_holds(&declared, desired, &ctx.informers.directory(), Timestamp::now())
    };
    let failed = ctx.writer.execute(stages, still_holds).await;
    let in_force = {
        let directory = ctx.informers.directory();
        desired.iter().filter(|(key, _)| directory.natives.get(key).is_some()).count()
    };
    pending.extend(failed.iter().map(|failed| PendingTarget {
        namespace: failed.key.namespace.clone(),
        subject: None,
        reason: "WriteFailed".to_owned(),
    }));
    report(binding, &Applied { bindings: in_force, pending, phase }, ctx).await?;
    if failed.is_empty() { Ok(()) } else { Err(Error::Write(failed)) }
}

struct Prepared {
    declared: Binding,
    compiled: Compiled,
    stages: Stages,
}

/// Compiles the binding and plans the writes. Returns `None` if the directory has another version of the binding, which is
/// then queued as well.
fn prepare(binding: &RoleBinding, ctx: &Context) -> Option<Prepared> {
    let directory = ctx.informers.directory();
    let declared = directory.bindings.get(&binding.name_any())?;
    if Some(&declared.uid) != binding.metadata.uid.as_ref() || declared.generation != binding.metadata.generation {
        return None;
    }
    let compiled = compile::compile(declared, &directory, &ctx.policy, Timestamp::now());
    let stages = plan(&declared.uid, compiled.desired.clone(), &directory.natives);
    Some(Prepared { declared: declared.clone(), compiled, stages })
}

async fn report(binding: &RoleBinding, applied: &Applied, ctx: &Context) -> Result<(), Error> {
    let before = binding.status.clone().unwrap_or_default();
    let after: RoleBindingStatus = status::status(binding, applied, Timestamp::now());
    let is_outdated = ctx.written.is_ahead_of(binding);
    if before == after || binding.metadata.deletion_timestamp.is_some() || is_outdated {
        return Ok(());
    }
    // The resourceVersion prevents an outdated status from overwriting a newer one. A merge patch removes only fields that
    // it sets to null, so an empty list is sent as null.
    let patch = json!({"metadata": {"resourceVersion": binding.resource_version()}, "status": {
        "observedGeneration": after.observed_generation,
        "conditions": after.conditions,
        "bindings": after.bindings,
        "pending": (!after.pending.is_empty()).then_some(&after.pending),
    }});
    match ctx.bindings.patch_status(&binding.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(written) => ctx.written.note(&written),
        // Deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(Error::Status(error)),
    }
    ctx.metrics.writes.inc("RosterRoleBindingStatus");
    if let Some(transition) = Transition::of_ready(&before.conditions, &after.conditions) {
        ctx.reporter.publish(binding, transition).await;
    }
    Ok(())
}

fn retry_after(binding: &RoleBinding, error: &Error, ctx: &Context) -> Duration {
    let wait = ctx.backoff.failed(&binding.name_any());
    ctx.written.forget(&binding.name_any());
    // Conflicts are expected: the watch will deliver the newer object.
    if !matches!(error, Error::Status(kube::Error::Api(status)) if status.code == 409) {
        let (name, error) = (binding.name_any(), error.describe());
        warn!(role_binding = name, error, retry_in = ?wait, "reconciling a RoleBinding failed");
    }
    wait
}
