//! Kubeconfigs of components and users.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::certificates::Pair;

/// How the user of a kubeconfig authenticates.
pub(crate) enum Identity<'a> {
    Certificate(&'a Pair),
    Token(&'a str),
}

/// Writes a kubeconfig for the API server at `url`, whose authority is in the file `ca`, and returns its path.
///
/// # Errors
/// If the file can't be written.
pub(crate) fn write_kubeconfig(path: &Path, url: &str, ca: &Path, identity: &Identity<'_>) -> Result<PathBuf> {
    let mut user = String::new();
    match identity {
        Identity::Certificate((cert, key)) => {
            write!(user, "client-certificate: {}, client-key: {}", cert.display(), key.display())?;
        }
        Identity::Token(token) => write!(user, "token: {token}")?,
    }
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: local\n\
         clusters:\n- name: local\n  cluster: {{server: '{url}', certificate-authority: {}}}\n\
         users:\n- name: me\n  user: {{{user}}}\n\
         contexts:\n- name: local\n  context: {{cluster: local, user: me}}\n",
        ca.display()
    );
    std::fs::write(path, config)?;
    Ok(path.to_owned())
}
