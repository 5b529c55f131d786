//! Flags that every command takes.

use super::client::Connection;
use super::output::Output;

/// File name under which kubectl finds the plugin.
pub(super) const NAME: &str = "kubectl-roster";

/// Flags of every command.
#[derive(clap::Args, Debug)]
pub(super) struct Global {
    #[command(flatten)]
    pub(super) connection: Connection,

    /// In which form to print.
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub(super) output: Output,
}
