//! The Group controller: writes the status, which counts members and reports why some are missing.
//!
//! The directory computes the members, so the status is all that is written. Counts change with every member, so each Group
//! is reconciled at most once per second.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};
use roster_api::condition::{
    DesiredCondition, MEMBERSHIP_PENDING, NOT_ACCEPTED, READY, RECONCILING, STALLED, carry_over, list_names,
};
use roster_api::{Group, GroupStatus};
use roster_core::directory::Directory;
use roster_runtime::informers::Informers;
use roster_runtime::metrics::Metrics;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::backoff::Backoff;
use super::events::{Reporter, Transition};
use super::written::{Written, forget_deleted};

/// Minimum time between two reconciliations of a Group.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Timeout of a reconciliation.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(60);

/// Dependencies and state of the controller.
pub struct Context {
    groups: Api<Group>,
    informers: Arc<Informers>,
    written: Written,
    backoff: Backoff,
    reporter: Reporter,
    metrics: Arc<Metrics>,
}

impl Context {
    /// Creates the context.
    pub fn new(client: Client, informers: Arc<Informers>, metrics: Arc<Metrics>) -> Self {
        Self {
            groups: Api::all(client.clone()),
            informers,
            written: Written::default(),
            backoff: Backoff::default(),
            reporter: Reporter::new(client, "roster.dev/group", Arc::clone(&metrics)),
            metrics,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("writing the Group's status")]
    Status(#[source] kube::Error),
    #[error("timed out after {RECONCILE_TIMEOUT:?}")]
    Timeout,
}

/// Runs the controller until `shutdown`.
pub async fn run(ctx: Arc<Context>, concurrency: u16, shutdown: CancellationToken) {
    let marked = ctx.informers.queues.groups.stream(MIN_INTERVAL).map(|name| ObjectRef::new(&name));
    Controller::for_stream(futures::stream::pending(), ctx.informers.groups.clone())
        .with_config(Config::default().concurrency(concurrency))
        .reconcile_on(marked)
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, |group, error, ctx| Action::requeue(retry_after(&group, error, &ctx)), Arc::clone(&ctx))
        .for_each(|outcome| {
            forget_deleted(&outcome, &ctx.backoff, &ctx.written);
            std::future::ready(())
        })
        .await;
}

async fn reconcile(group: Arc<Group>, ctx: Arc<Context>) -> Result<Action, Error> {
    let outcome = tokio::time::timeout(RECONCILE_TIMEOUT, report(&group, &ctx)).await.unwrap_or(Err(Error::Timeout));
    ctx.metrics.group_reconciliations.inc(match &outcome {
        Ok(()) => "ok",
        Err(Error::Status(_)) => "status",
        Err(Error::Timeout) => "timeout",
    });
    outcome?;
    ctx.backoff.succeeded(&group.name_any());
    Ok(Action::await_change())
}

async fn report(group: &Group, ctx: &Context) -> Result<(), Error> {
    let before = group.status.clone().unwrap_or_default();
    let after = {
        let directory = ctx.informers.directory();
        // If the directory has another version of the Group, that version is queued as well.
        if directory.group_generation(&group.name_any(), group.metadata.uid.as_ref()) != group.metadata.generation {
            return Ok(());
        }
        status(group, &directory, Timestamp::now())
    };
    let is_outdated = ctx.written.is_ahead_of(group);
    if before == after || group.metadata.deletion_timestamp.is_some() || is_outdated {
        return Ok(());
    }
    let patch = json!({"metadata": {"resourceVersion": group.resource_version()}, "status": {
        "observedGeneration": after.observed_generation,
        "conditions": after.conditions,
        "members": after.members,
        "waitingMembers": after.waiting_members,
        "roles": after.roles,
    }});
    match ctx.groups.patch_status(&group.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(written) => ctx.written.note(&written),
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(Error::Status(error)),
    }
    ctx.metrics.writes.inc("GroupStatus");
    if let Some(transition) = Transition::of_ready(&before.conditions, &after.conditions) {
        ctx.reporter.publish(group, transition).await;
    }
    Ok(())
}

fn status(group: &Group, directory: &Directory, now: Timestamp) -> GroupStatus {
    let before = group.status.clone().unwrap_or_default();
    let name = group.name_any();
    let generation = group.metadata.generation;
    let mut wanted = conditions(&name, directory);
    wanted.extend(membership_pending(&name, directory));
    GroupStatus {
        observed_generation: generation,
        conditions: carry_over(&before.conditions, wanted, generation, now),
        members: i64::try_from(directory.memberships.count(&name)).ok(),
        waiting_members: i64::try_from(directory.memberships.waiting_count(&name)).ok().filter(|count| *count > 0),
        roles: i64::try_from(directory.roles_of_group(&name).len()).ok(),
        ..before
    }
}

/// Lists the users that are not accepted. This does not affect Ready, because anyone who may write Users can name a group.
fn membership_pending(name: &str, directory: &Directory) -> Option<DesiredCondition> {
    let count = directory.memberships.waiting_count(name);
    let message = format!(
        "not accepted: {}. They name this Group in User.spec.groups or have labels that spec.memberSelector matches. Add those \
         who should be members to spec.members, or set spec.acceptDeclaredMembers to true to accept all current and future \
         ones",
        list_names(directory.memberships.waiting(name), count)
    );
    (count > 0).then_some(DesiredCondition { kind: MEMBERSHIP_PENDING, status: true, reason: NOT_ACCEPTED, message })
}

fn conditions(name: &str, directory: &Directory) -> Vec<DesiredCondition> {
    let not_ready = |reason, message, progress| {
        let ready = DesiredCondition { kind: READY, status: false, reason, message };
        vec![ready.clone(), DesiredCondition { kind: progress, status: true, ..ready }]
    };
    let cycle = directory.memberships.cycle_of(name);
    if !cycle.is_empty() {
        let mut cycle = cycle;
        cycle.sort_unstable();
        let message = format!(
            "spec.memberGroups: the groups {} form a cycle; until it is removed, members of one are not members of the others",
            cycle.join(", ")
        );
        return not_ready("MembershipCycle", message, STALLED);
    }
    if directory.memberships.ignores_selector(name) {
        let message = "spec.memberSelector has no effect because spec.acceptDeclaredMembers is false. Anyone who may write Users \
                       can set their labels. Set spec.acceptDeclaredMembers to true, or list the members in spec.members";
        return not_ready("SelectorNotAccepted", message.to_owned(), STALLED);
    }
    let mut missing: Vec<_> = directory.memberships.missing(name).collect();
    missing.sort_unstable();
    missing.dedup();
    if let Some((kind, _)) = missing.first() {
        let reason = if *kind == "Group" { "GroupNotFound" } else { "UserNotFound" };
        let named: Vec<String> = missing.iter().map(|(kind, name)| format!("{kind} {name}")).collect();
        let named = list_names(named.iter().map(String::as_str), named.len());
        return not_ready(reason, format!("waiting for {named}, which do not exist"), RECONCILING);
    }
    let message = "all listed members exist".to_owned();
    vec![DesiredCondition { kind: READY, status: true, reason: "Succeeded", message }]
}

fn retry_after(group: &Group, error: &Error, ctx: &Context) -> Duration {
    let wait = ctx.backoff.failed(&group.name_any());
    ctx.written.forget(&group.name_any());
    match error {
        // Conflicts are expected: the watch will deliver the newer object.
        Error::Status(kube::Error::Api(status)) if status.code == 409 => {}
        Error::Status(cause) => {
            warn!(group = group.name_any(), %error, %cause, retry_in = ?wait, "reconciling a Group failed");
        }
        Error::Timeout => warn!(group = group.name_any(), %error, retry_in = ?wait, "reconciling a Group failed"),
    }
    wait
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

    use super::*;
    use roster_api::condition::find;
    use roster_api::{GroupSpec, User, UserSpec};

    fn directory(users: usize) -> Directory {
        let mut directory = Directory::new(false);
        for i in 0..users {
            let spec = UserSpec { groups: vec!["admins".to_owned()], ..UserSpec::default() };
            directory.set_user(&User::new(&format!("eve-{i:02}"), spec), Timestamp::UNIX_EPOCH);
        }
        directory
    }

    fn status_of(spec: GroupSpec, mut directory: Directory) -> GroupStatus {
        let group = Group::new("admins", spec);
        directory.set_group(&group, Timestamp::UNIX_EPOCH);
        // The informers keep no spec.
        let group = Group { spec: GroupSpec::default(), ..group };
        status(&group, &directory, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn waiting_users_are_listed_and_the_group_stays_ready() {
        let seen = status_of(GroupSpec::default(), directory(13));
        assert_eq!((seen.members, seen.waiting_members), (Some(0), Some(13)));
        let pending = find(&seen.conditions, MEMBERSHIP_PENDING).unwrap();
        assert_eq!(pending.reason, NOT_ACCEPTED);
        assert!(pending.message.starts_with("not accepted: eve-00, eve-01, "), "{}", pending.message);
        assert!(pending.message.contains("eve-09 and 3 more. They name"), "{}", pending.message);
        assert_eq!(find(&seen.conditions, READY).unwrap().status, "True");
        let seen = status_of(GroupSpec { accept_declared_members: true, ..GroupSpec::default() }, directory(13));
        assert_eq!((seen.members, seen.waiting_members), (Some(13), None));
        assert!(find(&seen.conditions, MEMBERSHIP_PENDING).is_none());
    }

    #[test]
    fn a_selector_without_consent_selects_no_users_and_is_reported() {
        let spec = GroupSpec { member_selector: Some(LabelSelector::default()), ..GroupSpec::default() };
        let seen = status_of(spec.clone(), directory(0));
        for kind in [READY, STALLED] {
            assert_eq!(find(&seen.conditions, kind).unwrap().reason, "SelectorNotAccepted");
        }
        let seen = status_of(GroupSpec { accept_declared_members: true, ..spec }, directory(2));
        assert_eq!((seen.members, seen.waiting_members), (Some(2), None));
        assert_eq!(find(&seen.conditions, READY).unwrap().status, "True");
    }
}
