//! Flags that all commands share.

use super::client::Connection;
use super::output::Output;

/// File name under which kubectl finds the plugin.
pub(super) const NAME: &str = "kubectl-roster";

/// Flags that all commands share.
#[derive(clap::Args, Debug)]
pub(super) struct Global {
    #[command(flatten)]
    pub(super) connection: Connection,

    /// Output format.
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub(super) output: Output,
}
