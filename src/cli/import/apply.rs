//! Applies the plan. Compares it with the cluster first and applies only differences, so that an interrupted import can
//! be repeated. Restrictions of existing Users are applied first, and even if nothing else is.

use std::collections::HashSet;

use anyhow::{Result, bail};
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use kube::Client;
use roster_import::assemble::{Item, Plan};
use roster_import::draft::Place;
use roster_import::held::Held;
use roster_import::rules::Kind;
use serde_json::{Map, Value};

use super::args::{Args, CONCURRENCY, Files, Outcome};
use super::live::Live;
use super::rejects;
use super::restricted::Restricted;
use super::step::conflicts;

pub(super) async fn plan(client: Client, plan: Plan, files: &Files, args: &Args) -> Result<Outcome> {
    let mut live = Live::restrictions(client, &plan).await?;
    let mut outcome = Outcome::default();
    let restricted = restrict(&live, files, args.force_conflicts, &mut outcome).await?;
    let (findings, conflicting) = match live.read(&plan, args).await {
        Ok(found) => found,
        Err(error) => {
            report_restricted(&live, &restricted, files, |_| true);
            match restricted.len() {
                0 => bail!("nothing was applied: {error:#}"),
                count => bail!("nothing was applied but the restrictions of existing Users ({count}): {error:#}"),
            }
        }
    };
    outcome.failed += rejects::report_findings(&findings, &conflicting, &plan, files);
    let held = Held::new(findings, conflicting);
    let mut import = Import { live, held, restricted, files, force: args.force_conflicts, outcome };
    import.apply(&plan).await?;
    let outcome = import.outcome;
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

/// An import that has applied the restrictions, and applies the rest.
struct Import<'a> {
    live: Live,
    held: Held<'a>,
    restricted: Vec<(String, Map<String, Value>)>,
    files: &'a Files,
    force: bool,
    outcome: Outcome,
}

impl Import<'_> {
    /// Applies the items that are not held: first the Groups, so that no User joins a Group of someone else.
    async fn apply(&mut self, plan: &Plan) -> Result<()> {
        let bar = progress(plan.items.len());
        let (groups, people): (Vec<_>, Vec<_>) = plan.items.iter().partition(|item| item.kind == Kind::Group);
        for group in self.stage(&groups, &bar).await? {
            if self.live.exists(group) {
                self.held.keep_group(&group.name);
            } else {
                self.held.add_group(&group.name);
            }
        }
        let held: HashSet<&str> =
            people.iter().filter(|item| self.held.contains(item)).map(|item| &*item.name).collect();
        bar.suspend(|| {
            report_restricted(&self.live, &self.restricted, self.files, |user| held.contains(&*user.name));
        });
        self.stage(&people, &bar).await?;
        bar.finish_and_clear();
        Ok(())
    }

    /// Applies items of one kind. Returns those that the server rejected.
    async fn stage<'a>(&mut self, items: &[&'a Item], bar: &ProgressBar) -> Result<Vec<&'a Item>> {
        let (held, items): (Vec<&Item>, Vec<&Item>) = items.iter().copied().partition(|item| self.held.contains(item));
        bar.suspend(|| rejects::report_held(held.iter().copied(), &self.held, self.files));
        self.outcome.failed += held.len();
        bar.inc(u64::try_from(held.len()).unwrap_or_default());
        let is_restricted: HashSet<&str> = self.restricted.iter().map(|(name, _)| name.as_str()).collect();
        let was_written = |item: &Item| item.kind == Kind::User && is_restricted.contains(&*item.name);
        let (live, outcome, mut failed) = (&self.live, &mut self.outcome, Vec::new());
        let mut applied = stream::iter(items).map(|item| apply(live, item, self.force)).buffer_unordered(CONCURRENCY);
        while let Some((item, result)) = applied.next().await {
            match result {
                Ok(false) if live.exists(item) && !was_written(item) => outcome.same += 1,
                Ok(_) if live.exists(item) => outcome.changed += 1,
                Ok(_) => outcome.created += 1,
                Err(error @ kube::Error::Api(_)) => {
                    outcome.failed += 1;
                    failed.push(item);
                    bar.suspend(|| report(item, self.files, &error));
                }
                // If the server does not answer, the remaining requests would fail too.
                Err(error) => bail!("the cluster does not answer: {error}; run the import again to continue"),
            }
            bar.inc(1);
        }
        Ok(failed)
    }
}

/// Reports how Users are restricted now, if nothing else is applied to them.
fn report_restricted(
    live: &Live,
    restricted: &[(String, Map<String, Value>)],
    files: &Files,
    is_held: impl Fn(&Restricted) -> bool,
) {
    for (name, fields) in restricted {
        if let Some(user) = live.restricted.get(name).filter(|user| !user.is_planned || is_held(user)) {
            rejects::report_at(user.place, files, &user.message("is now", fields));
        }
    }
}

/// Restricts existing Users, first of all and each by itself: a conflict, missing consent or an error with other objects,
/// which a leaver may be able to cause, must not keep their Users active. Returns the names of the Users that are restricted
/// now, with the fields of `spec` that were set.
async fn restrict(
    live: &Live,
    files: &Files,
    force: bool,
    outcome: &mut Outcome,
) -> Result<Vec<(String, Map<String, Value>)>> {
    let mut restricted = Vec::new();
    let mut writes =
        stream::iter(live.restricted.values()).map(|user| restrict_user(live, user, force)).buffered(CONCURRENCY);
    while let Some((user, fields, error)) = writes.next().await {
        // Users with a manifest are counted when it is applied.
        let is_counted = !user.is_planned;
        match error {
            Some(error @ kube::Error::Api(_)) => {
                outcome.failed += usize::from(is_counted);
                report_error(user.place, Kind::User, &user.name, files, &error);
            }
            Some(error) => bail!("the cluster does not answer: {error}; run the import again to continue"),
            None => outcome.changed += usize::from(is_counted),
        }
        if !fields.is_empty() {
            restricted.push((user.name.clone(), fields));
        }
    }
    Ok(restricted)
}

/// Restricts a User. If the server does not accept all fields together, tries each of them: a field that another field
/// manager owns must not keep the User active. Returns the fields that were set, and why others were not.
async fn restrict_user<'a>(
    live: &Live,
    user: &'a Restricted,
    force: bool,
) -> (&'a Restricted, Map<String, Value>, Option<kube::Error>) {
    let Err(mut error) = live.apply(&user.step(&user.fields), force, false).await else {
        return (user, user.fields.clone(), None);
    };
    let mut set = Map::new();
    if user.fields.len() == 1 || !matches!(error, kube::Error::Api(_)) {
        return (user, set, Some(error));
    }
    for (field, value) in &user.fields {
        // A field that is missing from the manifest would be removed again.
        let mut fields = set.clone();
        fields.insert(field.clone(), value.clone());
        match live.apply(&user.step(&fields), force, false).await {
            Ok(_) => set = fields,
            Err(other) => error = other,
        }
    }
    let error = (set.len() < user.fields.len()).then_some(error);
    (user, set, error)
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
    report_error(item.place, item.kind, &item.name, files, error);
}

pub(super) fn report_error(place: Place, kind: Kind, name: &str, files: &Files, error: &kube::Error) {
    let message = match error {
        kube::Error::Api(status) if conflicts(status).next().is_some() => {
            format!("{} (--force-conflicts takes over the fields)", status.message)
        }
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    };
    rejects::report_at(place, files, &format!("{} {name}: {message}", kind.name()));
}

/// Creates a progress bar on standard error, shown only on a terminal.
fn progress(length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}, {per_sec}, {eta} left");
    let bar = ProgressBar::new(u64::try_from(length).unwrap_or(u64::MAX));
    bar.with_style(style.expect("the template is valid"))
}
