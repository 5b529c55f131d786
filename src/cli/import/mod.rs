//! `roster import`: imports people and groups from other systems. Previews changes, writes manifests, or applies them.

mod apply;
mod args;
mod compare;
mod diff;
mod format;
mod known;
mod list;
mod live;
mod rejects;
mod restricted;
mod step;
mod write;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use roster_import::accepted::Accepted;
use roster_import::assemble::{Options, Plan, Renamed, assemble};
use roster_import::current::Current;
use roster_import::draft::Input;
use roster_import::rules::Rules;
use roster_import::{Source, csv, read};

pub(super) use list::PAGE;

use super::cluster;
pub(super) use args::Args;
use args::{Files, Outcome};
use format::ImportFormat;

/// Runs the import. Fails if entries were rejected or objects could not be written.
pub(super) fn execute(args: &Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(import(args))
}

/// Warns about entries that do not show whether accounts are locked.
fn warn_about_states(input: &Input) {
    let (count, total) = (input.without_state(), input.users.len());
    if count == 0 {
        return;
    }
    let who =
        if count == total { "no person has".to_owned() } else { format!("{count} of {total} people do not have") };
    rejects::print_line(&format!(
        "warning: this file does not show which accounts are locked, because {who} an operational attribute such as modifyTimestamp. \
         Export operational attributes, too: ldapsearch … '*' '+'"
    ));
}

async fn import(args: &Args) -> Result<ExitCode> {
    let files = Files::of(args);
    let rules = Rules::default();
    let input = read(args.from.into(), &source(args)?, &rules);
    let is_empty = input.is_empty();
    if !args.lift_restrictions {
        warn_about_states(&input);
    }
    let mut options = options(args);
    if args.write.is_none() {
        read_known(&input, &mut options).await?;
    }
    let plan = assemble(input, &options, &rules);
    rejects::print(&plan.rejected, &files);
    report_names(&plan, &files);
    if let Some(path) = &args.rejects {
        rejects::write(path, &plan.rejected, &files).with_context(|| path.display().to_string())?;
    }
    let rejected = plan.rejected.len();
    let outcome = run(args, plan, &files).await?;
    let is_fine = outcome.failed == 0 && (rejected == 0 || args.allow_rejected && !is_empty);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads which objects of the cluster were imported before, and what they have that the import must not change. Only groups
/// and people with an identifier can have been imported under another name.
async fn read_known(input: &Input, options: &mut Options) -> Result<()> {
    let client = cluster::client("import").await?;
    if !input.groups.is_empty() || input.has_identified_groups() || Current::needs_memberships(input) {
        known::read_groups(&client, input, options).await?;
    }
    known::read_users(&client, input, options).await
}

/// Reports what is imported in another way than the source says.
fn report_names(plan: &Plan, files: &Files) {
    for item in &plan.without_hash {
        rejects::report_at(
            item.place,
            files,
            &format!("{} is imported without a password: it {}", item.who, item.reason),
        );
    }
    for group in &plan.suffixed {
        let (name, title, id) = (&group.name, &group.title, &group.id);
        rejects::report_at(group.place, files, &format!("Group {name} is {id}: several groups have the name {title}"));
    }
    for person in &plan.renamed {
        let Renamed { place, name, source, username, title } = person;
        let message = format!(
            "{source} is now {title} in the source, and User {name} keeps the username {username}: an import cannot rename \
             Users, but a request to users/{name}/rename of directory.roster.dev can"
        );
        rejects::report_at(*place, files, &message);
    }
    for user in &plan.unlifted {
        rejects::report_at(user.place, files, &user.to_string());
    }
    for group in &plan.kept {
        rejects::report_at(group.place, files, &group.to_string());
    }
    for warning in &plan.warnings {
        rejects::report_at(warning.place, files, &format!("warning: {warning}"));
    }
}

async fn run(args: &Args, plan: Plan, files: &Files) -> Result<Outcome> {
    if let Some(folder) = &args.write {
        if !args.accept_existing_users.as_ref().is_some_and(Accepted::is_all) {
            write::warn_of_existing_users(&plan);
        }
        if !args.accept_administrators.as_ref().is_some_and(Accepted::is_all) {
            write::warn_of_administrators(&plan);
        }
        return write::manifests(plan, folder);
    }
    let client = cluster::client("import").await?;
    if args.apply { apply::plan(client, plan, files, args).await } else { diff::plan(client, plan, files, args).await }
}

/// Reads the files.
fn source(args: &Args) -> Result<Source> {
    let is_passwd = args.from == ImportFormat::Passwd;
    if !is_passwd && (args.group_file.is_some() || args.shadow_file.is_some()) {
        bail!("--group-file and --shadow-file require --from passwd");
    }
    if args.from != ImportFormat::Csv {
        let flags = [
            ("--map", !args.map.is_empty()),
            ("--delimiter", args.delimiter.is_some()),
            ("--ignore-unknown-columns", args.ignore_unknown_columns),
        ];
        if let Some((flag, _)) = flags.iter().find(|(_, is_given)| *is_given) {
            bail!("{flag} requires --from csv");
        }
    }
    Ok(Source {
        main: bytes(&args.file)?,
        group: args.group_file.as_deref().map(bytes).transpose()?,
        shadow: args.shadow_file.as_deref().map(bytes).transpose()?,
        min_uid: args.min_uid,
        csv: csv::Options {
            map: args.map.iter().cloned().collect(),
            ignore_unknown_columns: args.ignore_unknown_columns,
            delimiter: args.delimiter,
        },
    })
}

fn options(args: &Args) -> Options {
    Options {
        secret_namespace: args.secret_namespace.clone(),
        without_unusable_hashes: args.without_unusable_hashes,
        hash_passwords: args.hash_passwords,
        no_groups: args.no_groups,
        without: args.without.clone(),
        lift_restrictions: args.lift_restrictions,
        ..Options::default()
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    if path.as_os_str() != "-" {
        return std::fs::read(path).with_context(|| path.display().to_string());
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("reading standard input failed")?;
    Ok(bytes)
}
