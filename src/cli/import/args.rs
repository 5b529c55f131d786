//! Flags of `roster import`, and what its steps share.

use std::path::PathBuf;

use super::format::ImportFormat;

/// Field manager of what is applied.
pub(super) const FIELD_MANAGER: &str = "roster-import";

/// Requests under way at a time.
pub(super) const CONCURRENCY: usize = 16;

/// Flags of `roster import`.
#[derive(clap::Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(in crate::cli) struct Args {
    /// Format of the file.
    #[arg(long, value_name = "FORMAT")]
    pub(super) from: ImportFormat,

    /// File to read. `-`: standard input.
    pub(super) file: PathBuf,

    /// Show what would change in the cluster. The default.
    #[arg(long, group = "mode")]
    pub(super) diff: bool,

    /// Write manifests to this folder: a file a person, with the password Secret, and a file a group. Needs no cluster.
    #[arg(long, value_name = "FOLDER", group = "mode")]
    pub(super) write: Option<PathBuf>,

    /// Apply to the cluster what differs there. Can be interrupted, and done again.
    #[arg(long, group = "mode")]
    pub(super) apply: bool,

    /// Take over fields that belong to another field manager.
    #[arg(long, requires = "apply")]
    pub(super) force_conflicts: bool,

    /// Accept existing Users as members of the imported Groups, if they name such a Group in spec.groups or carry labels
    /// that it selects; and give further Groups and spec.admin to existing Users, also to those of earlier imports. Otherwise
    /// nothing is applied.
    #[arg(long)]
    pub(super) accept_existing_users: bool,

    /// Namespace of the password Secrets. It has to exist.
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) secret_namespace: Option<String>,

    /// Let people whose hash can't be used come without a password. Otherwise they are rejected.
    #[arg(long)]
    pub(super) without_unusable_hashes: bool,

    /// Take passwords in plain text, and hash them on this machine with argon2id. Otherwise they are rejected.
    #[arg(long)]
    pub(super) hash_passwords: bool,

    /// Make no Groups of those that people are in.
    #[arg(long)]
    pub(super) no_groups: bool,

    /// Field of a User's spec to leave out, such as mobile. Repeatable.
    #[arg(long, value_name = "FIELD")]
    pub(super) without: Vec<String>,

    /// What a column of CSV is, as in "Shoe size=extra"; an empty field leaves the column out. Repeatable.
    #[arg(long, value_name = "COLUMN=FIELD", value_parser = parse_map)]
    pub(super) map: Vec<(String, String)>,

    /// Character between the cells of CSV, or "tab". Without it, the header shows whether it is a comma, a semicolon, a tab
    /// or a vertical bar.
    #[arg(long, value_name = "CHARACTER", value_parser = parse_delimiter)]
    pub(super) delimiter: Option<u8>,

    /// Skip columns of CSV that are not fields. Otherwise the file is rejected.
    #[arg(long)]
    pub(super) ignore_unknown_columns: bool,

    /// /etc/group, for passwd.
    #[arg(long, value_name = "FILE")]
    pub(super) group_file: Option<PathBuf>,

    /// /etc/shadow, for passwd.
    #[arg(long, value_name = "FILE")]
    pub(super) shadow_file: Option<PathBuf>,

    /// Least number of a person's account, for passwd.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub(super) min_uid: u32,

    /// Write what is rejected to this file: CSV where its name ends so, otherwise a JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub(super) rejects: Option<PathBuf>,

    /// Succeed although something was rejected, unless the file contains no user and no group.
    #[arg(long)]
    pub(super) allow_rejected: bool,
}

fn parse_map(text: &str) -> Result<(String, String), String> {
    let (column, field) = text.rsplit_once('=').ok_or("must be COLUMN=FIELD")?;
    Ok((column.to_owned(), field.to_owned()))
}

fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(*byte),
        _ => Err("must be one ASCII character other than a quote, or tab".to_owned()),
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Outcome {
    pub(super) created: usize,
    pub(super) changed: usize,
    pub(super) same: usize,
    pub(super) failed: usize,
}

/// Names of the files, in the order in which [`roster_import::draft::Place`] counts them.
pub(super) struct Files([String; 3]);

impl Files {
    pub(super) fn of(args: &Args) -> Self {
        let name = |path: Option<&PathBuf>| path.map(|path| path.display().to_string()).unwrap_or_default();
        Self([name(Some(&args.file)), name(args.group_file.as_ref()), name(args.shadow_file.as_ref())])
    }

    pub(super) fn name(&self, file: usize) -> &str {
        self.0.get(file).map_or("", String::as_str)
    }
}
