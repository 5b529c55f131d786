//! State of a login: the credentials given so far, and the response to the server's challenges.

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use roster_api::credentials::{Challenge, LoginStatus};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::cache::Token;
use crate::enrollment::{present, recovery_codes};
use crate::prompt::{CODE, Console, new_password};

/// Passwords that expire within this time cause a notice.
const EXPIRY_NOTICE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Credentials given so far.
pub(super) struct Attempt<'a> {
    username: &'a str,
    password: SecretString,
    code: Option<SecretString>,
    new_password: Option<SecretString>,
    audience: Option<&'a str>,
}

/// Spec of a Login. Holds the credentials in plaintext only while the request body is serialized.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec<'a> {
    username: &'a str,
    password: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_password: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<&'a str>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        username: &'a str,
        password: SecretString,
        code: Option<SecretString>,
        audience: Option<&'a str>,
    ) -> Self {
        Self { username, password, code, new_password: None, audience }
    }

    /// Returns the spec of the next request.
    pub(super) fn spec(&self) -> Spec<'_> {
        Spec {
            username: self.username,
            password: self.password.expose_secret(),
            code: self.code.as_ref().map(|code| code.expose_secret().trim()),
            new_password: self.new_password.as_ref().map(ExposeSecret::expose_secret),
            audience: self.audience,
        }
    }

    /// Returns the token if the response has one. Otherwise asks the user for what is missing and returns `None`. The
    /// caller then sends the login again.
    pub(super) fn handle_response(&mut self, status: LoginStatus, console: &mut dyn Console) -> Result<Option<Token>> {
        if !status.recovery_codes.is_empty() {
            console.print(&recovery_codes(&status.recovery_codes));
        }
        match status.challenge {
            None => return finish(status, console).map(Some),
            Some(Challenge::Code) => self.code = Some(console.read_secret(CODE)?),
            Some(Challenge::PasswordChange) => {
                console.print("You must change your password.");
                self.new_password = Some(new_password(console, "log in on a terminal once to change it")?);
            }
            Some(Challenge::Enrollment) => {
                let enrollment = status.enrollment.context("the server requires a second factor but sent no seed")?;
                console.print("You must enroll a second factor.");
                present(&enrollment, console);
                self.code = Some(console.read_secret(CODE)?);
            }
        }
        Ok(None)
    }
}

fn finish(status: LoginStatus, console: &mut dyn Console) -> Result<Token> {
    let expiration = status.password_expires_time.filter(|time| time.0 < Timestamp::now() + EXPIRY_NOTICE);
    if let Some(expiration) = expiration {
        console.print(&format!("Your password expires at {}. Change it with: kubectl roster passwd", expiration.0));
    }
    status
        .token
        .zip(status.expiration_timestamp)
        .map(|(token, expiration_timestamp)| Token { token: token.into(), expiration_timestamp })
        .context("the response has no token")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::ScriptedConsole;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use roster_api::credentials::Enrollment;
    use serde_json::{Value, json};

    fn attempt() -> Attempt<'static> {
        Attempt::new("jane", "old".into(), None, None)
    }

    fn challenge(challenge: Challenge) -> LoginStatus {
        LoginStatus { challenge: Some(challenge), ..LoginStatus::default() }
    }

    fn success() -> LoginStatus {
        let end = Some(Time("2030-01-01T12:00:00Z".parse().unwrap()));
        LoginStatus { token: Some("x.y.z".to_owned()), expiration_timestamp: end, ..LoginStatus::default() }
    }

    fn sent(attempt: &Attempt<'_>) -> Value {
        serde_json::to_value(attempt.spec()).unwrap()
    }

    #[test]
    fn a_password_alone_can_be_enough() {
        let mut console = ScriptedConsole::default();
        let token = attempt().handle_response(success(), &mut console).unwrap().unwrap();
        assert_eq!(token.token.expose_secret(), "x.y.z");
        assert!(console.printed.is_empty() && console.asked.is_empty());
    }

    #[test]
    fn each_request_sends_everything_given_so_far() {
        let (mut attempt, mut console) = (attempt(), ScriptedConsole::new(["new", "new", " 123456 "]));
        assert_eq!(sent(&attempt), json!({"username": "jane", "password": "old"}));
        assert!(attempt.handle_response(challenge(Challenge::PasswordChange), &mut console).unwrap().is_none());
        assert!(attempt.handle_response(challenge(Challenge::Code), &mut console).unwrap().is_none());
        assert_eq!(
            sent(&attempt),
            json!({"username": "jane", "password": "old", "newPassword": "new", "code": "123456"})
        );
        assert!(attempt.handle_response(success(), &mut console).unwrap().is_some());
    }

    #[test]
    fn the_seed_is_shown_before_the_prompt_and_recovery_codes_at_the_end() {
        let (mut attempt, mut console) = (attempt(), ScriptedConsole::new(["123456"]));
        let enrollment = Enrollment { secret: "SEED".to_owned(), url: "otpauth://totp/x".to_owned() };
        let asked = LoginStatus { enrollment: Some(enrollment), ..challenge(Challenge::Enrollment) };
        assert!(attempt.handle_response(asked, &mut console).unwrap().is_none());
        assert!(console.printed.join("\n").contains("Secret: SEED"));
        assert_eq!(sent(&attempt)["code"], "123456");
        let done = LoginStatus { recovery_codes: vec!["aaaa-bbbb".to_owned()], ..success() };
        assert!(attempt.handle_response(done, &mut console).unwrap().is_some());
        assert!(console.printed.join("\n").contains("aaaa-bbbb"));
    }

    #[test]
    fn a_password_that_expires_soon_causes_a_notice() {
        let mut console = ScriptedConsole::default();
        let status = LoginStatus { password_expires_time: Some(Time(Timestamp::now())), ..success() };
        assert!(attempt().handle_response(status, &mut console).unwrap().is_some());
        assert!(console.printed[0].contains("kubectl roster passwd"));
    }

    #[test]
    fn without_a_terminal_the_error_names_the_flag() {
        let error = attempt().handle_response(challenge(Challenge::Code), &mut ScriptedConsole::default()).unwrap_err();
        assert!(error.to_string().contains("--code"));
    }

    #[test]
    fn a_response_without_a_token_is_an_error() {
        assert!(attempt().handle_response(LoginStatus::default(), &mut ScriptedConsole::default()).is_err());
    }
}
