//! `kubectl roster quota`.

use anyhow::Result;
use roster_api::{QuotaStatus, UserStatus};

use super::client::{path_of, status};
use super::global::Global;
use super::output::table;

/// Flags of `kubectl roster quota`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// User whose quota to show. Default: you.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<()> {
    let user = global.connection.directory().await?.get(&path_of(args.user.as_ref(), &[])?).await?;
    let quota = status::<UserStatus>(&user)?.quota.unwrap_or_default();
    global.output.print(&serde_json::to_value(&quota)?, || describe(&quota))
}

fn describe(quota: &QuotaStatus) -> String {
    if quota.hard.is_empty() {
        return "no quota".to_owned();
    }
    let used = |name: &String| quota.used.get(name).cloned().unwrap_or_else(|| "0".to_owned());
    let rows: Vec<_> = quota.hard.iter().map(|(name, hard)| [name.clone(), used(name), hard.clone()]).collect();
    table(["NAME", "USED", "HARD"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn limited_resources_are_shown_even_if_unused() {
        let quota = QuotaStatus { hard: map(&[("pods", "10"), ("requests.cpu", "4")]), used: map(&[("pods", "3")]) };
        assert_eq!(describe(&quota), "NAME           USED   HARD\npods           3      10\nrequests.cpu   0      4");
    }

    #[test]
    fn a_missing_quota_is_reported() {
        assert_eq!(describe(&QuotaStatus::default()), "no quota");
    }
}
