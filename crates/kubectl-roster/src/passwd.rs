//! `kubectl roster passwd`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use roster_api::credentials::PasswordChangeStatus;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::cache::Cache;
use super::client::{path_of, status};
use super::global::Global;
use super::oneself::Oneself;
use super::prompt::{Person, Question, Terminal, new_password, password_in};

const OLD: Question<'static> = Question { prompt: "Old password: ", otherwise: "give it by --old-password-file" };

/// Flags of `kubectl roster passwd`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Whose password, as an administrator. Absent: your own.
    user: Option<String>,

    /// File with your password so far. `-`: standard input. Absent: asked for.
    #[arg(long, value_name = "FILE")]
    old_password_file: Option<PathBuf>,

    /// File with the new password. `-`: standard input. Absent: asked for, twice.
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,

    /// Revoke the API keys as well.
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
    /// What proves that it is oneself. Nothing where it is about another.
    fn old_password(&self, other: Option<&String>, person: &mut dyn Person) -> Result<Option<SecretString>> {
        match (&self.old_password_file, other) {
            (Some(_), Some(other)) => bail!("--old-password-file is for your own password, and {other} is not you"),
            (None, Some(_)) => Ok(None),
            (Some(path), None) => password_in(path).map(Some),
            (None, None) => person.secret(OLD).map(Some),
        }
    }

    fn new_password(&self, person: &mut dyn Person) -> Result<SecretString> {
        match &self.new_password_file {
            Some(path) => password_in(path),
            None => new_password(person, "give it by --new-password-file"),
        }
    }
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<()> {
    let directory = global.connection.directory().await?;
    let oneself = Oneself::of(&directory).await?;
    let other = oneself.other(args.user.as_ref());
    let old = args.old_password(other, &mut Terminal)?;
    let new = args.new_password(&mut Terminal)?;
    let spec = Spec {
        old_password: old.as_ref().map(ExposeSecret::expose_secret),
        new_password: new.expose_secret(),
        revoke_api_keys: args.revoke_api_keys,
    };
    let answer = directory.create(&path_of(other, &["password"])?, "PasswordChange", &spec).await?;
    if other.is_none() {
        forget(&oneself, global);
    }
    let outcome = status::<PasswordChangeStatus>(&answer)?;
    global.output.print(&answer, || describe(&outcome))
}

/// Tokens that were issued before are refused, and would be offered until they end.
fn forget(oneself: &Oneself, global: &Global) {
    let forget = || {
        let cluster = global.connection.current()?.1.server.unwrap_or_default();
        Cache::of_environment()?.forget(&cluster, &oneself.names())
    };
    if let Err(error) = forget() {
        Terminal.tell(&format!("warning: tokens issued before are still cached: {error:#}"));
    }
}

fn describe(outcome: &PasswordChangeStatus) -> String {
    let changed = format!("the password was changed at {}; earlier logins have ended", outcome.password_changed_time.0);
    match outcome.revoked_api_keys {
        0 => changed,
        count => format!("{changed}\nAPI keys that were revoked: {count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Script;
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
    fn ones_own_password_takes_the_old_one() {
        let mut person = Script::new(["old", "new", "new"]);
        for own in [args(&[]), args(&["~"]), args(&["jane"])] {
            person.answers = ["old", "new", "new"].into();
            let oneself = Oneself::jane();
            let other = oneself.other(own.user.as_ref());
            assert_eq!(own.old_password(other, &mut person).unwrap().unwrap().expose_secret(), "old");
            assert_eq!(own.new_password(&mut person).unwrap().expose_secret(), "new");
        }
    }

    #[test]
    fn an_administrator_is_not_asked_for_it() {
        let (joan, mut nobody) = ("joan".to_owned(), Script::default());
        assert!(args(&["joan"]).old_password(Some(&joan), &mut nobody).unwrap().is_none());
        assert!(args(&["joan", "--old-password-file", "x"]).old_password(Some(&joan), &mut nobody).is_err());
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
        let text =
            |count| describe(&PasswordChangeStatus { password_changed_time: time.clone(), revoked_api_keys: count });
        assert!(text(0).starts_with("the password was changed at 2030-01-01T12:00:00Z") && !text(0).contains("API"));
        assert!(text(2).ends_with("revoked: 2"));
    }
}
