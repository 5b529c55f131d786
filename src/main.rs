//! The `roster` program: picks the TLS provider and parses arguments, nothing more.

use std::process::ExitCode;

use clap::Parser;
use roster::cli::Cli;

#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: a TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    cli.execute()
}
