//! `roster groups`: lists the groups of a User and the path to each.

use anyhow::{Result, bail};
use roster_api::printable;
use roster_core::directory::Directory;
use roster_core::directory::membership::query::Pending;
use roster_runtime::informers::snapshot::snapshot;

use super::cluster;

/// Flags of `roster groups`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Name of the User.
    user: String,
}

pub(super) fn execute(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let directory = runtime.block_on(async {
        let client = cluster::client("groups").await?;
        snapshot(&client).await
    })?;
    if directory.user(&args.user).is_none() {
        bail!("User {} not found", args.user);
    }
    for line in lines(&args.user, &directory) {
        println!("{}", printable::line(&line));
    }
    Ok(())
}

/// Returns one line for each group: its name, the path of groups to it, and the fields that declare the first
/// membership of the path. One line for each pending group follows.
fn lines(user: &str, directory: &Directory) -> Vec<String> {
    let memberships = &directory.memberships;
    let mut groups: Vec<&str> = memberships.groups_of(user).collect();
    groups.sort_unstable();
    let line = |group: &str| {
        let path = memberships.path(user, group)?;
        let sources: Vec<&str> = path.sources.iter().map(|source| source.field()).collect();
        Some(format!("{group}: {user} → {} ({})", path.groups.join(" → "), sources.join(", ")))
    };
    let mut pending: Vec<_> = memberships.pending_of(user).collect();
    pending.sort_unstable();
    let waits = |(group, why): (&str, Pending)| {
        let why = match why {
            Pending::NotFound => "the Group does not exist",
            Pending::NotAccepted => "the Group does not set spec.acceptDeclaredMembers",
        };
        format!("{group}: pending: {why}")
    };
    groups.into_iter().filter_map(line).chain(pending.into_iter().map(waits)).collect()
}
