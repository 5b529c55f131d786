//! Writes manifests to a folder, one file for each person and group. The same input results in the same files, except
//! that plaintext passwords are hashed with a new salt each time.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use roster_api::printable;
use roster_credentials::hash::{Argon2idCost, Memory, PasswordHash};
use roster_import::assemble::{Content, Item, Plan, Secret};
use roster_import::consent::gives_control;
use roster_import::rules::Kind;
use secrecy::ExposeSecret;

use super::args::Outcome;
use super::rejects;
use crate::cli::private_file;

/// Warns of what the manifests would do to existing Users, which can't be checked without a cluster.
pub(super) fn warn_of_existing_users(plan: &Plan) {
    let open = plan.items.iter().filter(|item| item.object["spec"]["acceptDeclaredMembers"] == true).count();
    if open > 0 {
        eprintln!(
            "warning: Groups that accept declared members: {open}. Existing Users that name one of them in \
             spec.groups or have labels that it selects become its members when you apply. To list them, run the same \
             import against the cluster without --write first"
        );
    }
    let people = plan.items.iter().filter(|item| item.kind == Kind::User && gives_control(item)).count();
    if people > 0 {
        eprintln!(
            "warning: Users with a password, an email or other fields by which someone controls them: {people}. If a User \
             with the name of one of them exists, it gets these fields when you apply, but keeps its Groups, roles and \
             API keys. To list such Users, run the same import against the cluster without --write first"
        );
    }
}

/// Warns of new administrators.
pub(super) fn warn_of_administrators(plan: &Plan) {
    let administrators = plan.items.iter().filter(|item| item.object["spec"]["admin"] == true);
    let names: Vec<&str> = administrators.map(|item| item.name.as_str()).collect();
    if !names.is_empty() {
        eprintln!("warning: Users that become administrators when you apply: {}", names.join(", "));
    }
}

pub(super) fn manifests(plan: Plan, folder: &Path) -> Result<Outcome> {
    for name in ["groups", "users"] {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let (mut memory, mut outcome) = (Memory::default(), Outcome::default());
    let rejected = plan.rejected.len();
    report_others(&plan, folder)?;
    for item in plan.items {
        let path = path(folder, item.kind, &item.name);
        let text = text(&item, &mut memory)?;
        if fs::read(&path).is_ok_and(|known| known == text.as_bytes()) {
            outcome.same += 1;
            continue;
        }
        outcome.created += 1;
        private_file::write(&path, |out| Ok(out.write_all(text.as_bytes())?))
            .with_context(|| path.display().to_string())?;
    }
    println!("{} written, {} unchanged, {rejected} rejected", outcome.created, outcome.same);
    Ok(outcome)
}

fn path(folder: &Path, kind: Kind, name: &str) -> PathBuf {
    let plural = if kind == Kind::Group { "groups" } else { "users" };
    folder.join(plural).join(format!("{name}.yaml"))
}

/// Reports manifests of people and groups that the plan does not have: of leavers, or of rejected entries. Tools that apply
/// the folder would keep them active.
fn report_others(plan: &Plan, folder: &Path) -> Result<()> {
    for path in others(plan, folder)? {
        let path = path.display().to_string();
        rejects::print_line(&format!(
            "warning: {} is not part of this import and still in the folder: remove it, or tools that apply the folder keep the object",
            printable::line(&path)
        ));
    }
    Ok(())
}

/// Returns the manifests in the folder that the plan does not have, sorted.
fn others(plan: &Plan, folder: &Path) -> Result<Vec<PathBuf>> {
    let written: HashSet<PathBuf> = plan.items.iter().map(|item| path(folder, item.kind, &item.name)).collect();
    let mut others = Vec::new();
    for name in ["groups", "users"] {
        let folder = folder.join(name);
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry.with_context(|| folder.display().to_string())?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") && !written.contains(&path) {
                others.push(path);
            }
        }
    }
    others.sort();
    Ok(others)
}

fn text(item: &Item, memory: &mut Memory) -> Result<String> {
    let mut text = String::new();
    if let Some(secret) = &item.secret {
        let manifest = secret.manifest(&hash(secret, memory));
        text = format!("---\n{}", serde_yaml::to_string(&manifest)?);
    }
    Ok(format!("{text}---\n{}", serde_yaml::to_string(&item.object)?))
}

fn hash(secret: &Secret, memory: &mut Memory) -> String {
    match &secret.content {
        Content::Hash(hash) => hash.expose_secret().to_owned(),
        Content::Plain(password) => {
            PasswordHash::create(password.expose_secret(), Argon2idCost::default(), memory).expose().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster_import::assemble::{Options, assemble};
    use roster_import::rules::Rules;
    use roster_import::{Format, Source, read};

    /// Tools that apply the folder would otherwise keep leavers active without a notice.
    #[test]
    fn manifests_of_people_who_are_no_longer_imported_are_found() {
        let folder = std::env::temp_dir().join(format!("roster-write-{}", std::process::id()));
        let plan = |text: &str| {
            let (rules, source) = (Rules::default(), Source { main: text.into(), ..Source::default() });
            assemble(read(Format::Csv, &source, &rules), &Options::default(), &rules)
        };
        manifests(plan("username,groups\nada,dev\nbob,ops\n"), &folder).unwrap();
        fs::write(folder.join("users/README.md"), "").unwrap();
        let rest = plan("username,groups,timezone\nada,dev,UTC\nbob,ops,Mars/Base\n");
        let others = others(&rest, &folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let expected = ["groups/ops.yaml", "users/bob.yaml"].map(|path| folder.join(path));
        assert_eq!((rest.rejected.len(), others), (1, expected.to_vec()));
    }
}
