//! `roster hash-password`: prints the hash of a password.

use std::io::{IsTerminal, Read, stdin};

use anyhow::{Context, Result, bail};
use roster_credentials::hash::{Argon2idCost, Memory, PasswordHash};
use roster_credentials::password;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// Flags of `roster hash-password`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Memory of argon2id, in KiB.
    #[arg(long, default_value_t = 19_456)]
    memory_kib: u32,

    /// Iterations of argon2id.
    #[arg(long, default_value_t = 2)]
    iterations: u32,

    /// Parallelism (lanes) of argon2id.
    #[arg(long, default_value_t = 1)]
    parallelism: u32,
}

pub(super) fn execute(args: &Args) -> Result<()> {
    let cost = Argon2idCost::new(args.memory_kib, args.iterations, args.parallelism).map_err(anyhow::Error::msg)?;
    let password = if stdin().is_terminal() { prompt()? } else { read()? };
    let hash = PasswordHash::create(password.expose_secret(), cost, &mut Memory::default());
    println!("{}", hash.expose());
    Ok(())
}

fn prompt() -> Result<SecretString> {
    let ask =
        |prompt: &str| rpassword::prompt_password(prompt).map(Zeroizing::new).context("reading the terminal failed");
    let first = ask("Password: ")?;
    if *first != *ask("Again: ")? {
        bail!("the passwords differ");
    }
    password::accept_line(&first).context("the password")
}

fn read() -> Result<SecretString> {
    let mut text = Zeroizing::new(String::new());
    let limit = password::MAX_BYTES as u64 + 3;
    stdin().take(limit).read_to_string(&mut text).context("standard input is not valid UTF-8")?;
    password::accept_line(&text).context("the password")
}
