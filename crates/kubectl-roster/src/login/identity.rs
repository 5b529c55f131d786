//! Flags that say who logs in and where.

use std::path::PathBuf;

use anyhow::Result;

use crate::prompt::{Console, Question};

const USERNAME: Question<'static> = Question { prompt: "Username: ", hint: "set --username" };

/// Flags that say who logs in and where.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Identity {
    /// Username or email. Default: ask.
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,

    /// Address of Roster, such as https://roster.example.com. Default: the API server of the cluster.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,

    /// PEM file with the certificate authority of the server. Default: the cluster's, or the system's with --server.
    #[arg(long, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,

    /// Audience of the token. Default: the first audience of the installation.
    #[arg(long)]
    pub audience: Option<String>,

    /// File with the password, for automation, or `-` for standard input. Default: ask.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// Do not read or write the token cache.
    #[arg(long)]
    pub no_cache: bool,
}

impl Identity {
    /// Returns the username from the flag, or asks for it.
    pub(crate) fn username(&self, console: &mut dyn Console) -> Result<String> {
        self.username.clone().map_or_else(|| console.read_line(USERNAME), Ok)
    }
}
