//! `kubectl roster totp`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use roster_api::credentials::TotpEnrollmentStatus;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::client::{path_of, status};
use super::enrollment::{present, recovery_codes};
use super::global::Global;
use super::oneself::Oneself;
use super::output::table;
use super::prompt::{CODE, Person, Question, Terminal, confirmation};

const KIND: &str = "TOTPEnrollment";

/// The first code of a seed that was shown a moment ago.
const FIRST_CODE: Question<'static> = Question { otherwise: "enrol on a terminal", ..CODE };

/// Commands about the second factor.
#[derive(Debug, Subcommand)]
pub(super) enum TotpCommand {
    /// Enrol an authenticator app: shows a QR code, and takes a code of the app. Prints recovery codes.
    Enroll {
        /// File with your password. `-`: standard input. Absent: asked for.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Tell whether a second factor is enrolled.
    Status {
        /// Whose, as an administrator. Absent: your own.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Remove the second factor.
    Disable {
        /// Whose, as an administrator, without a code. Absent: your own.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,

        /// Code of the authenticator app, or a recovery code. Absent: asked for.
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
    let password = confirmation(password_file, &Oneself::of(&directory).await?, None, &mut Terminal)?;
    let asked = password.map_or_else(|| json!({}), |password| json!({"currentPassword": password.expose_secret()}));
    let answer = directory.create(&path, KIND, &asked).await?;
    let enrollment = status::<TotpEnrollmentStatus>(&answer)?.enrollment;
    present(&enrollment.context("the API server sends no seed")?, &mut Terminal);
    let code = Terminal.secret(FIRST_CODE)?;
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
    let oneself = if user.is_some() { Oneself::of(&directory).await? } else { Oneself::default() };
    let other = oneself.other(user);
    let code = proof(code, other, &mut Terminal)?;
    let answer = directory.delete_with(&path_of(other, &["totp"])?, KIND, &spec(code.as_ref())).await?;
    global.output.print(&answer, || "The second factor is removed.".to_owned())
}

/// The code that proves that it is oneself. Nothing where it is about another.
fn proof(code: Option<SecretString>, other: Option<&String>, person: &mut dyn Person) -> Result<Option<SecretString>> {
    match (code, other) {
        (Some(_), Some(other)) => bail!("--code is for your own second factor, and {other} is not you"),
        (None, None) => person.secret(CODE).map(Some),
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
    use crate::prompt::Script;

    #[test]
    fn ones_own_second_factor_takes_a_code_and_that_of_another_takes_none() {
        let (joan, mut person) = ("joan".to_owned(), Script::new(["123456"]));
        assert_eq!(proof(None, None, &mut person).unwrap().unwrap().expose_secret(), "123456");
        assert_eq!(proof(Some("654321".into()), None, &mut person).unwrap().unwrap().expose_secret(), "654321");
        assert!(proof(None, Some(&joan), &mut person).unwrap().is_none());
        assert!(proof(Some("654321".into()), Some(&joan), &mut person).is_err());
    }

    #[test]
    fn the_code_is_in_the_body_where_there_is_one() {
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
