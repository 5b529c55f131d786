//! `kubectl roster`: the same program under the name `kubectl-roster`, for people and for what runs on their behalf.
//!
//! ```text
//!   login ──▶ server, cache       where a password goes, and which token is still good
//!   whoami, passwd, totp, keys,
//!   can-i, who-can, quota ──▶ client      the aggregated API, as the kubeconfig says
//!   passwd, totp ──▶ oneself      whether it is about whoever asks
//!   all of them ──▶ prompt, output        what is asked of people, and what they are shown
//! ```

#![forbid(unsafe_code)]

mod access;
mod cache;
mod client;
mod enrollment;
mod global;
mod keys;
mod kubeconfig;
mod login;
mod oneself;
mod output;
mod passwd;
mod prompt;
mod quota;
mod totp;
mod who_can;
mod whoami;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use self::cache::Cache;
use self::global::{Global, NAME};
use self::output::printable;

/// Log in, and see to one's own password, second factor, API keys and rights, or to somebody else's.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    bin_name = "kubectl roster",
    display_name = "kubectl roster",
    version,
    propagate_version = true
)]
pub struct Plugin {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Log in and print a token, as kubectl expects of a credential plugin.
    Login(login::Args),
    /// Forget the tokens that are cached on this machine.
    Logout,
    /// Print a kubeconfig that logs in by this plugin, to the cluster of the current context.
    Kubeconfig(kubeconfig::Args),
    /// Tell who you are.
    Whoami,
    /// Change your password, or set somebody else's.
    Passwd(passwd::Args),
    /// See to the second factor.
    #[command(subcommand)]
    Totp(totp::TotpCommand),
    /// See to API keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Tell whether you, or somebody else, may do something, and why. Ends with 1 where the answer is no.
    CanI(access::Args),
    /// Show limits over all the namespaces that you own, and what is used of them.
    Quota(quota::Args),
    /// Tell who may do something by RBAC, and by which groups and roles. Leaves ServiceAccounts out.
    WhoCan(who_can::Args),
    /// Print a script that completes the commands of kubectl-roster in a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

/// Whether a program that was started by this path is to be the plugin.
pub fn is_name(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == NAME)
}

impl Plugin {
    /// Does what was asked for.
    pub fn execute(self) -> ExitCode {
        match self.run() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: {}", printable(&format!("{error:#}")));
                ExitCode::FAILURE
            }
        }
    }

    /// Returns whether the answer is yes; what is no question is answered with yes.
    fn run(self) -> Result<bool> {
        // A second thread keeps connections in order while somebody types.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(self.command.run(&self.global))
    }
}

impl Command {
    async fn run(self, global: &Global) -> Result<bool> {
        match self {
            Self::CanI(args) => return access::execute(&args, global).await,
            Self::Login(args) => login::execute(args, &global.connection).await?,
            Self::Logout => eprintln!("cached tokens that were deleted: {}", Cache::of_environment()?.clear()?),
            Self::Kubeconfig(args) => kubeconfig::execute(&args, global)?,
            Self::Whoami => whoami::execute(global).await?,
            Self::Passwd(args) => passwd::execute(&args, global).await?,
            Self::Totp(command) => totp::execute(command, global).await?,
            Self::Keys(command) => keys::execute(command, global).await?,
            Self::Quota(args) => quota::execute(&args, global).await?,
            Self::WhoCan(args) => who_can::execute(&args, global).await?,
            Self::Completion { shell } => {
                clap_complete::generate(shell, &mut Plugin::command(), NAME, &mut std::io::stdout());
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::output::Output;
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("kubectl-roster", true)]
    #[case("/usr/local/bin/kubectl-roster", true)]
    #[case("kubectl-roster.exe", false)]
    #[case("roster", false)]
    #[case("/kubectl-roster/roster", false)]
    #[case("", false)]
    fn names(#[case] program: &str, #[case] expected: bool) {
        assert_eq!(is_name(Path::new(program)), expected);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Plugin::command().debug_assert();
    }

    #[test]
    fn flags_of_every_command_are_taken_after_it_too() {
        let plugin = Plugin::parse_from([NAME, "whoami", "-o", "json", "--context", "a"]);
        assert_eq!(plugin.global.output, Output::Json);
    }

    #[test]
    fn help_names_the_plugin_as_it_is_called() {
        assert!(Plugin::command().get_about().unwrap().to_string().starts_with("Log in"));
        let error = Plugin::try_parse_from([NAME, "keys", "create"]).unwrap_err().to_string();
        assert!(error.contains("Usage: kubectl roster keys create"), "{error}");
    }
}
