//! Command line of the `roster` program.

mod check;
mod cluster;
mod export;
mod generated;
mod groups;
mod guard;
mod hash_password;
mod import;
mod private_file;
mod reference;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use roster_api::{crd, printable};
use roster_runtime::operations::telemetry;

use crate::config::RunConfig;
use crate::operator;

/// Declarative identity for Kubernetes: users, groups and role bindings as custom resources.
#[derive(Debug, Parser)]
#[command(name = "roster", version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator.
    Run(Box<RunConfig>),
    /// Check the installation: CRDs, webhooks and the aggregated API.
    Check(check::Args),
    /// Print, write or check the CustomResourceDefinitions.
    Crds(generated::Args),
    /// List the groups of a User, and why it is a member of each.
    Groups(groups::Args),
    /// Explain decisions of the guard against privilege escalation.
    #[command(subcommand)]
    Guard(guard::GuardCommand),
    /// Hash a password for a manifest: read it from the terminal or from standard input, and print a PHC string.
    HashPassword(hash_password::Args),
    /// Import people and groups from another system: preview the changes, write manifests, or apply them.
    Import(Box<import::Args>),
    /// Export people and groups in the format of another system.
    Export(export::Args),
    /// Print, write or check the reference documentation that is generated from the types.
    Reference(generated::Args),
}

impl Cli {
    /// Runs the command.
    pub(crate) fn execute(self) -> ExitCode {
        let result = match self.command {
            Command::Run(config) => run_operator(*config),
            Command::Check(args) => match check::execute(&args) {
                Ok(false) => return ExitCode::FAILURE,
                outcome => outcome.map(drop),
            },
            Command::Crds(args) => print_crds(&args),
            Command::Groups(args) => groups::execute(&args),
            Command::Guard(command) => match guard::execute(command) {
                Ok(false) => return ExitCode::FAILURE,
                outcome => outcome.map(drop),
            },
            Command::HashPassword(args) => hash_password::execute(&args),
            Command::Import(args) => match import::execute(&args) {
                Ok(code) => return code,
                outcome => outcome.map(drop),
            },
            Command::Export(args) => export::execute(&args),
            Command::Reference(args) => reference::execute(&args, Self::command()),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {}", printable::lines(&format!("{error:#}")));
                ExitCode::FAILURE
            }
        }
    }
}

fn print_crds(args: &generated::Args) -> anyhow::Result<()> {
    for definition in crd::all() {
        let (name, content) = crd::file(&definition)?;
        args.put(&name, &content)?;
    }
    Ok(())
}

fn run_operator(config: RunConfig) -> anyhow::Result<()> {
    config.validate()?;
    telemetry::init(config.log.log_format.into(), &config.log.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(operator::run(config));
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "operator failed");
    }
    // Password hashes in progress need not be finished.
    runtime.shutdown_background();
    result
}
