//! Names of columns.

/// Column with the kind, User or Group. Empty means User.
pub(crate) const KIND: &str = "kind";
/// Column with `metadata.name`.
pub(crate) const NAME: &str = "name";
/// Column with `metadata.labels`.
pub(crate) const LABELS: &str = "labels";
/// Column with a password hash.
pub(crate) const PASSWORD_HASH: &str = "passwordHash";
/// Column with a password in plaintext.
pub(super) const PASSWORD: &str = "password";
/// Column with a boolean: whether the account is active.
pub(super) const ENABLED: &str = "enabled";
/// Internal field name for the column `status` of Okta exports.
pub(super) const OKTA_STATUS: &str = "status of Okta";

/// Returns whether two titles are the same, apart from case, hyphens, underscores and spaces.
pub(super) fn is_same_title(left: &str, right: &str) -> bool {
    let fold = |text: &str| text.to_lowercase().replace(['-', '_', ' '], "");
    fold(left) == fold(right)
}
