//! The bodies of the actions on credentials in `directory.roster.dev/v1alpha1`.
//!
//! Each is a kind with `spec` (what is asked for) and `status` (what came of it), as the API server's own reviews are.
//! What is secret in a `spec` is never told again; what is secret in a `status` is in the one answer that makes it.

use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// What somebody shows in order to log in: exactly one of password and invitation.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoginSpec {
    /// Username or email.
    pub username: String,
    /// The password.
    #[schemars(with = "Option<String>")]
    pub password: Option<SecretString>,
    /// Code of an invitation, in place of the password; needs newPassword.
    #[schemars(with = "Option<String>")]
    pub invitation: Option<SecretString>,
    /// Code of the authenticator app, or a recovery code.
    #[schemars(with = "Option<String>")]
    pub code: Option<SecretString>,
    /// Password to set with this login: where the old one must be changed, or by an invitation.
    #[schemars(with = "Option<String>")]
    pub new_password: Option<SecretString>,
    /// Audience of the token: one of those that the installation issues tokens for. Absent: the first of them.
    pub audience: Option<String>,
}

/// What is still asked for before a token is issued. The password was right.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Challenge {
    /// The code of the authenticator app.
    Code,
    /// A second factor has to be enrolled: log in again with a code of the seed in `status.enrollment`.
    Enrollment,
    /// The password has to be changed: log in again with newPassword.
    PasswordChange,
}

/// What came of a login.
#[derive(Clone, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoginStatus {
    /// Bearer token, a JWT. Absent where something is still asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When the token ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_timestamp: Option<Time>,
    /// What is still asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<Challenge>,
    /// The seed to enrol, where the challenge is Enrollment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrollment: Option<Enrollment>,
    /// Recovery codes, shown once, where this login has confirmed a second factor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovery_codes: Vec<String>,
    /// Time from which the password must be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_expires_time: Option<Time>,
}

/// A seed for an authenticator app.
#[derive(Clone, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrollment {
    /// The seed in base32 (RFC 4648), for typing.
    pub secret: String,
    /// The same as an otpauth URL, for a QR code.
    pub url: String,
}

/// What an application asks to have verified.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PasswordReviewSpec {
    /// Username or email.
    pub username: String,
    /// The password.
    #[schemars(with = "String")]
    pub password: SecretString,
    /// Code of the authenticator app, or a recovery code.
    #[schemars(with = "Option<String>")]
    pub code: Option<SecretString>,
    /// Address that the person comes from, for allowedCIDRs and the lockout. Absent: the application itself counts.
    #[serde(rename = "sourceIP")]
    pub source_ip: Option<std::net::IpAddr>,
}

/// Whether a credential is good, and whose it is.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordReviewStatus {
    /// Whether it is.
    pub authenticated: bool,
    /// Who it is, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserInfo>,
    /// What is still asked for: the password was right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<Challenge>,
}

/// A new password.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PasswordChangeSpec {
    /// The password so far. Required of those who change their own.
    #[schemars(with = "Option<String>")]
    pub old_password: Option<SecretString>,
    /// The password from now on.
    #[schemars(with = "String")]
    pub new_password: SecretString,
    /// Whether API keys are revoked as well. Sessions end in any case.
    #[serde(default, rename = "revokeAPIKeys")]
    pub revoke_api_keys: bool,
}

/// What came of a new password.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordChangeStatus {
    /// When it was set. Tokens that were issued before are refused.
    pub password_changed_time: Time,
    /// How many API keys were revoked.
    #[serde(rename = "revokedAPIKeys")]
    pub revoked_api_keys: usize,
}

/// An API key to be made.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKeySpec {
    /// What it is for, in its owner's words.
    pub display_name: String,
    /// When it ends. Absent: after 90 days, or the installation's longest lifetime where that is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_timestamp: Option<Time>,
    /// The caller's own password, needed to make a key for oneself. Not needed of users who have no password, nor of
    /// administrators who make a key for somebody else.
    #[serde(default, skip_serializing)]
    #[schemars(with = "Option<String>")]
    pub current_password: Option<SecretString>,
}

/// An API key that was made.
#[derive(Clone, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyStatus {
    /// The key itself, in the answer that makes it and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When it was last used, to within some minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_time: Option<Time>,
    /// Whether it has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
}

/// A second factor to be enrolled, or confirmed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TotpEnrollmentSpec {
    /// A code of the app: confirms the seed of an earlier enrolment, or proves the right to remove it. Absent: a new seed
    /// is made.
    #[schemars(with = "Option<String>")]
    pub code: Option<SecretString>,
    /// The caller's own password, needed for a new seed. Not needed of users who have no password.
    #[schemars(with = "Option<String>")]
    pub current_password: Option<SecretString>,
}

/// How it stands with the second factor.
#[derive(Clone, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TotpEnrollmentStatus {
    /// Whether logins need a code.
    pub enabled: bool,
    /// When it was confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_time: Option<Time>,
    /// How many recovery codes are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_codes_left: Option<usize>,
    /// The new seed, shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrollment: Option<Enrollment>,
    /// Recovery codes, each good for one login, shown once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovery_codes: Vec<String>,
}

/// An invitation to set a password.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InvitationSpec {
    /// When it ends. Absent: after a day. At most 30 days ahead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_timestamp: Option<Time>,
}

/// An invitation that was made.
#[derive(Clone, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InvitationStatus {
    /// The code, shown once and good for one login with a new password. An invitation replaces the one before it.
    pub code: String,
    /// When it ends.
    pub expiration_timestamp: Time,
}

/// Another username.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenameSpec {
    /// The username that the user is to have, as in `spec.username` of a User.
    pub username: String,
}

/// An end of a lockout.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UnlockSpec {}
