//! A login on its way: what was given so far, and what the server still asks for.

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use roster_api::credentials::{Challenge, LoginStatus};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::cache::Token;
use crate::enrollment::{present, recovery_codes};
use crate::prompt::{CODE, Person, new_password};

/// How long before its end a password is spoken of.
const NOTICE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What was given so far.
pub(super) struct Attempt<'a> {
    username: &'a str,
    password: SecretString,
    code: Option<SecretString>,
    new_password: Option<SecretString>,
    audience: Option<&'a str>,
}

/// The same for the body of a request, the one place where it is in the clear.
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
    /// A login that begins.
    pub(super) fn new(
        username: &'a str,
        password: SecretString,
        code: Option<SecretString>,
        audience: Option<&'a str>,
    ) -> Self {
        Self { username, password, code, new_password: None, audience }
    }

    /// What to send.
    pub(super) fn spec(&self) -> Spec<'_> {
        Spec {
            username: self.username,
            password: self.password.expose_secret(),
            code: self.code.as_ref().map(|code| code.expose_secret().trim()),
            new_password: self.new_password.as_ref().map(ExposeSecret::expose_secret),
            audience: self.audience,
        }
    }

    /// Takes in an answer. Where it holds no token yet, asks the person for what is missing: send it all again.
    pub(super) fn proceed(&mut self, status: LoginStatus, person: &mut dyn Person) -> Result<Option<Token>> {
        if !status.recovery_codes.is_empty() {
            person.tell(&recovery_codes(&status.recovery_codes));
        }
        match status.challenge {
            None => return finish(status, person).map(Some),
            Some(Challenge::Code) => self.code = Some(person.secret(CODE)?),
            Some(Challenge::PasswordChange) => {
                person.tell("The password has to be changed.");
                self.new_password = Some(new_password(person, "log in on a terminal once to change it")?);
            }
            Some(Challenge::Enrollment) => {
                let enrollment = status.enrollment.context("the server asks for a second factor, and sends no seed")?;
                person.tell("A second factor is needed.");
                present(&enrollment, person);
                self.code = Some(person.secret(CODE)?);
            }
        }
        Ok(None)
    }
}

fn finish(status: LoginStatus, person: &mut dyn Person) -> Result<Token> {
    let end = status.password_expires_time.filter(|end| end.0 < Timestamp::now() + NOTICE);
    if let Some(end) = end {
        person.tell(&format!("The password has to be changed before {}: kubectl roster passwd", end.0));
    }
    status
        .token
        .zip(status.expiration_timestamp)
        .map(|(token, expiration_timestamp)| Token { token: token.into(), expiration_timestamp })
        .context("the server answers without a token")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Script;
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
    fn a_password_alone_may_be_enough() {
        let mut person = Script::default();
        let token = attempt().proceed(success(), &mut person).unwrap().unwrap();
        assert_eq!(token.token.expose_secret(), "x.y.z");
        assert!(person.told.is_empty() && person.asked.is_empty());
    }

    #[test]
    fn everything_that_is_asked_for_is_sent_together() {
        let (mut attempt, mut person) = (attempt(), Script::new(["new", "new", " 123456 "]));
        assert_eq!(sent(&attempt), json!({"username": "jane", "password": "old"}));
        assert!(attempt.proceed(challenge(Challenge::PasswordChange), &mut person).unwrap().is_none());
        assert!(attempt.proceed(challenge(Challenge::Code), &mut person).unwrap().is_none());
        assert_eq!(
            sent(&attempt),
            json!({"username": "jane", "password": "old", "newPassword": "new", "code": "123456"})
        );
        assert!(attempt.proceed(success(), &mut person).unwrap().is_some());
    }

    #[test]
    fn a_seed_is_shown_before_its_code_is_asked_for_and_recovery_codes_at_the_end() {
        let (mut attempt, mut person) = (attempt(), Script::new(["123456"]));
        let enrollment = Enrollment { secret: "SEED".to_owned(), url: "otpauth://totp/x".to_owned() };
        let asked = LoginStatus { enrollment: Some(enrollment), ..challenge(Challenge::Enrollment) };
        assert!(attempt.proceed(asked, &mut person).unwrap().is_none());
        assert!(person.told.join("\n").contains("Secret: SEED"));
        assert_eq!(sent(&attempt)["code"], "123456");
        let done = LoginStatus { recovery_codes: vec!["aaaa-bbbb".to_owned()], ..success() };
        assert!(attempt.proceed(done, &mut person).unwrap().is_some());
        assert!(person.told.join("\n").contains("aaaa-bbbb"));
    }

    #[test]
    fn a_password_near_its_end_is_spoken_of() {
        let mut person = Script::default();
        let status = LoginStatus { password_expires_time: Some(Time(Timestamp::now())), ..success() };
        assert!(attempt().proceed(status, &mut person).unwrap().is_some());
        assert!(person.told[0].contains("kubectl roster passwd"));
    }

    #[test]
    fn without_anybody_to_ask_the_error_says_what_to_give() {
        let error = attempt().proceed(challenge(Challenge::Code), &mut Script::default()).unwrap_err();
        assert!(error.to_string().contains("--code"));
    }

    #[test]
    fn an_answer_without_a_token_is_none() {
        assert!(attempt().proceed(LoginStatus::default(), &mut Script::default()).is_err());
    }
}
