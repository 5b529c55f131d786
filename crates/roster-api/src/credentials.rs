//! Request and response types of the actions on credentials in `directory.roster.dev/v1alpha1`.
//!
//! Each kind has a `spec` (the request) and a `status` (the result), like the reviews of Kubernetes. No response repeats a
//! secret of a `spec`, so those are `writeOnly` in the OpenAPI document. A secret in a `status` is returned once, by the
//! request that creates it.

use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// The User that an action applied to.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct UserReference {
    /// `metadata.name` of the User.
    pub name: String,
    /// Username of the User.
    pub username: String,
    /// `metadata.uid` of the User.
    pub uid: String,
}

/// Credentials of a login attempt: exactly one of password and invitation.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoginSpec {
    /// Username or email.
    pub username: String,
    /// The password.
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub password: Option<SecretString>,
    /// Code of an invitation, instead of a password. Requires newPassword.
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub invitation: Option<SecretString>,
    /// Code from the authenticator app, or a recovery code.
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub code: Option<SecretString>,
    /// New password: with an invitation, or if the old password must be changed.
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub new_password: Option<SecretString>,
    /// Audience of the token: one of the installation's audiences. Default: the first one.
    pub audience: Option<String>,
}

/// What a login still requires before a token is issued. The password was correct.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Challenge {
    /// A code from the authenticator app.
    Code,
    /// A second factor must be enrolled: log in again with a code from the seed in `status.enrollment`.
    Enrollment,
    /// The password must be changed: log in again with newPassword.
    PasswordChange,
}

/// Result of a login.
#[derive(Clone, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoginStatus {
    /// Bearer token, a JWT. Omitted if there is a challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Time at which the token expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_timestamp: Option<Time>,
    /// What the login still requires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<Challenge>,
    /// The seed to enroll, if the challenge is Enrollment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrollment: Option<Enrollment>,
    /// Recovery codes, if this login confirmed a second factor. Returned once.
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
    /// The seed in base32 (RFC 4648), to enter by hand.
    pub secret: String,
    /// The seed as an otpauth URL, for a QR code.
    pub url: String,
}

/// Credentials that an application asks Roster to verify.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PasswordReviewSpec {
    /// Username or email.
    pub username: String,
    /// The password.
    #[schemars(with = "String", extend("writeOnly" = true))]
    pub password: SecretString,
    /// Code from the authenticator app, or a recovery code.
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub code: Option<SecretString>,
    /// Address of the person, for allowedCIDRs and the lockout. Default: the address of the application.
    #[serde(rename = "sourceIP")]
    pub source_ip: Option<std::net::IpAddr>,
}

/// Result of a PasswordReview.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordReviewStatus {
    /// Whether the credentials are valid.
    pub authenticated: bool,
    /// The user, if authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserInfo>,
    /// What a login would still require. The password was correct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<Challenge>,
}

/// A password change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PasswordChangeSpec {
    /// The current password. Required of users who change their own password.
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub old_password: Option<SecretString>,
    /// The new password.
    #[schemars(with = "String", extend("writeOnly" = true))]
    pub new_password: SecretString,
    /// Whether to revoke API keys as well. Sessions always end.
    #[serde(default, rename = "revokeAPIKeys")]
    pub revoke_api_keys: bool,
}

/// Result of a password change.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordChangeStatus {
    /// The User that the action applied to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserReference>,
    /// Time of the change. Tokens that were issued earlier are refused.
    pub password_changed_time: Time,
    /// Number of API keys that were revoked.
    #[serde(rename = "revokedAPIKeys")]
    pub revoked_api_keys: usize,
}

/// Request for an API key.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKeySpec {
    /// Purpose of the key.
    pub display_name: String,
    /// Time at which the key expires. Default: after 90 days, or after the installation's maximum lifetime if that is
    /// shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_timestamp: Option<Time>,
    /// The caller's own password. Required of users who create a key for themselves, unless they have no password. Not
    /// required of administrators who create a key for another user.
    #[serde(default, skip_serializing)]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub current_password: Option<SecretString>,
}

/// An API key.
#[derive(Clone, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyStatus {
    /// The User that the action applied to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserReference>,
    /// The key itself. Returned once, when it is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Time of the last use, accurate to a few minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_time: Option<Time>,
    /// Whether the key has expired.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
}

/// Request to enroll, confirm or remove a second factor.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TotpEnrollmentSpec {
    /// A code from the authenticator app: confirms the seed of an earlier enrollment, or authorizes its removal. Omit it
    /// to request a new seed.
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub code: Option<SecretString>,
    /// The caller's own password. Required for a new seed, unless the user has no password.
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub current_password: Option<SecretString>,
}

/// State of the second factor.
#[derive(Clone, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TotpEnrollmentStatus {
    /// The User that the action applied to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserReference>,
    /// Whether logins require a code.
    pub enabled: bool,
    /// Time at which the second factor was confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_time: Option<Time>,
    /// Number of recovery codes that are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_codes_left: Option<usize>,
    /// The new seed. Returned once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrollment: Option<Enrollment>,
    /// Recovery codes. Each is valid for one login. Returned once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovery_codes: Vec<String>,
}

/// Request for an invitation to set a password.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InvitationSpec {
    /// Time at which the invitation expires, at most 30 days ahead. Default: after one day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_timestamp: Option<Time>,
}

/// An invitation.
#[derive(Clone, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InvitationStatus {
    /// The User that the action applied to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserReference>,
    /// The code. Returned once, and valid for one login that sets a password. A new invitation replaces the previous one.
    pub code: String,
    /// Time at which the invitation expires.
    pub expiration_timestamp: Time,
}

/// Request to change a username.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenameSpec {
    /// The new username, as in `spec.username` of a User.
    pub username: String,
}

/// Request to end a lockout. It has no fields.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UnlockSpec {}

/// Result of an action that returns nothing else.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ActionStatus {
    /// The User that the action applied to.
    pub user: UserReference,
}
