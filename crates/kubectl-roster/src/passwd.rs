//! `kubectl roster passwd`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use roster_api::credentials::PasswordChangeStatus;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::cache::Cache;
use super::caller::Caller;
use super::client::{of_user, path_of, status};
use super::global::Global;
use super::prompt::{Console, Question, Terminal, new_password, read_password_file};

const OLD: Question<'static> = Question { prompt: "Old password: ", hint: "set --old-password-file" };

/// Flags of `kubectl roster passwd`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// User whose password to set, as an administrator. Default: you.
    user: Option<String>,

    /// File with your current password, or `-` for standard input. Default: ask.
    #[arg(long, value_name = "FILE")]
    old_password_file: Option<PathBuf>,

    /// File with the new password, or `-` for standard input. Default: ask twice.
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,

    /// Revoke all API keys of the user as well.
    #[arg(long)]
    revoke_api_keys: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    old_password: Option<&'a str>,
    new_password: &'a str,
    #[serde(rename = "revokeAPIKeys")]
    revoke_api_keys: bool,
}

impl Args {
    /// Returns the caller's current password, and `None` if the change is for another user.
    fn old_password(&self, other: Option<&String>, console: &mut dyn Console) -> Result<Option<SecretString>> {
        match (&self.old_password_file, other) {
            (Some(_), Some(other)) => bail!("--old-password-file is for your own password, and {other} is not you"),
            (None, Some(_)) => Ok(None),
            (Some(path), None) => read_password_file(path).map(Some),
            (None, None) => console.read_secret(OLD).map(Some),
        }
    }

    fn new_password(&self, console: &mut dyn Console) -> Result<SecretString> {
        match &self.new_password_file {
            Some(path) => read_password_file(path),
            None => new_password(console, "set --new-password-file"),
        }
    }
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<()> {
    let directory = global.connection.directory().await?;
    let caller = Caller::fetch(&directory).await?;
    let other = caller.other(args.user.as_ref());
    let old = args.old_password(other, &mut Terminal)?;
    let new = args.new_password(&mut Terminal)?;
    let spec = Spec {
        old_password: old.as_ref().map(ExposeSecret::expose_secret),
        new_password: new.expose_secret(),
        revoke_api_keys: args.revoke_api_keys,
    };
    let answer = directory.create(&path_of(other, &["password"])?, "PasswordChange", &spec).await?;
    if other.is_none() {
        forget(&caller, global);
    }
    let outcome = status::<PasswordChangeStatus>(&answer)?;
    global.output.print(&answer, || describe(&outcome))
}

/// Deletes the caller's cached tokens: the cluster rejects them from now on.
fn forget(caller: &Caller, global: &Global) {
    let forget = || {
        let cluster = global.connection.current()?.1.server.unwrap_or_default();
        Cache::of_environment()?.forget(&cluster, &caller.names())
    };
    if let Err(error) = forget() {
        Terminal.print(&format!("warning: revoked tokens are still cached: {error:#}"));
    }
}

fn describe(outcome: &PasswordChangeStatus) -> String {
    let (user, time) = (of_user(outcome.user.as_ref()), outcome.password_changed_time.0);
    let changed = format!("the password{user} was changed at {time}; earlier logins have ended");
    match outcome.revoked_api_keys {
        0 => changed,
        count => format!("{changed}\nAPI keys revoked: {count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::ScriptedConsole;
    use clap::Parser;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(arguments: &[&str]) -> Args {
        Line::parse_from([&[""], arguments].concat()).args
    }

    #[test]
    fn the_callers_own_password_change_takes_the_old_password() {
        let mut console = ScriptedConsole::new(["old", "new", "new"]);
        for own in [args(&[]), args(&["~"]), args(&["jane"])] {
            console.answers = ["old", "new", "new"].into();
            let caller = Caller::jane();
            let other = caller.other(own.user.as_ref());
            assert_eq!(own.old_password(other, &mut console).unwrap().unwrap().expose_secret(), "old");
            assert_eq!(own.new_password(&mut console).unwrap().expose_secret(), "new");
        }
    }

    #[test]
    fn administrators_are_not_asked_for_the_old_password() {
        let (joan, mut console) = ("joan".to_owned(), ScriptedConsole::default());
        assert!(args(&["joan"]).old_password(Some(&joan), &mut console).unwrap().is_none());
        assert!(args(&["joan", "--old-password-file", "x"]).old_password(Some(&joan), &mut console).is_err());
    }

    #[test]
    fn the_body_has_what_the_api_expects() {
        let spec = Spec { old_password: None, new_password: "new", revoke_api_keys: true };
        let spec = serde_json::to_value(spec).unwrap();
        assert_eq!(spec, serde_json::json!({"newPassword": "new", "revokeAPIKeys": true}));
    }

    #[test]
    fn revoked_keys_are_counted() {
        let time = Time("2030-01-01T12:00:00Z".parse().unwrap());
        let text = |count| {
            let status =
                PasswordChangeStatus { user: None, password_changed_time: time.clone(), revoked_api_keys: count };
            describe(&status)
        };
        assert!(text(0).starts_with("the password was changed at 2030-01-01T12:00:00Z") && !text(0).contains("API"));
        assert!(text(2).ends_with("revoked: 2"));
    }
}
