//! The `roster` program: installs the TLS provider and parses arguments. Invoked as `kubectl-roster`, it is a kubectl
//! plugin.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use cli::Cli;
use kubectl_roster::Plugin;

mod cli;
mod config;
mod operator;

#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: a TLS provider is already installed");
        return ExitCode::FAILURE;
    }
    let program = std::env::args_os().next().unwrap_or_default();
    if kubectl_roster::is_name(Path::new(&program)) { Plugin::parse().execute() } else { Cli::parse().execute() }
}
