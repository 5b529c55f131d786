//! `roster import`: people and groups from other systems, previewed, written as manifests, or applied.

mod apply;
mod compare;
mod diff;
mod live;
mod rejects;
mod write;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use kube::Client;

use crate::import::assemble::{Options, Plan, assemble};
use crate::import::rules::Rules;
use crate::import::{Format, Source, read};

pub(super) use live::PAGE;

/// Field manager of what is applied.
const FIELD_MANAGER: &str = "roster-import";

/// Requests under way at a time.
const CONCURRENCY: usize = 16;

/// Flags of `roster import`.
#[derive(clap::Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct Args {
    /// Format of the file.
    #[arg(long, value_name = "FORMAT")]
    from: Format,

    /// File to read. `-`: standard input.
    file: PathBuf,

    /// Show what would change in the cluster. The default.
    #[arg(long, group = "mode")]
    diff: bool,

    /// Write manifests to this folder: a file a person, with the password Secret, and a file a group. Needs no cluster.
    #[arg(long, value_name = "FOLDER", group = "mode")]
    write: Option<PathBuf>,

    /// Apply to the cluster what differs there. Can be interrupted, and done again.
    #[arg(long, group = "mode")]
    apply: bool,

    /// Take over fields that belong to another field manager.
    #[arg(long, requires = "apply")]
    force_conflicts: bool,

    /// Accept existing Users as members of the imported Groups, if they name such a Group in spec.groups or carry labels
    /// that it selects. Otherwise nothing is applied.
    #[arg(long)]
    accept_existing_members: bool,

    /// Namespace of the password Secrets. It has to exist.
    #[arg(long, value_name = "NAMESPACE")]
    secret_namespace: Option<String>,

    /// Let people whose hash can't be used come without a password. Otherwise they are rejected.
    #[arg(long)]
    without_unusable_hashes: bool,

    /// Take passwords in plain text, and hash them on this machine with argon2id. Otherwise they are rejected.
    #[arg(long)]
    hash_passwords: bool,

    /// Make no Groups of those that people are in.
    #[arg(long)]
    no_groups: bool,

    /// Field of a User's spec to leave out, such as mobile. Repeatable.
    #[arg(long, value_name = "FIELD")]
    without: Vec<String>,

    /// What a column of CSV is, as in "Shoe size=extra"; an empty field leaves the column out. Repeatable.
    #[arg(long, value_name = "COLUMN=FIELD", value_parser = parse_map)]
    map: Vec<(String, String)>,

    /// /etc/group, for passwd.
    #[arg(long, value_name = "FILE")]
    group_file: Option<PathBuf>,

    /// /etc/shadow, for passwd.
    #[arg(long, value_name = "FILE")]
    shadow_file: Option<PathBuf>,

    /// Least number of a person's account, for passwd.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    min_uid: u32,

    /// Write what is rejected to this file: CSV where its name ends so, otherwise a JSON object a line.
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,

    /// Succeed although something was rejected.
    #[arg(long)]
    allow_rejected: bool,
}

fn parse_map(text: &str) -> Result<(String, String), String> {
    let (column, field) = text.rsplit_once('=').ok_or("must be COLUMN=FIELD")?;
    Ok((column.to_owned(), field.to_owned()))
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Outcome {
    created: usize,
    changed: usize,
    same: usize,
    failed: usize,
}

/// Reads, decides, and does what was asked for. Fails where something was rejected or could not be written.
pub(super) fn execute(args: &Args) -> Result<ExitCode> {
    let files = Files::of(args);
    let plan = plan(args)?;
    rejects::print(&plan.rejected, &files);
    for item in &plan.without_hash {
        rejects::tell(item.place, &files, &format!("{} comes without a password: it {}", item.who, item.reason));
    }
    if let Some(path) = &args.rejects {
        rejects::write(path, &plan.rejected, &files).with_context(|| path.display().to_string())?;
    }
    let rejected = plan.rejected.len();
    let outcome = run(args, plan, &files)?;
    let is_fine = outcome.failed == 0 && (rejected == 0 || args.allow_rejected);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(args: &Args, plan: Plan, files: &Files) -> Result<Outcome> {
    if let Some(folder) = &args.write {
        if !args.accept_existing_members {
            write::warn_of_existing_members(&plan);
        }
        return write::manifests(plan, folder);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::try_default().await.context("no access to a cluster: set KUBECONFIG")?;
        if args.apply {
            apply::plan(client, plan, files, args).await
        } else {
            diff::plan(client, plan, files, args).await
        }
    })
}

fn plan(args: &Args) -> Result<Plan> {
    let is_passwd = args.from == Format::Passwd;
    if !is_passwd && (args.group_file.is_some() || args.shadow_file.is_some()) {
        bail!("--group-file and --shadow-file are for --from passwd");
    }
    if !args.map.is_empty() && args.from != Format::Csv {
        bail!("--map is for --from csv");
    }
    let source = Source {
        main: bytes(&args.file)?,
        group: args.group_file.as_deref().map(bytes).transpose()?,
        shadow: args.shadow_file.as_deref().map(bytes).transpose()?,
        min_uid: args.min_uid,
        map: args.map.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    let options = Options {
        secret_namespace: args.secret_namespace.clone(),
        without_unusable_hashes: args.without_unusable_hashes,
        hash_passwords: args.hash_passwords,
        no_groups: args.no_groups,
        without: args.without.clone(),
    };
    let rules = Rules::default();
    Ok(assemble(read(args.from, &source, &rules), &options, &rules))
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    if path.as_os_str() != "-" {
        return std::fs::read(path).with_context(|| path.display().to_string());
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("standard input can't be read")?;
    Ok(bytes)
}

/// Names of the files, in the order in which [`crate::import::draft::Place`] counts them.
struct Files([String; 3]);

impl Files {
    fn of(args: &Args) -> Self {
        let name = |path: Option<&PathBuf>| path.map(|path| path.display().to_string()).unwrap_or_default();
        Self([name(Some(&args.file)), name(args.group_file.as_ref()), name(args.shadow_file.as_ref())])
    }

    fn name(&self, file: usize) -> &str {
        self.0.get(file).map_or("", String::as_str)
    }
}
