//! Notices as Security Event Tokens (pure): RFC 8417, with a subject as in RFC 9493.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::recipient::Recipient;

const CREDENTIAL_CHANGE: &str = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
const ACCOUNT_LOCKED: &str = "https://roster.dev/events/account-locked";
const PASSWORD_EXPIRING: &str = "https://roster.dev/events/password-expiring";
const ACCOUNT_EXPIRING: &str = "https://roster.dev/events/account-expiring";

/// An event that a user should know about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// Logins are refused after too many failed ones.
    Locked {
        /// When logins are accepted again.
        until: Timestamp,
    },
    /// The password was changed.
    PasswordChanged,
    /// The password has to be changed soon.
    PasswordExpiring {
        /// When it must be changed.
        at: Timestamp,
    },
    /// The account expires soon.
    AccountExpiring {
        /// When it expires.
        at: Timestamp,
    },
    /// An API key was created.
    ApiKeyCreated {
        /// Its id, which is not secret.
        id: String,
        /// Its display name.
        display_name: String,
    },
}

impl Notice {
    /// Returns the event type: CAEP's if there is one, else Roster's own.
    pub const fn event_type(&self) -> &'static str {
        match self {
            Self::Locked { .. } => ACCOUNT_LOCKED,
            Self::PasswordChanged | Self::ApiKeyCreated { .. } => CREDENTIAL_CHANGE,
            Self::PasswordExpiring { .. } => PASSWORD_EXPIRING,
            Self::AccountExpiring { .. } => ACCOUNT_EXPIRING,
        }
    }

    /// Returns the name used in logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "locked",
            Self::PasswordChanged => "password-changed",
            Self::PasswordExpiring { .. } => "password-expiring",
            Self::AccountExpiring { .. } => "account-expiring",
            Self::ApiKeyCreated { .. } => "api-key-created",
        }
    }

    fn payload(&self) -> Value {
        match self {
            Self::Locked { until } => json!({"until": until.as_second()}),
            Self::PasswordChanged => json!({"credential_type": "password", "change_type": "update"}),
            Self::PasswordExpiring { at } | Self::AccountExpiring { at } => json!({"at": at.as_second()}),
            Self::ApiKeyCreated { id, display_name } => json!({
                "credential_type": "api-key",
                "change_type": "create",
                "friendly_name": display_name,
                "roster.dev/id": id,
            }),
        }
    }
}

/// Properties that are the same in every attempt to send a notice.
#[derive(Clone, Debug)]
pub(super) struct NoticeToken {
    /// Id (`jti`) by which the receiver detects duplicates.
    pub id: String,
    /// When it happened.
    pub happened: Timestamp,
    /// When the token was made.
    pub issued: Timestamp,
}

/// Returns the claims of a token. There is no `exp`, as RFC 8417 recommends, and no `sub`, so that it can't be mistaken
/// for an ID token.
pub(super) fn claims(issuer: &str, to: &Recipient, notice: &Notice, token: &NoticeToken) -> Value {
    json!({
        "iss": issuer,
        "aud": to.url,
        "jti": token.id,
        "iat": token.issued.as_second(),
        "toe": token.happened.as_second(),
        "sub_id": {"format": "iss_sub", "iss": issuer, "sub": to.uid},
        "roster.dev/username": to.username,
        "events": {notice.event_type(): notice.payload()},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn claims_have_issuer_audience_event_and_subject() {
        let to = Recipient {
            username: "jane".to_owned(),
            uid: "4f2c".to_owned(),
            url: "https://hooks.example.com/jane".to_owned(),
        };
        let token = NoticeToken { id: "a1".to_owned(), happened: second(1_000), issued: second(1_007) };
        assert_eq!(
            claims("https://id.example.com", &to, &Notice::Locked { until: second(1_900) }, &token),
            json!({
                "iss": "https://id.example.com",
                "aud": "https://hooks.example.com/jane",
                "jti": "a1",
                "iat": 1_007,
                "toe": 1_000,
                "sub_id": {"format": "iss_sub", "iss": "https://id.example.com", "sub": "4f2c"},
                "roster.dev/username": "jane",
                "events": {"https://roster.dev/events/account-locked": {"until": 1_900}},
            })
        );
    }

    #[rstest]
    #[case(Notice::PasswordChanged, CREDENTIAL_CHANGE, json!({"credential_type": "password", "change_type": "update"}))]
    #[case(Notice::PasswordExpiring { at: second(5) }, PASSWORD_EXPIRING, json!({"at": 5}))]
    #[case(Notice::AccountExpiring { at: second(6) }, ACCOUNT_EXPIRING, json!({"at": 6}))]
    #[case(
        Notice::ApiKeyCreated { id: "k1".to_owned(), display_name: "laptop".to_owned() },
        CREDENTIAL_CHANGE,
        json!({"credential_type": "api-key", "change_type": "create", "friendly_name": "laptop", "roster.dev/id": "k1"})
    )]
    fn every_notice_has_its_event_type(#[case] notice: Notice, #[case] event_type: &str, #[case] payload: Value) {
        assert_eq!(notice.event_type(), event_type);
        assert_eq!(notice.payload(), payload);
    }
}
