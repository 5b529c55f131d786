//! Who logs in, and where.

use std::path::PathBuf;

use anyhow::Result;

use crate::prompt::{Person, Question};

const USERNAME: Question<'static> = Question { prompt: "Username: ", otherwise: "give it by --username" };

/// Flags that say who logs in, and where.
#[derive(clap::Args, Clone, Debug)]
pub struct Identity {
    /// Username or email. Absent: asked for.
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,

    /// Roster's own address, such as https://roster.example.com. Absent: the API server of the cluster.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,

    /// Certificate authority of the server, PEM. Absent: that of the cluster, and the system's for --server.
    #[arg(long, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,

    /// Audience of the token. Absent: the first that the installation issues tokens for.
    #[arg(long)]
    pub audience: Option<String>,

    /// File with the password, for automation. `-`: standard input. Absent: asked for.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// Neither use a cached token nor cache the new one.
    #[arg(long)]
    pub no_cache: bool,
}

impl Identity {
    /// The username: the flag, or else what is typed.
    pub fn username(&self, person: &mut dyn Person) -> Result<String> {
        self.username.clone().map_or_else(|| person.line(USERNAME), Ok)
    }
}
