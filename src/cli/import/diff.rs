//! Shows what an import would change, as a unified diff.

use std::collections::HashSet;
use std::io::{Write, stdout};

use anyhow::Result;
use base64::prelude::{BASE64_STANDARD, Engine};
use futures::{StreamExt, stream};
use kube::Client;
use roster_credentials::source::HASH_KEY;
use roster_import::assemble::{Item, Plan};
use roster_import::hashes::masked;
use roster_import::held::Held;
use roster_import::rules::Kind;
use serde_json::{Map, Value};
use similar::TextDiff;

use super::apply::{report, report_error};
use super::args::{Args, CONCURRENCY, Files, Outcome};
use super::live::Live;
use super::rejects;
use super::step::{Key, Step};

/// Annotation in which kubectl stores the manifest that it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) async fn plan(client: Client, plan: Plan, files: &Files, args: &Args) -> Result<Outcome> {
    let mut live = Live::restrictions(client, &plan).await?;
    let (findings, conflicting) = live.read(&plan, args).await?;
    let mut outcome = Outcome::default();
    outcome.failed += rejects::report_findings(&findings, &conflicting, &plan, files);
    let held = Held::new(findings, conflicting);
    let (held_items, items): (Vec<&Item>, Vec<&Item>) = plan.items.iter().partition(|item| held.contains(item));
    rejects::report_held(held_items.iter().copied(), &held, files);
    outcome.failed += held_items.len();
    let people = held_items.iter().filter(|item| item.kind == Kind::User);
    restrictions(&live, &people.map(|item| &*item.name).collect(), files, &mut outcome).await?;
    let mut changes = stream::iter(items).map(|item| change(&live, item)).buffered(CONCURRENCY);
    while let Some((item, change)) = changes.next().await {
        match change {
            Ok(text) if text.is_empty() && live.exists(item) => outcome.same += 1,
            Ok(text) => {
                write!(stdout(), "{text}")?;
                *(if live.exists(item) { &mut outcome.changed } else { &mut outcome.created }) += 1;
            }
            Err(error) => {
                outcome.failed += 1;
                report(item, files, &error);
            }
        }
    }
    let failed = if outcome.failed > 0 { format!(", {} failed", outcome.failed) } else { String::new() };
    writeln!(
        stdout(),
        "{} to create, {} to change, {} unchanged, {} rejected{failed}",
        outcome.created,
        outcome.changed,
        outcome.same,
        plan.rejected.len()
    )?;
    Ok(outcome)
}

/// Shows the restrictions of existing Users that the diffs of the plan do not contain. Reports those of Users whose manifests
/// are held.
async fn restrictions(live: &Live, held: &HashSet<&str>, files: &Files, outcome: &mut Outcome) -> Result<()> {
    for restricted in live.restricted.values() {
        if restricted.is_planned {
            if held.contains(&*restricted.name) {
                let message = restricted.message("would nevertheless be", &restricted.fields);
                rejects::report_at(restricted.place, files, &message);
            }
            continue;
        }
        match unified(live, &restricted.step(&restricted.fields)).await {
            Ok(text) => {
                write!(stdout(), "{text}")?;
                outcome.changed += 1;
            }
            Err(error) => {
                outcome.failed += 1;
                report_error(restricted.place, Kind::User, &restricted.name, files, &error);
            }
        }
    }
    Ok(())
}

async fn change<'a>(live: &Live, item: &'a Item) -> (&'a Item, kube::Result<String>) {
    let mut text = String::new();
    for step in live.steps(item).await {
        match unified(live, &step).await {
            Ok(diff) => text.push_str(&diff),
            Err(error) => return (item, Err(error)),
        }
    }
    (item, Ok(text))
}

/// Returns the diff of one object. A server-side dry run determines the result, because other field managers may own
/// fields.
async fn unified(live: &Live, step: &Step) -> kube::Result<String> {
    let path = match &step.key {
        Key::User(name) => format!("users/{name}"),
        Key::Group(name) => format!("groups/{name}"),
        Key::Secret(namespace, name) => format!("secrets/{namespace}/{name}"),
    };
    let Some(before) = &step.live else {
        return Ok(between("", &shown(&step.manifest, None), "/dev/null", &path));
    };
    let after = live.apply(step, false, true).await?;
    let after = serde_json::to_value(after).map_err(kube::Error::SerdeError)?;
    Ok(between(&shown(before, None), &shown(&after, Some(before)), &path, &path))
}

fn between(before: &str, after: &str, from: &str, to: &str) -> String {
    TextDiff::from_lines(before, after).unified_diff().context_radius(3).header(from, to).to_string()
}

/// Returns the declared part of an object as YAML. Only the scheme of a hash is shown.
fn shown(object: &Value, before: Option<&Value>) -> String {
    let mut shown = Map::new();
    for field in ["apiVersion", "kind", "spec", "type", "data"] {
        shown.extend(object.get(field).map(|value| (field.to_owned(), value.clone())));
    }
    let mut metadata = Map::new();
    for field in ["name", "namespace", "labels", "annotations"] {
        metadata.extend(object["metadata"].get(field).map(|value| (field.to_owned(), value.clone())));
    }
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.remove(LAST_APPLIED);
    }
    metadata.retain(|_, value| value.as_object().is_none_or(|fields| !fields.is_empty()));
    shown.insert("metadata".to_owned(), metadata.into());
    if let Some(Value::Object(data)) = shown.get_mut("data") {
        for (key, value) in data {
            let is_changed = before.is_some_and(|before| before["data"][key] != *value);
            *value = mask(key, value, is_changed).into();
        }
    }
    serde_yaml::to_string(&shown).unwrap_or_default()
}

fn mask(key: &str, value: &Value, is_changed: bool) -> String {
    let hash = value.as_str().filter(|_| key == HASH_KEY).and_then(|text| BASE64_STANDARD.decode(text).ok());
    let scheme = masked(&String::from_utf8(hash.unwrap_or_default()).unwrap_or_default());
    if is_changed { format!("{scheme} (changed)") } else { scheme }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_hash_is_never_shown_and_its_change_is() {
        let secret = |hash: &str| json!({"kind": "Secret", "metadata": {"name": "x", "managedFields": []}, "data": {"passwordHash": BASE64_STANDARD.encode(hash)}});
        let (old, new) = (secret("$2b$12$abc"), secret("$2b$12$xyz"));
        assert_eq!(shown(&old, None), "data:\n  passwordHash: bcrypt…\nkind: Secret\nmetadata:\n  name: x\n");
        assert!(shown(&new, Some(&old)).contains("passwordHash: bcrypt… (changed)"));
        assert_eq!(shown(&old, Some(&old)), shown(&old, None));
        assert!(!shown(&json!({"metadata": {}, "data": {"password": "aHVudGVyMg=="}}), None).contains("aHVu"));
    }
}
