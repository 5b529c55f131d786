//! `kubectl roster totp`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use roster_api::credentials::TotpEnrollmentStatus;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::caller::Caller;
use super::client::{deleted, path_of, status};
use super::enrollment::{present, recovery_codes};
use super::global::Global;
use super::output::table;
use super::prompt::{CODE, Console, Question, Terminal, current_password};

const KIND: &str = "TOTPEnrollment";

/// The code that confirms a new seed. There is no flag for it, because the seed is not known before the command runs.
const FIRST_CODE: Question<'static> = Question { hint: "enroll on a terminal", ..CODE };

/// Subcommands of `kubectl roster totp`.
#[derive(Debug, Subcommand)]
pub(super) enum TotpCommand {
    /// Enroll an authenticator app: shows a QR code, asks for a code from the app, and prints recovery codes.
    Enroll {
        /// File with your password, or `-` for standard input. Default: ask.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Show whether a second factor is enrolled.
    Status {
        /// User to show, as an administrator. Default: you.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Remove the second factor.
    Disable {
        /// User whose second factor to remove, as an administrator and without a code. Default: you.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,

        /// Code of the authenticator app, or a recovery code. Default: ask.
        #[arg(long)]
        code: Option<SecretString>,
    },
}

pub(super) async fn execute(command: TotpCommand, global: &Global) -> Result<()> {
    match command {
        TotpCommand::Enroll { password_file } => enroll(password_file.as_deref(), global).await,
        TotpCommand::Status { user } => show(user.as_ref(), global).await,
        TotpCommand::Disable { user, code } => disable(user.as_ref(), code, global).await,
    }
}

async fn enroll(password_file: Option<&Path>, global: &Global) -> Result<()> {
    let directory = global.connection.directory().await?;
    let path = path_of(None, &["totp"])?;
    let password = current_password(password_file, &Caller::fetch(&directory).await?, None, &mut Terminal)?;
    let start = password.map_or_else(|| json!({}), |password| json!({"currentPassword": password.expose_secret()}));
    let answer = directory.create(&path, KIND, &start).await?;
    let enrollment = status::<TotpEnrollmentStatus>(&answer)?.enrollment;
    present(&enrollment.context("the response has no enrollment")?, &mut Terminal);
    let code = Terminal.read_secret(FIRST_CODE)?;
    let answer = directory.create(&path, KIND, &spec(Some(&code))).await?;
    let codes = status::<TotpEnrollmentStatus>(&answer)?.recovery_codes;
    global.output.print(&answer, || format!("The second factor is enrolled.\n\n{}", recovery_codes(&codes)))
}

async fn show(user: Option<&String>, global: &Global) -> Result<()> {
    let answer = global.connection.directory().await?.get(&path_of(user, &["totp"])?).await?;
    let status = status::<TotpEnrollmentStatus>(&answer)?;
    global.output.print(&answer, || describe(&status))
}

async fn disable(user: Option<&String>, code: Option<SecretString>, global: &Global) -> Result<()> {
    let directory = global.connection.directory().await?;
    let caller = if user.is_some() { Caller::fetch(&directory).await? } else { Caller::default() };
    let other = caller.other(user);
    let code = proof(code, other, &mut Terminal)?;
    let answer = directory.delete_with(&path_of(other, &["totp"])?, KIND, &spec(code.as_ref())).await?;
    global.output.print(&answer, || deleted(&answer, || "the second factor is deleted".to_owned()))
}

/// Returns the code that confirms the removal of the caller's second factor, and `None` for another user's.
fn proof(
    code: Option<SecretString>,
    other: Option<&String>,
    console: &mut dyn Console,
) -> Result<Option<SecretString>> {
    match (code, other) {
        (Some(_), Some(other)) => bail!("--code is for your own second factor, and {other} is not you"),
        (None, None) => console.read_secret(CODE).map(Some),
        (code, _) => Ok(code),
    }
}

fn spec(code: Option<&SecretString>) -> Value {
    code.map_or_else(|| json!({}), |code| json!({"code": code.expose_secret().trim()}))
}

fn describe(status: &TotpEnrollmentStatus) -> String {
    let confirmed = status.confirmed_time.as_ref().map(|time| time.0.to_string()).unwrap_or_default();
    let left = status.recovery_codes_left.map(|left| left.to_string()).unwrap_or_default();
    table(["ENABLED", "CONFIRMED", "RECOVERY CODES LEFT"], &[[status.enabled.to_string(), confirmed, left]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::ScriptedConsole;

    #[test]
    fn only_the_callers_own_second_factor_takes_a_code() {
        let (joan, mut console) = ("joan".to_owned(), ScriptedConsole::new(["123456"]));
        assert_eq!(proof(None, None, &mut console).unwrap().unwrap().expose_secret(), "123456");
        assert_eq!(proof(Some("654321".into()), None, &mut console).unwrap().unwrap().expose_secret(), "654321");
        assert!(proof(None, Some(&joan), &mut console).unwrap().is_none());
        assert!(proof(Some("654321".into()), Some(&joan), &mut console).is_err());
    }

    #[test]
    fn the_body_has_the_code_if_there_is_one() {
        assert_eq!(spec(None), json!({}));
        assert_eq!(spec(Some(&" 123456 ".into())), json!({"code": "123456"}));
    }

    #[test]
    fn a_second_factor_is_described() {
        let status: TotpEnrollmentStatus = serde_json::from_value(json!({
            "enabled": true, "confirmedTime": "2030-01-01T12:00:00Z", "recoveryCodesLeft": 9}))
        .unwrap();
        let text = describe(&status);
        assert_eq!(text.lines().nth(1).unwrap(), "true      2030-01-01T12:00:00Z   9");
        let text = describe(&TotpEnrollmentStatus::default());
        assert_eq!(text.lines().nth(1).unwrap(), "false     <none>      <none>");
    }
}
