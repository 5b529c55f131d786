//! The kubectl plugin `kubectl roster`. It is the operator's binary under the name `kubectl-roster`.
//!
//! ```text
//!   login ──▶ server, cache               where to send the password; reusing tokens
//!   whoami, passwd, totp, keys,
//!   can-i, who-can, quota ──▶ client      the aggregated API, reached through the kubeconfig
//!   passwd, totp, keys ──▶ caller         whether a command is about the caller or another user
//!   all commands ──▶ prompt, output       terminal input and output
//! ```

#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod access;
mod cache;
mod caller;
mod client;
mod enrollment;
mod global;
mod keys;
mod kubeconfig;
mod login;
mod output;
mod passwd;
mod prompt;
mod quota;
mod totp;
mod who_can;
mod whoami;

use roster_api::printable;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use self::cache::Cache;
use self::global::{Global, NAME};

/// Log in, and manage passwords, second factors, API keys and permissions, your own or another user's.
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
    /// Log in and print a token as an ExecCredential, for kubectl.
    Login(login::Args),
    /// Delete the tokens that are cached on this machine.
    Logout,
    /// Print a kubeconfig for the cluster of the current context that logs in with this plugin.
    Kubeconfig(kubeconfig::Args),
    /// Show who you are.
    Whoami,
    /// Change your password, or set another user's.
    Passwd(passwd::Args),
    /// Manage the second factor.
    #[command(subcommand)]
    Totp(totp::TotpCommand),
    /// Manage API keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Check whether you or another user may perform an action, and explain why. Exits with 1 if not.
    CanI(access::Args),
    /// Show the quota over all namespaces that you own, and its usage.
    Quota(quota::Args),
    /// List who may perform an action by RBAC, and through which groups and roles. ServiceAccounts are not listed.
    WhoCan(who_can::Args),
    /// Print a shell completion script for kubectl-roster.
    Completion {
        /// Shell to generate the script for.
        shell: Shell,
    },
}

/// Returns whether a program started with this path runs as the plugin.
pub fn is_name(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == NAME)
}

impl Plugin {
    /// Runs the command and prints its error, if any. Also fails if the answer to `can-i` is no.
    pub fn execute(self) -> ExitCode {
        match self.run() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: {}", printable::lines(&format!("{error:#}")));
                ExitCode::FAILURE
            }
        }
    }

    /// Returns the answer to `can-i`, and `true` for every other command.
    fn run(self) -> Result<bool> {
        // The worker thread keeps connections alive while the main thread waits for terminal input.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(self.command.run(&self.global))
    }
}

impl Command {
    async fn run(self, global: &Global) -> Result<bool> {
        match self {
            Self::CanI(args) => return access::execute(&args, global).await,
            Self::Login(args) => login::execute(args, &global.connection).await?,
            Self::Logout => eprintln!("deleted cached tokens: {}", Cache::of_environment()?.clear()?),
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
    fn the_plugin_is_recognized_by_its_file_name(#[case] program: &str, #[case] expected: bool) {
        assert_eq!(is_name(Path::new(program)), expected);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Plugin::command().debug_assert();
    }

    #[test]
    fn global_flags_may_follow_the_command() {
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
