//! Applies the plan. Compares it with the cluster first and applies only differences, so that an interrupted import can
//! be repeated.

use anyhow::{Result, bail};
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use kube::Client;
use roster_import::assemble::{Item, Plan};
use roster_import::rules::Kind;

use super::args::{Args, CONCURRENCY, Files, Outcome};
use super::live::Live;
use super::rejects;

pub(super) async fn plan(client: Client, plan: Plan, files: &Files, args: &Args) -> Result<Outcome> {
    let (live, force) = (Live::read(client, &plan).await?, args.force_conflicts);
    if rejects::report_conflicts(&live, files) > 0 {
        bail!("nothing was applied: these objects of the cluster belong to other groups or people");
    }
    let administrators = if args.accept_administrators { 0 } else { rejects::report_administrators(&live, files) };
    if !args.accept_existing_users && rejects::report_existing(&live, files) > 0 {
        bail!(
            "nothing was applied: find out who created these Users and has their credentials, and whether they are the \
             people of the source; delete them or remove them from the Groups, or accept them with \
             --accept-existing-users"
        );
    }
    if administrators > 0 {
        bail!(
            "nothing was applied: find out whether these people should be administrators of the cluster; omit the field \
             with --without admin, or accept them with --accept-administrators"
        );
    }
    let bar = progress(plan.items.len());
    let mut outcome = Outcome::default();
    let (groups, people): (Vec<_>, Vec<_>) = plan.items.iter().partition(|item| item.kind == Kind::Group);
    for items in [groups, people] {
        let mut applied = stream::iter(items).map(|item| apply(&live, item, force)).buffer_unordered(CONCURRENCY);
        while let Some((item, result)) = applied.next().await {
            match result {
                Ok(false) if live.exists(item) => outcome.same += 1,
                Ok(_) if live.exists(item) => outcome.changed += 1,
                Ok(_) => outcome.created += 1,
                Err(error @ kube::Error::Api(_)) => {
                    outcome.failed += 1;
                    bar.suspend(|| report(item, files, &error));
                }
                // If the server does not answer, the remaining requests would fail too.
                Err(error) => bail!("the cluster does not answer: {error}; run the import again to continue"),
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let failed = if outcome.failed > 0 { format!(", {} failed", outcome.failed) } else { String::new() };
    println!(
        "{} created, {} changed, {} unchanged, {} rejected{failed}",
        outcome.created,
        outcome.changed,
        outcome.same,
        plan.rejected.len()
    );
    Ok(outcome)
}

/// Applies an item. Returns whether anything had to be applied.
async fn apply<'a>(live: &Live, item: &'a Item, force: bool) -> (&'a Item, kube::Result<bool>) {
    let steps = live.steps(item).await;
    for step in &steps {
        if let Err(error) = live.apply(step, force, false).await {
            return (item, Err(error));
        }
    }
    (item, Ok(!steps.is_empty()))
}

/// Reports an object that the server rejected, with the line of the source.
pub(super) fn report(item: &Item, files: &Files, error: &kube::Error) {
    let message = match error {
        kube::Error::Api(status) if status.code == 409 => {
            format!("{} (--force-conflicts takes over the fields)", status.message)
        }
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    };
    rejects::report_at(item.place, files, &format!("{} {}: {message}", item.kind.name(), item.name));
}

/// Creates a progress bar on standard error, shown only on a terminal.
fn progress(length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}, {per_sec}, {eta} left");
    let bar = ProgressBar::new(u64::try_from(length).unwrap_or(u64::MAX));
    bar.with_style(style.expect("the template is valid"))
}
