//! Flags of `roster import`, and types that its modules share.

use std::path::PathBuf;

use roster_import::accepted::Accepted;

use super::format::ImportFormat;

/// Field manager of applied objects.
pub(super) const FIELD_MANAGER: &str = "roster-import";

/// Maximum number of concurrent requests.
pub(super) const CONCURRENCY: usize = 16;

/// Flags of `roster import`.
#[derive(clap::Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(in crate::cli) struct Args {
    /// Format of the file.
    #[arg(long, value_name = "FORMAT")]
    pub(super) from: ImportFormat,

    /// File to read, or `-` for standard input.
    pub(super) file: PathBuf,

    /// Show what would change in the cluster. This is the default.
    #[arg(long, group = "mode")]
    pub(super) diff: bool,

    /// Write manifests to this folder: one file for each person, including the password Secret, and one for each group.
    /// Needs no cluster.
    #[arg(long, value_name = "FOLDER", group = "mode")]
    pub(super) write: Option<PathBuf>,

    /// Apply the differences to the cluster. Can be interrupted and repeated.
    #[arg(long, group = "mode")]
    pub(super) apply: bool,

    /// Take over fields that another field manager owns.
    #[arg(long, requires = "apply")]
    pub(super) force_conflicts: bool,

    /// Allow the import to give Groups and spec.admin to existing Users: to those in the file, even if an earlier
    /// import created them, and to those that become members of an imported Group because they name it in spec.groups
    /// or have labels that it selects. Also allow it to give existing Users of the file another password, email or
    /// identity, to enable them and to lift their restrictions, unless they were imported from the same identity in the
    /// source. With names, as in --accept-existing-users=ada,bob, for these Users only. Other such Users, and Groups that
    /// would accept them, are not applied, except for restrictions.
    #[arg(long, value_name = "USER,…", num_args = 0..=1, require_equals = true, default_missing_value = Accepted::ALL)]
    pub(super) accept_existing_users: Option<Accepted>,

    /// Allow the import to create Users with spec.admin. With names, as in --accept-administrators=ada,bob, these Users only.
    /// Other such Users are not applied.
    #[arg(long, value_name = "USER,…", num_args = 0..=1, require_equals = true, default_missing_value = Accepted::ALL)]
    pub(super) accept_administrators: Option<Accepted>,

    /// Lift restrictions that earlier imports have set although the LDIF file has no operational attributes, and so does not
    /// show whether accounts are locked.
    #[arg(long)]
    pub(super) lift_restrictions: bool,

    /// Namespace of the password Secrets. It must exist.
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) secret_namespace: Option<String>,

    /// Import people without a password if their hash can't be used. Without this flag, they are rejected.
    #[arg(long)]
    pub(super) without_unusable_hashes: bool,

    /// Accept plaintext passwords, and hash them on this machine with argon2id. Without this flag, they are rejected.
    #[arg(long)]
    pub(super) hash_passwords: bool,

    /// Do not create Groups from the groups of the imported people.
    #[arg(long)]
    pub(super) no_groups: bool,

    /// Field of a User's spec to omit, such as mobile. Existing Users keep it as it is. Repeatable.
    #[arg(long, value_name = "FIELD")]
    pub(super) without: Vec<String>,

    /// Field for a CSV column, as in "Shoe size=extra". An empty field ignores the column. Repeatable.
    #[arg(long, value_name = "COLUMN=FIELD", value_parser = parse_map)]
    pub(super) map: Vec<(String, String)>,

    /// Delimiter of CSV cells, or "tab". Without this flag, it is detected from the header: a comma, a semicolon, a tab or
    /// a vertical bar.
    #[arg(long, value_name = "CHARACTER", value_parser = parse_delimiter)]
    pub(super) delimiter: Option<u8>,

    /// Skip CSV columns that are not fields. Without this flag, the file is rejected.
    #[arg(long)]
    pub(super) ignore_unknown_columns: bool,

    /// Copy of /etc/group, for --from passwd.
    #[arg(long, value_name = "FILE")]
    pub(super) group_file: Option<PathBuf>,

    /// Copy of /etc/shadow, for --from passwd.
    #[arg(long, value_name = "FILE")]
    pub(super) shadow_file: Option<PathBuf>,

    /// Lowest UID of an account to import, for --from passwd.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub(super) min_uid: u32,

    /// Write rejected entries to this file: as CSV if its name ends in .csv, otherwise one JSON object per line.
    #[arg(long, value_name = "FILE")]
    pub(super) rejects: Option<PathBuf>,

    /// Exit with 0 even if entries were rejected, unless the file contains no user and no group.
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

/// Number of objects by result.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Outcome {
    pub(super) created: usize,
    pub(super) changed: usize,
    pub(super) same: usize,
    pub(super) failed: usize,
}

/// Names of the imported files, indexed by [`roster_import::draft::Place::file`].
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
